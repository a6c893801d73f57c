"""The network between the hospitals and the gateway, as a process: slow, broken or cut at will.

It stands at the published address and ends the TLS of both sides with their own keys, which only a
simulation has. So it sees what a site sends before it is encrypted, and records every addend that
leaves (PROTOCOL B6), independently of site and server.

    python -m fedward_simulations.faults.relay CONFIG.json

takes one command a line on standard input, JSON, and ends with it:

    {"site": "site-1", "delay": 0.2}        every chunk of this site is that late, in seconds
    {"site": "site-1", "cut": "refuse"}     connections break, new ones are refused
    {"site": "site-1", "cut": "hang"}       nothing passes any more, as in a lost VPN
    {"site": "site-1", "cut": ""}           whole again
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from fedward_client.daemon.tls import tls_context
from fedward_client.enrolment import load_connection
from fedward_client.site_folder import open_site
from fedward_simulations.faults.addends import AddendFinder

CHUNK = 1 << 16
REFUSE, HANG = "refuse", "hang"


@dataclass(frozen=True)
class RelayConfig:
    """Where it listens and passes on to (host, port), its files, and the sites' folders by name.

    ``plain`` is a file that gets every byte of both directions, or empty.
    """

    listen: tuple[str, int]
    upstream: tuple[str, int]
    certificate: str
    authority: str
    record: str
    sites: dict[str, str]
    plain: str = ""

    def to_json(self) -> str:
        """The file that the process reads."""
        return json.dumps(self.__dict__)


@dataclass
class _Way:
    """One site's way: its state, and the connections that are open on it."""

    trust: ssl.SSLContext
    delay: float = 0.0
    cut: str = ""
    whole: asyncio.Event = field(default_factory=asyncio.Event)
    open: set[asyncio.StreamWriter] = field(default_factory=set)


class Relay:
    """Passes connections on, site by site."""

    def __init__(self, config: RelayConfig, record: TextIO, plain: BinaryIO | None) -> None:
        self._config = config
        self._record = record
        self._ways = {name: _Way(_trust(Path(path))) for name, path in config.sites.items()}
        for way in self._ways.values():
            way.whole.set()
        self._plain = plain

    async def run(self) -> None:
        """Serve until standard input ends."""
        host, port = self._config.listen
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(self._config.certificate)
        context.load_verify_locations(self._config.authority)
        context.verify_mode = ssl.CERT_REQUIRED
        server = await asyncio.start_server(self._accept, host, port, ssl=context)
        async with server:
            _say("ready")
            await self._obey()

    async def _obey(self) -> None:
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := await reader.readline():
            self._change(json.loads(line))
            _say("done")

    def _change(self, command: dict[str, Any]) -> None:
        way = self._ways[command["site"]]
        way.delay = float(command.get("delay", way.delay))
        way.cut = str(command.get("cut", way.cut))
        way.whole.clear() if way.cut == HANG else way.whole.set()
        if way.cut != HANG and "cut" in command:  # a way that hung is a new one when it is back
            for writer in list(way.open):
                writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        name = _site_of(writer)
        way = self._ways[name]
        way.open.add(writer)
        out: asyncio.StreamWriter | None = None
        try:
            await way.whole.wait()
            if way.cut:
                return
            host, port = self._config.upstream
            told = self._config.listen[0]  # the name in the gateway's certificate
            back, out = await asyncio.open_connection(
                host, port, ssl=way.trust, server_hostname=told
            )
            way.open.add(out)
            await _first(
                self._pass(reader, out, way, AddendFinder(), name),
                self._pass(back, writer, way, None, name),
            )
        except (OSError, asyncio.IncompleteReadError):
            pass  # the peer is gone: so is this connection
        finally:
            for end in filter(None, (writer, out)):
                way.open.discard(end)
                end.transport.abort()

    async def _pass(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        way: _Way,
        finder: AddendFinder | None,
        name: str,
    ) -> None:
        while chunk := await reader.read(CHUNK):
            if way.delay:
                await asyncio.sleep(way.delay)
            await way.whole.wait()
            for e in finder.feed(chunk) if finder else ():
                line = {"time": time.time(), "site": name, "e": e}
                print(json.dumps(line), file=self._record, flush=True)
            if self._plain:
                self._plain.write(chunk)
                self._plain.flush()
            writer.write(chunk)
            await writer.drain()


async def _first(*ways: Any) -> None:
    """Until one direction ends; then the other is over too."""
    tasks = [asyncio.ensure_future(way) for way in ways]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        with contextlib.suppress(Exception):
            await asyncio.gather(*tasks, return_exceptions=True)


def _say(word: str) -> None:
    """Answer whoever holds the other end of the pipe."""
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


def _trust(folder: Path) -> ssl.SSLContext:
    """What the site itself would connect with."""
    with open_site(folder) as site:
        return tls_context(load_connection(site))


def _site_of(writer: asyncio.StreamWriter) -> str:
    """The name in the certificate that the site has shown."""
    certificate = writer.get_extra_info("peercert")
    names = dict(pair for entry in certificate["subject"] for pair in entry)
    return str(names["commonName"])


def main() -> None:
    """Run the relay of the configuration file named first."""
    config = RelayConfig(**json.loads(Path(sys.argv[1]).read_text("utf-8")))
    with contextlib.ExitStack() as files:
        record = files.enter_context(Path(config.record).open("a", encoding="ascii"))
        plain = files.enter_context(Path(config.plain).open("ab")) if config.plain else None
        asyncio.run(Relay(config, record, plain).run())


if __name__ == "__main__":
    main()
