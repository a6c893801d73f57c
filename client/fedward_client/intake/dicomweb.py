"""Pulling images from a DICOMweb server: QIDO-RS says what there is, WADO-RS brings it.

Each instance goes from the response's bytes into the de-identifier; nothing is written in between.
What is held is not asked for again, so a call that was interrupted is finished by the next. The
search is dicomweb-client's. Retrieval is our own, over the same session: dicomweb-client parses
and so changes what it retrieves, and reads a response of any size.
"""

from __future__ import annotations

import base64
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from dicomweb_client import DICOMwebClient
from requests.adapters import HTTPAdapter
from urllib3.util.retry import Retry

from fedward_client.deidentify.checks import is_uid
from fedward_client.deidentify.workers import clean_in_order, useful_jobs
from fedward_client.intake.add import Progress
from fedward_client.intake.certificates import Certificates, is_loopback
from fedward_client.intake.keeper import Keeper, deidentifier_of, method_of, sweep
from fedward_client.intake.reconcile import Reconciliation, Tally, reconcile
from fedward_client.site_folder import SiteFolder
from fedward_common.errors import FedwardError, OperatorError, PeerError
from fedward_common.secret import SecretBytes

CREDENTIALS_VARIABLE = "FEDWARD_DICOMWEB_CREDENTIALS"
"""Environment variable with ``USER:PASSWORD`` or ``Bearer TOKEN``, instead of a file."""

MAX_OBJECT_BYTES = 1 << 30
PAGE = 500
TIMEOUT_SECONDS = (10.0, 120.0)
NOT_GIVEN = "the server did not give it"

_STUDY, _SERIES, _INSTANCE = "0020000D", "0020000E", "00080018"
_ACCEPT = 'multipart/related; type="application/dicom"; transfer-syntax=*'
_CHUNK = 1 << 20
_NOT_ALLOWED = (401, 403)

for _name in ("dicomweb_client", "urllib3"):  # they log addresses, which hold UIDs
    logging.getLogger(_name).setLevel(logging.CRITICAL + 1)


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
                f"{_shown(self.url)}: give an address such as https://pacs/dicom-web"
            )
        if parts.scheme == "http" and not is_loopback(parts.hostname):
            raise OperatorError(f"{_shown(self.url)}: patients' images need https")
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


def fetch(
    site: SiteFolder,
    source: Source,
    *,
    studies: Sequence[str] = (),
    query: Mapping[str, str] | None = None,
    jobs: int = 0,
    progress: Progress | None = None,
) -> Reconciliation:
    """Fetch the instances of ``studies`` (UIDs), or of the studies that ``query`` finds.

    ``query``: QIDO-RS attributes of a study, such as ``{"PatientID": "123"}``; empty finds all.

    Raises:
        OperatorError: the address, the credentials or a UID are refused, or it cannot be reached.
        PeerError: the server's answers are not DICOMweb. What was stored before remains.
        StorageError: the disk is full; whole batches stored before remain.
    """
    if not all(is_uid(study) for study in studies):
        raise OperatorError("--study: not a DICOM UID")
    sweep(site)
    puller = _Puller(site, source, Keeper(site, Tally(0, 0)))
    for study in studies or tuple(puller.studies(query or {})):
        puller.pull(study, jobs, progress)
    return reconcile(puller.keeper.tally, site.catalogue, site.split)


