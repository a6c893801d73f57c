"""``fedward-client receive`` against DCMTK's storescu and a real Orthanc."""

from __future__ import annotations

import json
import random
import signal
import socket
import ssl
import threading
import time

import httpx
import pytest
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)
from pynetdicom import AE
from pynetdicom.sop_class import ComputedRadiographyImageStorage, Verification
from tests.cli_world import client, ok
from tests.dicom_cases import CR, FILES, TOKEN, ct, encoded, image, noise
from tests.dicom_network import (
    CALLER,
    TITLE,
    make_certificates,
    orthanc,
    receiving,
    storescu,
)

from fedward_client.database import transaction
from fedward_client.deidentify.outcome import Reason
from fedward_client.intake import keeper
from fedward_client.intake.certificates import Certificates
from fedward_client.intake.listener import STRANGER_BYTES
from fedward_client.intake.receiver import (
    CANNOT_UNDERSTAND,
    MAX_ASSOCIATIONS,
    NOT_AUTHORISED,
    OUT_OF_RESOURCES,
    SUCCESS,
    Endpoint,
    Receiver,
)
from fedward_client.site_folder import create_site, open_site
from fedward_common.errors import OperatorError


@pytest.fixture
def site(tmp_path):
    path = tmp_path / "site"
    ok(client("init", "north", "--site", path))
    return path


@pytest.fixture
def images(tmp_path):
    """Three images of two patients, and one that the profile refuses: it names no patient."""
    folder = tmp_path / "pacs"
    folder.mkdir()
    for number, patient in enumerate(("P0", "P0", "P1", "")):
        ds = image(noise((40, 40), number), patient=patient)
        (folder / f"{number}.dcm").write_bytes(encoded(ds))
    return folder


@pytest.fixture
def local(tmp_path):
    """A site whose receiver runs in this process."""
    create_site(tmp_path / "local", "north")
    with open_site(tmp_path / "local") as opened:
        yield opened


def ended(process):
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return json.loads(out), err


def send(port, ds, *, syntax=None, calling=CALLER, called=TITLE):
    """Send one data set with pynetdicom; returns the status, or None without an association."""
    entity = AE(ae_title=calling)
    entity.add_requested_context(ds.SOPClassUID, syntax or ds.file_meta.TransferSyntaxUID)
    association = entity.associate("127.0.0.1", port, ae_title=called)
    if not association.is_established:
        return None
    status = association.send_c_store(ds)
    association.release()
    return status.get("Status")


def test_storescu_and_the_counts(site, images):
    with receiving(site, "--calling", CALLER) as (process, port):
        done = storescu(port, "+sd", images, options=("-nh",))
        again = storescu(port, *sorted(images.iterdir())[:3])
        assert again.returncode == 0, again.stderr
        report, err = ended(process)
    assert (report["found"], report["used"], report["known"]) == (7, 3, 3)
    assert report["excluded"] == {str(Reason.NO_PATIENT_ID): 1}
    assert report["patients"] == 2
    assert "received: 7, stored: 3" in err
    assert TOKEN not in err
    assert done.returncode in (0, 1)
    held = client("status", "--site", site, "--json").json["catalogue"]
    assert (held["instances"], held["quarantined"]) == (3, 1)


def test_titles_that_are_not_ours_or_not_known(site, images):
    one = images / "0.dcm"
    with receiving(site, "--calling", CALLER) as (process, port):
        assert "Called AE Title" in storescu(port, one, title="OTHER").stderr
        assert "Calling AE Title" in storescu(port, one, caller="STRANGER").stderr
        report, err = ended(process)
    assert report["found"] == 0
    assert err.count("an association was refused") == 2
    assert "STRANGER" not in err


def test_tls_with_the_right_and_the_wrong_certificate(site, images, tmp_path):
    good = make_certificates(tmp_path / "ca", "us", "pacs")
    rogue = make_certificates(tmp_path / "rogue", "pacs", authority="authority")["pacs"]
    us, pacs = good["us"], good["pacs"]
    files = ("--tls-cert", us.certificate, "--tls-key", us.key, "--tls-ca", us.authority)
    with receiving(site, *files) as (process, port):
        one = images / "0.dcm"
        assert storescu(port, one).returncode != 0
        mixed = type(rogue)(rogue.certificate, rogue.key, pacs.authority)
        assert storescu(port, one, tls=mixed).returncode != 0
        right = storescu(port, one, tls=pacs)
        assert right.returncode == 0, right.stderr
        report, err = ended(process)
    assert (report["found"], report["used"]) == (1, 1)
    assert "no TLS handshake" in err


