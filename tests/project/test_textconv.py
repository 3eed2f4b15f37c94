"""``swarm-repro textconv`` and what a real git shows through it."""

from __future__ import annotations

import subprocess
import sys
import zlib
from pathlib import Path

import orjson
import pytest

from swarm_repro.cassette.archive import MAGIC
from swarm_repro.cassette.part import part_path
from swarm_repro.cassette.reader import read_cassette
from swarm_repro.cassette.writer import write_cassette
from swarm_repro.project.textconv import cassette_text, is_cassette
from tests.core.making import (
    LONG,
    TinyModel,
    ask,
    completion_of,
    make_environment,
    recording,
    small_cassette,
)
from tests.support.command import ROOT, swarm_repro

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
    texts = []
    for number in (0, 5):
        path = tmp_path / f"{number}.jsonl"
        model = TinyModel(trouble=lambda _n, number=number: completion_of("same", number=number))
        with recording(path) as session:
            ask(session, model, LONG)
        texts.append((path.read_bytes(), shown(path)))
    assert texts[0][0] != texts[1][0]
    assert texts[0][1] == texts[1][1]


def test_the_recorders_version_is_not_shown() -> None:
    data = DEMO.read_bytes()
    other = edited(data, '"recorder":"0.1.0"', '"recorder":"9.9.9"')
    assert other != data
    assert list(cassette_text(other)) == list(cassette_text(data))


def test_a_changed_completion_seed_metric_and_environment_are_shown(tmp_path: Path) -> None:
    base = tmp_path / "base.jsonl"
    small_cassette(base)
    before = set(shown(base))
    for name, change in {
        "completion": {"wording": "other"},
        "environment": {"environment": make_environment("a third CPU")},
    }.items():
        path = tmp_path / f"{name}.jsonl"
        with recording(path) as session:
            ask(session, TinyModel(**change), LONG)
        assert any(("other" in line or "a third CPU" in line) for line in set(shown(path)) - before)
    witness = [line for line in shown(base) if line.startswith("witness: ")]
    assert len(witness) == 1
    moved = set(cassette_text(edited(base.read_bytes(), '"welfare":0.5', '"welfare":0.75')))
    assert moved - before >= {"    welfare: 0.75"}


def test_long_texts_and_schemas_are_shown_once() -> None:
    lines = shown(DEMO)
    systems = [line for line in lines if line.startswith("  system: ")]
    whole = [line for line in systems if not line.endswith(", as above")]
    assert len(whole) == len({line.split()[1].rstrip(",") for line in systems})
    assert sum(line.startswith("  system: ") and line.endswith(", as above") for line in lines) > 40
    assert sum("response_format: " in line and "as above" in line for line in lines) > 40


def test_hostile_texts_cannot_drive_a_terminal(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    said = "\x1b[2J\u202ereversed\u2028line\x9bx \ud7ff\ue000"
    with recording(path) as session:
        ask(session, TinyModel(trouble=lambda _n: completion_of(said)), "ask\x07", who="a\x1bb")
    lines = shown(path)
    assert all(line.isprintable() for line in lines)
    assert any(r"\x1b[2J\u202ereversed\u2028line\x9bx" in line for line in lines)
    assert any(r"a\x1bb" in line for line in lines)


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
