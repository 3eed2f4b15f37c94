"""``swarm-repro textconv`` and what a real git shows through it."""

from __future__ import annotations

import subprocess
import sys
import zlib
from pathlib import Path

import orjson
import pytest

from swarm_repro.cassette.archive import MAGIC
from swarm_repro.cassette.lines import encode_line
from swarm_repro.cassette.part import part_path
from swarm_repro.cassette.reader import read_cassette
from swarm_repro.cassette.writer import write_cassette
from swarm_repro.project.textconv import cassette_text, is_cassette
from tests.support.command import ROOT, swarm_repro
from tests.support.recordings import Call, record
from tests.support.tiny_model import (
    LONG,
    TinyModel,
    ask,
    completion_of,
    make_environment,
    recording,
    small_cassette,
)

COMMITTED = sorted((ROOT / "cassettes").glob("*.jsonl"))
DRIFT = ROOT / "tests" / "data" / "drift"
DEMO = ROOT / "cassettes" / "demo.seed42.jsonl"


def shown(path: Path) -> list[str]:
    return list(cassette_text(path.read_bytes()))


def git(*arguments: str, cwd: Path) -> str:
    done = subprocess.run(
        ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", *arguments],
        cwd=cwd, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A git repository that shows cassettes by this package's textconv."""
    folder = tmp_path / "repository"
    (folder / "cassettes").mkdir(parents=True)
    git("init", "-q", cwd=folder)
    (folder / ".gitattributes").write_text("cassettes/*.jsonl* -text diff=swarm-repro\n")
    driver = f'"{sys.executable}" -m swarm_repro textconv'
    git("config", "diff.swarm-repro.textconv", driver, cwd=folder)
    return folder


def commit(folder: Path) -> None:
    git("add", "-A", cwd=folder)
    git("commit", "-qm", "one", cwd=folder)


def edited(data: bytes, old: str, new: str) -> bytes:
    """A cassette with one text changed in all its lines, and their checksums made good."""
    lines = []
    for line in data.splitlines():
        if old.encode() in line:
            changed = line.replace(old.encode(), new.encode()).rpartition(b',"crc32":')[0]
            line = b'%s,"crc32":"%08x"}' % (changed, zlib.crc32(changed + b"}"))
        lines.append(line + b"\n")
    return b"".join(lines)


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.name)
def test_a_committed_cassette_is_shown_whole_and_in_lines_that_fit(path: Path) -> None:
    lines = shown(path)
    calls = sum(b'"record":"call"' in line for line in path.read_bytes().splitlines())
    assert sum(line.startswith("call: ") for line in lines) == calls
    assert not [line for line in lines if line.startswith(("damaged", "not finished"))]
    assert max(map(len, lines)) <= 104
    assert all(line.isprintable() for line in lines)


def test_what_differs_by_nature_is_not_shown(tmp_path: Path) -> None:
    def numbered(number: int) -> TinyModel:
        return TinyModel(trouble=lambda _n: completion_of("same", number=number))

    texts = []
    for number in (0, 5):
        path = tmp_path / f"{number}.jsonl"
        with recording(path) as session:
            ask(session, numbered(number), LONG)
        texts.append((path.read_bytes(), shown(path)))
    assert texts[0][0] != texts[1][0]
    assert texts[0][1] == texts[1][1]


def test_the_recorders_version_is_not_shown() -> None:
    data = DEMO.read_bytes()
    other = edited(data, '"recorder":"0.1.0"', '"recorder":"9.9.9"')
    assert other != data
    assert list(cassette_text(other)) == list(cassette_text(data))


def recorded(path: Path, model: TinyModel | None = None, *, run_seed: int = 7) -> list[str]:
    """What is shown of two calls, recorded."""
    with recording(path, run_seed=run_seed) as session:
        ask(session, model or TinyModel(), LONG)
        ask(session, model or TinyModel(), "hello", who="bob")
    return shown(path)


def changed_lines(before: list[str], after: list[str]) -> tuple[list[str], list[str]]:
    """Lines that only the one text has, and those that only the other has."""
    return (
        [line for line in before if line not in after],
        [line for line in after if line not in before],
    )


