"""Commands that tie a site to its coordinator: enrolling, rotating its key, serving."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from fedward_client.cli.options import DEFAULT_SITE, JsonOption, SiteOption, tell, tell_json
from fedward_common.errors import OperatorError
from fedward_common.identity import spell

YesOption = Annotated[bool, typer.Option("--yes", help="The fingerprints have been compared.")]


def enrol(
    welcome: Annotated[Path, typer.Argument(help="The NAME.welcome that the coordinator sent.")],
    site: SiteOption = DEFAULT_SITE,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Tie this site to its coordinator.

    From then on it connects to that gateway alone and refuses plans of any other coordinator.

    Example: fedward-client enrol north-hospital.welcome
    """
    from fedward_client import enrolment
    from fedward_client.site_folder import open_site

    with open_site(site) as folder:
        offer = enrolment.read_offer(folder, welcome)
        known = enrolment.pinned_coordinator(folder.identity) is not None
        if not as_json:
            tell((f"coordinator at {offer.gateway}", f"fingerprint: {spell(offer.fingerprint)}"))
        if not (known or yes or _asked("Did the coordinator read you the same fingerprint?")):
            raise OperatorError(
                f"{welcome}: not enrolled; compare the fingerprint by phone, then give --yes"
            )
        enrolment.enrol(folder, offer)
        expires = enrolment.load_connection(folder).expires.date().isoformat()
    if as_json:
        record = {"gateway": offer.gateway, "coordinator": offer.coordinator}
        tell_json({**record, "fingerprint": offer.fingerprint.hex(), "expires": expires})
        return
    tell(
        (
            f"enrolled; the certificate holds until {expires}",
            "next: fedward-client run, or the systemd unit, keeps the site connected",
        )
    )


def rotate(site: SiteOption = DEFAULT_SITE, as_json: JsonOption = False) -> None:
    """Make a new transport key, to take the place of the one in use.

    The old one serves until the coordinator's welcome for the new one is enrolled.

    Example: fedward-client rotate
    """
    from fedward_client import enrolment
    from fedward_client.site_folder import open_site

    with open_site(site) as folder:
        public = enrolment.rotate(folder)
    file = site / enrolment.NEXT_PUBLIC
    if as_json:
        tell_json({"file": str(file), "fingerprint": public.fingerprint.hex()})
        return
    tell(
        (
            f"fingerprint: {spell(public.fingerprint)}",
            f"1. send {file} to the coordinator, who runs: fedward-server enrol FILE --replace",
            "2. enrol the welcome that comes back: fedward-client enrol FILE",
            "3. read the new fingerprint to the other hospitals, who confirm it again",
            "plans that are signed already keep the old key on their roster and go on",
            "if the old key was stolen, ask the coordinator to revoke it at once",
        )
    )


def run(site: SiteOption = DEFAULT_SITE) -> None:
    """Serve this site: stay connected and answer what its plans allow.

    It makes outbound connections only, comes back after every outage, and ends on SIGTERM once the
    order in hand is answered.

    Example: fedward-client run --site /srv/fedward
    """
    from fedward_client.daemon.serve import serve

    serve(site)


def _asked(question: str) -> bool:
    return sys.stdin.isatty() and typer.confirm(question)
