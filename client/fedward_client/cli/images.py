"""Commands on images: taking them in, de-identifying for release, the shared model on new ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from fedward_client.cli.options import (
    DEFAULT_SITE,
    JobsOption,
    JsonOption,
    SiteOption,
    progress_bar,
    progress_bars,
    tell,
    tell_json,
    tell_report,
)
from fedward_common.errors import OperatorError
from fedward_common.text import printable

if TYPE_CHECKING:
    from fedward_client.predict import Prediction, SharedModel
    from fedward_client.site_folder import SiteFolder

ProfileOption = Annotated[
    Path | None, typer.Option("--profile", help="De-identification profile (TOML).")
]


def add(
    path: Annotated[
        Path | None,
        typer.Argument(
            help="A DICOM file, a folder of them, or a table; nothing to add labels only."
        ),
    ] = None,
    labels: Annotated[
        Path | None, typer.Option("--labels", help="CSV with the header level,id,label,split.")
    ] = None,
    skip_unreadable: Annotated[
        bool, typer.Option("--skip-unreadable", help="Set broken files aside, use the others.")
    ] = False,
    table: Annotated[
        bool, typer.Option("--table", help="PATH is a CSV table: identifier, label, features.")
    ] = False,
    jobs: JobsOption = 0,
    site: SiteOption = DEFAULT_SITE,
    as_json: JsonOption = False,
) -> None:
    """De-identify images and store them encrypted.

    What is stored already is skipped; a broken file or label stops everything before it begins.
    Labels alone are for images that were received or fetched.

    Example: fedward-client add /pacs/export --labels labels.csv
    """
    from fedward_client.intake.add import add_folder, add_labels
    from fedward_client.site_folder import open_site

    if table and (labels or skip_unreadable or path is None):
        raise OperatorError(f"{path or 'PATH'}: a table holds its labels; leave out other options")
    if path is None and (labels is None or skip_unreadable):
        raise OperatorError("PATH: give a DICOM file or a folder of them, or --labels alone")
    with open_site(site) as folder:
        if path is None:
            report = add_labels(folder, cast("Path", labels))
        elif table:
            _add_table(folder, path, as_json=as_json)
            return
        else:
            with progress_bars("looking", "de-identifying", quiet=as_json) as (looking, progress):
                report = add_folder(
                    folder,
                    path,
                    labels,
                    skip_unreadable=skip_unreadable,
                    jobs=jobs,
                    looking=looking,
                    progress=progress,
                )
    tell_report(report, as_json=as_json)


def deidentify(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A DICOM file or a folder.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new or empty folder.")],
    key_file: Annotated[
        Path, typer.Option("--key-file", help="At least 32 bytes in hexadecimal, mode 0600.")
    ],
    profile: ProfileOption = None,
    report: Annotated[
        Path | None, typer.Option("--report", help="A JSON line for every input file.")
    ] = None,
    contact_sheet: Annotated[
        Path | None,
        typer.Option(
            "--contact-sheet",
            help="PNG of what was blanked; it shows original pixels, so keep it to yourself.",
        ),
    ] = None,
    audit: Annotated[
        Path | None,
        typer.Option("--audit", help="A JSON line for every rule, action and tag, with counts."),
    ] = None,
    jobs: JobsOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Write de-identified copies for release.

    Names are keyed pseudonyms; every input is written, or refused with a reason.

    Example: fedward-client deidentify export clean --key-file key.hex --report report.jsonl
    """
    from fedward_client.deidentify.places import Papers
    from fedward_client.deidentify.profile import Profile
    from fedward_client.deidentify.release import release_folder
    from fedward_client.deidentify.workers import Method
    from fedward_client.site_folder import load_key

    chosen = Profile() if profile is None else Profile.load(profile)
    method = Method(load_key(key_file), chosen)
    with progress_bar("de-identifying", quiet=as_json) as progress:
        outcome = release_folder(
            source,
            out,
            method,
            papers=Papers(report, contact_sheet, audit),
            keep=[key_file] if profile is None else [key_file, profile],
            jobs=jobs,
            progress=progress,
        )
    if as_json:
        tell_json(outcome.to_json())
    else:
        tell(outcome.lines())