def test_a_changed_completion_is_shown_and_nothing_else(tmp_path: Path) -> None:
    before = recorded(tmp_path / "a.jsonl")
    after = recorded(tmp_path / "b.jsonl", TinyModel(wording="other"))
    removed, added = changed_lines(before, after)
    assert [line.split()[0] for line in removed] == ["completion", "fine"] * 2
    assert [line.split()[0] for line in added] == ["completion", "other"] * 2


def test_a_changed_environment_is_shown_and_nothing_else(tmp_path: Path) -> None:
    before = recorded(tmp_path / "a.jsonl")
    model = TinyModel(environment=make_environment("a third CPU"))
    after = recorded(tmp_path / "b.jsonl", model)
    names = [
        next(line for line in text if line.startswith("environment ")) for text in (before, after)
    ]
    assert changed_lines(before, after) == tuple(
        [name, f'  cpu: "{cpu}"', *[f"  model tiny, {name}"] * 2]
        for name, cpu in zip(names, ("a CPU", "a third CPU"), strict=True)
    )


def test_a_changed_run_seed_is_shown_with_the_seeds_that_follow_from_it(tmp_path: Path) -> None:
    model = TinyModel(trouble=lambda _number: completion_of("the same"))
    paths = [tmp_path / name for name in ("a.jsonl", "b.jsonl")]
    before, after = (
        recorded(path, model, run_seed=seed) for path, seed in zip(paths, (7, 8), strict=True)
    )
    sides = [
        [
            *(
                line
                for call in read_cassette(path).calls.values()
                for line in (
                    f"  sent {call.sent[:16]}, repeat 0",
                    f"  seed {call.sent_seed}, none asked",
                )
            ),
            f"run of test, seed {seed}",
        ]
        for path, seed in zip(paths, (7, 8), strict=True)
    ]
    assert changed_lines(before, after) == tuple(sides)


def test_a_changed_metric_is_shown_and_nothing_else(tmp_path: Path) -> None:
    before = recorded(tmp_path / "a.jsonl")
    data = (tmp_path / "a.jsonl").read_bytes()
    after = list(cassette_text(edited(data, '"welfare":0.5', '"welfare":0.75')))
    assert changed_lines(before, after) == (["    welfare: 0.5"], ["    welfare: 0.75"])


def test_a_witness_is_shown_with_the_calls_it_answered(tmp_path: Path) -> None:
    base = tmp_path / "base.jsonl"
    small_cassette(base)
    (witness,) = read_cassette(base).witnesses
    lines = shown(base)
    place = lines.index(f"witness: environment {witness[:12]} gave the same answers")
    assert lines[place - 1 : place + 2] == ["", lines[place], "  calls [[0,3]]"]


WHOLE = """\
cassette of scenario scenes
  format 2, key sr1
  seed policy event, not strict

model tiny
  backend: "llama-server"
  identity:
    kind: "gguf"
    files: ["aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"]
  template:
    sha256: "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
  defaults:
    chat:
      temperature: 0.8
      top_k: 40
      top_p: 0.95
      min_p: 0.05
      repeat_penalty: 1.0
      repeat_last_n: 64
      samplers: ["penalties", "top_k", "top_p", "min_p", "temperature"]
    completion:
      temperature: 0.8
      top_k: 40
      top_p: 0.95
      min_p: 0.05
      repeat_penalty: 1.0
      repeat_last_n: 64
      samplers: ["penalties", "top_k", "top_p", "min_p", "temperature"]
  undeclared: []

environment 0762df7c3be8
  backend: "llama-server"
  build: "b1"
  cpu: "a CPU"

call: ben 0, no kind
  sent sr1:b2c7ea01ed57, repeat 0
  seed 5, asked 5
  model tiny, environment 0762df7c3be8
  tokens 5 + 3
  /v1/chat/completions
  tools: b1bba0e43e80
    -:
      type: "function"
      function:
        name: "trade"
        parameters:
          a: [1, 2]
  system: dd397a210d83
    conscientious conscientious conscientious conscientious conscientious conscientious\x20
    conscientious conscientious conscientious conscientious conscientious conscientious\x20
    conscientious conscientious conscientious conscientious conscientious conscientious\x20
    conscientious conscientious\x20
  user:
    two
    lines
  completion a2e4826ba7e6:
    [[{"message":{"content":null,"tool_calls":[{"type":"function","function":{"name":"trade","parame
    ters":{"a":[1,2]}}}]}}]]

call: epoch 0 step 0, ada 0, act
  sent sr1:7f6d50228258, repeat 0
  seed 1930783950, none asked
  model tiny, environment 0762df7c3be8
  tokens 5 + 3
  /v1/chat/completions
  top_k: 3
  stop: ["a", "b"]
  system: dd397a210d83, as above
  user:
    one
  completion ce5378d7ae15:
    first\\x1b

call: epoch 0 step 2, ben 1, act
  sent sr1:fcefda124970, repeat 0
  seed 5, asked 5
  model tiny, environment 0762df7c3be8
  tokens 5 + 3
  /v1/chat/completions
  tools: b1bba0e43e80, as above
  tool: 080a9ed42855
    [1]
    {"name":"t"}
  None:
    text
  completion 997c42c34364:
    again

run of test, seed 7
  1 epochs of 9 steps
  scenario file cccccccccccc
  python 3.11
  3 calls
  artifact history.json dddddddddddd
  metrics of epoch 3:
    welfare: 0.5
  metrics of epoch 1:
    by:
      ada: 1
"""


