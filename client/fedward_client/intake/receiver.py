"""A DICOM storage SCP: what a PACS sends is de-identified in memory and kept sealed.

An object is acknowledged only when it is durable in vault and catalogue (PS3.7 C-STORE status
0000). Nothing of it touches the disk before that, sealed or not, and nothing ever does in clear.
Calling and called AE titles are checked, which keeps order rather than out: who may connect is a
matter of TLS with client certificates, or of loopback.
"""

from __future__ import annotations

import logging
import ssl
import threading
import time
from dataclasses import dataclass, replace
from typing import Any, Self

from pynetdicom import _config, evt
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from fedward_client.deidentify.allowlist import IMAGE_CLASSES
from fedward_client.deidentify.outcome import Quarantined, Reason
from fedward_client.deidentify.workers import Cleaners, useful_jobs
from fedward_client.intake.certificates import Certificates, is_loopback
from fedward_client.intake.keeper import Keeper, method_of, sweep
from fedward_client.intake.listener import Entity, Listener, restart_meter
from fedward_client.intake.reconcile import Tally
from fedward_client.site_folder import SiteFolder
from fedward_common.errors import FedwardError, OperatorError, StorageError

SUCCESS, OUT_OF_RESOURCES, CANNOT_UNDERSTAND = 0x0000, 0xA700, 0xC000
NOT_SUPPORTED, NOT_AUTHORISED = 0x0122, 0x0124
"""C-STORE statuses (PS3.4 table B.2-1, PS3.7 9.1.1.1.9)."""

MAX_ASSOCIATIONS = 4
MAX_OBJECT_BYTES = 1 << 30
"""Memory is bounded by this times the associations, and as much again in the workers."""

REQUEST_SECONDS = 10.0
DRAIN_SECONDS = 30.0
DRAIN_POLL_SECONDS = 0.05

TRANSFER_SYNTAXES = (
    "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2",
    "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.57",
    "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81",
    "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91", "1.2.840.10008.1.2.5",
)  # fmt: skip
"""What is accepted: explicit, implicit, deflated, big-endian; JPEG, JPEG-LS, JPEG 2000, RLE."""

_STATUS = {
    Reason.UNKNOWN_SOP_CLASS: NOT_SUPPORTED,
    Reason.ENCAPSULATED_DOCUMENT: NOT_SUPPORTED,
    Reason.UNDECODABLE_PIXELS: CANNOT_UNDERSTAND,
    Reason.UNSUPPORTED_PIXELS: CANNOT_UNDERSTAND,
    Reason.FAILED: CANNOT_UNDERSTAND,
    Reason.EXHAUSTED: OUT_OF_RESOURCES,
}
_REJECTED = "an association was refused: its called or calling AE title, or too many at once"
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Endpoint:
    """Where and as whom we listen. ``calling``: AE titles that may call; empty admits any."""

    ae_title: str
    port: int
    bind: str = "127.0.0.1"
    calling: tuple[str, ...] = ()
    certificates: Certificates | None = None
    insecure_plain: bool = False
    max_object_bytes: int = MAX_OBJECT_BYTES

    def check(self) -> None:
        """Refuse what would expose patients.

        Raises:
            OperatorError: no TLS beyond loopback, or an AE title that is not one.
        """
        for title in (self.ae_title, *self.calling):
            if not (0 < len(title.strip()) <= 16 and title.isascii() and title.isprintable()):
                raise OperatorError("AE title: use 1 to 16 ASCII characters")
            if "\\" in title:
                raise OperatorError("AE title: a backslash is not allowed")
        if not (self.certificates or self.insecure_plain or is_loopback(self.bind)):
            raise OperatorError(
                f"{self.bind}: not a loopback address; give --tls-cert, --tls-key and --tls-ca, "
                "or accept the exposure with --insecure-plain"
            )