def test_orthanc_sends_to_us(site, images, tmp_path):
    (images / "ct.dcm").write_bytes(encoded(ct()))
    (images / "j2k.dcm").write_bytes((FILES / "MR_small_jp2klossless.dcm").read_bytes())
    with receiving(site, "--calling", CALLER) as (process, port):
        with orthanc(tmp_path / "orthanc", port) as address:
            for file in images.iterdir():
                if file.name != "3.dcm":
                    httpx.post(f"{address}/instances", content=file.read_bytes()).raise_for_status()
            assert httpx.post(f"{address}/modalities/fedward/echo", json={}).status_code == 200
            held = httpx.get(f"{address}/instances").json()
            sent = httpx.post(f"{address}/modalities/fedward/store", json=held, timeout=120)
            assert sent.status_code == 200, sent.text
        report, _ = ended(process)
    assert (report["found"], report["used"]) == (5, 5)
    assert report["excluded"] == {}


def test_beyond_loopback_there_is_tls_or_a_word(site):
    where = ("--site", site, "--port", 0)
    refused = client("receive", "--ae-title", TITLE, "--bind", "0.0.0.0", *where)
    refused.refused(2, "0.0.0.0", "--tls-cert", "--insecure-plain")
    client("receive", "--ae-title", "A" * 17, *where).refused(2, "AE title")
    client("receive", "--ae-title", TITLE, "--tls-cert", "x.pem", *where).refused(2, "--tls-ca")
    Endpoint("A", 1, "0.0.0.0", insecure_plain=True).check()


def test_a_key_that_others_may_read_is_refused(tmp_path, local):
    files = make_certificates(tmp_path / "ca", "us")["us"]
    chosen = Certificates(files.certificate, files.key, files.authority)
    files.key.chmod(0o644)
    with pytest.raises(OperatorError, match="chmod 600"):
        Receiver(local, Endpoint(TITLE, 0, certificates=chosen))
    files.key.chmod(0o600)
    files.certificate.write_text("no certificate")
    with pytest.raises(OperatorError, match="PEM"):
        Receiver(local, Endpoint(TITLE, 0, certificates=chosen))


def test_success_means_durable(local):
    """At the moment of the acknowledgement another connection to the database sees the row."""
    with Receiver(local, Endpoint(TITLE, 0), jobs=1) as receiver, open_site(local.path) as other:
        assert send(receiver.port, image(noise((20, 20)))) == SUCCESS
        (row,) = other.catalogue.instances()
        assert other.vault.get(row.object_name)[128:132] == b"DICM"
        assert receiver.tally.used == 1


def test_every_encoding_of_an_image_gives_the_same_object(local):
    stored = set()
    with Receiver(local, Endpoint(TITLE, 0), jobs=1) as receiver:
        for syntax in (
            ExplicitVRLittleEndian,
            ImplicitVRLittleEndian,
            ExplicitVRBigEndian,
            DeflatedExplicitVRLittleEndian,
        ):
            ds = image(noise((20, 20)), instance="1.2.3", study="1.2.4", series="1.2.5")
            ds.file_meta.TransferSyntaxUID = syntax
            assert send(receiver.port, ds) == SUCCESS
            (row,) = local.catalogue.instances()
            stored.add(local.vault.get(row.object_name))
            with transaction(local.database):
                local.database.execute("DELETE FROM instances")
    assert len(stored) == 1


def test_refusals_have_their_status_and_are_recorded(local):
    nobody = image(noise((20, 20)), patient="")
    cut = image(noise((20, 20), 3))
    cut.PixelData = cut.PixelData[:100]
    with Receiver(local, Endpoint(TITLE, 0), jobs=1) as receiver:
        assert send(receiver.port, nobody) == NOT_AUTHORISED
        assert send(receiver.port, nobody) == NOT_AUTHORISED
        assert send(receiver.port, cut) == CANNOT_UNDERSTAND
        tally = receiver.tally
    assert tally.excluded == {str(Reason.NO_PATIENT_ID): 2, str(Reason.TRUNCATED): 1}
    assert local.catalogue.counts()["quarantined"] == 2


def test_what_could_not_be_stored_is_in_no_count(local, monkeypatch):
    """The sender tries again: received = stored + known + duplicates + refused, always."""
    ds = image(noise((20, 20)))
    with Receiver(local, Endpoint(TITLE, 0), jobs=1) as receiver:
        monkeypatch.setattr(keeper, "LOCK_SECONDS", 0.1)
        with open_site(local.path) as other, keeper.exclusive(other):
            assert send(receiver.port, ds) == OUT_OF_RESOURCES
        assert receiver.tally.found == 0
        assert send(receiver.port, ds) == SUCCESS
        assert send(receiver.port, ds) == SUCCESS
        tally = receiver.tally
    assert (tally.found, tally.used, tally.known) == (2, 1, 1)


