"""Telling systemd how the daemon is (sd_notify(3)): one datagram, no library."""

from __future__ import annotations

import os
import socket

from fedward_common.text import printable


class Notifier:
    """Sends to the socket that systemd names; silent where there is none."""

    def __init__(self) -> None:
        self._address = os.environ.get("NOTIFY_SOCKET", "")

    def ready(self) -> None:
        """The site is open and orders are asked for."""
        self._send("READY=1")

    def stopping(self) -> None:
        """The daemon finishes the order in hand."""
        self._send("STOPPING=1")

    def alive(self) -> None:
        """Feed the watchdog."""
        self._send("WATCHDOG=1")

    def status(self, text: str) -> None:
        """One line for ``systemctl status``."""
        self._send(f"STATUS={printable(text)}")

    def _send(self, line: str) -> None:
        if not self._address:
            return
        name = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.sendto(line.encode(), name)
        except OSError:
            return  # the service manager's loss: the daemon goes on
