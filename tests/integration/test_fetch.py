"""``fedward-client fetch`` from a real Orthanc, and from servers that misbehave."""

from __future__ import annotations

import httpx
import pytest
from pydicom.uid import generate_uid
from tests.cli_world import client, ok, run
from tests.dicom_cases import TOKEN, ct, encoded, image, noise
from tests.dicom_network import found, free_port, make_certificates, orthanc, part, serving

from fedward_client.deidentify.outcome import Reason
from fedward_client.intake import source
from fedward_client.intake.dicomweb import NOT_GIVEN, fetch
from fedward_client.intake.source import CREDENTIALS_VARIABLE, Source
from fedward_client.site_folder import create_site, open_site
from fedward_common.errors import OperatorError, PeerError
from fedward_common.secret import SecretBytes


@pytest.fixture
def site(tmp_path):
    create_site(tmp_path / "site", "north")
    with open_site(tmp_path / "site") as opened:
        yield opened


def test_orthanc_is_asked_and_gives(tmp_path):
    site = tmp_path / "site"
    ok(client("init", "north", "--site", site))
    study = generate_uid()
    sources = [image(noise((40, 40), n), patient=f"P{n}", study=study) for n in range(2)]
    sources += [ct(), image(noise((40, 40), 7), patient="")]
    with orthanc(tmp_path / "orthanc", free_port(), dicomweb=True) as address:
        for ds in sources:
            httpx.post(f"{address}/instances", content=encoded(ds)).raise_for_status()
        url = f"{address}/dicom-web/"
        where = ("--site", site, "--json")
        done = run("fedward-client", "fetch", url, "--study", study, *where)
        assert (done.json["found"], done.json["used"]) == (2, 2)
        assert TOKEN not in done.err
        everything = client("fetch", url, *where).json
        assert (everything["found"], everything["used"], everything["known"]) == (4, 1, 2)
        assert everything["excluded"] == {str(Reason.NO_PATIENT_ID): 1}
        again = client("fetch", url, *where).json
        assert (again["used"], again["known"]) == (0, 3)
        assert again["excluded"] == everything["excluded"]
        none = client("fetch", url, "--query", "PatientID=NOBODY", *where).json
        assert none["found"] == 0
    labels = tmp_path / "labels.csv"
    labels.write_text("level,id,label,split\npatient,P0,1,\npatient,P1,0,\n")
    report = client("add", "--labels", labels, *where).json
    assert report["train_patients"] + report["holdout_patients"] == 2
    assert report["patients_without_label"] == 1


def test_credentials_go_with_every_request_and_nowhere_else(site, tmp_path, monkeypatch):
    ds = image(noise((20, 20)))
    files = make_certificates(tmp_path / "ca", "pacs")["pacs"]
    answers = {"/studies": found(ds), "/instances": found(ds), ds.SOPInstanceUID: part(encoded(ds))}
    with serving(answers, tls=files) as (server, url):
        monkeypatch.setenv(CREDENTIALS_VARIABLE, "Bearer abc")
        where = ("--site", site.path, "--json")
        done = client("fetch", url, "--tls-ca", files.authority, *where)
        assert done.json["used"] == 1
        assert {header for _, header in server.asked} == {"Bearer abc"}
        untrusted = client("fetch", url, *where).refused(2, "not trusted")
        assert "abc" not in untrusted.err
    secret = tmp_path / "secret"
    secret.write_text("user:word\n")
    client("fetch", url, "--credentials", secret, *where).refused(2, secret, "chmod 600")


def test_plain_http_beyond_loopback_is_refused(site):
    for url in ("http://pacs.example/dicom", "ftp://127.0.0.1/", "https://user:word@pacs/"):
        with pytest.raises(OperatorError) as caught:
            fetch(site, Source(url))
        assert "word" not in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        ((401, "text/plain", b""), OperatorError, "credentials"),
        ((500, "text/plain", b""), PeerError, "refused by the server"),
        ((302, "text/plain", b""), OperatorError, "redirects elsewhere"),
        ((200, "application/json", b"{no json"), PeerError, "not JSON"),
        ((200, "application/json", b'["x"]'), PeerError, "lacks a UID"),
        ((200, "application/json", b'[{"0020000D":{"Value":["../etc"]}}]'), PeerError, "malformed"),
    ],
)
def test_a_server_that_misbehaves_is_one_line(site, answer, error, words):
    with serving({"/studies": answer}) as (_, url), pytest.raises(error, match=words) as caught:
        fetch(site, Source(url))
    assert "\n" not in str(caught.value)


