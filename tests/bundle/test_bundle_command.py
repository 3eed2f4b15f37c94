"""``swarm-repro bundle``: its options and its output; in this process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from swarm_repro.bundle import check as checking
from swarm_repro.bundle import make as making
from swarm_repro.bundle.check import BundleCheck, Replayed
from swarm_repro.bundle.make import Bundle, BundleOptions
from swarm_repro.cli import bundle as command
from swarm_repro.cli import main
from swarm_repro.errors import ExitCode

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def pinned(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """How often pin_hash_seed was called."""
    times: list[None] = []
    # It would start this process again, which is tested where a process is started.
    monkeypatch.setattr(command, "pin_hash_seed", lambda: times.append(None))
    return times


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], pinned: list[None]) -> Call:
    """Calls the command line in this process; gives its exit code and what it printed."""

    def called(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop:
            main(["bundle", *map(str, arguments)])
        said = capsys.readouterr()
        return int(stop.value.code or 0), said.out, said.err

    return called


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[tuple[BundleOptions, Path]]:
    """The options of each bundle to be made."""
    asked: list[tuple[BundleOptions, Path]] = []

    def make_bundle(options: BundleOptions, target: Path) -> Bundle:
        asked.append((options, target))
        return Bundle({"a": b"", "b": b"", "c": b""}, [{}, {}])

    monkeypatch.setattr(making, "make_bundle", make_bundle)
    return asked


DIGEST = "Ab" * 32


def test_options_select_the_contents(
    call: Call, made: list[tuple[BundleOptions, Path]], pinned: list[None]
) -> None:
    code, out, _ = call(
        "make", "p.zip", "a.yaml", "b.yaml", "--title", "T", "--author", "A", "--author", "B",
        "--cassette", "c.jsonl", "--cassette", "d.jsonl", "--lock", "my.lock",
        "--model-source", f"{DIGEST}=https://example.org/m?a=b",
    )  # fmt: skip
    assert (code, out) == (0, "p.zip: 3 files, 2 runs, all of them replayed\n")
    ((options, target),) = made
    assert target == Path("p.zip")
    assert options == BundleOptions(
        scenarios=(Path("a.yaml"), Path("b.yaml")),
        title="T",
        authors=("A", "B"),
        cassettes=(Path("c.jsonl"), Path("d.jsonl")),
        lock=Path("my.lock"),
        sources={DIGEST.lower(): "https://example.org/m?a=b"},
    )
    assert len(pinned) == 1


def test_only_the_title_is_required(call: Call, made: list[tuple[BundleOptions, Path]]) -> None:
    assert call("make", "p.zip", "--title", "T")[0] == 0
    ((options, _),) = made
    assert options == BundleOptions(scenarios=(), title="T", authors=())
    code, _, err = call("make", "p.zip", "a.yaml")
    assert code == 2
    assert "--title" in err
    assert len(made) == 1


@pytest.mark.parametrize("given", ["abc=x", f"{DIGEST}", f"{DIGEST}=", f"{DIGEST}0=x", "=x"])
def test_a_source_is_a_digest_and_an_address(
    given: str, call: Call, made: list[tuple[BundleOptions, Path]]
) -> None:
    code, _, err = call("make", "p.zip", "--title", "T", "--model-source", given)
    assert (code, err) == (2, f"error: --model-source {given!r}: write SHA256=URL\n")
    assert made == []


FOUND = BundleCheck(
    7,
    (
        Replayed("scenarios/a.yaml", 1, ExitCode.OK, ()),
        Replayed("scenarios/\x1b.yaml", 2, ExitCode.MISS, ("one", "two")),
        Replayed("scenarios/b.yaml", 3, ExitCode.DIFFERENCE, ("three",)),
    ),
)


def test_a_check_tells_of_each_run(
    call: Call, monkeypatch: pytest.MonkeyPatch, pinned: list[None]
) -> None:
    asked: list[Path] = []

    def check_bundle(path: Path) -> BundleCheck:
        asked.append(path)
        return FOUND

    monkeypatch.setattr(checking, "check_bundle", check_bundle)
    code, out, err = call("check", "p.zip")
    assert (code, err) == (3, "")
    assert out.splitlines() == [
        "scenarios/a.yaml, seed 1: replayed, artifacts identical",
        "scenarios/\\x1b.yaml, seed 2: one; two",
        "scenarios/b.yaml, seed 3: three",
        "p.zip: 7 files as they were put in, 3 runs",
    ]
    assert asked == [Path("p.zip")]
    assert len(pinned) == 1
    code, out, _ = call("check", "p.zip", "--json")
    assert code == 3
    assert json.loads(out) == {
        "files": 7,
        "runs": [
            {"scenario": "scenarios/a.yaml", "seed": 1, "exit_code": 0, "messages": []},
            {"scenario": "scenarios/\x1b.yaml", "seed": 2, "exit_code": 3,
             "messages": ["one", "two"]},
            {"scenario": "scenarios/b.yaml", "seed": 3, "exit_code": 1, "messages": ["three"]},
        ],
    }  # fmt: skip
    monkeypatch.setattr(checking, "check_bundle", lambda _path: BundleCheck(1, ()))
    assert call("check", "p.zip") == (0, "p.zip: 1 files as they were put in, 0 runs\n", "")
    assert call("check", "p.zip", "--json")[0] == 0


def test_a_missing_bundle_is_named(call: Call, tmp_path: Path) -> None:
    none = tmp_path / "none.zip"
    assert call("check", none) == (2, "", f"error: there is no bundle at {none}\n")
