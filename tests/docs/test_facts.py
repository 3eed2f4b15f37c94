"""Tables in the docs that repeat what code, schemas and the action say: they agree."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
import yaml

from swarm_repro.compare.parting import NOISE_CEILING, NOISE_FLOOR
from swarm_repro.compare.verify_report import GROUPS
from tests.support.doc_pages import ROOT

DOCS = ROOT / "docs"
DIFFERS = DOCS / "guides" / "find-why-a-run-differs.md"
SCHEMAS = sorted((DOCS / "reference" / "schemas").glob("*.schema.json"))
_COMMON = {"report", "version", "recorder", "verdict"}


def _section(page: Path, heading: str) -> str:
    """A section's text, with its subsections."""
    level = heading.partition(" ")[0]
    text = page.read_text("utf-8").split(f"\n{heading}\n", 1)[1]
    return re.split(rf"^{level} ", text, maxsplit=1, flags=re.M)[0]


def _first_cells(section: str) -> set[str]:
    """What stands in backticks in the first cells of a section's tables."""
    rows = re.findall(r"^\| (.+?) \|", section, re.M)
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row)}


def _own_members(schema: dict[str, object]) -> Iterator[str]:
    properties = schema["properties"]
    assert isinstance(properties, dict)
    yield from properties.keys() - _COMMON


@pytest.mark.parametrize("path", SCHEMAS, ids=lambda path: path.name)
def test_the_reports_page_names_every_member_of_each_schema(path: Path) -> None:
    kind = path.name.partition(".")[0]
    named = _first_cells(_section(DOCS / "reference" / "reports.md", f"## `{kind}`"))
    missing = set(_own_members(orjson.loads(path.read_bytes()))) - named
    assert missing == set()


def test_the_reports_page_names_every_member_of_a_parting_and_of_origins_and_calls() -> None:
    page = DOCS / "reference" / "reports.md"
    definitions = orjson.loads((DOCS / "reference/schemas/diff.schema.json").read_bytes())["$defs"]
    assert definitions["parting"]["properties"].keys() == _first_cells(_section(page, "## Parting"))
    named = _first_cells(_section(page, "## `diff`"))
    for name in ("root", "cause", "call"):
        assert definitions[name]["properties"].keys() <= named, name


def test_every_schema_is_linked_from_the_reports_page() -> None:
    linked = set(re.findall(r"\(schemas/(\S+?)\)", (DOCS / "reference/reports.md").read_text()))
    assert linked == {path.name for path in SCHEMAS} != set()


def test_the_guide_lists_every_input_of_the_action() -> None:
    inputs = yaml.safe_load((ROOT / "action.yml").read_text("utf-8"))["inputs"]
    section = _section(DOCS / "guides" / "replay-in-ci.md", "## 4. Replay in GitHub Actions")
    table = section.split("| input |", 1)[1].split("\n\n", 1)[0]
    assert _first_cells(table) == inputs.keys()


def test_the_guide_lists_the_keys_that_the_page_offers() -> None:
    assets = ROOT / "swarm_repro" / "reporting" / "assets"
    source = "".join(
        (assets / name).read_text("utf-8") for name in ("timeline.js", "explorer.js", "diff.js")
    )
    help_lists = re.findall(r"\[\[\"\\u2190.+|keyHelp: \[.+", source)
    offered = {
        key
        for line in help_lists
        for pair in re.findall(r'\["((?:[^"\\]|\\.)+)", "', line)
        for key in orjson.loads(f'"{pair}"').split()
    }
    section = _section(DIFFERS, "## 3. Look at it")
    rows = re.findall(r"^\| (.+?) \|", section.split("| key |", 1)[1], re.M)
    listed = {key for row in rows if "---" not in row for key in re.split(r",? ", row)}
    assert listed == offered
    assert len(offered) > 10


def test_first_lines_in_the_guide_are_first_lines_of_the_program() -> None:
    section = _section(DIFFERS, "## 1. Compare the recordings")
    shown = [line.removeprefix("cause: ") for line in _first_cells(section)]
    source = "".join(
        (ROOT / "swarm_repro" / "compare" / name).read_text("utf-8")
        for name in ("verdict.py", "causes.py", "judge.py", "environments.py")
    )
    known = {"cause:", "temperature"}  # the word before every cause, and a field of requests
    assert len(shown) > 10
    for words in shown:
        assert words in known or words.rstrip(":") in source, words


def test_the_guide_explains_every_group_of_verify() -> None:
    assert GROUPS == ("same", "prompt", "near_tie", "change", "failed")
    section = _section(DIFFERS, "## 4. Ask this machine again")
    rows = re.findall(r"^\| ([a-z ]+?) \|", section.split("| group |", 1)[1], re.M)
    assert rows == ["same", "other rendered prompt", "near tie", "change", "failure"]


def test_the_limits_of_noise_are_those_of_the_page_that_measured_them() -> None:
    section = _section(DOCS / "explanation" / "nondeterminism.md", "## How near is a near tie")
    assert f"less than {NOISE_FLOOR} nats and no more than {NOISE_CEILING} nats" in re.sub(
        r"\s+", " ", section
    )
    places = re.findall(r": \d+ places, (\S+) (\S+) (\S+)$", section, re.M)
    medians = [float(median) for median, _, _ in places]
    largest = max(float(value) for _, _, value in places)
    assert round(sorted(medians)[len(medians) // 2], 1) == NOISE_FLOOR
    assert largest < NOISE_CEILING < largest + 0.05
