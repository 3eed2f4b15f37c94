"""Parts of the plugin by themselves: places and owners of cassettes, and options."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from swarm_repro.errors import ReplayMiss
from swarm_repro.mode import Mode
from swarm_repro.pytest_plugin import block as blocks
from swarm_repro.pytest_plugin.block import CassetteBlock
from swarm_repro.pytest_plugin.names import default_folder, default_path, marked_path, name_of
from swarm_repro.pytest_plugin.orphans import find_orphans, remove
from tests.support.tiny_model import TinyModel, ask


class Config:
    """The members of pytest's config that are read."""

    def __init__(self, folder: Path, *args: str, modes: tuple[str, ...] = ()) -> None:
        self.invocation_params = SimpleNamespace(dir=folder)
        self.args = list(args)
        self.modes = list(modes)

    def getini(self, name: str) -> str:
        assert name == "cassette_dir"
        return "tapes"

    def getoption(self, name: str) -> list[str] | None:
        assert name == "cassette_modes"
        return self.modes or None


def item(
    folder: Path, name: str, *marks: pytest.Mark, config: Config | None = None, file: str = "test_a"
) -> Any:
    path = folder / f"{file}.py"
    return SimpleNamespace(
        nodeid=f"{file}.py::{name}",
        path=path,
        config=config or Config(folder),
        iter_markers=lambda wanted: (mark for mark in marks if mark.name == wanted),
    )


def mark(*args: Any, **kwargs: Any) -> pytest.Mark:
    made: pytest.Mark = pytest.mark.cassette(*args, **kwargs).mark
    return made


# --- Names.


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("test_x", "test_x.jsonl"),
        ("TestA::test_x", "testa.test_x-"),
        ("test_x[a b]", "test_x_a_b-"),
        ("test_x[1.5]", "test_x_1.5-"),
        ("test_é", "test-"),
        ("test_" + "x" * 200, "test_" + "x" * 95 + "-"),
    ],
)
def test_a_test_has_a_cassette_of_its_name(tmp_path: Path, name: str, file: str) -> None:
    path = default_path(item(tmp_path, name))
    assert path.parent == tmp_path / "tapes" / "test_a"
    assert path.name == file or (path.name.startswith(file) and len(path.name) == len(file) + 18)


def test_names_that_differ_in_forbidden_characters_are_two_files(tmp_path: Path) -> None:
    names = ["test_x[a]", "test_x[A]", "test_x[a/]", "test_x_a", "Test_x[a]", "_test_x_a_"]
    assert len({default_path(item(tmp_path, name)).name.lower() for name in names}) == len(names)


def test_the_name_of_a_test_is_that_within_its_file(tmp_path: Path) -> None:
    assert name_of(item(tmp_path, "TestA::test_x[a::b]")) == "TestA::test_x[a::b]"
    assert default_folder(tmp_path / "test_a.py", Config(tmp_path)) == (  # type: ignore[arg-type]
        tmp_path / "tapes" / "test_a"
    )


@pytest.mark.parametrize(
    ("marks", "path"),
    [
        ([], None),
        ([mark()], None),
        ([mark("x.jsonl")], "x.jsonl"),
        ([mark(path="x.jsonl")], "x.jsonl"),
        ([mark(mode="auto"), mark("outer.jsonl")], "outer.jsonl"),
        ([mark("inner.jsonl"), mark("outer.jsonl")], "inner.jsonl"),
        ([mark(path=Path("sub/x.jsonl"))], "sub/x.jsonl"),
        ([pytest.mark.slow("x.jsonl").mark], None),
    ],
)
def test_the_closest_marker_that_names_a_cassette_names_it(
    tmp_path: Path, marks: list[pytest.Mark], path: str | None
) -> None:
    assert marked_path(item(tmp_path, "test_x", *marks)) == (path and tmp_path / path)


# --- Orphans.