class Receiver:
    """A running storage SCP of one site. Use it in a ``with``; leaving drains and closes.

    Raises:
        OperatorError: the endpoint is refused, or its address cannot be bound.
    """

    def __init__(self, site: SiteFolder, endpoint: Endpoint, *, jobs: int = 0) -> None:
        endpoint.check()
        self._site, self._limit = site, endpoint.max_object_bytes
        self._lock, self._closed = threading.Lock(), False
        self._keeper = Keeper(site, Tally(0, 0))
        tls = endpoint.certificates.server_context() if endpoint.certificates else None
        sweep(site)
        self._cleaners = Cleaners(method_of(site), useful_jobs(jobs, 1 << 20))
        self._listener = _listen(endpoint, tls, self._handlers())
        threading.Thread(target=self._listener.serve_forever, daemon=True).start()

    @property
    def port(self) -> int:
        """The port that is listened on; of interest when 0 was asked for."""
        return int(self._listener.server_address[1])

    @property
    def tally(self) -> Tally:
        """Counts so far, a copy."""
        with self._lock:
            tally = self._keeper.tally
            return replace(tally, excluded=tally.excluded.copy(), layouts=tally.layouts.copy())

    def close(self, drain_seconds: float = DRAIN_SECONDS) -> None:
        """Take no more connections, let those that are open finish, then end them."""
        self._listener.shutdown()
        deadline = time.monotonic() + drain_seconds
        while self._open() and time.monotonic() < deadline:
            time.sleep(DRAIN_POLL_SECONDS)
        for association in self._open():
            association.abort()
        self._cleaners.__exit__()
        with self._lock:  # whoever is storing ends first; the site may be closed after this
            self._closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> list[Any]:
        return [one for one in self._listener.active_associations if one.is_established]

    def _handlers(self) -> list[Any]:
        return [
            (evt.EVT_ACCEPTED, lambda event: restart_meter(event.assoc, self._limit)),
            (evt.EVT_REJECTED, lambda _event: _LOGGER.warning(_REJECTED)),
            (evt.EVT_C_ECHO, lambda _event: SUCCESS),
            (evt.EVT_C_STORE, self._store),
        ]

    def _store(self, event: evt.Event) -> int:
        """Answer a C-STORE request: success means that it is durable."""
        restart_meter(event.assoc, self._limit)
        try:
            return self._kept(event.encoded_dataset())
        except FedwardError as error:  # the disk, another intake, memory: the sender tries again
            _LOGGER.warning("an object was not stored: %s", error)
            return OUT_OF_RESOURCES
        except Exception:  # noqa: BLE001  its text may hold a value of the patient's
            _LOGGER.warning("an object was not stored: it cannot be understood")
            return CANNOT_UNDERSTAND

    def _kept(self, data: bytes) -> int:
        fingerprint = self._site.vault.fingerprint(data)
        with self._lock:
            reason = self._keeper.known(fingerprint)
            self._keeper.tally.found += reason is not None
        if reason is not None:
            return _status(Reason(reason)) if reason else SUCCESS
        outcome = self._cleaners.deidentify(data)
        with self._lock:
            if self._closed:
                raise StorageError("the receiver has ended")
            self._keeper.take(outcome, fingerprint)
            self._keeper.commit()
            self._keeper.tally.found += 1  # what fails is not found: it is sent again
        return _status(outcome.reason) if isinstance(outcome, Quarantined) else SUCCESS


def _status(reason: Reason) -> int:
    if reason.is_broken_file:
        return CANNOT_UNDERSTAND
    return _STATUS.get(reason, NOT_AUTHORISED)


def _listen(endpoint: Endpoint, tls: ssl.SSLContext | None, handlers: list[Any]) -> Listener:
    _silence()
    entity = Entity(ae_title=endpoint.ae_title)
    entity.require_called_aet = True
    entity.require_calling_aet = list(endpoint.calling)
    entity.acse_timeout = REQUEST_SECONDS
    entity.maximum_associations = MAX_ASSOCIATIONS - 1  # beside the one that asks
    for sop_class in sorted(IMAGE_CLASSES):
        entity.add_supported_context(sop_class, list(TRANSFER_SYNTAXES))
    entity.add_supported_context(Verification)
    try:
        return Listener(
            entity,
            (endpoint.bind, endpoint.port),
            endpoint.ae_title,
            entity.supported_contexts,
            evt_handlers=handlers,
            tls=tls,
        )
    except OSError as error:
        raise OperatorError(
            f"{endpoint.bind}:{endpoint.port}: cannot listen ({error.strerror}); "
            "choose another address or port"
        ) from error


def _silence() -> None:
    """The libraries' logs quote identifiers; chunked reception would write files in clear."""
    for name in ("pynetdicom", "pydicom"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    _config.LOG_HANDLER_LEVEL = "none"
    _config.STORE_RECV_CHUNKED_DATASET = False
