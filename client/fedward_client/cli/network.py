"""Commands that take images in over the network: from a PACS that sends, or that is asked."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedward_client.cli.options import (
    DEFAULT_SITE,
    JobsOption,
    JsonOption,
    SiteOption,
    progress_bar,
    tell_report,
)
from fedward_common.errors import OperatorError

if TYPE_CHECKING:
    from fedward_client.intake.certificates import Certificates
    from fedward_client.intake.receiver import Receiver
    from fedward_client.intake.reconcile import Tally

SECONDS_BETWEEN_COUNTS = 10.0

CertificateOption = Annotated[
    Path | None, typer.Option("--tls-cert", help="Our certificate (PEM).")
]
KeyOption = Annotated[Path | None, typer.Option("--tls-key", help="Its key (PEM, mode 0600).")]
AuthorityOption = Annotated[
    Path | None, typer.Option("--tls-ca", help="Authority that signs the other side (PEM).")
]


def receive(
    ae_title: Annotated[str, typer.Option("--ae-title", help="The title to be called by.")],
    port: Annotated[int, typer.Option("--port", help="TCP port.", min=0, max=65535)],
    bind: Annotated[str, typer.Option("--bind", help="Address to listen on.")] = "127.0.0.1",
    calling: Annotated[
        list[str] | None,
        typer.Option("--calling", help="AE title that may call; may be repeated. Any without it."),
    ] = None,
    tls_cert: CertificateOption = None,
    tls_key: KeyOption = None,
    tls_ca: AuthorityOption = None,
    insecure_plain: Annotated[
        bool, typer.Option("--insecure-plain", help="Listen beyond this machine without TLS.")
    ] = False,
    max_mib: Annotated[
        int, typer.Option("--max-mib", help="Largest object taken, in MiB.", min=1, max=4095)
    ] = 1024,
    jobs: JobsOption = 0,
    site: SiteOption = DEFAULT_SITE,
    as_json: JsonOption = False,
) -> None:
    """Receive images from a PACS (DICOM C-STORE).

    An object is acknowledged once it is de-identified and stored encrypted. Ends on SIGTERM or
    Ctrl-C, when those who are sending have finished; then it prints the counts.

    Example: fedward-client receive --ae-title FEDWARD --port 11112 --calling ORTHANC
    """
    from fedward_client.intake.receiver import Endpoint, Receiver
    from fedward_client.intake.reconcile import reconcile
    from fedward_client.site_folder import open_site

    endpoint = Endpoint(
        ae_title=ae_title,
        port=port,
        bind=bind,
        calling=tuple(calling or ()),
        certificates=certificates(tls_cert, tls_key, tls_ca),
        insecure_plain=insecure_plain,
        max_object_bytes=max_mib << 20,
    )
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with open_site(site) as folder:
        with Receiver(folder, endpoint, jobs=jobs) as receiver:
            typer.echo(f"receiving as {ae_title} on {bind}:{receiver.port}", err=True)
            _tell_counts(receiver, stop)
            typer.echo("ending: no more connections; waiting for those that are open", err=True)
        report = reconcile(receiver.tally, folder.catalogue, folder.split, folder.profile.mask)
    tell_report(report, as_json=as_json)


def fetch(
    url: Annotated[str, typer.Argument(help="The DICOMweb service, https://...")],
    study: Annotated[
        list[str] | None, typer.Option("--study", help="Study UID; may be repeated.")
    ] = None,
    query: Annotated[
        list[str] | None,
        typer.Option("--query", help="KEYWORD=VALUE of a study; may be repeated. All without it."),
    ] = None,
    credentials: Annotated[
        Path | None,
        typer.Option("--credentials", help="USER:PASSWORD or Bearer TOKEN in a file, mode 0600."),
    ] = None,
    tls_cert: CertificateOption = None,
    tls_key: KeyOption = None,
    tls_ca: AuthorityOption = None,
    jobs: JobsOption = 0,
    site: SiteOption = DEFAULT_SITE,
    as_json: JsonOption = False,
) -> None:
    """Fetch images from a DICOMweb server.

    What is held already is not fetched again; an interrupted call is finished by the next.
    FEDWARD_DICOMWEB_CREDENTIALS may hold the credentials instead of a file.

    Example: fedward-client fetch https://pacs/dicom-web --query StudyDate=20250101-20251231
    """
    from fedward_client.intake import dicomweb
    from fedward_client.intake.source import Source, read_credentials
    from fedward_client.site_folder import open_site

    if study and query:
        raise OperatorError("--study, --query: give one of them")
    ours = certificates(tls_cert, tls_key, tls_ca) if tls_cert or tls_key else None
    source = Source(url, read_credentials(credentials), ours, tls_ca)
    filters = _filters(query or [])
    with open_site(site) as folder, progress_bar("fetching", quiet=as_json) as progress:
        report = dicomweb.fetch(
            folder, source, studies=study or (), query=filters, jobs=jobs, progress=progress
        )
    tell_report(report, as_json=as_json)


def _filters(query: list[str]) -> dict[str, str]:
    filters = {}
    for one in query:
        keyword, equals, value = one.partition("=")
        if not (equals and keyword.isalnum() and value):
            raise OperatorError("--query: write KEYWORD=VALUE, such as ModalitiesInStudy=CT")
        filters[keyword] = value
    return filters


def certificates(
    cert: Path | None, key: Path | None, authority: Path | None
) -> Certificates | None:
    """The three TLS files, all or none."""
    from fedward_client.intake.certificates import Certificates

    if cert and key and authority:
        return Certificates(cert, key, authority)
    if cert or key or authority:
        raise OperatorError("TLS: give --tls-cert, --tls-key and --tls-ca together")
    return None


def _tell_counts(receiver: Receiver, stop: threading.Event) -> None:
    """A line of counts whenever they have changed, until it is time to stop."""
    said = ""
    while True:
        ended = stop.wait(SECONDS_BETWEEN_COUNTS)
        line = _counts(receiver.tally)
        if line != said and receiver.tally.found:
            typer.echo(line, err=True)
            said = line
        if ended:
            return


def _counts(tally: Tally) -> str:
    return (
        f"received: {tally.found}, stored: {tally.used}, known already: {tally.known}, "
        f"duplicates: {tally.duplicates}, refused: {tally.excluded.total()}"
    )
