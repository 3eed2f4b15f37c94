"""The small faults that a tired programmer makes, found with ``ast`` and written into the text.

Only the changed piece of a file is replaced; all else stays byte for byte.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_COMPARISONS: dict[type[ast.cmpop], tuple[str, tuple[str, ...]]] = {
    ast.Eq: ("==", ("!=",)),
    ast.NotEq: ("!=", ("==",)),
    ast.Lt: ("<", ("<=", ">=")),
    ast.LtE: ("<=", ("<", ">")),
    ast.Gt: (">", (">=", "<=")),
    ast.GtE: (">=", (">", "<")),
    ast.In: ("in", ("not in",)),
    ast.NotIn: ("not in", ("in",)),
    ast.Is: ("is", ("is not",)),
    ast.IsNot: ("is not", ("is",)),
}
_ARITHMETIC: dict[type[ast.operator], tuple[str, str]] = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "/"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "*"),
    ast.Mod: ("%", "*"),
    ast.Pow: ("**", "*"),
    ast.BitOr: ("|", "&"),
    ast.BitAnd: ("&", "|"),
    ast.BitXor: ("^", "&"),
    ast.LShift: ("<<", ">>"),
    ast.RShift: (">>", "<<"),
}
# What these are given is read by people: another word there is no fault that a test should notice.
_MESSAGE_CALLS = frozenset(
    "debug info warning error exception critical log warn echo secho print option argument command "
    "group fail version_option confirm prompt skip xfail".split()
)
_MESSAGE_KEYWORDS = frozenset({"help", "message", "metavar", "epilog", "short_help", "description"})
_NEVER = "()"  # `except ():` is valid, and handles nothing


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
    for mutant in _Finder(source, file).find():
        found.setdefault((mutant.start, mutant.end, mutant.replacement), mutant)
    return [found[key] for key in sorted(found)]


def parses(source: bytes) -> bool:
    """Whether a file with a fault in it is Python at all."""
    try:
        compile(source, "mutant", "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return False
    return True


Change = tuple[str, int, int, str]  # operator, start, end, replacement


class _Finder:
    """Walks one file. Positions are bytes, as ``ast`` counts columns in bytes."""

    def __init__(self, source: bytes, file: str) -> None:
        self._source = source
        self._file = file
        self._starts = [0]
        for line in source.splitlines(keepends=True):
            self._starts.append(self._starts[-1] + len(line))

    def find(self) -> Iterator[Mutant]:
        yield from self._block(ast.parse(self._source).body, "")

    # What is walked: blocks of statements, then the expressions of each

    def _block(self, body: Sequence[ast.stmt], function: str) -> Iterator[Mutant]:
        for statement in body:
            if _is_left_out(statement):
                continue
            own = (statement.lineno, self._end_of_own_lines(statement))
            for change in self._statement(statement):
                yield self._mutant(change, function, own)
            inner = function
            if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                inner = f"{function}.{statement.name}" if function else statement.name
                yield from self._definition(statement, inner)
            else:
                for child in _expressions(statement):
                    for change in self._expression(child):
                        yield self._mutant(change, function, own)
            for block in _blocks(statement):
                yield from self._block(block, inner)

    def _definition(
        self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef, name: str
    ) -> Iterator[Mutant]:
        """Faults in decorators and defaults: whoever runs the body, touches them."""
        own = (node.body[0].lineno, node.end_lineno or node.lineno)
        expressions = list(node.decorator_list)
        if not isinstance(node, ast.ClassDef):
            defaults = [*node.args.defaults, *filter(None, node.args.kw_defaults)]
            for default in defaults:
                if not _is_none(default):
                    start, end = self._span(default)
                    yield self._mutant(("default to None", start, end, "None"), name, own)
            expressions += defaults
        for expression in expressions:
            for change in self._expression(expression):
                yield self._mutant(change, name, own)

    def _statement(self, node: ast.stmt) -> Iterator[Change]:
        start, end = self._span(node)
        match node:
            case ast.If(test=test) | ast.While(test=test) | ast.Assert(test=test):
                yield from self._negated(test)
            case ast.Break():
                yield "break to continue", start, end, "continue"
            case ast.Continue():
                yield "continue to break", start, end, "break"
            case ast.Return(value=ast.expr() as value) if not _is_none(value):
                yield "return None", start, end, "return None"
            case ast.AugAssign(op=op) if type(op) in _ARITHMETIC:
                word, other = _ARITHMETIC[type(op)]
                yield from self._between(
                    "swap arithmetic", node.target, node.value, f"{word}=", f"{other}="
                )
            case ast.Try(handlers=handlers):
                for handler in handlers:
                    if handler.type is not None:
                        at, to = self._span(handler.type)
                        yield "handler never matches", at, to, _NEVER
        if _is_deletable(node):
            yield "delete statement", start, end, "pass"

    def _expression(self, root: ast.expr, *, is_message: bool = False) -> Iterator[Change]:
        node: ast.AST = root
        start, end = self._span(root)
        match node:
            case ast.Constant(value=bool() as value):
                yield "flip boolean", start, end, str(not value)
            case ast.Constant(value=int() as value):
                yield "integer + 1", start, end, str(value + 1)
                yield "integer - 1", start, end, str(value - 1)
            case ast.Compare(left=left, ops=ops, comparators=comparators):
                for before, op, after in zip([left, *comparators], ops, comparators, strict=False):
                    word, others = _COMPARISONS[type(op)]
                    for other in others:
                        yield from self._between("swap comparison", before, after, word, other)
            case ast.BoolOp(op=op, values=values):
                word, other = ("and", "or") if isinstance(op, ast.And) else ("or", "and")
                for before, after in zip(values, values[1:], strict=False):
                    yield from self._between("swap and/or", before, after, word, other)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                yield "drop not", start, end, f"({self._text(operand)})"
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                yield "drop sign", start, end, f"({self._text(operand)})"
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
                if not (_is_text(left) or _is_text(right)):
                    word, other = _ARITHMETIC[type(op)]
                    yield from self._between("swap arithmetic", left, right, word, other)
            case ast.IfExp(test=test):
                yield from self._negated(test)
            case ast.Await(value=value):
                yield "drop await", start, end, f"({self._text(value)})"
            case ast.List(elts=elements, ctx=ast.Load()) if elements:
                yield "empty list", start, end, "[]"
            case ast.Dict(keys=keys) if keys:
                yield "empty dict", start, end, "{}"
            case ast.Set():
                yield "empty set", start, end, "set()"
            case ast.Subscript(slice=ast.Slice(lower=lower, upper=upper)):
                for bound in (lower, upper):
                    if bound is not None and not isinstance(bound, ast.Constant):
                        at, to = self._span(bound)
                        yield "slice bound + 1", at, to, f"({self._text(bound)}) + 1"
                        yield "slice bound - 1", at, to, f"({self._text(bound)}) - 1"
            case ast.Call(args=arguments):
                yield from self._call(node, arguments)
        if not is_message:
            yield from self._text_constants(root)
        if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Call) and _is_message(node)):
            is_message = True
        yield from self._children(root, is_message=is_message)

    def _children(self, root: ast.expr, *, is_message: bool) -> Iterator[Change]:
        """Faults in what an expression is made of."""
        if isinstance(root, ast.JoinedStr):
            return  # what is inside has no position of its own before Python 3.12
        for child in ast.iter_child_nodes(root):
            match child:
                case ast.keyword(arg=name, value=value):
                    quiet = is_message or name in _MESSAGE_KEYWORDS
                    yield from self._expression(value, is_message=quiet)
                case ast.comprehension(iter=iterated, ifs=conditions):
                    yield from self._expression(iterated, is_message=is_message)
                    for condition in conditions:
                        yield from self._negated(condition)
                        yield from self._expression(condition, is_message=is_message)
                case ast.expr():
                    yield from self._expression(child, is_message=is_message)

    def _call(self, node: ast.Call, arguments: list[ast.expr]) -> Iterator[Change]:
        starred = any(isinstance(argument, ast.Starred) for argument in arguments)
        if len(arguments) >= 2 and not starred:
            for first, second in zip(arguments, arguments[1:], strict=False):
                if ast.dump(first) != ast.dump(second):
                    start, end = self._span(first)[0], self._span(second)[1]
                    between = self._slice(self._span(first)[1], self._span(second)[0])
                    swapped = f"{self._text(second)}{between}{self._text(first)}"
                    yield "swap arguments", start, end, swapped
        for keyword in node.keywords:
            if keyword.arg is None or keyword.arg in _MESSAGE_KEYWORDS:
                continue
            start = self._at(keyword.lineno, keyword.col_offset)
            end = self._span(keyword.value)[1]
            while self._source[end : end + 1] in b" \n\t" and end < len(self._source):
                end += 1
            if self._source[end : end + 1] == b",":
                end += 1
            yield "drop keyword", start, end, ""

    def _text_constants(self, node: ast.expr) -> Iterator[Change]:
        """Texts that the program works with: compared, used as a key or as a member."""
        candidates: list[ast.expr | None] = []
        match node:
            case ast.Compare(left=left, comparators=comparators):
                candidates = [left, *comparators]
            case ast.Subscript(slice=key):
                candidates = [key]
            case ast.Dict(keys=keys, values=values):
                candidates = [*keys, *values]
            case ast.Set(elts=elements) | ast.Tuple(elts=elements) | ast.List(elts=elements):
                candidates = list(elements)
            case ast.Call(func=ast.Attribute(attr="get" | "pop" | "setdefault"), args=arguments):
                candidates = list(arguments)
            case ast.Constant():
                return
        for candidate in candidates:
            match candidate:
                case ast.Constant(value=str() as text):
                    yield "other text", *self._span(candidate), repr(f"{text}X")
                case ast.Constant(value=bytes() as data):
                    yield "other text", *self._span(candidate), repr(data + b"X")

    def _negated(self, test: ast.expr) -> Iterator[Change]:
        """Not for what ``swap comparison`` or ``drop not`` negates already."""
        match test:
            case ast.Compare(ops=[_]) | ast.UnaryOp(op=ast.Not()):
                return
        start, end = self._span(test)
        yield "negate condition", start, end, f"(not ({self._text(test)}))"

    # Positions and texts

    def _between(
        self, operator: str, before: ast.expr, after: ast.expr, word: str, other: str
    ) -> Iterator[Change]:
        """The operator that stands between two expressions, replaced."""
        low, high = self._span(before)[1], self._span(after)[0]
        gap = self._slice(low, high)
        words = word.split()
        at = gap.find(words[0])
        if "#" in gap or at < 0:
            return  # a comment may hold the same word
        end = gap.index(words[-1], at) + len(words[-1])
        start_byte = low + len(gap[:at].encode())
        yield operator, start_byte, low + len(gap[:end].encode()), other

    def _at(self, line: int, column: int) -> int:
        return self._starts[line - 1] + column

    def _span(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        end_line, end_column = node.end_lineno, node.end_col_offset
        if end_line is None or end_column is None:
            raise ValueError("a node without a position")
        return self._at(node.lineno, node.col_offset), self._at(end_line, end_column)

    def _slice(self, start: int, end: int) -> str:
        return self._source[start:end].decode()

    def _text(self, node: ast.expr) -> str:
        return self._slice(*self._span(node))

    def _end_of_own_lines(self, node: ast.stmt) -> int:
        """Last line of a statement, for a compound one of its head."""
        blocks = list(_blocks(node))
        if blocks and blocks[0]:
            return max(node.lineno, blocks[0][0].lineno - 1)
        return node.end_lineno or node.lineno

    def _mutant(self, change: Change, function: str, own: tuple[int, int]) -> Mutant:
        operator, start, end, replacement = change
        first = self._source.rfind(b"\n", 0, start) + 1
        last = self._source.find(b"\n", end)
        last = len(self._source) if last < 0 else last
        before = self._slice(first, last)
        after = self._slice(first, start) + replacement + self._slice(end, last)
        line = self._source.count(b"\n", 0, start) + 1
        if operator == "handler never matches":
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


def _blocks(node: ast.stmt) -> Iterator[list[ast.stmt]]:
    for name in ("body", "orelse", "finalbody"):
        block = getattr(node, name, None)
        if isinstance(block, list) and block:
            yield block
    for handler in getattr(node, "handlers", ()):
        yield handler.body
    for case in getattr(node, "cases", ()):
        yield case.body


def _expressions(node: ast.stmt) -> Iterator[ast.expr]:
    """Expressions of a statement's own part, annotations and messages aside."""
    match node:
        case ast.AnnAssign(target=target, value=value):
            yield target
            if value is not None:
                yield value
        case ast.Raise(exc=ast.Call(args=arguments, keywords=keywords)):
            for argument in [*arguments, *(keyword.value for keyword in keywords)]:
                if not _is_text(argument):
                    yield argument
        case ast.Match(subject=subject, cases=cases):
            yield subject
            for case in cases:
                if case.guard is not None:
                    yield case.guard
        case ast.With(items=items) | ast.AsyncWith(items=items):
            for item in items:
                yield item.context_expr
        case ast.Expr(value=ast.Constant()):
            return
        case _:
            for child in ast.iter_child_nodes(node):
                if isinstance(child, ast.expr):
                    yield child


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


def _is_deletable(node: ast.stmt) -> bool:
    match node:
        case ast.Expr(value=ast.Call() | ast.Await()):
            return True
        case ast.Raise() | ast.AugAssign() | ast.Delete():
            return True
        case ast.Assign(targets=targets):
            return all(isinstance(target, ast.Attribute | ast.Subscript) for target in targets)
        case ast.AnnAssign(target=ast.Attribute() | ast.Subscript(), value=ast.expr()):
            return True
    return False


def _is_message(node: ast.Call) -> bool:
    match node.func:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name in _MESSAGE_CALLS or name.endswith("Error")
    return False


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (
        isinstance(node, ast.Constant) and isinstance(node.value, str | bytes)
    )
