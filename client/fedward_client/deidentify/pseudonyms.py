"""Keyed pseudonyms: HMAC-SHA-256 under the site's secret.

The same secret always gives the same pseudonym, so studies of one patient stay together; without
it a pseudonym says nothing, not even to somebody who can guess every identifier.
"""

from __future__ import annotations

import hashlib
import hmac

from fedward_common.codec import encode
from fedward_common.errors import MisuseError, OperatorError
from fedward_common.secret import SecretBytes

MIN_SECRET_BYTES = 32
_DAY = 86_400
_SHIFT_FROM = 100 * 365 * _DAY
_SHIFT_RANGE = 100 * 365 * _DAY


class Pseudonyms:
    """The pseudonyms of one site.

    Raises:
        OperatorError: the secret is shorter than 32 bytes.
    """

    def __init__(self, secret: SecretBytes) -> None:
        if len(secret) < MIN_SECRET_BYTES:
            raise OperatorError(
                f"de-identification key: {len(secret)} bytes; make one of at least "
                f"{MIN_SECRET_BYTES} random bytes"
            )
        self._secret = secret

    def patient(self, identifier: str) -> str:
        """Return 32 hexadecimal digits for an original PatientID (surrounding blanks ignored)."""
        return self._digest("patient", _present(identifier))[:16].hex()

    def uid(self, identifier: str) -> str:
        """Return a UID under 2.25 (PS3.5 B.2): a version 8 UUID made of 122 keyed bits."""
        raw = bytearray(self._digest("uid", _present(identifier))[:16])
        raw[6] = raw[6] & 0x0F | 0x80
        raw[8] = raw[8] & 0x3F | 0x80
        return f"2.25.{int.from_bytes(raw, 'big')}"

    def title(self, identifier: str) -> str:
        """Return 16 upper-case letters and digits for an application entity title."""
        return f"AE{self._digest('title', _present(identifier))[:7].hex().upper()}"

    def shift_seconds(self, identifier: str) -> int:
        """Return the patient's time shift: 100 to 200 years into the future, in seconds.

        One shift for all dates and times of a patient keeps intervals exact. A date that has been
        shifted cannot be taken for a real one (the convention of the MIMIC databases).
        """
        value = int.from_bytes(self._digest("shift", _present(identifier))[:8], "big")
        return _SHIFT_FROM + value % _SHIFT_RANGE

    def _digest(self, label: str, identifier: str) -> bytes:
        message = encode(("fedward-deid-1", label, identifier))
        return hmac.new(self._secret.reveal(), message, hashlib.sha256).digest()


def _present(identifier: str) -> str:
    cleaned = identifier.strip(" \0")
    if not cleaned:
        raise MisuseError("an empty identifier has no pseudonym")
    return cleaned
