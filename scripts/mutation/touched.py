"""Which test touches which line, and how long each takes: measured once, kept in a file."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import re
from collections import defaultdict
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TypedDict

import orjson
from coverage import CoverageData
from coverage.exceptions import DataError

from .copies import PACKAGE, Copy
from .forker import Job
from .mutants import Mutant

FOLDER = ".mutation"
_CONFIG = """[run]
core = ctrace
data_file = {folder}/data
parallel = true
source = {source}
context = ${{MUTATION_CONTEXT-}}
patch = fork, _exit
sigterm = true
disable_warnings = no-data-collected, module-not-measured, module-not-imported
"""
_TEST_LIMIT_S = 400.0


class TestEntry(TypedDict):
    """What is known of one test.

    Attributes:
        seconds: What it took.
        passed: Whether it passed; a test that fails by itself shows nothing.
        lines: Of each file, the lines that it runs: bit n of the hexadecimal number is line n.
    """

    seconds: float
    passed: bool
    lines: dict[str, str]


class FileEntry(TypedDict):
    """A module as it was when tests were measured: its digest, and the lines in its functions."""

    sha256: str
    functions: str


class Touched:
    """Tests by the lines that they run."""

    def __init__(self, repository: Path) -> None:
        """Read what was measured, if anything was.

        Args:
            repository: Root of the repository.
        """
        self._repository = repository
        self._path = repository / FOLDER / "touched.json"
        self.tests: dict[str, TestEntry] = {}
        self._files: dict[str, FileEntry] = {}
        if self._path.exists():
            read = orjson.loads(self._path.read_bytes())
            self.tests, self._files = read["tests"], read["files"]
        self._by_file: dict[str, dict[str, int]] = {}
        self._modules: dict[str, _Module] = {}

    def replace(self, test_file: str, entries: dict[str, TestEntry]) -> None:
        """Keep what the tests of a file touch, in place of what was known of that file."""
        for name in [name for name in self.tests if name.partition("::")[0] == test_file]:
            del self.tests[name]
        self.tests.update(entries)

    def save(self) -> None:
        """Write what is known, with what the modules were then."""
        for file in package_files(self._repository):
            module = self._module(file)
            self._files[file] = FileEntry(
                sha256=module.digest, functions=f"{module.in_functions:x}"
            )
        self._path.parent.mkdir(exist_ok=True)
        written = self._path.with_suffix(".new")
        written.write_bytes(orjson.dumps({"files": self._files, "tests": self.tests}))
        written.replace(self._path)

    def tests_of(self, mutant: Mutant) -> list[str]:
        """The tests that touch a fault, fastest first.

        What runs when a module is imported is touched by whoever uses the name that it defines.
        """
        module = self._module(mutant.file)
        wanted = _mask(range(mutant.lines[0], mutant.lines[1] + 1))
        found: set[str] = set()
        if self.is_stale(mutant.file):  # lines have moved since: take whoever touches the file
            known = self._files.get(mutant.file)
            found.update(self._touching(mutant.file, int(known["functions"], 16) if known else 0))
        elif wanted & module.in_functions:
            found.update(self._touching(mutant.file, wanted))
            whole = module.function_at(mutant.line)
            measured = any(self._touching(mutant.file, whole))
            if module.cached_in(wanted) or (whole and not found and not measured):
                # Run for the first of its users only; or not measured, but perhaps run all the
                # same, as the hook of an audit is.
                found.update(self._users(mutant.file, mutant.line))
        else:
            found.update(self._users(mutant.file, mutant.line))
        return sorted(found, key=lambda name: (self.tests[name]["seconds"], name))

    def pick(self, tests: Collection[str], budget_s: float) -> list[str]:
        """As many tests as may take so long in all, in the order given.

        Quick tests that run little else are taken first: what is about a line, is about few others.
        """
        left_s = budget_s
        taken = set()
        for name in sorted(tests, key=self._cost):
            seconds = self.tests[name]["seconds"]
            if seconds <= left_s:
                left_s -= seconds
                taken.add(name)
        return [name for name in tests if name in taken]

    def _cost(self, name: str) -> tuple[float, str]:
        entry = self.tests[name]
        lines = sum(int(mask, 16).bit_count() for mask in entry["lines"].values())
        return entry["seconds"] * lines, name

    def is_stale(self, file: str) -> bool:
        """Whether a file is not the one that the tests were measured with."""
        known = self._files.get(file)
        return known is None or known["sha256"] != self._module(file).digest

    def _touching(self, file: str, wanted: int) -> Iterator[str]:
        if file not in self._by_file:
            self._by_file[file] = {
                name: int(entry["lines"][file], 16)
                for name, entry in self.tests.items()
                if entry["passed"] and file in entry["lines"]
            }
        return (name for name, mask in self._by_file[file].items() if mask & wanted)

    def _users(self, file: str, line: int) -> Iterator[str]:
        """Tests of the functions that mention what a line outside of functions defines."""
        waiting, seen = [(file, self._module(file).name_at(line))], set()
        found = False
        while waiting:
            where, name = waiting.pop()
            if (where, name) in seen or not name:
                continue
            seen.add((where, name))
            for other in package_files(self._repository):
                if other != where and name.startswith("_"):
                    continue
                module = self._module(other)
                mask, names = module.mentions(name)
                found = found or bool(mask)
                touching = list(self._touching(other, mask))
                yield from touching
                # Perhaps run all the same, or once for many tests: whoever uses these functions.
                names += module.cached_in(mask) if touching else module.functions_in(mask)
                waiting += [(other, own) for own in names if len(seen) < 12]
        if not found:
            yield from self._touching(file, self._module(file).in_functions)

    def _module(self, file: str) -> _Module:
        if file not in self._modules:
            self._modules[file] = _Module((self._repository / file).read_bytes())
        return self._modules[file]


def measure(copy: Copy, test_file: str) -> dict[str, TestEntry]:
    """Run one file of tests, and see what each touches.

    Raises:
        RuntimeError: It cannot be run; the message ends with pytest's.
    """
    folder = copy.new_folder()
    config = copy.environment / "coveragerc"
    config.write_text(_CONFIG.format(folder=folder, source=copy.root / PACKAGE))
    (copy.environment / "context").write_text("")
    job = Job(
        files=[test_file],
        tests=[],
        limits_s={},
        limit_s=_TEST_LIMIT_S,
        stops=False,
        folder=str(folder),
        coverage=str(config),
    )
    result = copy.run(job)
    config.unlink()
    if "" in result["failed"] or not result["seconds"]:
        output = (folder / "output").read_text(errors="replace")
        raise RuntimeError(f"{test_file}: {result['status']} {result['test']}\n{output[-4000:]}")
    lines = _lines_by_context(folder, copy.root)
    entries = {}
    for name, seconds in result["seconds"].items():
        own = defaultdict(int, lines.get(name, {}))
        for fixture in result["fixtures"].get(name, []):
            for file, mask in lines.get(fixture, {}).items():
                own[file] |= mask
        entries[name] = TestEntry(
            seconds=round(seconds, 4),
            passed=name not in result["failed"],
            lines={file: f"{mask:x}" for file, mask in own.items()},
        )
    return entries


class _Module:
    """What is to be known of a module's text."""

    def __init__(self, source: bytes) -> None:
        self.digest = hashlib.sha256(source).hexdigest()
        self._lines = source.decode().splitlines()
        self._tree = ast.parse(source)
        self._functions = [
            (node.lineno, node.body[0].lineno, node.end_lineno or node.lineno)
            for node in ast.walk(self._tree)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        ]
        self.in_functions = 0
        for _, first, last in self._functions:
            self.in_functions |= _mask(range(first, last + 1))

    def name_at(self, line: int) -> str:
        """What the statement at the top of the module that has a line defines."""
        for node in self._tree.body:
            if node.lineno <= line <= (node.end_lineno or node.lineno):
                return _defined(node)
        return ""

    def function_at(self, line: int) -> int:
        """Lines of the function at the top of the module that has a line; none in a class."""
        for node in self._tree.body:
            end = node.end_lineno or node.lineno
            is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            if is_function and node.lineno <= line <= end:
                return _mask(range(node.lineno + 1, end + 1))
        return 0

    def functions_in(self, lines: int) -> list[str]:
        """Names of the functions at the top of the module that have some lines."""
        return [node.name for node in self._functions_with(lines)]

    def cached_in(self, lines: int) -> list[str]:
        """Names of those whose results are cached: they run once, whoever asks."""
        return [
            node.name
            for node in self._functions_with(lines)
            if any("cache" in ast.unparse(decorator) for decorator in node.decorator_list)
        ]

    def _functions_with(self, lines: int) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
        for node in self._tree.body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and lines & _mask(
                range(node.lineno, (node.end_lineno or node.lineno) + 1)
            ):
                yield node

    def mentions(self, name: str) -> tuple[int, list[str]]:
        """Lines of the functions that mention a name, and what else at the top mentions it."""
        word = re.compile(rf"\b{re.escape(name)}\b")
        lines = [number for number, text in enumerate(self._lines, 1) if word.search(text)]
        mask = 0
        for start, first, last in self._functions:
            if any(start <= line <= last for line in lines):
                mask |= _mask(range(first, last + 1))
        names = []
        for node in self._tree.body:
            end = node.end_lineno or node.lineno
            if any(node.lineno <= line <= end for line in lines):
                own = _defined(node)
                if isinstance(node, ast.ClassDef) and own == name:
                    for start, first, last in self._functions:
                        if node.lineno <= start <= end:
                            mask |= _mask(range(first, last + 1))
                elif own and own != name and not isinstance(node, ast.FunctionDef):
                    names.append(own)
        return mask, names


def package_files(repository: Path) -> list[str]:
    """Every module of the package, by its path from the root."""
    return sorted(
        path.relative_to(repository).as_posix() for path in (repository / PACKAGE).rglob("*.py")
    )


def _defined(node: ast.stmt) -> str:
    match node:
        case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
            return name
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return name
    return ""


def _mask(lines: range) -> int:
    return sum(1 << line for line in lines)


def _lines_by_context(folder: Path, root: Path) -> dict[str, dict[str, int]]:
    """Of each context, each file's lines."""
    found: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for path in folder.glob("data.*"):
        data = CoverageData(str(path))
        with contextlib.suppress(DataError):  # of a process that was ended while it wrote this
            data.read()
            for measured in data.measured_files():
                file = Path(measured).relative_to(root).as_posix()
                for line, contexts in data.contexts_by_lineno(measured).items():
                    for context in contexts:
                        found[context][file] |= 1 << line
        data.close()
    return found
