"""A file by the positions that ``ast`` counts: lines, and columns in bytes."""

from __future__ import annotations

import ast
from bisect import bisect_right


class Source:
    """The text of one module."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self._starts = [0]
        for line in data.split(b"\n"):
            self._starts.append(self._starts[-1] + len(line) + 1)

    def at(self, line: int, column: int) -> int:
        """Where a place is, in bytes."""
        return self._starts[line - 1] + column

    def line_of(self, position: int) -> int:
        """The line that a byte is on, from 1."""
        return bisect_right(self._starts, position)

    def span(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        """Where a node begins and ends, in bytes."""
        end_line, end_column = node.end_lineno, node.end_col_offset
        if end_line is None or end_column is None:
            raise ValueError("a node without a position")
        return self.at(node.lineno, node.col_offset), self.at(end_line, end_column)

    def slice(self, start: int, end: int) -> str:
        """The text between two places, in bytes."""
        return self.data[start:end].decode()

    def text(self, node: ast.expr) -> str:
        """The text of a node."""
        return self.slice(*self.span(node))

    def lines_around(self, start: int, end: int) -> tuple[int, int]:
        """Where the first line of a piece begins, and the last one ends, in bytes."""
        last = self.data.find(b"\n", end)
        return self.data.rfind(b"\n", 0, start) + 1, len(self.data) if last < 0 else last