def tape(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_cassettes_of_tests_that_are_gone_are_orphans(tmp_path: Path) -> None:
    tapes = tmp_path / "tapes"
    (tmp_path / "test_a.py").touch()
    (tmp_path / "test_not_collected.py").touch()
    items = [
        item(tmp_path, "test_x"),
        item(tmp_path, "test_named", mark("tapes/test_a/named.jsonl")),
        item(tmp_path, "test_shared", mark(path="tapes/gone/shared.jsonl")),
    ]
    for kept in (
        "test_a/test_x.jsonl",
        "test_a/test_named.jsonl",
        "test_a/named.jsonl",
        "gone/shared.jsonl",
        "test_not_collected/test_y.jsonl",
        "test_a/other.txt",
    ):
        tape(tapes / kept)
    orphans = [str(tape(tapes / name)) for name in ("test_a/gone.jsonl", "test_gone/test_z.jsonl")]
    assert find_orphans(items[0].config, items) == orphans
    assert find_orphans(items[0].config, []) == []


def test_selecting_single_tests_reports_no_orphans_in_their_file(tmp_path: Path) -> None:
    for name in ("test_a", "test_b"):
        (tmp_path / f"{name}.py").touch()
        tape(tmp_path / "tapes" / name / "gone.jsonl")
    gone = tape(tmp_path / "tapes" / "test_gone" / "x.jsonl")
    config = Config(tmp_path, "test_a.py::test_x", "test_b.py")
    items = [item(tmp_path, "test_x", config=config, file=file) for file in ("test_a", "test_b")]
    assert find_orphans(config, items) == [  # type: ignore[arg-type]
        str(tmp_path / "tapes" / "test_b" / "gone.jsonl"),
        str(gone),
    ]


def test_orphans_are_removed_with_emptied_folders(tmp_path: Path) -> None:
    one, two = tape(tmp_path / "a" / "one.jsonl"), tape(tmp_path / "a" / "two.jsonl")
    only = tape(tmp_path / "b" / "only.jsonl")
    remove([str(one), str(only), str(tmp_path / "c" / "missing.jsonl")])
    assert not one.exists()
    assert two.exists()
    assert not only.parent.exists()
    remove([str(two)])
    assert not two.parent.exists()


# --- One test's block.


def run(
    one: Any, *prompts: str, then: Callable[[CassetteBlock], None] = lambda _block: None
) -> TinyModel:
    """A test that asks a model and does something more, as the plugin runs it."""
    model = TinyModel()
    block = CassetteBlock(one)
    block.begin()
    try:
        with block.judging():
            for prompt in prompts:
                ask(block.session, model, prompt)
            then(block)
    finally:
        block.close()
    return model


def divide(_block: CassetteBlock) -> None:
    raise ZeroDivisionError


@pytest.fixture
def failing() -> type[BaseException]:
    return pytest.fail.Exception


def test_a_test_is_recorded_and_replayed(tmp_path: Path) -> None:
    one = item(tmp_path, "test_x", config=Config(tmp_path, modes=("record",)))
    assert len(run(one, "a", "b").sent) == 2
    assert default_path(one).exists()
    assert run(item(tmp_path, "test_x"), "a", "b").sent == []


def test_missing_or_unplayed_calls_fail_the_test(
    tmp_path: Path, failing: type[BaseException]
) -> None:
    recorded = Config(tmp_path, modes=("record",))
    one = item(tmp_path, "test_x")
    with pytest.raises(failing) as caught:
        run(one, "a")
    assert str(caught.value) == (
        f"there is no cassette at {default_path(one)}; record it with: "
        "pytest 'test_a.py::test_x' --record"
    )
    run(item(tmp_path, "test_x", config=recorded), "a", "b")
    with pytest.raises(failing, match=r"1 of 2 calls in .* were not played"):
        run(one, "a")
    with pytest.raises(failing, match="call 0 of alice is not in"):
        run(one, "c")
    with pytest.raises(ZeroDivisionError):
        run(one, "a", then=divide)


def test_a_miss_that_a_test_swallows_fails_it(tmp_path: Path, failing: type[BaseException]) -> None:
    run(item(tmp_path, "test_x", config=Config(tmp_path, modes=("record",))), "a")

    def swallow(block: CassetteBlock) -> None:
        with contextlib.suppress(ReplayMiss):
            ask(block.session, TinyModel(), "unheard of")
        raise ZeroDivisionError

    with pytest.raises(failing, match="call 0 of alice is not in"):
        run(item(tmp_path, "test_x"), then=swallow)


def test_a_test_that_fails_or_is_skipped_records_nothing_and_may_be_recorded_again(
    tmp_path: Path,
) -> None:
    one = item(tmp_path, "test_x", config=Config(tmp_path, modes=("record",)))
    with pytest.raises(ZeroDivisionError):
        run(one, "a", then=divide)
    assert not default_path(one).exists()
    with pytest.raises(pytest.skip.Exception):
        run(one, "a", then=lambda _block: pytest.skip("not here"))
    assert not default_path(one).exists()
    assert len(run(one, "a").sent) == 1


def test_a_case_of_unittest_that_failed_is_not_judged(tmp_path: Path) -> None:
    one = item(tmp_path, "test_x", config=Config(tmp_path, modes=("record",)))
    one._excinfo = ["failed"]
    run(one, "a")
    assert not default_path(one).exists()
    one._excinfo = None
    run(one, "a")
    assert default_path(one).exists()


def test_tests_that_name_one_cassette_have_their_own_calls_in_it(tmp_path: Path) -> None:
    auto = Config(tmp_path, modes=("auto",))
    shared = mark("shared.jsonl")
    for name in ("test_x", "test_y"):
        assert len(run(item(tmp_path, name, shared, config=auto), "a").sent) == 1
    for name in ("test_x", "test_y"):
        assert run(item(tmp_path, name, shared), "a").sent == []
    block = CassetteBlock(item(tmp_path, "test_z", shared))
    block.begin()
    with closing(block):
        assert block.session.owner == "test_z"


@pytest.mark.parametrize(
    ("marks", "modes", "mode"),
    [
        ([], (), None),
        ([mark(mode="auto")], (), Mode.AUTO),
        ([mark(mode="auto"), mark(mode="record")], (), Mode.AUTO),
        ([mark(seed=1), mark(mode="record")], (), Mode.RECORD),
        ([mark(mode="auto")], ("record",), Mode.RECORD),
        ([], ("verify",), Mode.VERIFY),
    ],
)
def test_the_command_lines_mode_wins_over_the_closest_markers(
    tmp_path: Path, marks: list[pytest.Mark], modes: tuple[str, ...], mode: Mode | None
) -> None:
    run(item(tmp_path, "test_x", config=Config(tmp_path, modes=("record",))))
    block = CassetteBlock(item(tmp_path, "test_x", *marks, config=Config(tmp_path, modes=modes)))
    block.begin()
    with closing(block):
        assert block.session.mode is (mode or Mode.REPLAY)


def test_options_of_the_markers_reach_the_cassette(tmp_path: Path) -> None:
    marks = (mark(seed=5, seed_policy="content"), mark(seed=6, strict=True, path="x.jsonl"))
    one = item(tmp_path, "test_x", *marks, config=Config(tmp_path, modes=("record",)))
    block = CassetteBlock(one)
    block.begin()
    with closing(block):
        session = block.session
        assert (session.run_seed, session.header.seed_policy) == (5, "content")
        assert session.header.strict
        assert session.store is not None
        assert session.store.path == tmp_path / "x.jsonl"


def test_an_unknown_option_is_refused_with_those_that_are_known(tmp_path: Path) -> None:
    with pytest.raises(pytest.UsageError) as caught:
        CassetteBlock(item(tmp_path, "test_x", mark(sed=5)))
    said = str(caught.value)
    assert said.startswith("test_a.py::test_x: the cassette marker has no option 'sed'; it has ")
    assert "allow_network" in said
    assert "path" not in said.partition("it has ")[2].split(", ")
    with pytest.raises(pytest.UsageError, match=r"test_a\.py::test_x: seed_policy 'x' is unknown"):
        CassetteBlock(item(tmp_path, "test_x", mark(seed_policy="x")))


def test_a_replay_refuses_the_network_unless_the_marker_allows_it(
    tmp_path: Path, failing: type[BaseException]
) -> None:
    import socket

    run(item(tmp_path, "test_x", config=Config(tmp_path, modes=("record",))))

    @contextmanager
    def judged(*marks: pytest.Mark) -> Iterator[None]:
        block = CassetteBlock(item(tmp_path, "test_x", *marks))
        block.begin()
        with closing(block), block.judging():
            yield

    with pytest.raises(failing, match="must not touch the network"), judged():
        socket.gethostbyname("127.0.0.1")
    with judged(mark(allow_network=True)):
        socket.gethostbyname("127.0.0.1")


def test_masked_credentials_are_a_warning_of_the_test(tmp_path: Path) -> None:
    one = item(tmp_path, "test_x", config=Config(tmp_path, modes=("record",)))
    with pytest.warns(UserWarning, match=r"credentials are masked in .*: 1 x AWS Access Key"):
        run(one, "use AKIAIOSFODNN7EXAMPLE")


def test_recordings_into_one_cassette_take_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked: list[str] = []

    def busy(file: Any, how: int) -> None:
        locked.append(file.name)
        if len(locked) % 3:
            raise BlockingIOError
        fcntl.flock(file, how)

    other = SimpleNamespace(flock=busy, LOCK_EX=fcntl.LOCK_EX, LOCK_NB=fcntl.LOCK_NB)
    monkeypatch.setattr(blocks, "fcntl", other)
    monkeypatch.setattr(blocks, "_POLL_S", 0.001)
    auto = Config(tmp_path, modes=("auto",))
    assert len(run(item(tmp_path, "test_x", mark("s.jsonl"), config=auto), "a").sent) == 1
    assert len(locked) == 3
    assert len(set(locked)) == 1
    run(item(tmp_path, "test_own", config=auto), "a")
    run(item(tmp_path, "test_x", mark("s.jsonl")), "a")
    assert len(locked) == 3, "nobody else has a cassette of its own, or reads while another writes"


def test_waiting_too_long_for_a_turn_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: type[BaseException]
) -> None:
    def busy(_file: Any, _how: int) -> None:
        raise BlockingIOError

    other = SimpleNamespace(flock=busy, LOCK_EX=fcntl.LOCK_EX, LOCK_NB=fcntl.LOCK_NB)
    monkeypatch.setattr(blocks, "fcntl", other)
    monkeypatch.setattr(blocks, "_POLL_S", 0.001)
    monkeypatch.setattr(blocks, "_PATIENCE_S", 0.003)
    one = item(tmp_path, "test_x", mark("s.jsonl"), config=Config(tmp_path, modes=("auto",)))
    with pytest.raises(failing) as caught:
        CassetteBlock(one).begin()
    assert str(caught.value) == (
        f"another test has been recording {tmp_path / 's.jsonl'} for 0.003 s"
    )
