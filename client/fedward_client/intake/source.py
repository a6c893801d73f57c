"""A DICOMweb server as we see it: its address, our credentials, and the bytes of one instance."""

from __future__ import annotations

import base64
import os
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.util.retry import Retry

from fedward_client.intake.certificates import Certificates, is_loopback
from fedward_common.errors import OperatorError, PeerError
from fedward_common.secret import SecretBytes

CREDENTIALS_VARIABLE = "FEDWARD_DICOMWEB_CREDENTIALS"
"""Environment variable with ``USER:PASSWORD`` or ``Bearer TOKEN``, instead of a file."""

MAX_OBJECT_BYTES = 1 << 30

_CHUNK = 1 << 20


@dataclass(frozen=True)
class Source:
    """A DICOMweb server. ``credentials``: ``USER:PASSWORD`` or ``Bearer TOKEN`` as ASCII."""

    url: str
    credentials: SecretBytes | None = None
    certificates: Certificates | None = None
    authority: Path | None = None

    def session(self) -> requests.Session:
        """Return a session that follows no redirect and reads no configuration of the machine's.

        Raises:
            OperatorError: not an http(s) address, plain http beyond loopback, or a missing file.
        """
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
            raise OperatorError(
                f"{shown(self.url)}: give an address such as https://pacs/dicom-web"
            )
        if parts.scheme == "http" and not is_loopback(parts.hostname):
            raise OperatorError(f"{shown(self.url)}: patients' images need https")
        session = requests.Session()
        session.trust_env, session.max_redirects = False, 0
        adapter = HTTPAdapter(max_retries=Retry(3, backoff_factor=0.5, status_forcelist=(502, 503)))
        session.mount("http://", adapter)
        session.mount("https://", adapter)
        authority = self.certificates.authority if self.certificates else self.authority
        if authority:
            if not authority.is_file():
                raise OperatorError(f"{authority}: cannot be read; give the authority's PEM file")
            session.verify = str(authority)
        if self.certificates:
            self.certificates.check()
            session.cert = (str(self.certificates.certificate), str(self.certificates.key))
        if self.credentials:
            session.headers["Authorization"] = _authorization(self.credentials)
        return session


def read_credentials(path: Path | None) -> SecretBytes | None:
    """Return the credentials of a file (mode 0600) or of the environment, or None.

    Raises:
        OperatorError: the file is missing or readable by others.
    """
    if path is None:
        text = os.environ.get(CREDENTIALS_VARIABLE)
        return SecretBytes(text.strip().encode()) if text else None
    try:
        if path.stat().st_mode & 0o077:
            raise OperatorError(f"{path}: readable by others; run chmod 600 on it")
        return SecretBytes(path.read_bytes().strip())
    except OSError as error:
        raise OperatorError(f"{path}: cannot read the credentials; check the path") from error


def read_instance(response: requests.Response) -> bytes:
    """Return the bytes of the one instance of a response: its first part, or all of it.

    Raises:
        PeerError: too large, or neither ``multipart/related`` nor ``application/dicom``.
    """
    body = bytearray()
    for chunk in response.iter_content(_CHUNK):
        body += chunk
        if len(body) > MAX_OBJECT_BYTES:
            raise PeerError("the DICOMweb server sent an object over the size limit")
    header = Message()
    header["Content-Type"] = response.headers.get("Content-Type", "")
    if header.get_content_type() == "application/dicom":
        return bytes(body)
    boundary = header.get_param("boundary")
    if header.get_content_type() != "multipart/related" or not isinstance(boundary, str):
        raise PeerError("the DICOMweb server's answer is not multipart/related")
    marker = b"--" + boundary.encode("ascii", "replace")
    begin = body.find(b"\r\n\r\n", body.find(marker))
    end = body.rfind(b"\r\n" + marker)
    if begin < 0 or end < begin + 4:
        raise PeerError("the DICOMweb server's answer has no part")
    return bytes(body[begin + 4 : end])


def shown(url: str) -> str:
    """Return an address without what may be secret: user, query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname or ''}{parts.path}"


def _authorization(credentials: SecretBytes) -> str:
    text = credentials.reveal()
    if text.startswith(b"Bearer "):
        return text.decode("ascii", "replace")
    return "Basic " + base64.b64encode(text).decode("ascii")
