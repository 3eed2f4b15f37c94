"""``show``, ``stats`` and ``textconv``: their output for a cassette, as text and as JSON."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from swarm_repro.cassette.archive import MAGIC
from swarm_repro.cassette.reader import Cassette, read_cassette
from swarm_repro.cassette.writer import write_cassette
from swarm_repro.completion import Completion
from swarm_repro.project.textconv import cassette_text
from tests.support.in_process import invoke
from tests.support.recordings import Call, record
from tests.support.tiny_model import completion_of, small_cassette

Capsys = pytest.CaptureFixture[str]

LONG_ANSWER = "x" * 59


def usage(prompt: int | None, completion: int | None) -> dict[str, object]:
    return {"prompt_tokens": prompt, "completion_tokens": completion}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Four calls: two of a step, one without, one of another kind of answer."""
    embedding = Completion(200, "application/json", b'{"data":[{"embedding":[0.5],"index":0}]}')
    return record(
        tmp_path / "c.jsonl",
        [
            Call("hello", completion_of(LONG_ANSWER + "\x1b", usage=usage(10, 20)), at=(1, 2)),
            Call(
                "line 1\nline\x1b 2",
                completion_of("two\nlines\x1b", usage=usage(None, 4), number=750),
                who="ben\x1b",
                at=(1, 3),
                kind=None,
                system="You are ben.",
                fields={"seed": 5, "temperature": 0.5, "grammar": "a\x1b"},
            ),
            Call("hi", "fine", at=None, kind="accept"),
            Call("x", embedding, "cleo", (2, 0), "embed", endpoint="embedding", path="/v1/e"),
        ],
    )


@pytest.fixture
def whole(path: Path) -> Cassette:
    return read_cassette(path)


# --- show


def test_calls_are_shown_a_line_each(path: Path, capsys: Capsys) -> None:
    done = invoke(capsys, "show", path)
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines() == [
        "scenario scenes, seed policy event",
        "model tiny: gguf aaaaaaaaaaaa… on llama-server",
        "   n       at  scope                    kind            tokens  completion",
        "   0        -  ada                      accept             5+3  fine",
        "   1      1.2  ada                      act              10+20  " + "x" * 59 + "…",
        "   2      1.3  ben\\x1b                  -                  ?+4  two\\nlines\\x1b",
        "   3      2.0  cleo                     embed              ?+?  ",
    ]


def test_a_strict_cassette_is_marked_as_strict(tmp_path: Path, capsys: Capsys) -> None:
    path = record(tmp_path / "c.jsonl", [Call("x", "y" * 60)], strict=True)
    lines = invoke(capsys, "show", path).out.splitlines()
    assert lines[0] == "scenario scenes, seed policy event, strict"
    assert lines[-1].endswith("  " + "y" * 60), "60 characters are shown"


def test_all_calls_as_json(path: Path, whole: Cassette, capsys: Capsys) -> None:
    done = invoke(capsys, "show", path, "--json")
    calls = list(whole.calls.values())
    assert done.report == {
        "header": whole.header.to_json(),
        "models": [model.to_json() for model in whole.models.values()],
        "environments": [{"backend": "llama-server", "build": "b1", "cpu": "a CPU"}],
        "calls": [
            {
                "n": number,
                "scope": call.scope,
                "i": call.i,
                "repeat": call.n,
                "at": None if call.at is None else list(call.at),
                "kind": call.kind,
                "asked": call.asked,
                "sent": call.sent,
                "seed": {"asked": call.asked_seed, "sent": call.sent_seed},
                "model": "tiny",
                "tokens": dict(call.tokens),
                "duration_s": call.duration_s,
            }
            for number, call in enumerate(calls)
        ],
    }
    assert [call["seed"]["asked"] for call in done.report["calls"]] == [None, None, 5, None]


