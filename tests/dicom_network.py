"""Material for tests over the network: certificates, free ports, other people's DICOM programs."""

from __future__ import annotations

import datetime as dt
import ipaddress
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from tests.cli_world import SCRIPTS
from tests.conftest import missing

TITLE, CALLER = "FEDWARD", "PACS"


PLUGINS = Path("/usr/share/orthanc/plugins")


def program(name):
    """The path of a program of Debian's dcmtk or orthanc packages.

    pynetdicom brings a storescu of its own into the environment's folder, which is on PATH.
    """
    found = shutil.which(name, path="/usr/bin:/usr/sbin:/usr/local/bin:/usr/local/sbin")
    if not found:
        missing(f"{name} is not installed (Debian packages dcmtk, orthanc, orthanc-dicomweb)")
    return found


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclass(frozen=True)
class Files:
    """PEM files of one party."""

    certificate: Path
    key: Path
    authority: Path


def make_certificates(folder, *names, authority="authority"):
    """An authority, and a certificate for 127.0.0.1 for each name; PEM files in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    root = ec.generate_private_key(ec.SECP256R1())
    root_file = folder / f"{authority}.pem"
    root_file.write_bytes(_pem(_certificate(authority, root, authority, root, is_authority=True)))
    made = {}
    for name in names:
        key = ec.generate_private_key(ec.SECP256R1())
        files = Files(folder / f"{name}.crt", folder / f"{name}.key", root_file)
        files.certificate.write_bytes(_pem(_certificate(name, key, authority, root)))
        files.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        files.key.chmod(0o600)
        made[name] = files
    return made


def _pem(certificate):
    return certificate.public_bytes(serialization.Encoding.PEM)


def _certificate(subject, key, issuer, issuer_key, *, is_authority=False):
    now = dt.datetime.now(dt.UTC)
    local = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(local), critical=False)
        .sign(issuer_key, hashes.SHA256())
    )


@contextmanager
def receiving(site, *options):
    """``fedward-client receive`` as a process; yields (process, port) and ends it with SIGTERM."""
    port = free_port()
    process = subprocess.Popen(
        [
            SCRIPTS / "fedward-client", "receive", "--ae-title", TITLE, "--port", str(port),
            "--site", site, "--jobs", "1", "--json", *map(str, options),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    try:
        line = process.stderr.readline()
        assert "receiving as" in line, line + process.stderr.read()
        yield process, port
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(60)
        process.stdout.close()
        process.stderr.close()


def storescu(port, *paths, title=TITLE, caller=CALLER, tls=None, options=()):
    """Run DCMTK's storescu; returns the finished process."""
    secure = ["+tls", tls.key, tls.certificate, "+cf", tls.authority] if tls else []
    return subprocess.run(
        [
            program("storescu"), *options, "-aec", title, "-aet", caller, *secure,
            "127.0.0.1", str(port), *map(str, paths),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )  # fmt: skip


@contextmanager
def orthanc(folder, modality_port, *, dicomweb=False):
    """A real Orthanc with our receiver as a modality; yields its HTTP address."""
    plugins = sorted(map(str, PLUGINS.glob("*DicomWeb*"))) if dicomweb else []
    if dicomweb and not plugins:
        missing("Orthanc's DICOMweb plugin is not installed (Debian package orthanc-dicomweb)")
    folder.mkdir(parents=True)
    http, dicom = free_port(), free_port()
    settings = {
        "Name": "test", "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"), "HttpPort": http, "DicomPort": dicom,
        "DicomAet": CALLER, "RemoteAccessAllowed": False, "AuthenticationEnabled": False,
        "DicomModalities": {"fedward": [TITLE, "127.0.0.1", modality_port]},
        "Plugins": plugins,
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }  # fmt: skip
    (folder / "orthanc.json").write_text(json.dumps(settings))
    process = subprocess.Popen(
        [program("Orthanc"), folder / "orthanc.json"],
        stdout=subprocess.DEVNULL,
        stderr=(folder / "log").open("w"),
    )
    address = f"http://127.0.0.1:{http}"
    try:
        for _ in range(200):
            try:
                httpx.get(f"{address}/system", timeout=5).raise_for_status()
                break
            except httpx.HTTPError:
                assert process.poll() is None, (folder / "log").read_text()
                time.sleep(0.1)
        yield address
    finally:
        process.terminate()
        process.wait(30)


class Server(BaseHTTPRequestHandler):
    """A DICOMweb server whose answers a test chooses: ``answers`` maps a path's end to a reply."""

    def do_GET(self):
        path = self.path.split("?")[0]
        self.server.asked.append((path, self.headers.get("Authorization")))
        for end, reply in self.server.answers.items():
            if path.endswith(end):
                status, kind, body = reply(self) if callable(reply) else reply
                break
        else:
            status, kind, body = 404, "text/plain", b""
        self.send_response(status)
        self.send_header("Content-Type", kind)
        if status == 302:
            self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@contextmanager
def serving(answers, tls=None):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    server.answers, server.asked = answers, []
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls.certificate, tls.key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        scheme = "https" if tls else "http"
        yield server, f"{scheme}://127.0.0.1:{server.server_address[1]}/dicom"
    finally:
        server.shutdown()
        server.server_close()


def found(*datasets):
    """A page of search results, once: a second page is empty."""
    rows = [
        {
            "0020000D": {"vr": "UI", "Value": [ds.StudyInstanceUID]},
            "0020000E": {"vr": "UI", "Value": [ds.SeriesInstanceUID]},
            "00080018": {"vr": "UI", "Value": [ds.SOPInstanceUID]},
        }
        for ds in datasets
    ]

    def page(request):
        rest = rows if "offset=0" in request.path else []
        return 200, "application/dicom+json", json.dumps(rest).encode()

    return page


def part(data, boundary="xyz"):
    body = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode() + data
    kind = f'multipart/related; type="application/dicom"; boundary={boundary}'
    return 200, kind, body + f"\r\n--{boundary}--\r\n".encode()
