"""Plans: drafting, reading and signing them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedward_common import keys
from fedward_common.command import new_app
from fedward_common.errors import OperatorError
from fedward_common.files import write_atomic
from fedward_common.plan.document import read_toml
from fedward_common.plan.files import read_plan
from fedward_common.randomness import os_random
from fedward_common.text import printable
from fedward_server.cli.options import DEFAULT_SERVER, JsonOption, ServerOption, tell
from fedward_server.server_folder import PLAN, ServerFolder, open_server, signed_study
from fedward_server.study_files import failure, forget_failure, is_finished, note_failed

if TYPE_CHECKING:
    from fedward_common.study import Study

STUDY_ID_BYTES = 16

app = new_app("plan", "Study plans: drafting, reading and signing them.")


@app.command()
def create(
    draft: Annotated[Path, typer.Argument(help="A plan in TOML without roster and study id.")],
    epsilon: Annotated[float, typer.Option("--epsilon", help="What a patient may be charged.")],
    patients_per_site: Annotated[
        int,
        typer.Option("--patients-per-site", help="A public round figure, not a count.", min=1),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", help="The plan; STUDY.plan.json without it.")
    ] = None,
    server: ServerOption = DEFAULT_SERVER,
    as_json: JsonOption = False,
) -> None:
    """Complete a draft: roster, noise, ring, first model.

    Noise multipliers that the draft leaves out are chosen to meet epsilon.

    Example: fedward-server plan create draft.toml --epsilon 2 --patients-per-site 500
    """
    from fedward_common.study import Study
    from fedward_server.planning import Target, draft_plan

    document = _completed(read_toml(draft), open_server(server), str(draft))
    plan = draft_plan(document, Target(epsilon, patients_per_site), str(draft))
    path = out or Path(f"{plan.study.name}.plan.json")
    if path.exists():
        raise OperatorError(f"{path}: already exists; choose another --out or remove it")
    text = json.dumps(json.loads(plan.canonical), indent=2) + "\n"
    write_atomic(path, text.encode("ascii"))
    notes = [f"plan written to {path}: not signed yet"]
    if plan.schedule.reply_delay_seconds <= 0:
        notes.append("no hospital agrees to it yet: set [schedule] reply_delay_seconds")
    _tell_study(Study(plan, str(draft)), notes, as_json=as_json)


@app.command()
def sign(
    plan: Annotated[Path, typer.Argument(help="A plan that `plan create` wrote.")],
    server: ServerOption = DEFAULT_SERVER,
    as_json: JsonOption = False,
) -> None:
    """Sign a plan; from now on it can only be replaced by another study.

    Example: fedward-server plan sign pneumonia.plan.json
    """
    from fedward_common.study import Study

    folder = open_server(server)
    document = Study(read_plan(plan), str(plan)).plan
    own = keys.signing_public(folder.coordinator).hex()
    if document.roster.coordinator != own:
        raise OperatorError(
            f"{plan}: roster.coordinator is another coordinator's key; create the plan here"
        )
    signed = folder.sign(document).folder / PLAN
    digest = document.digest.hex()
    lines = (f"plan {digest} is signed", f"send this file to every hospital: {signed}")
    record = {"study": document.study.name, "plan": digest, "file": str(signed)}
    tell(record, lines, as_json=as_json)


@app.command()
def show(
    plan: Annotated[Path, typer.Argument(help="A plan, signed or not.")],
    as_json: JsonOption = False,
) -> None:
    """Say in plain words what a plan does and costs.

    Example: fedward-server plan show pneumonia.plan.json
    """
    from fedward_common.study import Study

    _tell_study(Study(read_plan(plan), str(plan)), [], as_json=as_json)


@app.command()
def withdraw(
    study: Annotated[str, typer.Argument(help="The name of a study that is not finished.")],
    server: ServerOption = DEFAULT_SERVER,
) -> None:
    """End a study after the round in hand, or before it begins; the next one begins.

    What is published stays. `plan resume` takes it up again.

    Example: fedward-server plan withdraw pneumonia
    """
    folder = signed_study(open_server(server).path, study).folder
    if is_finished(folder):
        raise OperatorError(f"study {study}: it is finished already; `report` writes its results")
    if failure(folder) is None:
        note_failed(folder, "withdrawn by the coordinator's operator")
    typer.echo(f"{printable(study)} is withdrawn: it ends after the round in hand")
    typer.echo("  tell the hospitals: `fedward-client plan reject` ends it there for good")


@app.command()
def resume(
    study: Annotated[str, typer.Argument(help="The name of a study that `status` shows ended.")],
    server: ServerOption = DEFAULT_SERVER,
) -> None:
    """Let a study go on that was withdrawn, or could not go on for a reason that is mended.

    Example: fedward-server plan resume pneumonia
    """
    folder = signed_study(open_server(server).path, study).folder
    if failure(folder) is None:
        raise OperatorError(f"study {study}: nothing keeps it from going on; see `status`")
    forget_failure(folder)
    typer.echo(f"{printable(study)} goes on: a running server takes it up within seconds")


def _completed(document: dict[str, Any], folder: ServerFolder, source: str) -> dict[str, Any]:
    """A draft with what only this coordinator knows: the enrolled sites and a fresh study id."""
    if "roster" in document:
        raise OperatorError(f"{source}: roster: the enrolled sites fill it in; remove it")
    study = document.get("study")
    if isinstance(study, dict):
        if "id" in study:
            raise OperatorError(f"{source}: study.id: every plan gets a fresh one; remove it")
        study = {"id": os_random(STUDY_ID_BYTES).hex(), **study}
    roster = {
        "coordinator": keys.signing_public(folder.coordinator).hex(),
        "sites": [
            {"name": s.name, "identity": s.identity.hex(), "transport": s.transport.hex()}
            for s in folder.sites()
        ],
    }
    return {**document, **({} if study is None else {"study": study}), "roster": roster}


def _tell_study(study: Study, notes: list[str], *, as_json: bool) -> None:
    from fedward_common.explain import explain
    from fedward_common.guarantee import statement_of

    statement, words = statement_of(study), explain(study)
    record = {
        "study": study.plan.study.name,
        "plan": study.plan.digest.hex(),
        "epsilon": statement.epsilon,
        "epsilon_worst_case": statement.epsilon_worst_case,
        "delta": statement.delta,
        "explanation": words.to_json(),
    }
    hospitals = ", ".join(printable(site.name) for site in study.plan.roster.sites)
    lines = (*words.lines(), f"Hospitals: {hospitals}", *notes)
    tell(record, lines, as_json=as_json)
