"""TLS on the hospital's own network: who we are, and who may be at the other end."""

from __future__ import annotations

import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path

from fedward_common.errors import OperatorError


@dataclass(frozen=True)
class Certificates:
    """PEM files: ours, its key (mode 0600), and the authority of the other side."""

    certificate: Path
    key: Path
    authority: Path

    def server_context(self) -> ssl.SSLContext:
        """Return a context that insists on a client certificate (PS3.15 B.9, BCP 195 profile).

        Raises:
            OperatorError: a file that is missing or malformed, or a key that others may read.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.verify_mode = ssl.CERT_REQUIRED
        self._load(context)
        return context

    def check(self) -> None:
        """Refuse files that no connection could use; raises as :meth:`server_context`."""
        self._load(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))

    def _load(self, context: ssl.SSLContext) -> None:
        try:
            if self.key.stat().st_mode & 0o077:
                raise OperatorError(f"{self.key}: readable by others; run chmod 600 on it")
            context.load_cert_chain(self.certificate, self.key)
            context.load_verify_locations(self.authority)
        except OSError as error:  # an ssl.SSLError is one, and names no file
            raise OperatorError(
                f"{self.certificate}, {self.key}, {self.authority}: not a certificate in PEM with "
                "its key and an authority; check the three files"
            ) from error


def is_loopback(host: str) -> bool:
    """True for ``localhost`` and addresses that no other machine can reach."""
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
