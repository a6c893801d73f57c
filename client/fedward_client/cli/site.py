"""Commands on the site itself: making it, its state, and the other hospitals it has verified."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedward_client.cli.options import DEFAULT_SITE, JsonOption, SiteOption, tell, tell_json
from fedward_common.errors import OperatorError
from fedward_common.identity import SitePublic, parse_site_public, spell
from fedward_common.text import printable

if TYPE_CHECKING:
    from fedward_client.studies import StudyRecord

PUBLIC = "SITE.pub"
_NO_STUDY = bytes(32)


def init(
    name: Annotated[str, typer.Argument(help="Lower-case letters, digits and hyphens.")],
    site: SiteOption = DEFAULT_SITE,
    holdout_fraction: Annotated[
        float,
        typer.Option("--holdout-fraction", help="Share of patients never trained on; fixed."),
    ] = 0.2,
    as_json: JsonOption = False,
) -> None:
    """Make this hospital's site folder.

    It has fresh keys, an empty database and a policy that refuses everything.

    Example: fedward-client init north-hospital --site /srv/fedward
    """
    from fedward_client.site import POLICY, create_site

    create_site(site, name, holdout_fraction=holdout_fraction)
    public = _read_public(site / PUBLIC)
    if as_json:
        tell_json({"site": name, "folder": str(site), "fingerprint": public.fingerprint.hex()})
        return
    tell(
        (
            f"site {name} is ready in {site}",
            f"fingerprint: {spell(public.fingerprint)}",
            "  read it to the other hospitals yourself, not through the coordinator",
            f"public keys: {site / PUBLIC}: send it to the coordinator and the other hospitals",
            f"policy: {site / POLICY} refuses every study until you fill it in",
            f"back up {site / 'identity'}: nobody can restore these keys for you",
        )
    )


def confirm(
    public: Annotated[Path, typer.Argument(help="The other hospital's SITE.pub.")],
    site: SiteOption = DEFAULT_SITE,
    yes: Annotated[
        bool, typer.Option("--yes", help="The fingerprints have been compared.")
    ] = False,
) -> None:
    """Record that you compared a fingerprint with its operator.

    Example: fedward-client members confirm south/SITE.pub
    """
    from fedward_client.site import open_site

    member = _read_public(public)
    tell((f"hospital {printable(member.name)}", f"fingerprint: {spell(member.fingerprint)}"))
    with open_site(site) as opened:
        if not yes and not asked("Did its operator read you the same fingerprint?"):
            raise OperatorError(
                f"{public}: not confirmed; compare the fingerprint by phone, then give --yes"
            )
        opened.members.confirm(member)
        opened.audit.decided("confirm", _NO_STUDY, member.to_text().encode(), opened.ledger.head())
    tell((f"{printable(member.name)} is verified",))


def withdraw(
    name: Annotated[str, typer.Argument(help="The hospital, as `members list` shows it.")],
    site: SiteOption = DEFAULT_SITE,
) -> None:
    """Take back that you verified a hospital, as when its key was stolen.

    Until it is confirmed again, plans count it among the colluding members.

    Example: fedward-client members withdraw south
    """
    from fedward_client.site import open_site

    with open_site(site) as opened:
        opened.members.withdraw(name)
        opened.audit.decided("withdraw", _NO_STUDY, name.encode(), opened.ledger.head())
    tell(
        (
            f"{printable(name)} is not verified any more",
            "plans that you approved before go on until you reject them: fedward-client plan show",
        )
    )


def list_members(site: SiteOption = DEFAULT_SITE, as_json: JsonOption = False) -> None:
    """List the hospitals that you verified, with their fingerprints.

    Example: fedward-client members list
    """
    from fedward_client.site import open_site

    with open_site(site) as opened:
        confirmed = opened.members.all()
    if as_json:
        tell_json([{"name": name, "fingerprint": key.hex()} for name, key in confirmed])
        return
    tell(f"{name}: {spell(key)}" for name, key in confirmed)
    if not confirmed:
        tell(("no hospital yet; `fedward-client members confirm SITE.pub` takes one in",))


def status(site: SiteOption = DEFAULT_SITE, as_json: JsonOption = False) -> None:
    """Show what is held, known and spent, and how the site stands with its coordinator.

    Example: fedward-client status --json
    """
    from fedward_client.cli import connection_view as view
    from fedward_client.cli.budget_view import account_lines, accounts_json
    from fedward_client.site import open_site

    with open_site(site) as opened:
        public = opened.identity.public()
        counts = dict(opened.folder.catalogue.counts())
        studies = opened.studies.all()
        if as_json:
            tell_json(
                {
                    "site": opened.name,
                    "fingerprint": public.fingerprint.hex(),
                    "catalogue": counts,
                    "studies": [view.study_json(record) for record in studies],
                    **view.connection_json(opened),
                    "accounts": accounts_json(opened),
                    "runtime": asdict(opened.runtime),
                }
            )
            return
        tell((f"site {opened.name}", f"fingerprint: {spell(public.fingerprint)}"))
        tell(f"{name.replace('_', ' ')}: {number}" for name, number in counts.items())
        tell(view.connection_lines(opened))
        tell(view.study_line(opened, record) for record in studies)
        tell(account_lines(opened))


def study_name(record: StudyRecord) -> str:
    """The name of a study that the site knows."""
    from fedward_common.plan.document import plan_from_canonical

    return plan_from_canonical(record.plan).study.name


def asked(question: str) -> bool:
    """What a person at a terminal answers; no without one."""
    return sys.stdin.isatty() and typer.confirm(question)


def _read_public(path: Path) -> SitePublic:
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise OperatorError(f"{path}: cannot be read; give a site's {PUBLIC}") from error
    return parse_site_public(text, str(path))
