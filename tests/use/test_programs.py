"""Running a program in this process: finding it, its own names, and its exit code."""

from __future__ import annotations

import builtins
import sys
import textwrap
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from swarm_repro.errors import (
    CassetteAccessError,
    ReplayMiss,
    RequestError,
    SessionTripped,
    UnplayedCallsError,
    UsageError,
)
from swarm_repro.program import find_module, find_script, run_program
from swarm_repro.session import Session
from swarm_repro.use import use_cassette
from tests.support.tiny_model import TinyModel, ask

#: A fault must fail a test, not hang it. Nothing here takes a hundredth of this.
PATIENCE_S = 20


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    kept = list(sys.path), list(sys.argv), sys.modules["__main__"]
    yield tmp_path
    assert (sys.path, sys.argv, sys.modules["__main__"]) == kept
    for name in set(sys.modules) - before:
        if name.startswith("own"):
            del sys.modules[name]


def write(path: Path, code: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(code), encoding="utf-8")
    return path


def run(script: Path, *arguments: str, tame: tuple[str, ...] = (), **use: Any) -> Session:
    use = {"mode": "live", **use}
    return run_program(
        lambda: find_script(script, arguments),
        use_cassette(script.parent / "c.jsonl", **use),
        tame=tame,
        seed=7,
    )


# --- Finding.


def test_a_script_is_found_as_python_finds_it(folder: Path) -> None:
    script = write(folder / "sub" / "script.py", "x = 1\n")
    program = find_script(Path("sub/script.py"), ["a", "b"])
    assert dict(program.names) == {
        "__file__": "sub/script.py",
        "__package__": None,
        "__spec__": None,
    }
    assert program.argv == ("sub/script.py", "a", "b")
    assert program.folder == str(script.parent.resolve())
    assert program.package == ""
    names: dict[str, Any] = {}
    exec(program.code, names)  # noqa: S102
    assert names["x"] == 1
    assert program.code.co_filename == "sub/script.py"


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("none.py", None, "none.py cannot be read: No such file or directory"),
        (".", None, ". cannot be read: Is a directory"),
        ("bad.py", b"x = = 1", "bad.py is not a Python program: invalid syntax"),
        ("nul.py", b"x = 1\0", "nul.py is not a Python program: "),
    ],
)
def test_an_invalid_script_is_refused(
    folder: Path, name: str, content: bytes | None, why: str
) -> None:
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(UsageError) as caught:
        find_script(Path(name), [])
    assert str(caught.value).startswith(why)


def test_a_module_is_found_in_the_current_folder(folder: Path) -> None:
    path = write(folder / "own_module.py", "x = 1\n")
    program = find_module("own_module", ["a"])
    assert program.argv == (str(path), "a")
    assert program.folder == str(folder)
    assert program.package == "own_module"
    assert program.names["__file__"] == str(path)
    assert program.names["__package__"] == ""
    spec: Any = program.names["__spec__"]
    assert spec.name == "own_module"
    assert program.names["__loader__"] is spec.loader


def test_the_main_module_of_a_package_is_found(folder: Path) -> None:
    write(folder / "own_package" / "__init__.py", "")
    path = write(folder / "own_package" / "__main__.py", "x = 1\n")
    write(folder / "own_package" / "part.py", "x = 2\n")
    program = find_module("own_package", [])
    assert program.argv == (str(path),)
    assert program.names["__package__"] == "own_package"
    part = find_module("own_package.part", [])
    assert part.argv[0].endswith("part.py")
    assert (part.package, part.names["__package__"]) == ("own_package", "own_package")


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("own_none", "there is no module own_none that can be run: see python -m own_none"),
        ("own_bare", "there is no module own_bare that can be run: see python -m own_bare"),
        ("own_none.part", "the module own_none.part cannot be found: No module named"),
        ("own_broken.part", "the module own_broken.part cannot be found: no such thing"),
        ("sys", "the module sys is not Python code"),
    ],
)
def test_a_module_that_cannot_be_run_is_refused(folder: Path, name: str, why: str) -> None:
    write(folder / "own_bare" / "__init__.py", "")
    write(folder / "own_broken" / "__init__.py", "raise ImportError('no such thing')")
    with pytest.raises(UsageError) as caught:
        find_module(name, [])
    assert str(caught.value).startswith(why)