def test_an_unknown_class_is_not_even_negotiated(local):
    ds = image(noise((20, 20)))
    ds.SOPClassUID = "1.2.840.10008.5.1.4.1.1.88.33"
    with Receiver(local, Endpoint(TITLE, 0), jobs=1) as receiver:
        assert send(receiver.port, ds) is None
        assert receiver.tally.found == 0


def test_an_object_over_the_limit_ends_the_connection(local):
    large = image(noise((2000, 1600)))
    with Receiver(local, Endpoint(TITLE, 0, max_object_bytes=1 << 20), jobs=1) as receiver:
        assert send(receiver.port, large) is None
        assert send(receiver.port, image(noise((20, 20)))) == SUCCESS
        assert receiver.tally.found == 1


def test_a_stranger_cannot_fill_the_memory(local):
    """A request that announces 4 GB is cut off long before an association exists."""
    with Receiver(local, Endpoint(TITLE, 0), jobs=1) as receiver:
        with socket.create_connection(("127.0.0.1", receiver.port)) as peer:
            peer.sendall(b"\x01\x00\xff\xff\xff\xf0")
            with pytest.raises(OSError, match=r"reset|pipe"):
                peer.sendall(bytes(64 * STRANGER_BYTES))
        assert send(receiver.port, image(noise((20, 20)))) == SUCCESS


def test_the_disk_is_full_and_then_it_is_not(local):
    """A sender is told to try again, and when it does the object is stored."""
    vault = local.path / "vault"
    ds = image(noise((20, 20)))
    with Receiver(local, Endpoint(TITLE, 0), jobs=1) as receiver:
        vault.rename(local.path / "away")
        assert send(receiver.port, ds) == OUT_OF_RESOURCES
        (local.path / "away").rename(vault)
        assert send(receiver.port, ds) == SUCCESS
    assert local.catalogue.counts()["instances"] == 1


def test_echo_and_drain(local):
    """Closing waits for an association that is open; a new one is refused."""
    receiver = Receiver(local, Endpoint(TITLE, 0), jobs=1)
    entity = AE(ae_title=CALLER)
    entity.add_requested_context(Verification)
    entity.add_requested_context(ComputedRadiographyImageStorage)
    association = entity.associate("127.0.0.1", receiver.port, ae_title=TITLE)
    assert association.send_c_echo().Status == SUCCESS
    closing = threading.Thread(target=receiver.close)
    closing.start()
    time.sleep(0.3)
    ds = image(noise((20, 20)))
    assert ds.SOPClassUID == CR
    assert not entity.associate("127.0.0.1", receiver.port, ae_title=TITLE).is_established
    association.release()
    closing.join(30)
    assert not closing.is_alive()


def test_garbage_does_not_stop_it(local):
    chance = random.Random(3)
    with Receiver(local, Endpoint(TITLE, 0), jobs=1) as receiver:
        for number in range(30):
            with socket.create_connection(("127.0.0.1", receiver.port)) as peer:
                body = chance.randbytes(chance.randrange(400))
                peer.sendall(bytes((chance.randrange(9), 0)) + len(body).to_bytes(4, "big") + body)
                if number % 3 == 0:
                    peer.sendall(chance.randbytes(200))
        assert send(receiver.port, image(noise((20, 20)))) == SUCCESS
        assert receiver.tally.found == 1


def test_a_silent_peer_holds_up_nobody(local, tmp_path):
    """The TLS handshake of one connection does not keep another one waiting."""
    files = make_certificates(tmp_path / "ca", "us", "pacs")
    us, pacs = files["us"], files["pacs"]
    chosen = Certificates(us.certificate, us.key, us.authority)
    context = ssl.create_default_context(cafile=pacs.authority)
    context.load_cert_chain(pacs.certificate, pacs.key)
    with (
        Receiver(local, Endpoint(TITLE, 0, certificates=chosen), jobs=1) as receiver,
        socket.create_connection(("127.0.0.1", receiver.port)),
    ):
        entity = AE(ae_title=CALLER)
        entity.add_requested_context(Verification)
        association = entity.associate(
            "127.0.0.1", receiver.port, ae_title=TITLE, tls_args=(context, "localhost")
        )
        assert association.send_c_echo().Status == SUCCESS
        association.release()


def test_there_are_no_more_associations_than_memory_is_meant_for(local):
    entity = AE(ae_title=CALLER)
    entity.add_requested_context(Verification)
    with Receiver(local, Endpoint(TITLE, 0), jobs=1) as receiver:
        opened = [
            entity.associate("127.0.0.1", receiver.port, ae_title=TITLE)
            for _ in range(MAX_ASSOCIATIONS + 2)
        ]
        assert sum(one.is_established for one in opened) == MAX_ASSOCIATIONS
        for one in opened:
            if one.is_established:
                one.release()
        assert send(receiver.port, image(noise((20, 20)))) == SUCCESS
