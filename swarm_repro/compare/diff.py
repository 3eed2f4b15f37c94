"""``swarm-repro diff``: two cassettes, compared and reported."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import orjson

from swarm_repro import __version__
from swarm_repro.cassette.index import CassetteIndex, OnStep, Usage, open_to_reread
from swarm_repro.cassette.records import CallRecord
from swarm_repro.compare.beside import beside_text, describe_beside
from swarm_repro.compare.causes import settings_causes, text_edits
from swarm_repro.compare.judge import Comparison, Origin, run_seeds
from swarm_repro.compare.judged import Class, Judged
from swarm_repro.compare.parting import Tokenize, part
from swarm_repro.compare.verdict import (
    count_classes,
    describe,
    environment_differences,
    evidence,
    root_environment,
)
from swarm_repro.completion import Completion
from swarm_repro.errors import NotComparableError
from swarm_repro.printable import printable
from swarm_repro.request import KEY_VERSION


def require_comparable(a: Path, b: Path) -> None:
    """Refuse two files that have no call in common by their very nature.

    Raises:
        NotComparableError: They have keys of different versions, or belong to two scenarios.
        CassetteAccessError: One is missing, a folder, or unreadable.
    """
    one, other = _header_of(a), _header_of(b)
    if one is None or other is None:
        return  # damaged: reading says where
    versions = (one.get("key"), other.get("key"))
    if versions[0] != versions[1]:
        old = a if versions[0] != KEY_VERSION else b
        raise NotComparableError(
            f"{a} has keys {versions[0]}, {b} has keys {versions[1]}: record {old} anew with this "
            "version of swarm-repro"
        )
    scenarios = (one.get("scenario"), other.get("scenario"))
    if scenarios[0] != scenarios[1]:
        raise NotComparableError(
            f"{a} belongs to scenario {scenarios[0]!r}, {b} to {scenarios[1]!r}: compare "
            "recordings of one scenario"
        )


def _header_of(path: Path) -> Mapping[str, object] | None:
    with open_to_reread(path) as file:
        first = file.readline(1 << 20)
    try:
        header = orjson.loads(first)
    except orjson.JSONDecodeError:
        return None
    return header if isinstance(header, dict) and header.get("record") == "cassette" else None


@contextmanager
def comparing(
    a: Path,
    b: Path,
    *,
    tokenize: Tokenize | None = None,
    phase: Callable[[str], OnStep | None] = lambda _name: None,
) -> Iterator[DiffReport]:
    """Compare two finished cassettes, which stay open while the block uses the report.

    Args:
        a: The first.
        b: The second.
        tokenize: Splits a text into tokens, where recordings hold none.
        phase: Called with the name of each phase; gives what is called with the
            work done so far and all there is.

    Raises:
        NotComparableError: They have keys of different versions, or belong to two scenarios.
        CassetteAccessError: One is missing, a folder, or unreadable.
        CassetteDamagedError: One is not what was written.
    """
    require_comparable(a, b)
    with (
        CassetteIndex(a, on_read=phase("reading A")) as one,
        CassetteIndex(b, on_read=phase("reading B")) as other,
    ):
        found = Comparison(one, other, on_judged=phase("comparing"))
        yield DiffReport(found, tokenize=tokenize)


class DiffReport:
    """What ``diff`` says of two cassettes; ``to_json`` is its form for programs.

    Attributes:
        comparison: The cassettes, compared.
    """

    def __init__(self, comparison: Comparison, *, tokenize: Tokenize | None = None) -> None:
        """Make a report of a comparison.

        Args:
            comparison: The cassettes, compared; they stay open as long as the report is used.
            tokenize: Splits a text into tokens, where recordings hold none.
        """
        self.comparison = comparison
        self._tokenize = tokenize

    @property
    def identical(self) -> bool:
        """Whether every call has the same request and the same completion."""
        return not self.comparison.origins

    def to_json(
        self, *, identical_too: bool = False, limit: int | None = None
    ) -> dict[str, object]:
        """The report as JSON. Source: docs/reference/schemas/diff.schema.json.

        Args:
            identical_too: List identical calls as well.
            limit: List at most this many calls, and as many origins; ``left_out`` and
                ``origins_left_out`` count the others. Calls of listed origins come first, then
                those that differ, then identical ones.

        Raises:
            CassetteDamagedError: A call's bytes are not the recorded ones.
        """
        comparison = self.comparison
        origins = comparison.origins[:limit]
        classes = list(comparison.judged.classes())
        listed = [
            number
            for number, cls in enumerate(classes)
            if identical_too or cls is not Class.IDENTICAL
        ]
        first = {origin.pair.number for origin in origins}
        listed.sort(key=lambda n: (n not in first, classes[n] is Class.IDENTICAL, n))
        shown = sorted(listed[:limit])
        return {
            "report": "diff",
            "version": 1,
            "recorder": __version__,
            "verdict": describe(comparison),
            "identical": self.identical,
            "a": _file(comparison.a),
            "b": _file(comparison.b),
            "counts": count_classes(comparison),
            "origins": [self._origin(origin) for origin in origins],
            "origins_left_out": len(comparison.origins) - len(origins),
            "environment": [changed.to_json() for changed in environment_differences(comparison)],
            "metrics": self.metrics(),
            "calls": [self._call(number, comparison.judged[number]) for number in shown],
            "left_out": len(listed) - len(shown),
        }

    def _origin(self, origin: Origin) -> dict[str, object]:
        shown: dict[str, object] = {
            "id": origin.id,
            "kind": "root" if origin.cause is None else "cause",
            "call": origin.pair.number,
        }
        if origin.cause is None:
            one, other = self._records(self.comparison.judged[origin.pair.number])
            if one is None or other is None:
                raise ValueError("a root has two calls")
            found = part(one.completion, other.completion, tokenize=self._tokenize)
            shown |= {
                "parting": None if found is None else found.to_json(),
                "environment": [
                    changed.to_json() for changed in root_environment(self.comparison, one, other)
                ],
                "evidence": [
                    *([_beside(one.completion, other.completion)] if found is None else []),
                    *evidence(self.comparison, one, other),
                ],
            }
        else:
            shown |= {
                "field": origin.cause.field,
                "a": origin.cause.a,
                "b": origin.cause.b,
                "character": origin.cause.character,
                "scopes": sorted(origin.scopes),
            }
        return {
            **shown,
            "fallout": {
                "proven": origin.proven,
                "assumed": origin.assumed,
                "shared": origin.shared,
            },
            "calls": origin.calls,
        }

    def _records(self, judged: Judged) -> tuple[CallRecord | None, CallRecord | None]:
        """Both records, their answers checked."""
        records: list[CallRecord | None] = []
        for index, entry in (
            (self.comparison.a, judged.pair.a),
            (self.comparison.b, judged.pair.b),
        ):
            call = None if entry is None else index.call(entry)
            if call is not None:
                index.completion_of(call)
            records.append(call)
        return records[0], records[1]

    def _call(self, number: int, judged: Judged) -> dict[str, object]:
        entry, pair = judged.pair.entry, judged.pair
        one, other = self._records(judged)
        return {
            "number": number,
            "scope": entry.scope,
            "i": entry.i,
            "n": entry.n,
            "at": None if entry.at is None else list(entry.at),
            "kind": entry.kind,
            "class": judged.cls.value,
            "origins": list(judged.origins),
            "proven": judged.proven,
            "a": None if pair.a is None else pair.a.number,
            "b": None if pair.b is None else pair.b.number,
            "tokens": {"a": _tokens(one), "b": _tokens(other)},
            "duration_s": {
                "a": None if one is None else one.duration_s,
                "b": None if other is None else other.duration_s,
            },
            "differences": self._differences(judged, one, other),
            "completion": {
                "a": None if one is None else one.completion.text,
                "b": None if other is None else other.completion.text,
            },
        }

    def _differences(
        self, judged: Judged, one: CallRecord | None, other: CallRecord | None
    ) -> list[dict[str, object]]:
        if one is None or other is None or judged.cls is Class.IDENTICAL:
            return []
        models = (
            self.comparison.a.cassette.models[one.model],
            self.comparison.b.cassette.models[other.model],
        )
        causes = settings_causes(one, other, models)
        causes += [edit.cause for edit in text_edits(one, other)]
        return [cause._asdict() for cause in causes]

    def metrics(self) -> list[dict[str, object]]:
        """Metrics that moved, between runs of the same seed and length."""
        found: list[dict[str, object]] = []
        others = {run.id: run for run in self.comparison.b.cassette.runs}
        for run in self.comparison.a.cassette.runs:
            other = others.get(run.id)
            if other is None:
                continue
            for epoch, (one, two) in enumerate(zip(run.metrics, other.metrics, strict=False)):
                found += [
                    {"seed": run.seed, "epoch": epoch, "metric": name, "a": a, "b": b}
                    for name in sorted({*one, *two})
                    for a, b in ((one.get(name), two.get(name)),)
                    if a != b
                ]
        return found


def _beside(one: Completion, other: Completion) -> str:
    return printable(describe_beside(beside_text(one, other), sides=("A", "B")))


def total(usage: Iterable[Usage]) -> Usage:
    """Sum of sums."""
    return Usage(*map(sum, zip(Usage(), *usage, strict=True)))


def _file(index: CassetteIndex) -> dict[str, object]:
    cassette = index.cassette
    used = total(index.usage.values())
    return {
        "file": index.path.name,
        "scenario": cassette.header.scenario,
        "calls": len(index.entries),
        "run_seeds": run_seeds(cassette),
        "strict": cassette.header.strict,
        "models": [
            {"name": model.name, "label": model.identity.label}
            for model in cassette.models.values()
        ],
        "environments": [dict(environment.content) for environment in cassette.envs.values()],
        "tokens": {"prompt": used.prompt, "completion": used.completion},
        "duration_s": round(used.duration_s, 3),
    }


def _tokens(call: CallRecord | None) -> dict[str, int | None] | None:
    if call is None:
        return None
    return {"prompt": call.tokens.get("prompt"), "completion": call.tokens.get("completion")}
