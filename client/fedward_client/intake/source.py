"""A DICOMweb server as we see it: its address, our credentials, and the bytes of one instance."""

from __future__ import annotations

import base64
import os
import ssl
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.util.retry import Retry

from fedward_client.deidentify.outcome import Reason, RefusalError
from fedward_client.intake.certificates import Certificates, is_loopback
from fedward_common.errors import OperatorError, PeerError
from fedward_common.secret import SecretBytes

CREDENTIALS_VARIABLE = "FEDWARD_DICOMWEB_CREDENTIALS"
"""Environment variable with ``USER:PASSWORD`` or ``Bearer TOKEN``, instead of a file."""

MAX_OBJECT_BYTES = 1 << 30
MAX_ANSWER_BYTES = 1 << 26
"""Bytes of a page of search results."""

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
        session.hooks["response"].append(_read_bounded)
        retries = Retry(
            3,
            backoff_factor=0.5,
            status_forcelist=(502, 503),
            respect_retry_after_header=False,  # it may ask for a year
        )
        adapter = HTTPAdapter(max_retries=retries)
        session.mount("http://", adapter)
        session.mount("https://", adapter)
        authority = self.certificates.authority if self.certificates else self.authority
        if authority:
            _check_authority(authority)
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
        OperatorError: the file is missing or readable by others, or holds something else.
    """
    if path is None:
        text = os.environ.get(CREDENTIALS_VARIABLE)
        return _credentials(text.encode(), CREDENTIALS_VARIABLE) if text else None
    try:
        if path.stat().st_mode & 0o077:
            raise OperatorError(f"{path}: readable by others; run chmod 600 on it")
        return _credentials(path.read_bytes(), str(path))
    except OSError as error:
        raise OperatorError(f"{path}: cannot read the credentials; check the path") from error


def read_instance(response: requests.Response) -> bytes:
    """Return the bytes of the one instance of a response: its first part, or all of it.

    Raises:
        RefusalError: it is too large; the rest is not read.
        PeerError: neither ``multipart/related`` nor ``application/dicom``.
    """
    body = bytearray()
    for chunk in response.iter_content(_CHUNK):
        body += chunk
        if len(body) > MAX_OBJECT_BYTES:
            raise RefusalError(Reason.TOO_LARGE)
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
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _check_authority(path: Path) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except OSError as error:  # an ssl.SSLError is one
        raise OperatorError(f"{path}: cannot be read; give the authority's PEM file") from error


def _read_bounded(response: requests.Response, **how: Any) -> None:
    """Read the body of a response here, unless its reader does so bit by bit.

    Raises:
        PeerError: it is over ``MAX_ANSWER_BYTES``.
    """
    if how.get("stream"):
        return
    body = bytearray()
    for chunk in response.iter_content(_CHUNK):
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            response.close()
            raise PeerError("the DICOMweb server's answer is over the size limit")
    response._content = bytes(body)  # noqa: SLF001  where requests keeps what it has read


def _credentials(raw: bytes, where: str) -> SecretBytes:
    """Raises OperatorError: not ``USER:PASSWORD`` and not ``Bearer TOKEN``, or empty."""
    text = raw.strip()
    kind, _, token = text.partition(b" ")
    bearer = kind == b"Bearer" and token.isascii() and token.decode("ascii").isprintable()
    if not (bearer and token) and not (kind != b"Bearer" and b":" in text):
        raise OperatorError(f"{where}: holds neither USER:PASSWORD nor Bearer TOKEN")
    return SecretBytes(text)


def _authorization(credentials: SecretBytes) -> str:
    text = credentials.reveal()
    if text.startswith(b"Bearer "):
        return text.decode("ascii", "replace")
    return "Basic " + base64.b64encode(text).decode("ascii")