# --- Running.


def test_a_program_has_its_own_main_and_arguments(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(folder / "beside.py", "word = 'beside'\n")
    script = write(
        folder / "script.py",
        """
        import sys, __main__
        from beside import word
        if __name__ == "__main__":
            print(sys.argv, word, __main__.word, sys.path[0], __builtins__["len"]("xy"))
        """,
    )
    run(script, "a", "--b")
    sys.modules.pop("beside", None)
    assert capsys.readouterr().out == (f"{[str(script), 'a', '--b']} beside beside {folder} 2\n")


def test_threads_of_a_program_are_waited_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go, end = threading.Event(), threading.Event()
    monkeypatch.setitem(sys.modules, "own_events", SimpleNamespace(go=go))
    script = write(
        folder / "script.py",
        """
        import pathlib, threading
        from own_events import go
        class Work(threading.Thread):
            def run(self):
                go.wait()
                pathlib.Path("done").touch()
            def join(self, timeout=None):
                go.set()  # only being waited for lets it end
                super().join(timeout)
        Work(daemon=False).start()  # threads are as the one that starts them
        threading.Thread(target=threading.Event().wait, daemon=True).start()
        """,
    )
    # Neither this thread nor the one that runs the program is the program's: waiting for one hangs.
    beside = threading.Thread(target=end.wait)
    beside.start()
    runner = threading.Thread(target=run, args=(script,), daemon=True)
    runner.start()
    try:
        runner.join(PATIENCE_S)
        assert not runner.is_alive(), "it waits for a thread that is not the program's"
        assert (folder / "done").exists()
    finally:
        go.set()
        end.set()
        beside.join()


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("", None),
        ("raise SystemExit", None),
        ("raise SystemExit(0)", None),
        ("raise SystemExit(3)", 3),
        ("raise SystemExit('no')", "no"),
    ],
)
def test_a_programs_own_code_is_kept(folder: Path, code: str, expected: object) -> None:
    script = write(folder / "script.py", code)
    if expected is None:
        assert run(script).exit_code() == 0
        return
    with pytest.raises(SystemExit) as caught:
        run(script)
    assert caught.value.code == expected


