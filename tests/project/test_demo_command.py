"""``swarm-repro demo``: its files and its folder; the real command is tested elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from importlib import resources
from pathlib import Path

import pytest

from swarm_repro.cli import demo as command
from swarm_repro.cli import main
from swarm_repro.mode import Mode
from swarm_repro.simulation import run as running
from swarm_repro.simulation.plan import RunOptions
from tests.support.command import ROOT

Call = Callable[..., int]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What was done: the hash seed pinned, a run asked for, its outcome told."""
    done: list[object] = []

    def run_scenario(options: RunOptions) -> str:
        done.append(options)
        assert options.scenario.is_file()
        assert options.cassette is not None
        assert options.cassette.is_file()
        assert options.out is not None
        options.out.mkdir(parents=True)
        return "an outcome"

    def finish(outcome: object, **how: bool) -> int:
        done.append((outcome, how))
        return 3

    monkeypatch.setattr(command, "pin_hash_seed", lambda: done.append("pinned"))
    monkeypatch.setattr(command, "finish", finish)
    monkeypatch.setattr(running, "run_scenario", run_scenario)
    return done


def call(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main(["demo", *map(str, arguments)])
    return int(stop.value.code or 0)


def test_the_committed_demo_is_replayed_in_a_temporary_folder(asked: list[object]) -> None:
    assert call() == 3
    pinned, options, told = asked
    assert pinned == "pinned"
    assert isinstance(options, RunOptions)
    assert (options.seed, options.mode) == (42, Mode.REPLAY)
    data = Path(str(resources.files("swarm_repro"))) / "data"
    if data.exists():  # tests of an installed wheel
        assert options.scenario == data / "demo.yaml"
        assert options.cassette == data / "demo.seed42.jsonl"
    else:
        assert options.scenario == ROOT / "scenarios" / "demo.yaml"
        assert options.cassette == ROOT / "cassettes" / "demo.seed42.jsonl"
    assert options.out is not None
    assert not options.out.parent.exists()
    assert told == ("an outcome", {"as_json": False, "kept": False})


def test_artifacts_are_kept_on_request(asked: list[object], tmp_path: Path) -> None:
    assert call("--out", tmp_path / "kept", "--json") == 3
    _, options, told = asked
    assert isinstance(options, RunOptions)
    assert options.out == tmp_path / "kept"
    assert options.out.is_dir()
    assert told == ("an outcome", {"as_json": True, "kept": True})


def test_an_installed_package_has_the_demo_beside_its_code(
    asked: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "swarm_repro" / "data"
    data.mkdir(parents=True)
    for name in ("demo.yaml", "demo.seed42.jsonl"):
        (data / name).write_text("packaged")
    monkeypatch.setattr(resources, "files", lambda _name: tmp_path / "swarm_repro")
    assert call() == 3
    options = asked[1]
    assert isinstance(options, RunOptions)
    assert options.scenario == data / "demo.yaml"
    assert options.cassette == data / "demo.seed42.jsonl"