def describe(profile: ProfileOption = None, as_json: JsonOption = False) -> None:
    """Show what a profile does to every attribute.

    Without --profile it is the one that `deidentify` uses.

    Example: fedward-client describe --profile research.toml
    """
    from fedward_client.deidentify.describe import attributes, summary
    from fedward_client.deidentify.profile import Profile

    chosen = Profile() if profile is None else Profile.load(profile)
    effects = attributes(chosen)
    if as_json:
        rows = [asdict(effect) for effect in effects]
        tell_json({"summary": summary(chosen), "attributes": rows})
        return
    tell(summary(chosen))
    tell(f"{row.tag} {row.keyword:50} {row.effect}" for row in effects)


def describe_cohort(
    out: Annotated[Path, typer.Argument(metavar="OUT.csv", help="A new file.")],
    site: SiteOption = DEFAULT_SITE,
    as_json: JsonOption = False,
) -> None:
    """Write a table of the site's patients in groups of at least five.

    By modality, manufacturer, part of the body, and sex and age where the profile retains them.
    Smaller groups lose cells or are left out. The counts are exact: for the hospital's own use.

    Example: fedward-client describe-cohort cohort.csv
    """
    from fedward_client.cohort_table import describe_cohort as write_table
    from fedward_client.site_folder import open_site

    with open_site(site) as folder:
        description = write_table(folder, out)
    if as_json:
        shown = [{"group": key, "patients": size} for key, size in description.groups.shown]
        hidden = description.groups.hidden
        tell_json({"groups": shown, "hidden": hidden, "suppressed": description.suppressed})
    else:
        tell(description.lines())


def predict(
    model: Annotated[Path, typer.Argument(help="A released model.safetensors.")],
    path: Annotated[Path, typer.Argument(help="A DICOM file or a folder of them.")],
    site: SiteOption = DEFAULT_SITE,
    as_json: JsonOption = False,
) -> None:
    """Score images with the shared model, here.

    An instance is named by its pseudonym. Scores are a research result, not a diagnosis.

    Example: fedward-client predict model.safetensors new-study/
    """
    from fedward_client.predict import load_model
    from fedward_client.site_folder import open_site

    shared = load_model(model)
    with open_site(site) as folder, progress_bar("scoring", quiet=as_json) as progress:
        found = _predictions(folder, shared, path, progress)
    scored = [(one.instance, one.scores) for one in found if one.scores is not None]
    refused = Counter(one.refused for one in found if one.refused)
    reasons = [f"refused, {reason}: {count}" for reason, count in sorted(refused.items())]
    if not scored:
        raise OperatorError(f"{path}: no image can be scored: {'; '.join(reasons)}")
    classes = [printable(name) for name in shared.classes]
    if as_json:
        rows = {name: dict(zip(classes, map(float, s), strict=True)) for name, s in scored}
        tell_json({"scores": rows, "refused": dict(refused)})
        return
    for name, values in scored:
        shown = ", ".join(f"{c} {v:.3f}" for c, v in zip(classes, values, strict=True))
        tell((f"{name}: {shown}",))
    tell(reasons)


def _predictions(
    folder: SiteFolder, model: SharedModel, path: Path, progress: Callable[[int, int], None]
) -> list[Prediction]:
    from fedward_client.intake.add import deidentifier_of
    from fedward_client.intake.folder import find_files
    from fedward_client.predict import predict_file

    engine = deidentifier_of(folder)
    files = find_files(path).files
    found = []
    for done, file in enumerate(files, 1):
        found.append(predict_file(model, engine, file))
        progress(done, len(files))
    return found


def _add_table(folder: SiteFolder, path: Path, *, as_json: bool) -> None:
    from fedward_client.intake.add import deidentifier_of
    from fedward_client.intake.table import add_table

    patients = add_table(folder, path, deidentifier_of(folder).pseudonyms.patient)
    if as_json:
        tell_json({"patients": patients})
    else:
        tell((f"patients: {patients}",))