def test_an_exception_is_shown_from_the_programs_first_line_on(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = write(folder / "script.py", "def f():\n    1 / 0\n\nf()\n")
    with pytest.raises(SystemExit) as caught:
        run(script)
    assert caught.value.code == 1
    shown = capsys.readouterr().err
    assert shown.startswith("Traceback (most recent call last):\n")
    assert shown.splitlines()[1] == f'  File "{script}", line 4, in <module>'
    assert shown.splitlines()[-1] == "ZeroDivisionError: division by zero"
    assert "program.py" not in shown


def test_an_interrupt_and_errors_of_ours_come_through(folder: Path) -> None:
    script = write(folder / "script.py", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        run(script)
    script = write(
        folder / "script.py", "from swarm_repro.errors import RequestError; raise RequestError('x')"
    )
    with pytest.raises(RequestError, match=r"^x$"):
        run(script)


#: Asks for something within the program's own process, as a client would.
ASKING = """
from tests.support.tiny_model import TinyModel, ask
from swarm_repro.intercept.present import present_interceptor
session = present_interceptor().session
for prompt in {prompts!r}:
    try:
        ask(session, TinyModel(), prompt, **{fields!r})
    except BaseException as error:
        if not {swallows!r}:
            raise
{then}
"""


def asking(
    folder: Path, *prompts: str, swallows: bool = False, then: str = "", **fields: object
) -> Path:
    code = ASKING.format(prompts=prompts, swallows=swallows, then=then, fields=fields)
    return write(folder / "script.py", code)


def test_a_recorded_program_is_replayed(folder: Path) -> None:
    script = asking(folder, "one", "two")
    assert run(script, mode="record").ledger.called == 2
    assert run(script, mode=None).ledger.hits == 2
    with pytest.raises(UnplayedCallsError):
        run(asking(folder, "one"), mode=None)
    with pytest.raises(CassetteAccessError):
        run(asking(folder / "elsewhere", "one"), mode=None)


@pytest.mark.parametrize("then", ["", "raise SystemExit(3)", "1 / 0", "raise KeyboardInterrupt"])
def test_a_miss_is_reported_whatever_the_program_makes_of_it(folder: Path, then: str) -> None:
    run(asking(folder, "one"), mode="record")
    with pytest.raises(ReplayMiss, match="call 0 of alice is not in"):
        run(asking(folder, "unheard of", swallows=True, then=then), mode=None)


@pytest.mark.parametrize("then", ["", "raise SystemExit(3)", "1 / 0"])
def test_a_bad_request_is_reported_whatever_the_program_makes_of_it(
    folder: Path, then: str
) -> None:
    script = asking(folder, "one", swallows=True, then=then, odd="nan")
    script.write_text(script.read_text().replace("'nan'", "float('nan')"))
    with pytest.raises(RequestError):
        run(script, mode="record")


def test_a_replay_refuses_the_network_and_a_recording_does_not(folder: Path) -> None:
    run(asking(folder, "one"), mode="record")
    reach = "import socket; socket.gethostbyname('127.0.0.1')"
    with pytest.raises(SessionTripped, match="must not touch the network"):
        run(asking(folder, "one", then=reach), mode=None)
    run(asking(folder, "one", then=reach), mode="record")


def test_a_tamed_program_draws_the_same_each_time(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = "import uuid, own_helper; print(uuid.uuid4(), own_helper.draw())"
    write(folder / "own_helper.py", "import uuid\ndef draw():\n    return uuid.uuid4()\n")
    script = write(folder / "script.py", code)
    drawn: dict[tuple[str, ...], list[list[str]]] = {}
    for tame in ((), ("__main__",), ("own_helper",), ("__main__", "own_helper")):
        for _ in range(2):
            run(script, tame=tame)
            sys.modules.pop("own_helper", None)
            drawn.setdefault(tame, []).append(capsys.readouterr().out.split())
    equal = {
        tame: [one == other for one, other in zip(*twice, strict=True)]
        for tame, twice in drawn.items()
    }
    assert equal == {
        (): [False, False],
        ("__main__",): [True, False],
        ("own_helper",): [False, True],
        ("__main__", "own_helper"): [True, True],
    }
    assert isinstance(uuid.uuid4(), uuid.UUID)
    assert builtins.__import__ is __import__


def test_a_module_of_a_tamed_package_is_tamed_as_the_program(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(folder / "own_tame" / "__init__.py", "")
    write(folder / "own_tame" / "__main__.py", "import uuid; print(uuid.uuid4())")
    for _ in range(2):
        run_program(
            lambda: find_module("own_tame", []),
            use_cassette(folder / "c.jsonl", mode="live"),
            tame=("own_tame",),
            seed=7,
        )
        for name in ("own_tame", "own_tame.__main__"):
            sys.modules.pop(name, None)
    first, second = capsys.readouterr().out.split()
    assert first == second


def test_a_package_that_was_imported_before_cannot_be_tamed(folder: Path) -> None:
    script = write(folder / "script.py", "")
    with pytest.raises(UsageError, match="tests"):
        run(script, tame=("tests",))


# --- The block that a program runs in.


def test_a_block_cannot_end_before_it_begins_or_begin_twice(
    folder: Path,
) -> None:
    use = use_cassette(folder / "c.jsonl", mode="live")
    with pytest.raises(UsageError, match=r"this use of .*c\.jsonl has not begun"):
        use.end(judge=True)
    with use, pytest.raises(UsageError, match="has begun already: make another one"):
        use.begin()
    with use as session:
        assert ask(session, TinyModel()).status == 200
    with pytest.raises(UsageError, match="has not begun"):
        use.end(judge=False)


def test_an_owner_and_a_prefix_are_joined(folder: Path) -> None:
    for owner, prefix, expected in (
        ("", "", ""),
        ("test_x", "", "test_x"),
        ("", "worker", "worker"),
        ("test_x", "worker", "test_x/worker"),
    ):
        use = use_cassette(folder / "c.jsonl", mode="live", scope_prefix=prefix)
        assert use.begin(owner=owner).owner == expected
        use.end(judge=False)