def test_a_small_cassette_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    persona = "conscientious " * 20
    tool = {"type": "function", "function": {"name": "trade", "parameters": {"a": [1, 2]}}}
    record(
        path,
        [
            Call("one", "first\x1b", system=persona, fields={"top_k": 3, "stop": ["a", "b"]}),
            Call(
                "two\nlines",
                completion_of("", choices=[{"message": {"content": None, "tool_calls": [tool]}}]),
                "ben",
                None,
                None,
                system=persona,
                fields={"seed": 5, "tools": [tool]},
            ),
            Call(
                "x", "again", "ben", (0, 2),
                fields={"seed": 5, "tools": [tool],
                        "messages": [{"role": "tool", "content": [1], "name": "t"}, "text"]},
            ),
        ],
        metrics=[{"epoch": 3, "welfare": 0.5, "none": None}, {"by": {"ada": 1}}],
    )  # fmt: skip
    assert shown(path) == WHOLE.splitlines()


def test_long_texts_and_schemas_are_shown_once() -> None:
    lines = shown(DEMO)
    systems = [line for line in lines if line.startswith("  system: ")]
    whole = [line for line in systems if not line.endswith(", as above")]
    assert len(whole) == len({line.split()[1].rstrip(",") for line in systems})
    assert sum(line.startswith("  system: ") and line.endswith(", as above") for line in lines) > 40
    assert sum("response_format: " in line and "as above" in line for line in lines) > 40


def test_a_record_of_a_later_format_is_shown_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    line = encode_line({"record": "remark", "said": "from a later version"})
    path.write_bytes(DEMO.read_bytes() + line)
    assert shown(path)[-2:] == ["record remark", '  said: "from a later version"']


