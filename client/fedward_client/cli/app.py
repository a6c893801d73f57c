"""All commands of ``fedward-client``, put together. What they do stands in the modules beside."""

from __future__ import annotations

from fedward_client.cli import audit as audit_commands
from fedward_client.cli import (
    audit_log,
    audit_privacy,
    budget,
    daemon,
    images,
    network,
    plans,
    site,
)
from fedward_client.processes import forbid_core_dumps
from fedward_common.command import new_app, run_command

NAME = "fedward-client"

app = new_app(NAME, "A hospital's side of fedward: its data, its decisions, its privacy budget.")
members = new_app("members", "Other hospitals, verified person to person.")
plan = new_app("plan", "Study plans: read them, then approve or reject them.")
ledger = new_app("ledger", "The privacy budget: what was spent and what a plan would cost.")
audit = new_app("audit", "The record of what was decided and what left.")

app.command()(site.init)
app.command()(daemon.enrol)
app.command()(daemon.rotate)
app.command()(daemon.run)
app.command()(site.status)
app.command()(images.add)
app.command()(network.receive)
app.command()(network.fetch)
app.command()(images.deidentify)
app.command()(images.describe)
app.command("describe-cohort")(images.describe_cohort)
app.command()(images.predict)
members.command()(site.confirm)
members.command()(site.withdraw)
members.command("list")(site.list_members)
plan.command("show")(plans.show)
plan.command("approve")(plans.approve)
plan.command("reject")(plans.reject)
plan.command("import")(plans.import_plan)
ledger.command("show")(budget.show)
ledger.command("verify")(budget.verify)
ledger.command("forecast")(budget.forecast)
ledger.command("close")(budget.close)
audit.command("verify")(audit_log.verify)
audit.command("head")(audit_log.head)
audit.command("round")(audit_commands.round_)
audit.command("privacy")(audit_privacy.privacy)
for group in (members, plan, ledger, audit):
    app.add_typer(group)


@app.callback()
def _program() -> None:
    """A hospital's side of fedward: its data, its decisions, its privacy budget."""


def main() -> None:
    """Entry point of the console script."""
    forbid_core_dumps()
    run_command(app, NAME)