def test_a_call_is_shown_whole(path: Path, whole: Cassette, capsys: Capsys) -> None:
    call = list(whole.calls.values())[2]
    done = invoke(capsys, "show", path, "2")
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines() == [
        r"call 0 of ben\x1b, repeat 0, at (1, 3), None",
        f"asked  {call.asked}  seed 5",
        f"sent   {call.sent}  seed 5",
        f"model  tiny, 1.00 s, tokens {dict(call.tokens)}",
        "--- system",
        "You are ben.",
        "--- user",
        "line 1",
        r"line\x1b 2",
        'model: "tiny"',
        "seed: 5",
        "temperature: 0.5",
        r'grammar: "a\u001b"',
        "--- completion",
        "two",
        r"lines\x1b",
    ]


def test_a_call_without_messages_shows_its_members(path: Path, capsys: Capsys) -> None:
    lines = invoke(capsys, "show", path, "3").out.splitlines()
    assert lines[4:] == ['model: "tiny"', 'input: "x"', "--- completion", ""]


def test_messages_of_any_form_are_shown(tmp_path: Path, capsys: Capsys) -> None:
    messages = ["no object", {"role": "user", "content": None}]
    path = record(
        tmp_path / "c.jsonl",
        [
            Call("x", fields={"messages": messages, "seed": 5}),
            Call("y", fields={"messages": "no list", "seed": 5}),
        ],
    )
    lines = invoke(capsys, "show", path, "0").out.splitlines()
    assert lines[4:] == [
        "--- None", "no object", "--- user", "None",
        'model: "tiny"', "seed: 5", "--- completion", "fine",
    ]  # fmt: skip
    lines = invoke(capsys, "show", path, "1").out.splitlines()
    assert lines[4:] == [
        'model: "tiny"', 'messages: "no list"', "seed: 5", "--- completion", "fine",
    ]  # fmt: skip


def test_a_call_as_json(path: Path, whole: Cassette, capsys: Capsys) -> None:
    call = list(whole.calls.values())[1]
    every = invoke(capsys, "show", path, "--json").report["calls"]
    assert invoke(capsys, "show", path, "1", "--json").report == {
        **every[1],
        "request": {"path": "/v1/chat/completions", "body": call.body},
        "response": [orjson.loads(call.completion.body)],
    }


def test_a_call_is_found_by_the_beginning_of_either_key(tmp_path: Path, capsys: Capsys) -> None:
    path = record(tmp_path / "c.jsonl", [Call("1"), Call("2")], strict=True)
    for number, call in enumerate(read_cassette(path).calls.values()):
        for key in (call.asked, call.sent, call.asked[4:20], call.sent[4:20]):
            report = invoke(capsys, "show", path, key, "--json").report
            assert report["n"] == number


def test_a_number_beyond_the_last_call_is_refused(tmp_path: Path, capsys: Capsys) -> None:
    path = record(tmp_path / "c.jsonl", [Call("two")])
    (call,) = read_cassette(path).calls.values()
    assert "sr1:1" not in (call.asked[:5], call.sent[:5]), "1 does not name the call by its key"
    for number in (1, 99999):
        done = invoke(capsys, "show", path, number)
        assert (done.code, done.out) == (2, "")
        assert done.err == f"error: {path} has no call {number}; it has 1, numbered from 0\n"


def test_a_key_that_several_calls_have_is_refused(path: Path, capsys: Capsys) -> None:
    done = invoke(capsys, "show", path, "sr1:")
    assert (done.code, done.out) == (2, "")
    assert done.err == "error: 4 calls have a key that begins with sr1:\n"


# --- stats


@pytest.fixture
def counted(tmp_path: Path) -> Path:
    """Two runs, two environments, and missing token counts."""
    path = tmp_path / "c.jsonl"
    calls = [
        Call("1", completion_of("x", usage=usage(10, 2), number=1000)),
        Call("2", completion_of("x", usage=usage(None, 3)), who="ben\x1b", kind=None),
        Call("3", completion_of("x", usage=usage(7, None)), who="ben\x1b", kind=None),
    ]
    record(path, calls, seed=1)
    return record(path, [Call("4", completion_of("x", usage=usage(1, 1)))], seed=2)


