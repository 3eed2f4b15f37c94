"""The small faults that a tired programmer makes, found with ``ast`` and written into the text.

Only the changed piece of a file is replaced; all else stays byte for byte.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from itertools import pairwise

from .source import Source

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
    (
        *("debug", "info", "warning", "error", "exception", "critical", "log", "warn"),
        *("echo", "secho", "print", "option", "argument", "command", "group", "confirm", "prompt"),
    )
)
_MESSAGE_KEYWORDS = frozenset({"help", "message", "metavar", "epilog", "short_help", "description"})
_TYPING_CALLS = frozenset({"TypeVar", "ParamSpec", "NewType", "NamedTuple", "TypedDict"})
# The other way round they say the same, or nobody gets past the first try.
_SYMMETRIC_CALLS = frozenset({"min", "max", "isinstance", "issubclass", "cast"})
_COMMA = re.compile(rb"\s*,?[ \t]*")
_NEVER = "()"  # `except ():` is valid, and handles nothing


Change = tuple[str, int, int, str]  # operator, start, end, replacement


class Operators:
    """Finds the faults that one statement or one expression gives."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def definition(
        self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    ) -> Iterator[Change]:
        """Faults in decorators and defaults."""
        for decorator in node.decorator_list:
            if _called(decorator) != "dataclass":  # that it is frozen, a type checker sees
                yield from self._expression(decorator)
        if isinstance(node, ast.ClassDef):
            return
        for default in [*node.args.defaults, *filter(None, node.args.kw_defaults)]:
            if not _is_none(default):
                yield "default to None", *self._source.span(default), "None"
            yield from self._other_text(default)
            yield from self._expression(default)

    def statement(self, node: ast.stmt) -> Iterator[Change]:
        """Faults in a statement without the blocks in it."""
        yield from self._statement(node)
        for expression in _expressions(node):
            yield from self._expression(expression)

    def _statement(self, node: ast.stmt) -> Iterator[Change]:
        start, end = self._source.span(node)
        match node:
            case ast.If(test=test) | ast.While(test=test) | ast.Assert(test=test):
                yield from self._negated(test)
            case ast.Break():
                yield "break to continue", start, end, "continue"
            case ast.Continue():
                yield "continue to break", start, end, "break"
            case ast.Return(value=ast.expr() as value) if not _is_falsy(value):
                yield "return None", start, end, "return None"
            case ast.AugAssign(op=op) if type(op) in _ARITHMETIC:
                word, other = _ARITHMETIC[type(op)]
                yield from self._between(
                    "swap arithmetic", node.target, node.value, f"{word}=", f"{other}="
                )
            case ast.Try(handlers=handlers):
                for handler in handlers:
                    if handler.type is not None:
                        at, to = self._source.span(handler.type)
                        yield "handler never matches", at, to, _NEVER
            case ast.Match(cases=cases):
                for case in cases:
                    if case.guard is not None:
                        yield from self._negated(case.guard)
                    for part in ast.walk(case.pattern):
                        if isinstance(part, ast.MatchValue):
                            yield from self._other_text(part.value)
        if _is_deletable(node):
            yield "delete statement", start, end, "pass"

    def _expression(self, root: ast.expr, *, is_message: bool = False) -> Iterator[Change]:
        if _is_type(root):
            return
        start, end = self._source.span(root)
        match root:
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
                for before, after in pairwise(values):
                    yield from self._between("swap and/or", before, after, word, other)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                yield "drop not", start, end, f"({self._source.text(operand)})"
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                yield "drop sign", start, end, f"({self._source.text(operand)})"
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
                if not (_is_text(left) or _is_text(right)):
                    word, other = _ARITHMETIC[type(op)]
                    yield from self._between("swap arithmetic", left, right, word, other)
            case ast.IfExp(test=test):
                yield from self._negated(test)
            case ast.Await(value=value):
                yield "drop await", start, end, f"({self._source.text(value)})"
            case ast.List(elts=elements, ctx=ast.Load()) if elements:
                yield "empty list", start, end, "[]"
            case ast.Dict(keys=keys) if keys:
                yield "empty dict", start, end, "{}"
            case ast.Set():
                yield "empty set", start, end, "set()"
            case ast.Subscript(slice=ast.Slice(lower=lower, upper=upper)):
                for bound in (lower, upper):
                    if bound is not None and not isinstance(bound, ast.Constant):
                        at, to = self._source.span(bound)
                        yield "slice bound + 1", at, to, f"({self._source.text(bound)}) + 1"
                        yield "slice bound - 1", at, to, f"({self._source.text(bound)}) - 1"
            case ast.Call(args=arguments):
                yield from self._call(root, arguments)
        if not is_message:
            yield from self._text_constants(root)
        yield from self._children(root, is_message=is_message or _is_message(root))

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
        if not starred and _called(node) not in _SYMMETRIC_CALLS:
            for first, second in pairwise(arguments):
                if ast.dump(first) != ast.dump(second):
                    start, end = self._source.span(first)[0], self._source.span(second)[1]
                    between = self._source.slice(
                        self._source.span(first)[1], self._source.span(second)[0]
                    )
                    swapped = f"{self._source.text(second)}{between}{self._source.text(first)}"
                    yield "swap arguments", start, end, swapped
        for keyword in node.keywords:
            if keyword.arg is None or keyword.arg in _MESSAGE_KEYWORDS:
                continue
            start = self._source.at(keyword.lineno, keyword.col_offset)
            end = self._source.span(keyword.value)[1]
            comma = _COMMA.match(self._source.data, end)
            end = comma.end() if comma else end
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
            yield from self._other_text(candidate)

    def _other_text(self, node: ast.expr | None) -> Iterator[Change]:
        match node:
            case ast.Constant(value=str() as text):
                yield "other text", *self._source.span(node), repr(f"{text}X")
            case ast.Constant(value=bytes() as data):
                yield "other text", *self._source.span(node), repr(data + b"X")

    def _negated(self, test: ast.expr) -> Iterator[Change]:
        """Not for what ``swap comparison`` or ``drop not`` negates already."""
        match test:
            case ast.Compare(ops=[_]) | ast.UnaryOp(op=ast.Not()):
                return
        start, end = self._source.span(test)
        yield "negate condition", start, end, f"(not ({self._source.text(test)}))"

    def _between(
        self, operator: str, before: ast.expr, after: ast.expr, word: str, other: str
    ) -> Iterator[Change]:
        """The operator that stands between two expressions, replaced."""
        low, high = self._source.span(before)[1], self._source.span(after)[0]
        gap = self._source.slice(low, high)
        words = word.split()
        at = gap.find(words[0])
        if "#" in gap or at < 0:
            return  # a comment may hold the same word
        end = gap.index(words[-1], at) + len(words[-1])
        start_byte = low + len(gap[:at].encode())
        yield operator, start_byte, low + len(gap[:end].encode()), other


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


def _called(node: ast.expr) -> str:
    """Last part of the name of what is called; empty for what is no call."""
    match node:
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)):
            return name
    return ""


def _is_message(node: ast.expr) -> bool:
    name = _called(node)
    return name in _MESSAGE_CALLS or name.endswith("Error")


def _is_type(node: ast.expr) -> bool:
    """Whether only a type checker reads what is in it."""
    match node:
        case ast.Subscript(value=ast.Name(id="Literal" | "Annotated")):
            return True
    return _called(node) in _TYPING_CALLS


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _is_falsy(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and (node.value is None or node.value is False)


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (
        isinstance(node, ast.Constant) and isinstance(node.value, str | bytes)
    )
