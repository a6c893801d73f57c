"""The coordinator's own commands: founding, enrolling, revoking, watching; mistakes in one line."""

from __future__ import annotations

import json
import os
import pwd
import stat

import pytest
from tests.cli_world import client, ok, run, server
from tests.world import make_world

from fedward_common.command import run_command
from fedward_common.enrolment import coordinator_fingerprint, parse_welcome
from fedward_common.identity import parse_site_public, spell
from fedward_server.study_files import note_finished

ADDRESS = "fed.example.org:9443"


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "server"
    ok(server("init", "--address", ADDRESS, "--server", path))
    return path


def test_init_makes_the_authority_and_says_what_hospitals_compare(tmp_path):
    path = tmp_path / "server"
    made = server("init", "--address", ADDRESS, "--server", path, "--json").json
    key = bytes.fromhex(made["coordinator"])
    assert made["fingerprint"] == spell(coordinator_fingerprint(key))
    assert made["address"] == ADDRESS
    gateway = json.loads((path / "gateway.json").read_text())
    assert gateway == {"address": ADDRESS, "listen": "0.0.0.0:9443", "admin_port": 9444}
    assert stat.S_IMODE((path / "authority" / "key").stat().st_mode) == 0o600


def test_init_behind_a_port_forwarding(tmp_path):
    path = tmp_path / "server"
    where = ("--address", ADDRESS, "--listen", "10.0.0.5:443", "--admin-port", "9000")
    ok(server("init", *where, "--server", path))
    gateway = json.loads((path / "gateway.json").read_text())
    assert gateway == {"address": ADDRESS, "listen": "10.0.0.5:443", "admin_port": 9000}


def test_an_address_may_be_given_later_and_once(tmp_path):
    path = tmp_path / "server"
    first = server("init", "--server", path, "--json").json["coordinator"]
    later = server("init", "--address", ADDRESS, "--server", path, "--json").json["coordinator"]
    assert first == later
    server("init", "--address", ADDRESS, "--server", path).refused(2, "set already")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--address", "fed.example.org"), "--address fed.example.org: give HOST:PORT"),
        (("--address", "a:99999"), "give HOST:PORT"),
        (("--address", ADDRESS, "--listen", "nowhere"), "--listen nowhere: give HOST:PORT"),
        (("--admin-port", "9000"), "give --address too"),
        (("--address", "fed.example.org:65535"), "no port comes after it; give --admin-port"),
    ],
)
def test_a_bad_address_leaves_no_folder_behind(tmp_path, options, words):
    path = tmp_path / "server"
    server("init", *options, "--server", path).refused(2, words)
    assert not (path / "gateway.json").exists()
    ok(server("init", "--address", ADDRESS, "--server", path))


def test_a_folder_of_another_user_is_refused_by_every_command(folder, tmp_path):
    """Root would leave files that the service cannot read."""
    if os.geteuid() != 0:
        pytest.skip("only root can give a folder away")
    site = tmp_path / "site"
    ok(client("init", "north", "--site", site))
    os.chown(folder, 65534, -1)
    user = pwd.getpwuid(65534).pw_name
    words = f"{folder} belongs to {user}: run it as that user, as in `runuser -u {user} --"
    before = sorted(folder.rglob("*"))
    for command in (
        ("init", "--address", ADDRESS), ("enrol", site / "SITE.pub"), ("revoke", "north"),
        ("run",), ("status",), ("stop",), ("nginx", "--port", "9400"),
    ):  # fmt: skip
        server(*command, "--server", folder).refused(2, words)
    assert sorted(folder.rglob("*")) == before
    empty = tmp_path / "empty"
    empty.mkdir()
    os.chown(empty, 65534, -1)
    server("init", "--server", empty).refused(2, "belongs to")
    assert list(empty.iterdir()) == []


def test_a_file_that_may_not_be_read_is_one_line(capsys):
    def denied(**_: object) -> None:
        raise PermissionError(13, "Permission denied", "/srv/coordinator/plan")

    with pytest.raises(SystemExit) as caught:
        run_command(denied, "fedward-server")
    assert caught.value.code == 2
    line = "/srv/coordinator/plan: permission denied; run it as the user that the folder belongs to"
    assert capsys.readouterr().err == f"error: {line}\n"