def test_counts_are_shown_by_agent_kind_model_and_environment(
    counted: Path, capsys: Capsys
) -> None:
    environment = next(iter(read_cassette(counted).envs))
    columns = " calls    prompt  completion   seconds"
    done = invoke(capsys, "stats", counted)
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines() == [
        f"{'agent':<28} {columns}",
        f"  {'ada':<26}      2        11           3       1.5",
        "  ben\\x1b" + " " * 19 + "      2         7           3       0.5",
        f"{'kind':<28} {columns}",
        f"  {'-':<26}      2         7           3       0.5",
        f"  {'act':<26}      2        11           3       1.5",
        f"{'model':<28} {columns}",
        f"  {'tiny':<26}      4        18           6       2.0",
        f"{'environment':<28} {columns}",
        f"  {environment[:26]}      4        18           6       2.0",
        f"{'total':<28}      4        18           6       2.0",
        f"environment {environment[:12]}: llama-server, b1, a CPU",
        "run of test, seed 1: 3 calls",
        "run of test, seed 2: 1 calls",
    ]


def test_counts_as_json(counted: Path, capsys: Capsys) -> None:
    whole = read_cassette(counted)
    (environment,) = whole.envs
    everything = {"calls": 4, "prompt_tokens": 18, "completion_tokens": 6, "duration_s": 2.0}
    of_ben = {"calls": 2, "prompt_tokens": 7, "completion_tokens": 3, "duration_s": 0.5}
    rest = {"calls": 2, "prompt_tokens": 11, "completion_tokens": 3, "duration_s": 1.5}
    assert invoke(capsys, "stats", counted, "--json").report == {
        "total": everything,
        "agent": {"ada": rest, "ben\x1b": of_ben},
        "kind": {"-": of_ben, "act": rest},
        "model": {"tiny": everything},
        "environment": {environment: everything},
        "models": [model.to_json() for model in whole.models.values()],
        "environments": {environment: {"backend": "llama-server", "build": "b1", "cpu": "a CPU"}},
        "runs": [
            {"scenario": "test", "seed": 1, "calls": 3},
            {"scenario": "test", "seed": 2, "calls": 1},
        ],
        "witnesses": {},
    }


def test_witnesses_are_counted(tmp_path: Path, capsys: Capsys) -> None:
    path = tmp_path / "c.jsonl"
    small_cassette(path)
    (witness,) = read_cassette(path).witnesses
    assert invoke(capsys, "stats", path, "--json").report["witnesses"] == {witness: 3}


# --- textconv


def test_a_cassette_is_printed_as_text(path: Path, capsys: Capsys) -> None:
    done = invoke(capsys, "textconv", path)
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines() == list(cassette_text(path.read_bytes()))


def test_an_archive_is_printed_as_the_cassette_in_it(path: Path, capsys: Capsys) -> None:
    """Git may pass the file under any name."""
    archive = path.with_name("c.jsonl.zst")
    write_cassette(read_cassette(path), archive)
    assert archive.read_bytes().startswith(MAGIC)
    renamed = archive.rename(path.with_name("blob_x"))
    assert invoke(capsys, "textconv", renamed).out == invoke(capsys, "textconv", path).out


def test_a_damaged_archive_is_no_error(tmp_path: Path, capsys: Capsys) -> None:
    path = tmp_path / "c.jsonl.zst"
    path.write_bytes(MAGIC + b"nonsense")
    done = invoke(capsys, "textconv", path)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("damaged: ")
    assert len(done.out.splitlines()) == 1


def test_a_file_that_is_no_cassette_is_printed_unchanged(tmp_path: Path, capsys: Capsys) -> None:
    path = tmp_path / "other.txt"
    path.write_bytes(b"no line feed")
    assert invoke(capsys, "textconv", path).out == "no line feed"


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, capsys: Capsys) -> None:
    done = invoke(capsys, "textconv", tmp_path / "no\x1bwhere")
    assert (done.code, done.out) == (2, "")
    assert done.err == (
        rf"error: {tmp_path}/no\x1bwhere cannot be read: No such file or directory" + "\n"
    )


@pytest.mark.parametrize("command", ["show", "stats"])
def test_a_damaged_cassette_is_refused(command: str, path: Path, capsys: Capsys) -> None:
    path.write_bytes(path.read_bytes().replace(b"You are ben", b"You are Ben"))
    done = invoke(capsys, command, path)
    assert (done.code, done.out) == (5, "")
    assert done.err.startswith("error: ")
