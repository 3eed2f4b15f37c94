"""``swarm-repro check``: every line of its output, as text and as JSON; in this process."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from swarm_repro.cassette.reader import read_cassette
from swarm_repro.cassette.records import CallRecord
from swarm_repro.cassette.writer import write_cassette
from swarm_repro.cli import main
from swarm_repro.request import Request
from tests.support.tiny_model import completion_of, small_cassette

Call = Callable[..., tuple[int, list[str]]]

WHOLE = "3 calls, 1 texts, 1 models, 2 environments, 1 runs"
#: In the form of a key of AWS, and of no account.
SECRET = "AKIA" + "Q3EGHJKLMNPQRSTU"


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """Calls the command line in this process; gives its exit code and the lines it printed."""

    def called(*arguments: object) -> tuple[int, list[str]]:
        with pytest.raises(SystemExit) as stop:
            main(["check", *map(str, arguments)])
        said = capsys.readouterr()
        assert said.err == ""
        return int(stop.value.code or 0), said.out.splitlines()

    return called


@pytest.fixture
def good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = Path("good.jsonl")
    small_cassette(path)
    return path


@pytest.fixture
def bad(good: Path) -> Path:
    """One call does not match its checksum."""
    path = Path("bad.jsonl")
    path.write_bytes(good.read_bytes().replace(b'"content":"fine ', b'"content":"good ', 1))
    return path


@pytest.fixture
def old(good: Path) -> Path:
    """A recording from before credentials were masked: two calls of it hold one."""
    recorded = read_cassette(good)
    calls = dict(recorded.calls)
    for call in list(calls.values())[1:]:
        calls[call.id] = CallRecord.make(
            request=Request(call.endpoint, recorded.models[call.model], call.path, call.body),
            completion=completion_of(f"it is {SECRET}, I say {SECRET}"),
            scope=call.scope,
            i=call.i,
            n=call.n,
            at=call.at,
            asked=call.asked,
            sent=call.sent,
            asked_seed=call.asked_seed,
            env=call.env,
            prompt_sha256=call.prompt_sha256,
        )
    path = Path("old.jsonl")
    write_cassette(replace(recorded, path=path, calls=calls), path)
    return path


def documents(lines: list[str]) -> list[Mapping[str, Any]]:
    (line,) = lines
    found: list[Mapping[str, Any]] = json.loads(line)["cassettes"]
    return found


def test_a_whole_file(call: Call, good: Path) -> None:
    assert call(good) == (0, [f"good.jsonl: whole: {WHOLE}"])
    code, lines = call(good, "--json")
    assert code == 0
    assert documents(lines) == [
        {
            "cassette": "good.jsonl", "whole": True, "calls": 3, "lost": 0, "findings": [],
            "damage": None, "repaired": None, "secrets": [],
        }
    ]  # fmt: skip
    assert call(good, "--repair") == (0, [f"good.jsonl: whole: {WHOLE}"])
    assert list(Path().glob("*.repaired.*")) == [], "there is nothing to repair"


def test_a_damaged_file(call: Call, good: Path, bad: Path) -> None:
    code, lines = call(good, bad)
    first, place, state = lines
    assert code == 5
    assert first == f"good.jsonl: whole: {WHOLE}"
    assert place.startswith("bad.jsonl:6: call 0 of alice: wrong checksum")
    assert state == (
        "bad.jsonl: damaged: calls lost: 1; whole: 2 calls, 1 texts, 1 models, 2 environments, 1 "
        "runs; write what is whole to a new file with --repair"
    )
    code, lines = call(bad, "--json")
    (report,) = documents(lines)
    assert code == 5
    (finding,) = report["findings"]
    assert (finding["line"], finding["record"]) == (6, "call 0 of alice")
    assert finding["why"].startswith("wrong checksum")
    assert (report["whole"], report["calls"], report["lost"]) == (False, 2, 1)


def test_whole_records_of_a_damaged_file_are_written_to_a_new_one(call: Call, bad: Path) -> None:
    damaged = bad.read_bytes()
    code, lines = call(bad, "--repair")
    assert code == 5
    assert lines[-1].endswith("1 runs; written to bad.repaired.jsonl")
    assert len(read_cassette(Path("bad.repaired.jsonl")).calls) == 2
    assert bad.read_bytes() == damaged
    Path("bad.repaired.jsonl").unlink()
    code, lines = call(bad, "--repair", "--json")
    assert code == 5
    assert documents(lines)[0]["repaired"] == "bad.repaired.jsonl"


def test_a_file_that_is_no_cassette_is_refused(call: Call, good: Path) -> None:
    Path("\x1b.jsonl").write_text("hello\n")
    code, lines = call("\x1b.jsonl", good)
    assert code == 5
    assert lines[0].startswith("\\x1b.jsonl:1: ")
    assert lines[1] == f"good.jsonl: whole: {WHOLE}", "the others are looked at all the same"
    code, lines = call("\x1b.jsonl", "--json")
    (report,) = documents(lines)
    assert code == 5
    assert (report["whole"], report["calls"], report["lost"]) == (False, 0, None)
    assert (report["findings"], report["secrets"]) == ([], [])
    assert report["damage"].startswith("\x1b.jsonl:1: ")


def test_a_file_without_a_whole_call_is_not_repaired(call: Call, good: Path) -> None:
    good.write_bytes(good.read_bytes().replace(b'"scope":', b'"stage":'))
    code, lines = call(good, "--repair")
    assert code == 5
    assert lines == ["good.jsonl: no call in it is whole; restore an older version"]


def test_credentials_are_looked_for_on_request(call: Call, old: Path) -> None:
    assert call(old)[0] == 0
    code, lines = call(old, "--secrets")
    *found, state = lines
    assert code == 1
    assert found == [
        "old.jsonl: call 1 of alice: holds credentials: 2 x AWS Access Key",
        "old.jsonl: call 0 of bob: holds credentials: 2 x AWS Access Key",
    ]
    assert state == (
        f"old.jsonl: whole: calls with credentials: 2; {WHOLE}; mask them in a new file with "
        "--repair"
    )
    code, lines = call(old, "--secrets", "--json")
    (report,) = documents(lines)
    assert (code, report["whole"], report["calls"]) == (1, True, 3)
    assert report["secrets"] == [
        {"call": "call 1 of alice", "kind": "AWS Access Key", "count": 2},
        {"call": "call 0 of bob", "kind": "AWS Access Key", "count": 2},
    ]


def test_credentials_are_masked_in_a_new_file(call: Call, old: Path, good: Path) -> None:
    code, lines = call(old, "--secrets", "--repair")
    assert code == 1
    assert lines[-1].endswith(f"{WHOLE}; written to old.repaired.jsonl")
    masked = Path("old.repaired.jsonl")
    assert SECRET.encode() in old.read_bytes()
    assert SECRET.encode() not in masked.read_bytes()
    assert call(masked, "--secrets")[0] == 0
    assert call(good, "--secrets") == (0, [f"good.jsonl: whole: {WHOLE}"])


def test_a_damaged_file_with_credentials_is_damaged_first(call: Call, old: Path) -> None:
    data = old.read_bytes()
    old.write_bytes(data.replace(b'"content":"fine ', b'"content":"good ', 1))
    code, lines = call(old, "--secrets")
    assert code == 5
    assert lines[-1].startswith("old.jsonl: damaged: calls with credentials: 2; calls lost: 1;")
    assert lines[-1].endswith("write what is whole to a new file with --repair")
