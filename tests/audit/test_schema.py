"""The published schema of the audit's report. Real reports are checked in test_runner."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator, ValidationError

from swarm_repro.canonical import encode_json
from tests.audit.test_text import report
from tests.support.command import ROOT

SCHEMA = json.loads((ROOT / "docs/reference/schemas/audit.schema.json").read_text("utf-8"))


def objects(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for member in value.values():
            yield from objects(member)
    elif isinstance(value, list):
        for item in value:
            yield from objects(item)


def test_it_is_a_schema_and_lets_no_unknown_member_pass() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    for one in objects(SCHEMA):
        if "properties" in one:
            assert one["additionalProperties"] is False
            assert one["required"] == list(one["properties"])


def test_a_report_with_every_kind_of_cell_follows_it() -> None:
    made = json.loads(encode_json(report().to_json()))
    Draft202012Validator(SCHEMA).validate(made)
    assert {cell["status"] for cell in made["cells"]} == {"done", "failed", "skipped"}


@pytest.mark.parametrize("member", ["verdict", "cells", "recommended", "missing"])
def test_a_report_that_lacks_a_member_does_not(member: str) -> None:
    made = json.loads(encode_json(report().to_json()))
    del made[member]
    with pytest.raises(ValidationError):
        Draft202012Validator(SCHEMA).validate(made)