def test_hostile_texts_cannot_drive_a_terminal(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    said = "\x1b[2J\u202ereversed\u2028line\x9bx \ud7ff\ue000"
    with recording(path) as session:
        ask(session, TinyModel(trouble=lambda _n: completion_of(said)), "ask\x07", who="a\x1bb")
    lines = shown(path)
    assert all(line.isprintable() for line in lines)
    assert any(r"\x1b[2J\u202ereversed\u2028line\x9bx" in line for line in lines)
    assert any(r"a\x1bb" in line for line in lines)


def test_sixteen_levels_are_shown_a_line_each_and_the_rest_in_one(tmp_path: Path) -> None:
    nested: object = "core"
    for _ in range(30):
        nested = [{"in": nested}]
    path = record(tmp_path / "c.jsonl", [Call("x", fields={"schema": nested})])
    lines = shown(path)
    first = next(number for number, line in enumerate(lines) if line.startswith("  schema: "))
    levels = [line.strip() for line in lines[first + 1 :]]
    assert levels[:16] == ["-:", "in:"] * 8
    assert levels[16].startswith('[{"in":[')


def test_nothing_of_a_long_line_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    said = "x" * 250_000 + "  two  spaces " + "word " * 50_000
    with recording(path) as session:
        ask(session, TinyModel(trouble=lambda _n: completion_of(said)))
    lines = shown(path)
    start = next(n for n, line in enumerate(lines) if line.startswith("  completion "))
    stop = lines.index("", start)
    assert "".join(line[4:] for line in lines[start + 1 : stop]) == said


def test_a_damaged_line_is_named_and_the_rest_is_shown(tmp_path: Path) -> None:
    lines = DEMO.read_bytes().splitlines(keepends=True)
    number = next(n for n, line in enumerate(lines) if b'"record":"call"' in line)
    lines[number] = lines[number].replace(b'"i":0', b'"i":9')
    path = tmp_path / "c.jsonl"
    path.write_bytes(b"".join(lines))
    done = swarm_repro("textconv", path, cwd=tmp_path)
    assert done.returncode == 0
    (told,) = [line for line in done.stdout.splitlines() if line.startswith("damaged: ")]
    assert told.startswith(f"damaged: line {number + 1} cannot be shown: wrong checksum")
    assert sum(line.startswith("call: ") for line in done.stdout.splitlines()) == 53


def test_calls_whose_text_or_environment_is_damaged_are_still_named() -> None:
    lines = DEMO.read_bytes().splitlines(keepends=True)
    kept = [
        line for line in lines if not line.startswith((b'{"record":"text"', b'{"record":"env"'))
    ]
    text = list(cassette_text(b"".join(kept)))
    assert sum(line.startswith("call: ") for line in text) == 54
    assert any("this call cannot be shown whole" in line for line in text)
    assert any("an environment that is not in the file" in line for line in text)


def test_a_cut_off_file_is_shown_to_where_it_ends() -> None:
    data = DEMO.read_bytes()
    text = list(cassette_text(data[: len(data) // 2]))
    assert any(line.startswith("damaged: ") and "torn" in line for line in text)
    assert text[-1].startswith("not finished: ")
    assert sum(line.startswith("call: ") for line in text) > 10


def test_converted_line_ends_are_shown_as_they_are() -> None:
    text = list(cassette_text(DEMO.read_bytes().replace(b"\n", b"\r\n")))
    assert text[0].startswith("damaged: line 1")
    assert len(text) == 1 + DEMO.read_bytes().count(b"\n")


@pytest.mark.parametrize("member", ["model", "run", "call", "env", "witness"])
def test_a_record_with_wrong_members_breaks_nothing(member: str, tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    small_cassette(path)
    lines = []
    for line in path.read_bytes().splitlines():
        record = orjson.loads(line)
        if record["record"] == member:
            for name in record:
                if name != "record":
                    record[name] = 7
            body = orjson.dumps({k: v for k, v in record.items() if k != "crc32"})
            line = body[:-1] + b',"crc32":"%08x"}' % zlib.crc32(body)
        lines.append(line + b"\n")
    text = list(cassette_text(b"".join(lines)))
    assert any(line.startswith("damaged: ") or " 7" in line for line in text)


def test_an_interrupted_recording_is_shown(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"

    def interrupted() -> None:
        with recording(path) as session:
            ask(session, TinyModel(), "hello")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    text = shown(tmp_path / "c.jsonl.part")
    assert sum(line.startswith("call: ") for line in text) == 1
    assert text[-1].startswith("not finished: ")


@pytest.mark.parametrize(
    "content",
    [b"", b'{"a":1}\n{"b":2}\n', b"\xff\x00not text", b"<<<<<<< ours\n", b"no line feed"],
)
def test_what_is_no_cassette_is_printed_as_it_is(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "other.jsonl"
    path.write_bytes(content)
    assert not is_cassette(content)
    done = subprocess.run(
        [sys.executable, "-m", "swarm_repro", "textconv", str(path)],
        capture_output=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, content)


def test_the_null_device_is_empty_and_a_missing_file_an_error(tmp_path: Path) -> None:
    assert swarm_repro("textconv", "/dev/null", cwd=tmp_path).stdout == ""
    missing = swarm_repro("textconv", "nowhere.jsonl", cwd=tmp_path)
    assert missing.returncode == 2
    assert "nowhere.jsonl cannot be read" in missing.stderr


def test_git_shows_one_changed_answer_as_a_few_lines(repository: Path) -> None:
    path = repository / "cassettes" / "c.jsonl"
    with recording(path) as session:
        for number in range(12):
            ask(session, TinyModel(), f"question {number}")
    commit(repository)
    with recording(path) as session:
        for number in range(12):
            model = TinyModel(wording="changed\x1b" if number == 7 else "fine")
            ask(session, model, f"question {number}")
    diff = git("diff", cwd=repository)
    removed = [line for line in diff.splitlines() if line.startswith("-") and line[1:2] != "-"]
    added = [line for line in diff.splitlines() if line.startswith("+") and line[1:2] != "+"]
    assert len(removed) == len(added) == 2
    assert "    fine " in removed[1]
    assert r"    changed\x1b " in added[1]
    assert "question 7" in diff
    assert "question 2" not in diff


def test_git_shows_what_differs_between_two_recordings(repository: Path) -> None:
    path = repository / "cassettes" / "drift.jsonl"
    path.write_bytes((DRIFT / "base.jsonl").read_bytes())
    commit(repository)
    path.write_bytes((DRIFT / "temperature.jsonl").read_bytes())
    lines = git("diff", "-U0", cwd=repository).splitlines()
    assert lines.count("-  temperature: 0.8") == lines.count("+  temperature: 0.4") == 12
    assert not [line for line in lines if line[:1] in "+-" and "duration" in line]
    assert not [line for line in lines if line[:1] in "+-" and "  cpu: " in line]
    assert all(line.isprintable() for line in lines)


def test_git_shows_nothing_where_only_volatile_members_changed(repository: Path) -> None:
    path = repository / "cassettes" / "c.jsonl"
    path.write_bytes(DEMO.read_bytes())
    commit(repository)
    path.write_bytes(edited(DEMO.read_bytes(), '"recorder":"0.1.0"', '"recorder":"9.9.9"'))
    assert git("status", "--short", cwd=repository).strip() == "M cassettes/c.jsonl"
    assert "@@" not in git("diff", cwd=repository)


def test_git_log_shows_a_new_and_a_removed_cassette(repository: Path) -> None:
    path = repository / "cassettes" / "c.jsonl"
    (repository / "README").write_text("x")
    commit(repository)
    path.write_bytes(DEMO.read_bytes())
    commit(repository)
    path.unlink()
    commit(repository)
    log = git("log", "-p", cwd=repository)
    assert "+cassette of scenario demo" in log
    assert "-cassette of scenario demo" in log


def test_git_shows_an_archive_as_it_shows_the_cassette_in_it(repository: Path) -> None:
    plain, packed = repository / "cassettes" / "a.jsonl", repository / "cassettes" / "b.jsonl.zst"

    def record(wording: str) -> None:
        with recording(plain) as session:
            ask(session, TinyModel(wording=wording), "hello")
        write_cassette(read_cassette(plain), packed)

    record("fine")
    commit(repository)
    record("other")
    changes = [git("diff", "-U0", str(path), cwd=repository) for path in (plain, packed)]
    shown = [
        [line for line in one.splitlines() if line.startswith(("+ ", "- ", "+\t", "-\t"))]
        for one in changes
    ]
    assert any("other" in line for line in shown[0])
    assert shown[0] == shown[1]


def test_a_damaged_archive_is_said_to_be_one(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl.zst"
    path.write_bytes(MAGIC + b"nonsense")
    done = swarm_repro("textconv", path, cwd=tmp_path)
    assert done.returncode == 0
    assert done.stdout.startswith("damaged: ")


def test_a_recording_that_runs_is_shown_without_its_notes(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    with recording(path) as session:
        ask(session, TinyModel(), "hello")
        text = "\n".join(cassette_text(part_path(path).read_bytes()))
    assert "hello" in text
    assert "batch" not in text
    assert "not finished" in text