class _Puller:
    """One call's connection and counts."""

    def __init__(self, site: SiteFolder, source: Source, keeper: Keeper) -> None:
        self._site, self._url, self.keeper = site, source.url.rstrip("/"), keeper
        self._session = source.session()
        self._pseudonym = deidentifier_of(site).pseudonym
        self._client = DICOMwebClient(self._url, session=self._session, timeout=TIMEOUT_SECONDS)
        self._client.set_http_retry_params(retry=False)  # the session's adapter does

    def studies(self, query: Mapping[str, str]) -> Iterator[str]:
        """Yield the UIDs of the studies that match."""
        for (uid,) in self._pages("search_for_studies", (_STUDY,), search_filters=dict(query)):
            yield uid

    def pull(self, study: str, jobs: int, progress: Progress | None) -> None:
        """Fetch what is new of one study and make it durable."""
        tally = self.keeper.tally
        wanted = []
        for series, instance in self._pages(
            "search_for_instances", (_SERIES, _INSTANCE), study_instance_uid=study
        ):
            tally.found += 1
            if self._site.catalogue.holds(self._pseudonym("instance", instance)):
                tally.known += 1
            elif self.keeper.known(self._mark(instance)) is None:
                wanted.append((series, instance))
        outcomes = clean_in_order(
            method_of(self._site), self._retrieved(study, wanted), useful_jobs(jobs, len(wanted))
        )
        try:
            for done, (mark, outcome) in enumerate(outcomes, 1):
                self.keeper.take(outcome, mark)
                if progress is not None:
                    progress(done, len(wanted))
        finally:
            self.keeper.commit()

    def _mark(self, instance: str) -> bytes:
        """The keyed mark of an instance of a server: a refused one is not fetched again."""
        return self._site.vault.fingerprint(f"dicomweb {instance}".encode())

    def _retrieved(
        self, study: str, wanted: Sequence[tuple[str, str]]
    ) -> Iterator[tuple[bytes, bytes]]:
        for series, instance in wanted:
            data = self._get(f"studies/{study}/series/{series}/instances/{instance}")
            if data is None:
                self.keeper.tally.excluded[NOT_GIVEN] += 1
            else:
                yield self._mark(instance), data

    def _get(self, path: str) -> bytes | None:
        """Retrieve one instance (PS3.18 10.4); None if the server does not give it."""
        try:
            with self._session.get(
                f"{self._url}/{path}",
                headers={"Accept": _ACCEPT},
                stream=True,
                timeout=TIMEOUT_SECONDS,
            ) as response:
                if response.status_code in _NOT_ALLOWED:
                    raise self._refused()
                if response.status_code != requests.codes.ok:
                    return None
                return _instance(response)
        except requests.RequestException as error:
            raise self._unreachable() from error

    def _pages(self, search: str, tags: Sequence[str], **filters: Any) -> Iterator[tuple[str, ...]]:
        """Yield the UIDs of ``tags`` of every match, page by page; a repeated match ends it."""
        seen: set[tuple[str, ...]] = set()
        while True:
            found = self._page(search, len(seen), filters)
            fresh = [uids for match in found if (uids := _uids(match, tags)) not in seen]
            seen.update(fresh)
            yield from dict.fromkeys(fresh)
            if not fresh:
                return

    def _page(self, search: str, offset: int, filters: Mapping[str, Any]) -> list[Any]:
        try:
            found = getattr(self._client, search)(limit=PAGE, offset=offset, **filters)
        except requests.HTTPError as error:
            if error.response is not None and error.response.status_code in _NOT_ALLOWED:
                raise self._refused() from error
            raise PeerError(f"{_shown(self._url)}: the search was refused by the server") from error
        except requests.JSONDecodeError as error:
            raise PeerError(f"{_shown(self._url)}: the search's answer is not JSON") from error
        except requests.RequestException as error:
            raise self._unreachable() from error
        except (ValueError, TypeError, KeyError) as error:  # dicomweb-client on odd answers
            raise PeerError(f"{_shown(self._url)}: the search's answer is malformed") from error
        if not isinstance(found, list):
            raise PeerError(f"{_shown(self._url)}: the search's answer is not a list")
        return found

    def _refused(self) -> FedwardError:
        return OperatorError(
            f"{_shown(self._url)}: refused our credentials; set {CREDENTIALS_VARIABLE} or give "
            "--credentials"
        )

    def _unreachable(self) -> FedwardError:
        return OperatorError(
            f"{_shown(self._url)}: cannot be reached, or its certificate is not trusted; check the "
            "address and --tls-ca, then run it again"
        )


def _uids(match: Any, tags: Sequence[str]) -> tuple[str, ...]:
    """The UIDs of one match, checked: they become part of an address.

    Raises:
        PeerError: one is missing or is not a UID.
    """
    try:
        uids = tuple(str(match[tag]["Value"][0]) for tag in tags)
    except (KeyError, IndexError, TypeError) as error:
        raise PeerError("the DICOMweb server's answer lacks a UID") from error
    if not all(is_uid(uid) for uid in uids):
        raise PeerError("the DICOMweb server's answer holds a malformed UID")
    return uids


def _instance(response: requests.Response) -> bytes:
    """The bytes of the one instance of a response: its first part, or all of it.

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


def _authorization(credentials: SecretBytes) -> str:
    text = credentials.reveal()
    if text.startswith(b"Bearer "):
        return text.decode("ascii", "replace")
    return "Basic " + base64.b64encode(text).decode("ascii")


def _shown(url: str) -> str:
    """An address without what may be secret: user, query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname or ''}{parts.path}"
