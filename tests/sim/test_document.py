"""The shell of a page: what stands in the file, and what it is allowed to do."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from rbeerouter.sim.document import ASSETS, POINTS, Curve, Document, Plot, Shade, table_markup
from rbeerouter.sim.tables import table

UPLOT = {
    "uPlot.iife.min.js": "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
    "uPlot.min.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
    "uPlot.LICENSE": "8f989229699b4fe2f1a0432d0e9edc338a8a911e250e2d1b01ecd770a5f5b1bd",
}
"""SHA-256 of the files of the npm package uplot 1.6.32 (https://registry.npmjs.org/uplot/-/uplot-1.6.32.tgz):
dist/uPlot.iife.min.js, dist/uPlot.min.css and LICENSE (MIT), unchanged."""

ROOT = Path(__file__).resolve().parents[2]


def document(*plots: Plot) -> str:
    made = Document("A title")
    if plots:
        made.plots(*plots)
    return made.text()


def plots_in(text: str) -> list[dict]:
    found = re.search(r'<script type="application/json" id="plots">(.*?)</script>', text)
    assert found is not None
    return json.loads(found[1])


@pytest.mark.parametrize("name", UPLOT)
def test_uplot_is_as_it_was_published(name: str) -> None:
    assert hashlib.sha256((ASSETS / name).read_bytes()).hexdigest() == UPLOT[name]


def test_the_policy_names_exactly_the_scripts_and_styles_of_the_file() -> None:
    text = document()
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    assert policy is not None
    rules = dict(rule.strip().split(" ", 1) for rule in policy[1].split(";"))
    inside = {
        kind: {f"'sha256-{base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()}'" for body in bodies}
        for kind, bodies in (
            ("script-src", re.findall(r"<script>(.*?)</script>", text, re.S)),
            ("style-src", re.findall(r"<style>(.*?)</style>", text, re.S)),
        )
    }
    assert (len(inside["script-src"]), len(inside["style-src"])) == (2, 1)
    assert {kind: set(rules[kind].split()) for kind in inside} == inside
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert rules["img-src"] == "data:"


def test_the_file_names_no_other_file() -> None:
    text = document(Plot("caption", "time", [Curve("label", [1.0])]))
    text = text.replace("https://github.com/leeoniya/uPlot", "")  # in the comment of its licence
    assert "://" not in re.sub(r"http://www\.w3\.org/\S+", "", text)
    assert not re.search(r"@import|url\(|\bsrc=|fetch\(|XMLHttpRequest|\bon\w+=\"|style=\"", text)


def test_hostile_words_stay_words() -> None:
    hostile = '</script><b onclick="x">\u2028&amp;'
    made = Document(hostile)
    made.heading(hostile, hostile)
    made.table(table("t", hostile, (hostile, "n"), [(hostile, hostile)], hostile))
    made.plots(Plot(hostile, "time", [Curve(hostile, [1.0])], shades=[Shade(0, 1, hostile)]))
    text = made.text()
    assert "<b" not in text.replace("<body>", "") and text.count("</script>") == 3
    (plot,) = plots_in(text)
    assert (plot["caption"], plot["curves"][0]["label"], plot["shades"][0][2]) == (hostile,) * 3


def test_long_timelines_are_thinned_by_means_and_keep_their_gaps() -> None:
    ys = [float(place) for place in range(2 * POINTS - 1)] + [None]
    (plot,) = plots_in(document(Plot("caption", "time", [Curve("label", ys), Curve("none", [None] * 2 * POINTS)], every_s=5)))
    assert plot["every"] == 10
    assert plot["curves"][0]["ys"] == [2 * place + 0.5 for place in range(POINTS - 1)] + [2 * POINTS - 2]
    assert plot["curves"][1]["ys"] == [None] * POINTS


def test_tables_have_heads_for_columns_and_rows() -> None:
    text = table_markup(table("t", "Title", ("name", "n"), [("a", "1")], "a note"), [0.5])
    assert '<table id="t"><caption>Title</caption>' in text
    assert '<th scope="col">name</th>' in text and '<th scope="col" class="number">n</th>' in text
    assert '<th scope="row">a</th>' in text and '<td class="number">1</td>' in text
    assert '<rect width="50.0"' in text and ">a note<" in text


def test_words_that_are_good_or_bad_news_have_a_tone() -> None:
    given = table("t", "Title", ("name", "n", "so"), [("a", "1", "better"), ("b", "2", "other")], wide=(0, 2), tones={"better": "good"})
    text = table_markup(given)
    assert '<td class="words good">better</td>' in text and '<td class="words">other</td>' in text and '<td class="number">1</td>' in text


def test_a_title_that_the_heading_said_is_only_read_out() -> None:
    made = Document("A title")
    for heading in ("Words", "Other words"):
        made.heading(heading)
        made.table(table("t", "Words", ("name", "n"), [("a", "1")]))
    hidden, shown = re.findall(r"<caption.*?</caption>", made.text())
    assert (hidden, shown) == ('<caption class="unseen">Words</caption>', "<caption>Words</caption>")


def test_the_same_parts_give_the_same_file() -> None:
    plot = Plot("caption", "time", [Curve("label", [1.0, 2.0])])
    assert document(plot) == document(plot)


def test_a_built_wheel_has_everything_that_a_page_is_made_of(tmp_path: Path) -> None:
    pytest.importorskip("hatchling", reason="`scripts/install test` brings hatchling")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (wheel,) = tmp_path.glob("*.whl")
    packed = zipfile.ZipFile(wheel)
    packed.extractall(tmp_path / "installed", [name for name in packed.namelist() if name.startswith("rbeerouter/")])
    packed.close()
    make = "from rbeerouter.sim import document as d; print(d.__file__); print(len(d.Document('t').text()))"
    made = subprocess.run(
        [sys.executable, "-c", make], cwd=tmp_path / "installed", check=True, capture_output=True, text=True, timeout=60
    )
    where, size = made.stdout.split()
    assert where.startswith(str(tmp_path)) and int(size) == len(Document("t").text())
    assert "rbeerouter/sim/assets/uPlot.LICENSE" in packed.namelist()
