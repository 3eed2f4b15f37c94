"""Copies of the tree, each with an environment of its own in which the copy is what is installed.

An environment, rather than PYTHONPATH, since some tests start processes with a clean environment,
and what is installed would then be found before the copy.
"""

from __future__ import annotations

import compileall
import os
import py_compile
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from types import TracebackType
from typing import IO, cast

import orjson

from .forker import Job, Result

PACKAGE = "swarm_repro"
# Would change what the tests find, or leave them without the files that make the next run fast.
_UNSET = ("PYTHONPATH", "PYTEST_ADDOPTS", "PYTHONDONTWRITEBYTECODE", "PYTHONHASHSEED")
# Measures a process that a test starts, in the name of that test: a line that `site` runs at start.
_MEASURE = """
config = {folder!r} + "/coveragerc"
if os.path.exists(config):
    with open({folder!r} + "/context") as file:
        added = {{"COVERAGE_PROCESS_START": config, "MUTATION_CONTEXT": file.read()}}
    os.environ.update(added)
    import coverage
    coverage.process_startup()
    for name in added:
        del os.environ[name]
"""


class Copy:
    """A copy of the repository, and a process in it that runs tests."""

    def __init__(self, repository: Path, folder: Path) -> None:
        """Make the copy, and start the process.

        Args:
            repository: What is copied: what git tracks or would track.
            folder: Where to; is created.

        Raises:
            RuntimeError: What tests would import is not the copy.
        """
        self.folder = folder
        self.root = folder / "tree"
        self.environment = folder / "venv"
        self._jobs = 0
        _copy_tree(repository, self.root)
        self._make_environment(repository)
        # A .pyc that names its source by content is never stale, however fast the source changes.
        compileall.compile_dir(
            self.root / PACKAGE,
            quiet=1,
            invalidation_mode=py_compile.PycInvalidationMode.CHECKED_HASH,
        )
        self._process = self._start()

    def __enter__(self) -> Copy:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()
        shutil.rmtree(self.folder, ignore_errors=True)

    def end(self) -> None:
        """End the process, and the tests that it runs."""
        self._process.terminate()
        self._process.wait()

    def run(self, job: Job) -> Result:
        """Run tests, and wait for their end.

        Args:
            job: What to run; its folder is one of `new_folder`.

        Raises:
            RuntimeError: The process that runs the tests has ended.
        """
        stdin, stdout = self._pipes()
        stdin.write(orjson.dumps(job) + b"\n")
        stdin.flush()
        line = stdout.readline()
        if not line:
            raise RuntimeError("the process that runs the tests has ended")
        return cast("Result", orjson.loads(line))

    def new_folder(self) -> Path:
        """A folder for one job; the folder of the one before is removed."""
        shutil.rmtree(self.folder / f"job{self._jobs}", ignore_errors=True)
        self._jobs += 1
        folder = self.folder / f"job{self._jobs}"
        folder.mkdir()
        return folder

    def _pipes(self) -> tuple[IO[bytes], IO[bytes]]:
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise RuntimeError("the process has no pipes")
        return stdin, stdout

    def _make_environment(self, repository: Path) -> None:
        environment = self.environment
        venv.EnvBuilder(symlinks=True).create(environment)
        site = next((environment / "lib").glob("python*/site-packages"))
        others = [entry for entry in sys.path if Path(entry).name == "site-packages"]
        (site / "copy.pth").write_text("\n".join([str(self.root), *others]) + "\n")
        code = _MEASURE.format(folder=str(environment))
        (site / "zz_measure.pth").write_text(f"import os; exec({code!r})\n")
        shutil.copy(Path(__file__).with_name("forker.py"), site / "mutation_forker.py")
        for program in Path(sys.executable).parent.iterdir():
            target = environment / "bin" / program.name
            if not target.exists() and program.is_file():
                _copy_program(program, target)
        found = subprocess.run(
            [environment / "bin" / "python", "-c", f"import {PACKAGE}; print({PACKAGE}.__file__)"],
            cwd=self.folder,
            env=_environment(),
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        if not Path(found.strip()).is_relative_to(self.root):
            raise RuntimeError(
                f"the tests would import {found.strip()}, not the copy of {repository}"
            )

    def _start(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [self.environment / "bin" / "python", "-m", "mutation_forker"],
            cwd=self.root,
            env=_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        self._process = process
        if self._pipes()[1].readline() != b"ready\n":
            raise RuntimeError("the process that runs the tests did not start")
        return process


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in _UNSET}


def _copy_tree(repository: Path, target: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],  # noqa: S607
        cwd=repository,
        capture_output=True,
        check=True,
    ).stdout
    for name in filter(None, os.fsdecode(listed).split("\0")):
        source = repository / name
        if source.is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target / name, follow_symlinks=False)


def _copy_program(program: Path, target: Path) -> None:
    """A program that names its interpreter names the copy's."""
    head = program.read_bytes()[:2]
    if head == b"#!" and os.access(program, os.X_OK):
        own = str(target.parent / "python").encode()
        target.write_bytes(program.read_bytes().replace(os.fsencode(sys.executable), own))
        target.chmod(0o755)
    else:
        target.symlink_to(program.resolve())
