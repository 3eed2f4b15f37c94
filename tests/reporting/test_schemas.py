"""The published schemas of the reports."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator, ValidationError

from swarm_repro.canonical import encode_json
from swarm_repro.cassette.index import CassetteIndex
from swarm_repro.compare.diff import DiffReport
from swarm_repro.compare.judge import Comparison
from swarm_repro.reporting.html import render_html
from tests.support.command import ROOT
from tests.support.reports import (
    Report,
    hostile_diff,
    identical_diff,
    small_diff,
    survey_report,
    verify_report,
)

SCHEMAS = ROOT / "docs" / "reference" / "schemas"
REPORTS = {
    "small diff": small_diff,
    "identical diff": identical_diff,
    "hostile diff": hostile_diff,
    "verify": verify_report,
    "survey": survey_report,
}


def schema(kind: str) -> Any:
    return json.loads((SCHEMAS / f"{kind}.schema.json").read_text(encoding="utf-8"))


def objects(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for member in value.values():
            yield from objects(member)
    elif isinstance(value, list):
        for item in value:
            yield from objects(item)


@pytest.mark.parametrize("kind", ["diff", "verify", "survey"])
def test_a_schema_is_one_and_lets_no_unknown_member_pass(kind: str) -> None:
    published = schema(kind)
    Draft202012Validator.check_schema(published)

    assert published["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    for one in objects(published):
        if "properties" in one:
            assert one["additionalProperties"] is False
            assert one["required"] == list(one["properties"])


@pytest.mark.parametrize("name", REPORTS)
def test_the_reports_of_these_tests_follow_their_schema(name: str) -> None:
    report = REPORTS[name]()

    Draft202012Validator(schema(report["report"])).validate(report)


def test_a_report_made_from_real_recordings_follows_the_schema_and_has_a_page() -> None:
    cassettes = ROOT / "cassettes"
    with (
        CassetteIndex(cassettes / "demo.seed42.jsonl") as one,
        CassetteIndex(cassettes / "demo_in_process.seed42.jsonl") as other,
    ):
        report = DiffReport(Comparison(one, other)).to_json(identical_too=True)

    read = json.loads(encode_json(report))
    Draft202012Validator(schema("diff")).validate(read)
    assert read["origins"]
    assert b"create_chat_completion" in render_html(report)


@pytest.mark.parametrize(
    ("name", "path", "value"),
    [
        ("small diff", ("calls", 0, "class"), "other"),
        ("small diff", ("calls", 0, "at"), [1]),
        ("small diff", ("calls", 0, "note"), "unknown member"),
        ("small diff", ("origins", 0, "parting", "unit"), "word"),
        ("small diff", ("origins", 0, "field"), "of a cause, in a root"),
        ("small diff", ("origins", 1, "kind"), "root"),
        ("small diff", ("version",), 2),
        ("verify", ("calls", 0, "group"), "identical"),
        ("verify", ("order",), "reversed"),
        ("survey", ("groups", 0, "calls"), "12"),
        ("survey", ("record_anew", "seconds"), None),
    ],
)
def test_a_report_that_breaks_the_contract_is_refused(
    name: str, path: tuple[str | int, ...], value: object
) -> None:
    report: Report = copy.deepcopy(REPORTS[name]())
    place: Any = report
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value

    with pytest.raises(ValidationError):
        Draft202012Validator(schema(report["report"])).validate(report)
