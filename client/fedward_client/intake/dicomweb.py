"""Pulling images from a DICOMweb server: QIDO-RS says what there is, WADO-RS brings it.

Each instance goes from the response's bytes into the de-identifier; nothing is written in between.
What is held is not asked for again, so a call that was interrupted is finished by the next. The
search is dicomweb-client's. Retrieval is our own, over the same session: dicomweb-client parses
and so changes what it retrieves, and reads a response of any size.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import requests
from dicomweb_client import DICOMwebClient

from fedward_client.deidentify.checks import is_uid
from fedward_client.deidentify.outcome import Quarantined, RefusalError
from fedward_client.deidentify.workers import clean_in_order, useful_jobs
from fedward_client.intake.add import Progress
from fedward_client.intake.keeper import Keeper, deidentifier_of, method_of, sweep
from fedward_client.intake.reconcile import Reconciliation, Tally, reconcile
from fedward_client.intake.source import CREDENTIALS_VARIABLE, Source, read_instance, shown
from fedward_client.site_folder import SiteFolder
from fedward_common.errors import FedwardError, OperatorError, PeerError

PAGE = 500
TIMEOUT_SECONDS = (10.0, 120.0)
NOT_GIVEN = "the server did not give it"

_STUDY, _SERIES, _INSTANCE = "0020000D", "0020000E", "00080018"
_ACCEPT = 'multipart/related; type="application/dicom"; transfer-syntax=*'
_NOT_ALLOWED = (401, 403)

for _name in ("dicomweb_client", "urllib3"):  # they log addresses, which hold UIDs
    logging.getLogger(_name).setLevel(logging.CRITICAL + 1)


def fetch(
    site: SiteFolder,
    source: Source,
    *,
    studies: Sequence[str] = (),
    query: Mapping[str, str] | None = None,
    jobs: int = 0,
    progress: Progress = lambda _done, _total: None,
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
    return reconcile(puller.keeper.tally, site.catalogue, site.split, site.profile.mask)


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

    def pull(self, study: str, jobs: int, progress: Progress) -> None:
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
            try:
                data = self._get(f"studies/{study}/series/{series}/instances/{instance}")
            except RefusalError as error:  # remembered, so that it holds up nothing again
                self.keeper.take(Quarantined(error.reason), self._mark(instance))
                continue
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
                return read_instance(response)
        except requests.RequestException as error:
            raise self._unreachable(error) from error

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
            raise PeerError(f"{shown(self._url)}: the search was refused by the server") from error
        except requests.JSONDecodeError as error:
            raise PeerError(f"{shown(self._url)}: the search's answer is not JSON") from error
        except requests.RequestException as error:
            raise self._unreachable(error) from error
        except (ValueError, TypeError, KeyError) as error:  # dicomweb-client on odd answers
            raise PeerError(f"{shown(self._url)}: the search's answer is malformed") from error
        if not isinstance(found, list):
            raise PeerError(f"{shown(self._url)}: the search's answer is not a list")
        return found

    def _refused(self) -> FedwardError:
        return OperatorError(
            f"{shown(self._url)}: refused our credentials; set {CREDENTIALS_VARIABLE} or give "
            "--credentials"
        )

    def _unreachable(self, error: requests.RequestException) -> FedwardError:
        if isinstance(error, requests.TooManyRedirects):
            return OperatorError(
                f"{shown(self._url)}: redirects elsewhere, which is not followed; give the address "
                "of the DICOMweb service itself"
            )
        return OperatorError(
            f"{shown(self._url)}: cannot be reached, or its certificate is not trusted; check the "
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