def test_what_is_not_given_stops_nothing_and_is_asked_for_again(site):
    good, gone = image(noise((20, 20), 1)), image(noise((20, 20), 2))
    answers = {
        "/studies": found(good),
        "/instances": found(gone, good),
        good.SOPInstanceUID: part(encoded(good)),
    }
    with serving(answers) as (_, url):
        report = fetch(site, Source(url))
        assert (report.found, report.used) == (2, 1)
        assert report.excluded == {NOT_GIVEN: 1}
        answers[gone.SOPInstanceUID] = (200, "application/dicom", encoded(gone))
        assert fetch(site, Source(url)).used == 1


def test_garbage_is_quarantined_and_not_fetched_again(site):
    ds = image(noise((20, 20)))
    answers = {"/studies": found(ds), "/instances": found(ds), ds.SOPInstanceUID: part(b"garbage")}
    with serving(answers) as (server, url):
        assert fetch(site, Source(url)).excluded == {str(Reason.NOT_DICOM): 1}
        before = len([path for path, _ in server.asked if path.endswith(ds.SOPInstanceUID)])
        assert fetch(site, Source(url)).excluded == {str(Reason.NOT_DICOM): 1}
        after = len([path for path, _ in server.asked if path.endswith(ds.SOPInstanceUID)])
    assert (before, after) == (1, 1)


def test_an_interrupted_call_is_finished_by_the_next(site):
    """The server goes away after three of six: what came is durable, the next call brings three."""
    sources = [image(noise((20, 20), n), patient=f"P{n}") for n in range(6)]
    answers = {"/studies": found(sources[0]), "/instances": found(*sources)}
    answers |= {ds.SOPInstanceUID: part(encoded(ds)) for ds in sources[:3]}
    answers[sources[3].SOPInstanceUID] = (401, "text/plain", b"")
    with serving(answers) as (_, url):
        with pytest.raises(OperatorError, match="credentials"):
            fetch(site, Source(url))
        assert site.catalogue.counts()["instances"] == 3
        answers.update({ds.SOPInstanceUID: part(encoded(ds)) for ds in sources})
        report = fetch(site, Source(url))
        assert (report.used, report.known) == (3, 3)


def test_an_endless_object_is_cut_off_and_holds_up_nothing(site, monkeypatch):
    monkeypatch.setattr(source, "MAX_OBJECT_BYTES", 9000)
    large, good = image(noise((20, 20), 1)), image(noise((20, 20), 2))
    answers = {
        "/studies": found(good),
        "/instances": found(large, good),
        large.SOPInstanceUID: part(bytes(20_000)),
        good.SOPInstanceUID: part(encoded(good)),
    }
    with serving(answers) as (server, url):
        for used in (1, 0):
            report = fetch(site, Source(url, SecretBytes(b"user:word")))
            assert (report.found, report.used) == (2, used)
            assert report.excluded == {str(Reason.TOO_LARGE): 1}
    asked = [path for path, _ in server.asked if path.endswith(large.SOPInstanceUID)]
    assert len(asked) == 1


def test_an_endless_search_is_cut_off(site, monkeypatch):
    monkeypatch.setattr(source, "MAX_ANSWER_BYTES", 1000)
    endless = (200, "application/json", b"[" + b" " * 9000 + b"]")
    with serving({"/studies": endless}) as (_, url), pytest.raises(PeerError, match="size limit"):
        fetch(site, Source(url))


def test_no_server_decides_how_long_we_wait():
    session = Source("http://127.0.0.1:1/dicom").session()
    assert not session.get_adapter("http://x").max_retries.respect_retry_after_header
    assert not session.get_adapter("https://x").max_retries.respect_retry_after_header


def test_an_address_is_shown_with_its_port_and_without_its_secrets():
    assert source.shown("https://u:w@pacs:8443/d?key=1") == "https://pacs:8443/d"
    assert source.shown("http://[::1]:80/d") == "http://[::1]:80/d"


@pytest.mark.parametrize("text", ["", " \n", "word", "Bearer ", "Bearer a\nb", "Bearer \u00e9"])
def test_malformed_credentials_are_refused_where_they_are_read(tmp_path, monkeypatch, text):
    path = tmp_path / "secret"
    path.write_text(text, "utf-8")
    path.chmod(0o600)
    with pytest.raises(OperatorError, match="secret: holds neither"):
        source.read_credentials(path)
    if text:
        monkeypatch.setenv(CREDENTIALS_VARIABLE, text)
        with pytest.raises(OperatorError, match=f"{CREDENTIALS_VARIABLE}: holds neither"):
            source.read_credentials(None)


def test_a_bad_authority_file_is_named(site, tmp_path):
    path = tmp_path / "ca.pem"
    path.write_text("no certificate")
    with pytest.raises(OperatorError, match=r"ca\.pem"):
        fetch(site, Source("https://127.0.0.1:1/dicom", authority=path))
