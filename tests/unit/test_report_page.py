from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from tests import report_samples as samples

from fedward_common.errors import MisuseError
from fedward_server.report.model import Estimate
from fedward_server.report.page import asked, guarantees, render_run
from fedward_server.report.summary import run_summary, to_json
from fedward_simulations.report import render_simulation, simulation_summary

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """The elements, the attributes and the text of a page; fails on unbalanced elements."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.feed(source)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)

    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))

    def all(self, *tags: str) -> list[dict[str, str]]:
        return [attributes for tag, attributes in self.elements if tag in tags]


SIMULATION = render_simulation(samples.simulation_report())
DEPLOYMENT = render_run(samples.run_report())
BOTH = pytest.mark.parametrize("source", [SIMULATION, DEPLOYMENT], ids=["simulation", "deployment"])


@BOTH
def test_the_page_loads_nothing_and_runs_nothing(source):
    page = Page(source)
    assert not page.all("script", "link", "iframe", "object", "embed", "base", "form", "audio")
    for _, attributes in page.elements:
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("src", "href", "srcset", "data", "action", "poster", "xlink:href"):
                assert value.startswith("data:image/png;base64,")
    style = "".join(re.findall(r"<style>(.*?)</style>", source, re.DOTALL))
    assert style
    assert "url(" not in style
    assert "@import" not in style
    policy = next(a["content"] for a in page.all("meta") if "http-equiv" in a)
    assert policy.startswith("default-src 'none'")


@BOTH
def test_the_page_is_well_formed_and_labelled(source):
    page = Page(source)
    identities = [a["id"] for _, a in page.elements if "id" in a]
    assert len(identities) == len(set(identities))
    for _, attributes in page.elements:
        if "aria-labelledby" in attributes:
            assert attributes["aria-labelledby"] in identities
    assert all(a.get("scope") in ("col", "row") for a in page.all("th"))
    assert all(a.get("alt") for a in page.all("img"))
    for tag, attributes in page.elements:
        if tag == "svg":
            assert attributes.get("role") == "img" or attributes.get("aria-hidden") == "true"
    assert len(source) < 1_500_000


def test_a_deployment_holds_no_image_and_no_invented_part():
    page = Page(DEPLOYMENT)
    assert not page.all("img", "image", "picture")
    assert "data:" not in DEPLOYMENT
    assert "img-src" not in DEPLOYMENT
    assert "invented" not in DEPLOYMENT


def test_a_deployment_shows_every_figure():
    words = Page(DEPLOYMENT).text()
    for figure in (
        "0.943 ± 0.006", "2.00", "9.71", "2.18", "10⁻⁵", "5,714", "202", "1 min 37 s", "51.2 kB",
        "hospital-8", "607", "9f3c1d5a7be20486c5d7e1f0a3b29c84517d6e0f8a2b4c69d0e1f3a5b7c98d12",
        "torch 2.13.0", "178", "371", "21 November 2026, 20:49 UTC", "no member was assumed",
    ):  # fmt: skip
        assert figure in words, figure


def test_a_simulation_shows_what_only_it_knows_and_says_so():
    page = Page(SIMULATION)
    words = page.text()
    for figure in (
        "This is a simulation", "0.946", "0.954", "0.905", "0.861 to 0.897", "Quillfeather^Osric",
        "removed", "FW-2K7QX3MA", "unknown SOP class", "hospitals = 0", "JPEG-LS",
        "fedward-simulate run pneumonia-cnn", 'name = "pneumonia-cnn-8"', "Invented identities",
    ):  # fmt: skip
        assert figure in words, figure
    assert len(page.all("img")) == 4
    assert SIMULATION.count('class="line ours"') >= 3


def test_hostile_names_stay_text():
    page = Page(render_simulation(samples.hostile_report()))
    assert not page.all("script")
    assert len(page.all("img")) == 2
    assert not any(name.startswith("on") for _, a in page.elements for name in a)
    # title, study and so on: each is still there to be read
    assert page.text().count("alert(1)") > 20


def test_guarantees_are_in_the_order_in_which_they_weaken():
    privacy = samples.run_report().privacy
    rows = guarantees(privacy)
    assert [row.epsilon for row in rows] == [1.998, 2.18, 9.71]
    assert rows[0].best_guess < rows[1].best_guess < rows[2].best_guess < 1.0
    colluding = guarantees(replace(privacy, epsilon_one_curious=None, colluding=2))
    assert len(colluding) == 2
    assert "2 hospitals" in colluding[0].against


def test_queries_are_added_up_in_their_order():
    rows = asked(samples.rounds(10))
    assert [(row.query, row.rounds, row.fewest_sites) for row in rows] == [
        ("count", 1, 8),
        ("moments", 1, 8),
        ("gradient", 10, 8),
    ]
    assert rows[2].seconds == pytest.approx(4.2)


def test_a_run_without_rounds_sites_or_metrics_still_renders():
    bare = replace(samples.run_report(), rounds=(), sites=(), federation_metrics=None, versions={})
    assert "What protects the patients?" in Page(render_run(bare)).text()
    report = replace(
        samples.simulation_report(), run=bare, roc=(), baselines=(), deidentification=(),
        partition=(), quarantine={}, scenario="",
    )  # fmt: skip
    assert not Page(render_simulation(report)).all("img")


def test_more_than_two_classes_render():
    run = samples.run_report()
    metrics = samples.metrics()
    three = replace(
        metrics,
        confusion=replace(
            metrics.confusion, classes=("a", "b", "c"), counts=((9, 1, 0), (2, 7, 1), (-1, 0, 9))
        ),
    )
    assert "truly c" in Page(render_run(replace(run, federation_metrics=three))).text()


def test_pictures_that_changed_come_first():
    report = samples.simulation_report()
    same, changed = report.deidentification
    same = replace(same, after_png=same.before_png)
    page = render_simulation(replace(report, deidentification=(same, changed)))
    assert page.index(f"<h3>{changed.site}") < page.index(f"<h3>{same.site}")


def test_only_png_pictures_are_accepted():
    report = samples.simulation_report()
    picture = replace(report.deidentification[0], after_png=b"<svg onload=alert(1)>")
    with pytest.raises(MisuseError):
        render_simulation(replace(report, deidentification=(picture,)))


def test_the_summary_has_the_keys_that_scripts_read():
    summary = json.loads(to_json(simulation_summary(samples.simulation_report())))
    for key in (
        "auc", "accuracy", "sensitivity", "specificity", "f1", "epsilon", "epsilon_worst_case",
        "delta", "rounds", "parameters", "bytes_per_site_per_round", "seconds", "baselines",
    ):  # fmt: skip
        assert key in summary
    assert summary["auc"] == 0.946
    assert summary["federation_estimate"]["auc"] == pytest.approx(0.943)
    assert summary["federation_estimate"]["auc_uncertainty"] == 0.006
    assert summary["baselines"]["pooled"]["auc"] == 0.954
    assert summary["baselines"]["pooled"]["epsilon"] is None


def test_a_deployment_summary_takes_the_federations_estimate():
    summary = run_summary(samples.run_report())
    assert summary["auc"] == pytest.approx(0.943)
    assert summary["messages_sent"] == 8 * 607


def test_the_summary_is_strict_json():
    metrics = replace(samples.metrics(), precision=Estimate(math.nan))
    summary = run_summary(replace(samples.run_report(), federation_metrics=metrics))
    assert json.loads(to_json(summary))["precision"] is None
    assert b"NaN" not in to_json({"a": [math.inf, {"b": -math.inf}]})
