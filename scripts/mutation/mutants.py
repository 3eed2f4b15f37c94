"""All mutants of a module: a walk through its statements, with what each may have wrong."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .operators import Change, Operators
from .source import Source


@dataclass(frozen=True)
class Mutant:
    """One small fault in one file.

    Attributes:
        file: Path from the root of the repository.
        function: Qualified name of what encloses it; empty at the top of the module.
        operator: What kind of fault it is.
        line: First line of what is replaced.
        start, end: Bytes of the file that are replaced.
        replacement: What stands there instead.
        before, after: The lines concerned as they were and as they are, blanks collapsed.
        lines: First and last line of the statement's own part; whoever runs one, touches the fault.
    """

    file: str
    function: str
    operator: str
    line: int
    start: int
    end: int
    replacement: str
    before: str
    after: str
    lines: tuple[int, int]

    def apply(self, source: bytes) -> bytes:
        """The file with the fault in it."""
        return source[: self.start] + self.replacement.encode() + source[self.end :]


def mutants_of(source: bytes, file: str) -> list[Mutant]:
    """Every mutant of a file, in the order of the text and none twice.

    A few do not parse: asking here would compile the file once a mutant, so whoever takes one asks
    `parses`.

    Args:
        source: The file.
        file: Its path, which the mutants name.
    """
    found: dict[tuple[int, int, str], Mutant] = {}
    for mutant in _Walk(source, file).mutants():
        found.setdefault((mutant.start, mutant.end, mutant.replacement), mutant)
    return [found[key] for key in sorted(found)]


def parses(source: bytes) -> bool:
    """Whether a file with a fault in it is Python at all."""
    try:
        compile(source, "mutant", "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return False
    return True


class _Walk:
    """Walks one module: blocks of statements, then what each is made of."""

    def __init__(self, data: bytes, file: str) -> None:
        self._source = Source(data)
        self._operators = Operators(self._source)
        self._file = file

    def mutants(self) -> Iterator[Mutant]:
        yield from self._block(ast.parse(self._source.data).body, "")

    def _block(self, body: Sequence[ast.stmt], function: str) -> Iterator[Mutant]:
        for statement in body:
            if _is_left_out(statement):
                continue
            own = _own_lines(statement)
            inner = function
            changes = self._operators.statement(statement)
            if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                inner = f"{function}.{statement.name}" if function else statement.name
                changes = self._operators.definition(statement)
            for change in changes:
                yield self._mutant(change, inner, own)
            for block in _blocks(statement):
                yield from self._block(block, inner)

    def _mutant(self, change: Change, function: str, own: tuple[int, int]) -> Mutant:
        operator, start, end, replacement = change
        first, last = self._source.lines_around(start, end)
        before = self._source.slice(first, last)
        after = self._source.slice(first, start) + replacement + self._source.slice(end, last)
        line = self._source.line_of(start)
        if operator == "handler never matches" or line > own[1]:  # a later `except` or `case`
            own = (line, line)
        return Mutant(
            file=self._file,
            function=function,
            operator=operator,
            line=line,
            start=start,
            end=end,
            replacement=replacement,
            before=" ".join(before.split()),
            after=" ".join(after.split()),
            lines=own,
        )


def _own_lines(node: ast.stmt) -> tuple[int, int]:
    """Lines of a statement without the blocks in it; of a definition, those of its body.

    What stands in the head of a definition, whoever runs the body has to do with it.
    """
    last = node.end_lineno or node.lineno
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return node.body[0].lineno, last
    for block in _blocks(node):
        return node.lineno, max(node.lineno, block[0].lineno - 1)
    return node.lineno, last


def _blocks(node: ast.stmt) -> Iterator[list[ast.stmt]]:
    for name in ("body", "orelse", "finalbody"):
        block = getattr(node, name, None)
        if isinstance(block, list) and block:
            yield block
    for handler in getattr(node, "handlers", ()):
        yield handler.body
    for case in getattr(node, "cases", ()):
        yield case.body


def _is_left_out(node: ast.stmt) -> bool:
    """Imports, ``__all__`` and what only a type checker sees."""
    match node:
        case ast.Import() | ast.ImportFrom():
            return True
        case ast.If(test=ast.Name(id="TYPE_CHECKING")):
            return True
        case ast.Assign(targets=[ast.Name(id="__all__")]):
            return True
    return False