def test_enrolling_makes_a_welcome_that_the_site_accepts(folder, tmp_path):
    site = tmp_path / "site"
    ok(client("init", "north", "--site", site))
    shown = ok(server("enrol", site / "SITE.pub", "--server", folder)).out
    path = folder / "sites" / "north.welcome"
    assert f"send this file to the hospital: {path}" in shown
    welcome = parse_welcome(path.read_text(), "x")
    welcome.check_site(parse_site_public((site / "SITE.pub").read_text()))
    assert welcome.gateway == ADDRESS
    assert spell(welcome.fingerprint) in ok(client("enrol", path, "--yes", "--site", site)).out


def test_a_revoked_site_is_gone_and_cannot_come_back_with_its_key(folder, tmp_path):
    site = tmp_path / "site"
    ok(client("init", "north", "--site", site))
    ok(server("enrol", site / "SITE.pub", "--server", folder))
    assert "north is revoked" in ok(server("revoke", "north", "--server", folder)).out
    again = ok(server("revoke", "north", "--server", folder, "--json")).json
    assert again == {"site": "north", "revoked": None}  # it may have been cut short: done again
    server("revoke", "south", "--server", folder).refused(2, "not enrolled; enrolled sites: none")
    server("enrol", site / "SITE.pub", "--server", folder).refused(2, "this key was revoked")
    assert server("status", "--server", folder, "--json").json["sites"] == []


def test_a_rotated_key_needs_replace(folder, tmp_path):
    site = tmp_path / "site"
    ok(client("init", "north", "--site", site))
    ok(server("enrol", site / "SITE.pub", "--server", folder))
    ok(client("enrol", folder / "sites" / "north.welcome", "--yes", "--site", site))
    ok(client("rotate", "--site", site))
    new = site / "SITE.next.pub"
    server("enrol", new, "--server", folder).refused(2, "another site of this name")
    ok(server("enrol", new, "--replace", "--server", folder))
    welcome = folder / "sites" / "north.welcome"
    assert "enrolled" in ok(client("enrol", welcome, "--yes", "--site", site)).out


def test_what_does_not_run_is_said_so(folder, tmp_path):
    told = server("status", "--server", folder, "--json").json
    assert (told["running"], told["studies"], told["sites"]) == (False, [], [])
    assert ok(server("status", "--server", folder)).out == "the server is not running\n"
    server("stop", "--server", folder).refused(2, "no server runs here")
    server("run", "nothing", "--server", folder).refused(2, "study nothing: no signed plan")
    other = tmp_path / "other"
    ok(server("init", "--server", other))
    server("run", "--server", other).refused(2, "init --address HOST:PORT")
    server("nginx", "--port", "9400", "--server", other).refused(2, "init --address HOST:PORT")


def test_a_configuration_for_nginx_is_printed(folder, tmp_path):
    site = tmp_path / "site"
    ok(client("init", "north", "--site", site))
    ok(server("enrol", site / "SITE.pub", "--server", folder))
    shown = ok(server("nginx", "--port", "9400", "--server", folder)).out
    assert "listen 0.0.0.0:9443 ssl;" in shown
    assert "proxy_pass https://127.0.0.1:9400/v1/fleet/pull-messages;" in shown
    assert "get-fab" not in shown
    assert (folder / "gateway.tls").exists()
    authority = folder / "superlink" / "authority.crt"
    made = authority.read_bytes()  # nginx would not start without it
    ok(server("nginx", "--port", "9400", "--server", folder))
    assert authority.read_bytes() == made


def test_a_study_is_withdrawn_and_goes_on(folder, tmp_path):
    world = make_world(tmp_path / "federation", 3)
    study = folder / "studies" / "trial"
    study.mkdir(parents=True)
    (study / "plan.signed").write_bytes(world.signed.to_file())

    def plan(word: str):
        return server("plan", word, "trial", "--server", folder)

    plan("resume").refused(2, "study trial: nothing keeps it from going on")
    assert "is withdrawn" in ok(plan("withdraw")).out
    ok(plan("withdraw"))
    told = server("status", "--server", folder, "--json").json["studies"][0]
    assert told["reason"] == "withdrawn by the coordinator's operator"
    assert "goes on" in ok(plan("resume")).out
    assert server("status", "--server", folder, "--json").json["studies"][0]["reason"] == ""
    note_finished(study)
    plan("withdraw").refused(2, "study trial: it is finished already")
    server("plan", "withdraw", "other", "--server", folder).refused(2, "studies: trial")


@pytest.mark.parametrize("command", ["init", "enrol", "revoke", "run", "nginx", "status", "stop"])
def test_every_command_has_an_example(command):
    assert "Example: fedward-server" in " ".join(
        ok(run("fedward-server", command, "--help")).out.split()
    )
