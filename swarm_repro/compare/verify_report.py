"""What came of asking a live backend a cassette's calls again: as values, JSON and text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from swarm_repro import __version__
from swarm_repro.cassette.records import At
from swarm_repro.compare.environments import Changed
from swarm_repro.compare.parting import Candidate, Parting
from swarm_repro.errors import ExitCode
from swarm_repro.printable import printable

Group = Literal["same", "prompt", "near_tie", "change", "failed"]
GROUPS: tuple[Group, ...] = ("same", "prompt", "near_tie", "change", "failed")

#: How groups are called in text: one of them, several of them.
_SHOWN: dict[Group, tuple[str, str]] = {
    "same": ("same", "same"),
    "prompt": ("other rendered prompt", "other rendered prompts"),
    "near_tie": ("near tie", "near ties"),
    "change": ("change", "changes"),
    "failed": ("failure", "failures"),
}


@dataclass(frozen=True)
class CallVerdict:
    """What a live backend answered to one recorded call.

    Attributes:
        number: Number of the call in the cassette, from 0, as ``show`` counts.
        scope: Who called.
        i: Ordinal of the call in its scope.
        n: Which repeat of the asked key in its scope.
        at: Epoch and step, or None outside a simulation.
        kind: What the call was for, if known.
        group: ``same``: all answers are the recorded one but for volatile fields. ``prompt``: the
            backend renders another prompt. ``near_tie``: they differ where noise of the arithmetic
            suffices for it. ``change``: they differ otherwise. ``failed``: an answer did not come.
        differing: How many answers are not the recorded one.
        of: How many answers came.
        distinct: How many different ones were among them.
        parting: Where the recorded and a differing answer part, or None.
        why: More about it in one line, or None.
        recorded_text: The recorded answer's text.
        live_text: The text of the first differing answer, or None.
    """

    number: int
    scope: str
    i: int
    n: int
    at: At | None
    kind: str | None
    group: Group
    differing: int
    of: int
    distinct: int
    parting: Parting | None
    why: str | None
    recorded_text: str
    live_text: str | None

    def to_json(self) -> dict[str, object]:
        """As it stands in the report."""
        return {
            "number": self.number,
            "scope": self.scope,
            "i": self.i,
            "n": self.n,
            "at": None if self.at is None else list(self.at),
            "kind": self.kind,
            "group": self.group,
            "differing": self.differing,
            "of": self.of,
            "distinct": self.distinct,
            "parting": None if self.parting is None else self.parting.to_json(),
            "why": self.why,
            "completion": {"a": self.recorded_text, "b": self.live_text},
        }


@dataclass(frozen=True)
class VerifyReport:
    """What came of verifying a cassette.

    Attributes:
        cassette: The file's base name.
        repeat: How often each call was asked.
        order: In which order.
        environment: What is otherwise than in the recording.
        calls: The verdicts, in the order of the file.
        other_model: Whether another model than the recorded was asked.
        witness: SHA-256 of the environment that was noted as a witness, or None.
        witness_note: What became of the wish for a witness, or None where there was none.
        witness_failed: Whether the witness could not be written.
    """

    cassette: str
    repeat: int
    order: Literal["recorded", "shuffled"]
    environment: tuple[Changed, ...]
    calls: tuple[CallVerdict, ...]
    other_model: bool = False
    witness: str | None = None
    witness_note: str | None = None
    witness_failed: bool = False

    @property
    def counts(self) -> dict[Group, int]:
        """Number of calls in each group."""
        return {group: sum(call.group == group for call in self.calls) for group in GROUPS}

    @property
    def exit_code(self) -> ExitCode:
        """Failures count more than differences, those more than a witness that was not written."""
        counts = self.counts
        if counts["failed"]:
            return ExitCode.BACKEND
        if counts["same"] < len(self.calls):
            return ExitCode.DIFFERENCE
        return ExitCode.USAGE if self.witness_failed else ExitCode.OK

    @property
    def verdict(self) -> str:
        """The outcome in one line."""
        counts, total = self.counts, len(self.calls)
        times = "" if self.repeat == 1 else f", {self.repeat} times each"
        asked = "; another model than the recorded one was asked" if self.other_model else ""
        if counts["same"] == total:
            return f"all {total} calls gave the recorded answer{times}{asked}"
        parts = [
            f"{counts[group]} {_SHOWN[group][counts[group] != 1]}"
            for group in GROUPS[1:]
            if counts[group]
        ]
        first = next(call for call in self.calls if call.group != "same")
        where = f"call {first.number} ({printable(first.scope)})"
        if first.parting is not None:
            where += f" at {first.parting.unit} {first.parting.index}"
        elif first.group == "failed" and first.why:
            where += f": {first.why}"
        return (
            f"{total - counts['same']} of {total} calls did not give the recorded answer: "
            f"{', '.join(parts)}; first {where}{asked}"
        )

    def to_json(self) -> dict[str, object]:
        """The report. Source: docs/reference/schemas/verify.schema.json."""
        return {
            "report": "verify",
            "version": 1,
            "recorder": __version__,
            "verdict": self.verdict,
            "cassette": self.cassette,
            "repeat": self.repeat,
            "order": self.order,
            "environment": [changed.to_json() for changed in self.environment],
            "counts": dict(self.counts),
            "calls": [call.to_json() for call in self.calls],
            "witness": self.witness,
        }


def text_lines(report: VerifyReport) -> Iterator[str]:
    """The report for a terminal: verdict, groups, what is otherwise, then each differing call."""
    yield report.verdict
    yield ", ".join(
        f"{_SHOWN[group][report.counts[group] != 1]} {report.counts[group]}" for group in GROUPS
    )
    if report.environment:
        yield "otherwise than in the recording:"
    for changed in report.environment:
        yield printable(f"  {changed.field}: recorded {changed.recorded}, now {changed.now}")
    for call in report.calls:
        if call.group != "same":
            yield from _call_lines(call)
    if report.witness_note is not None:
        yield printable(report.witness_note)


def _call_lines(call: CallVerdict) -> Iterator[str]:
    at = "" if call.at is None else f" at {call.at[0]}.{call.at[1]}"
    kind = "" if call.kind is None else f", {call.kind}"
    counted = f"{call.differing} of {call.of} answers differ"
    if call.of > 1:
        counted += f", {call.distinct} distinct"
    yield printable(
        f"call {call.number}: {_SHOWN[call.group][0]}, {counted} "
        f"(call {call.i} of {call.scope}{at}{kind})"
    )
    parting = call.parting
    if parting is not None:
        more = "…" if parting.character > len(parting.a_before) else ""
        yield f"  before    {more}{printable(parting.a_before)}"
        yield f"  recorded  {printable(parting.a)}"
        yield f"  now       {printable(parting.b)}"
        yield f"  {_place(parting)}"
    if call.why is not None:
        yield f"  {printable(call.why)}"


def _place(parting: Parting) -> str:
    """Unit and index, the tokens chosen there and the likeliest, margin and drift."""
    shown = f"{parting.unit} {parting.index}"
    likely = parting.b_candidates or parting.a_candidates
    for name, text, candidates in (
        ("recorded", parting.a, parting.a_candidates or likely),
        ("now", parting.b, likely),
    ):
        chosen = next((one for one in candidates if _begins(text, one.token)), None)
        if chosen is not None:
            shown += f"; {name} {_candidate(chosen)}"
    if likely:
        shown += f"; likeliest {_candidate(likely[0])}"
    if parting.margin is not None:
        shown += f"; margin {parting.margin:.4f} nats"
    if parting.drift is not None:
        shown += f"; logprobs before it differ by up to {parting.drift:.4f} nats"
    return shown


def _begins(text: str, token: str) -> bool:
    """Whether a text goes on with a token; a text that ends, with the token that says so."""
    return text.startswith(token) if token else not text


def _candidate(candidate: Candidate) -> str:
    token = f"'{printable(candidate.token)}'" if candidate.token else "the end"
    return token if candidate.logprob is None else f"{token} {candidate.logprob:.3f}"
