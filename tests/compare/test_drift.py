"""Real recordings that differ in one thing: the first line of the report names it.

``scripts/record_drift.py`` recorded them all from real models; the README beside them lists them.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from swarm_repro.cassette.alter import alter
from swarm_repro.cassette.reader import read_cassette
from swarm_repro.compare.diff import DiffReport
from swarm_repro.compare.judged import Class
from tests.support.command import ROOT, swarm_repro
from tests.support.society import comparing

DRIFT = ROOT / "tests" / "data" / "drift"


def first_line(a: str, b: str) -> str:
    done = swarm_repro("diff", DRIFT / f"{a}.jsonl", DRIFT / f"{b}.jsonl", cwd=ROOT)
    assert done.returncode == 1, done.stderr
    return done.stdout.splitlines()[0]


@pytest.mark.parametrize(
    ("a", "b", "shown"),
    [
        ("base", "temperature", "cause: temperature: 0.8 in A, 0.4 in B (call 0 of llm_1"),
        ("base", "seed", "cause: run seed: 42 in A, 43 in B (call 0 of llm_1"),
        ("base", "word", "cause: system prompt, messages[0].content: character 14: "),
        ("base", "model", "cause: model: gguf b179c9523d0e… in A, gguf "),
        ("prebuilt", "build", "cause: another llama.cpp build: binary_sha256: "),
        ("alone", "second_client", "cause: concurrent requests: the server has 4 slots, so a sec"),
    ],
)
def test_the_first_line_names_the_cause(a: str, b: str, shown: str) -> None:
    assert first_line(a, b).startswith(shown)


def test_the_changed_word_is_shown_with_what_stands_around_it() -> None:
    line = first_line("base", "word")
    assert "You are a careful banker" in line
    assert "You are a careless banker" in line


def report(a: str, b: str) -> dict[str, object]:
    with comparing(DRIFT / f"{a}.jsonl", DRIFT / f"{b}.jsonl") as found:
        return DiffReport(found).to_json()


def test_two_builds_part_by_token_with_the_logprobs_of_both() -> None:
    with comparing(DRIFT / "prebuilt.jsonl", DRIFT / "build.jsonl") as found:
        origins = DiffReport(found).to_json()["origins"]
    assert isinstance(origins, list)
    assert {origin["kind"] for origin in origins} == {"root"}
    parting = origins[0]["parting"]
    assert parting["unit"] == "token"
    assert parting["a_candidates"][0]["logprob"] < 0
    assert parting["drift"] > 0, "the arithmetic differs before the texts do"


def test_one_altered_completion_is_one_root_and_the_rest_its_fallout() -> None:
    with comparing(DRIFT / "base.jsonl", DRIFT / "one_root.jsonl") as found:
        (origin,) = found.origins
        assert origin.cause is None
        root = found.judged[origin.pair.number]
        assert root.cls is Class.ROOT
        for number, judged in enumerate(found.judged):
            if number < origin.pair.number:
                assert judged.cls is Class.IDENTICAL
            elif judged.cls is not Class.IDENTICAL:
                assert judged.origins == (origin.id,)
        counts = Counter(judged.cls for judged in found.judged)
        assert counts[Class.ROOT] == 1
        assert counts[Class.FALLOUT] >= 3
        assert counts[Class.CHANGED] == 0


def test_two_independent_roots_are_told_apart() -> None:
    with comparing(DRIFT / "base.jsonl", DRIFT / "two_roots.jsonl") as found:
        assert [origin.cause for origin in found.origins] == [None, None]
        scopes = {origin.pair.entry.scope for origin in found.origins}
        assert len(scopes) == 2
        assert all(origin.proven for origin in found.origins)


def test_a_changed_persona_beside_a_root_is_told_apart() -> None:
    with comparing(DRIFT / "base.jsonl", DRIFT / "persona_and_root.jsonl") as found:
        roots = [origin for origin in found.origins if origin.cause is None]
        causes = [origin for origin in found.origins if origin.cause is not None]
        assert len(roots) == len(causes) == 1
        assert causes[0].cause is not None
        assert causes[0].cause.field == "system prompt, messages[0].content"
        assert causes[0].scopes.isdisjoint(roots[0].scopes)


def test_a_second_client_is_not_blamed_without_a_sign_of_one(tmp_path: Path) -> None:
    alone = DRIFT / "alone.jsonl"
    last = list(read_cassette(alone).calls.values())[-1]
    alter(alone, tmp_path / "other.jsonl", call=last.id, text="something else")
    done = swarm_repro("diff", alone, "other.jsonl", cwd=tmp_path)
    assert done.stdout.startswith(
        "cause: not in what was recorded: same environment, same settings (4 slots, which can"
    )


def test_a_short_report_lists_the_calls_of_its_origins_first() -> None:
    with comparing(DRIFT / "base.jsonl", DRIFT / "persona_and_root.jsonl") as found:
        whole = DiffReport(found).to_json(identical_too=True)
        short = DiffReport(found).to_json(identical_too=True, limit=1)
    origins, calls = short["origins"], short["calls"]
    assert isinstance(origins, list)
    assert isinstance(calls, list)
    assert [call["number"] for call in calls] == [origin["call"] for origin in origins]
    assert short["origins_left_out"] == 1
    assert short["left_out"] == len(whole["calls"]) - 1  # type: ignore[arg-type]


def test_metrics_that_moved_are_listed() -> None:
    moved = report("base", "model")["metrics"]
    assert isinstance(moved, list)
    assert "accepted_interactions" in {metric["metric"] for metric in moved}


def test_the_same_file_twice_is_identical_and_it_says_so(tmp_path: Path) -> None:
    done = swarm_repro("diff", DRIFT / "base.jsonl", DRIFT / "base.jsonl", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stdout.startswith("A and B are the same file\nidentical: 12 calls")


def test_json_and_html_hold_the_same_report(tmp_path: Path) -> None:
    pair = (DRIFT / "base.jsonl", DRIFT / "word.jsonl")
    done = swarm_repro("diff", *pair, "--json", "--html", "r.html", cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    found = json.loads(done.stdout)
    assert found["counts"]["identical"] == 2
    assert len(found["calls"]) == 10, "identical calls are not listed"
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert found["verdict"].split("'")[0] in page
    limited = swarm_repro("diff", *pair, "--json", "--limit", 3, cwd=tmp_path)
    assert [len(json.loads(limited.stdout)["calls"]), json.loads(limited.stdout)["left_out"]] == [
        3,
        7,
    ]


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize(
    ("content", "code", "shown"),
    [
        (b"", 5, "the file is empty"),
        (b"# A read-me\n", 5, "not a cassette record"),
        (None, 2, "there is no cassette at"),
    ],
)
def test_a_bad_file_on_either_side_is_named(
    tmp_path: Path, side: int, content: bytes | None, code: int, shown: str
) -> None:
    bad = tmp_path / "bad.jsonl"
    if content is not None:
        bad.write_bytes(content)
    pair = [DRIFT / "base.jsonl", bad]
    done = swarm_repro("diff", pair[side], pair[1 - side], cwd=tmp_path)
    assert (done.returncode, done.stdout) == (code, "")
    assert "bad.jsonl" in done.stderr
    assert shown in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    whole = (DRIFT / "base.jsonl").read_bytes()
    (tmp_path / "bad.jsonl").write_bytes(whole.replace(b"banker", b"bunker", 1))
    done = swarm_repro("diff", DRIFT / "base.jsonl", "bad.jsonl", cwd=tmp_path)
    assert done.returncode == 5
    assert "bad.jsonl:" in done.stderr
    assert "wrong checksum" in done.stderr


def test_recordings_of_two_scenarios_are_not_comparable(tmp_path: Path) -> None:
    demo = ROOT / "cassettes" / "demo.seed42.jsonl"
    done = swarm_repro("diff", DRIFT / "base.jsonl", demo, cwd=tmp_path)
    assert done.returncode == 6
    assert "'drift'" in done.stderr
    assert "'demo'" in done.stderr


def test_keys_of_two_versions_are_not_comparable(tmp_path: Path) -> None:
    whole = (DRIFT / "base.jsonl").read_bytes()
    (tmp_path / "new.jsonl").write_bytes(whole.replace(b'"key":"sr1"', b'"key":"sr2"', 1))
    done = swarm_repro("diff", DRIFT / "base.jsonl", "new.jsonl", cwd=tmp_path)
    assert done.returncode == 6
    assert "sr1" in done.stderr
    assert "sr2" in done.stderr
