"""A cassette as an Inspect ``.eval`` log, for ``inspect view`` and Inspect's analysis tools.

| Inspect | cassette |
|---|---|
| task | scenario |
| epoch of a sample | run: one seed of the scenario |
| sample | one agent (scope) in one run |
| span | position of the simulation: epoch and step |
| model event | call, its role the kind of the call |
| scores | SWARM's metrics, one scorer for each epoch of a run |

A cassette has no clock times, only durations, since calls under ``run`` go one at a time. The log's
clock starts at midnight, 1 January 2000 UTC, and the calls of a run follow one another in the
order of the file. All ids derive from content: the same cassette gives the same log.

Source: inspect_ai.log (EvalLog), inspect-ai 0.3.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

from inspect_ai.event import Event, ModelEvent, SpanBeginEvent, SpanEndEvent
from inspect_ai.log import (
    EvalLog,
    EvalSample,
    EvalStats,
    write_eval_log,
)
from inspect_ai.model import ChatMessage, ModelCall, ModelOutput, ModelUsage

from swarm_repro.canonical import sha256_hex
from swarm_repro.cassette.lines import LineError
from swarm_repro.cassette.reader import Cassette, read_cassette
from swarm_repro.cassette.records import CallRecord
from swarm_repro.errors import CassetteDamagedError, UsageError
from swarm_repro.export.inspect_messages import (
    config_of,
    messages_of,
    output_of,
    stable_id,
    tool_choice_of,
    tools_of,
    usage_of,
)
from swarm_repro.export.inspect_spec import plan_of, results_of, spec_of
from swarm_repro.printable import printable

_CLOCK_START = datetime(2000, 1, 1, tzinfo=timezone.utc)


@dataclass(frozen=True)
class _Timed:
    """A call and its place on the log's clock.

    Attributes:
        number: Number of the call in the file, from 0, as ``show`` counts.
        call: The call.
        start_s: Seconds since the clock's start.
    """

    number: int
    call: CallRecord
    start_s: float

    @property
    def end_s(self) -> float:
        return self.start_s + self.call.duration_s


def write_inspect_log(path: Path, out: Path) -> EvalLog:
    """Write a cassette's log.

    Args:
        path: The cassette.
        out: The log file to write, which ends in ``.eval``; replaced in one step.

    Returns:
        The log that was written.

    Raises:
        CassetteAccessError: The cassette is missing or unreadable.
        CassetteDamagedError: It is not what was written.
        UsageError: The log cannot be written, or Inspect's types cannot hold a call.
    """
    log = inspect_log(path)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = out.with_name(f".{out.stem}.{os.getpid()}.eval")
        try:
            write_eval_log(log, str(temporary.absolute()), format="eval")
            temporary.replace(out)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(f"{out} cannot be written: {error.strerror or error}") from error
    return log


def inspect_log(path: Path) -> EvalLog:
    """A cassette as a log, not yet written.

    Args:
        path: The cassette.

    Raises:
        CassetteAccessError: The cassette is missing or unreadable.
        CassetteDamagedError: It is not what was written.
        UsageError: A call that Inspect's types cannot hold.
    """
    cassette = read_cassette(path)
    digest = sha256_hex(path.read_bytes())
    models = {name: f"{model.backend}/{name}" for name, model in cassette.models.items()}
    timed = list(_on_a_clock(cassette))
    try:
        samples = [
            _sample(scope, epoch, calls, models=models, digest=digest)
            for epoch, group in enumerate(timed, start=1)
            for scope, calls in _by_scope(group).items()
        ]
    except LineError as error:
        raise CassetteDamagedError(path, str(error)) from error
    except ValueError as error:
        raise UsageError(f"{path} holds a call that Inspect's types cannot: {error}") from error
    ends = [call.end_s for group in timed for call in group]
    return EvalLog(
        status="success",
        eval=spec_of(
            cassette,
            created=_date(0.0),
            models=models,
            digest=digest,
            samples=samples,
            runs=len(timed),
        ),
        plan=plan_of(cassette),
        results=results_of(cassette, len(samples)),
        stats=EvalStats(
            started_at=_date(0.0),
            completed_at=_date(max(ends, default=0.0)),
            model_usage=_usage([c.call for group in timed for c in group], models),
        ),
        samples=samples,
    )


def _on_a_clock(cassette: Cassette) -> Iterator[list[_Timed]]:
    """The calls of each run, one after the other; then those that no run used, if any."""
    numbers = {call_id: number for number, call_id in enumerate(cassette.calls)}
    groups = [run.calls for run in cassette.runs]
    rest = frozenset(cassette.calls).difference(*groups)
    if rest:
        groups.append(rest)
    for group in groups:
        clock_s, timed = 0.0, []
        for call_id in sorted(group, key=numbers.__getitem__):
            call = cassette.calls[call_id]
            timed.append(_Timed(numbers[call_id], call, clock_s))
            clock_s += call.duration_s
        yield timed


def _by_scope(calls: Sequence[_Timed]) -> dict[str, list[_Timed]]:
    scopes: defaultdict[str, list[_Timed]] = defaultdict(list)
    for timed in calls:
        scopes[timed.call.scope].append(timed)
    return dict(sorted(scopes.items()))


def _sample(
    scope: str, epoch: int, calls: Sequence[_Timed], *, models: Mapping[str, str], digest: str
) -> EvalSample:
    events: list[Event] = []
    history: list[ChatMessage] = []
    seen: dict[str, int] = {}
    output = ModelOutput()
    working_s = 0.0
    span: tuple[tuple[int, int], str] | None = None
    previous = calls[0]
    for timed in calls:
        call = timed.call
        if span is not None and span[0] != call.at:
            events.append(_span_end(span[1], previous.end_s, working_s))
            span = None
        if span is None and call.at is not None:
            span = (call.at, stable_id("span", digest, epoch, scope, timed.number))
            events.append(_span_begin(call.at, span[1], timed.start_s, working_s))
        given = messages_of(call.body)
        output = output_of(call, model=models[call.model])
        events.append(
            _event(
                timed,
                given,
                output,
                model=models[call.model],
                span=span[1] if span else None,
                working_s=working_s,
                uuid=stable_id("event", digest, epoch, timed.number),
            )
        )
        _remember(history, seen, given, [choice.message for choice in output.choices])
        working_s += call.duration_s
        previous = timed
    if span is not None:
        events.append(_span_end(span[1], previous.end_s, working_s))
    first, last = calls[0], previous
    return EvalSample(
        id=printable(scope),  # a part of a file name in the log, where NUL would end it
        epoch=epoch,
        uuid=stable_id("sample", digest, epoch, scope),
        input=messages_of(first.call.body),
        target="",
        messages=history,
        output=output,
        metadata={"calls": len(calls), "kinds": _count_kinds(calls)},
        events=events,
        model_usage=_usage([timed.call for timed in calls], models),
        started_at=_date(first.start_s),
        completed_at=_date(last.end_s),
        total_time=round(last.end_s - first.start_s, 6),
        working_time=round(working_s, 6),
    )


def _event(
    timed: _Timed,
    given: list[ChatMessage],
    output: ModelOutput,
    *,
    model: str,
    span: str | None,
    working_s: float,
    uuid: str,
) -> ModelEvent:
    call = timed.call
    documents = call.completion.documents
    one = documents[0] if len(documents) == 1 else None
    return ModelEvent(
        uuid=uuid,
        span_id=span,
        timestamp=_time(timed.start_s),
        working_start=round(working_s, 6),
        model=model,
        role=call.kind,
        input=given,
        tools=tools_of(call.body),
        tool_choice=tool_choice_of(call.body),
        config=config_of(call.body),
        output=output,
        call=ModelCall.model_validate(
            {
                "request": call.body,
                "response": one if isinstance(one, dict) else {"documents": documents},
                "time": call.duration_s,
            }
        ),
        completed=_time(timed.end_s),
        working_time=call.duration_s,
        metadata={
            "call": timed.number,
            "scope": call.scope,
            "i": call.i,
            "n": call.n,
            "at": None if call.at is None else list(call.at),
            "kind": call.kind,
            "asked_key": call.asked,
            "sent_key": call.sent,
            "asked_seed": call.asked_seed,
            "sent_seed": call.sent_seed,
            "environment": call.env,
            "prompt_sha256": call.prompt_sha256,
            "response_sha256": call.completion.sha256,
        },
    )


def _remember(
    history: list[ChatMessage],
    seen: dict[str, int],
    given: Sequence[ChatMessage],
    said: Sequence[ChatMessage],
) -> None:
    """Go on with the sample's conversation.

    A conversation that is sent again with more at its end is not repeated, nor is a system prompt
    that was shown before. Ids are unique in the conversation.
    """
    past = [(message.role, message.text) for message in history]
    told = [(message.role, message.text) for message in given]
    kept = given[len(past) :] if past and told[: len(past)] == past else given
    for message in (*kept, *said):
        name = message.id or ""
        count = seen.get(name, 0)
        seen[name] = count + 1
        if count and message.role == "system":
            continue
        history.append(message.model_copy(update={"id": f"{name}-{count}"}) if count else message)


def _span_begin(at: tuple[int, int], span: str, start_s: float, working_s: float) -> SpanBeginEvent:
    return SpanBeginEvent(
        uuid=stable_id("begin", span),
        span_id=span,
        id=span,
        name=f"epoch {at[0]}, step {at[1]}",
        timestamp=_time(start_s),
        working_start=round(working_s, 6),
    )


def _span_end(span: str, end_s: float, working_s: float) -> SpanEndEvent:
    return SpanEndEvent(
        uuid=stable_id("end", span),
        span_id=span,
        id=span,
        timestamp=_time(end_s),
        working_start=round(working_s, 6),
    )


def _usage(calls: Sequence[CallRecord], models: Mapping[str, str]) -> dict[str, ModelUsage]:
    total: dict[str, ModelUsage] = {}
    for call in calls:
        name = models[call.model]
        total[name] = total[name] + usage_of(call) if name in total else usage_of(call)
    return dict(sorted(total.items()))


def _count_kinds(calls: Sequence[_Timed]) -> dict[str, int]:
    counts: defaultdict[str, int] = defaultdict(int)
    for timed in calls:
        counts[timed.call.kind or "-"] += 1
    return dict(sorted(counts.items()))


def _time(seconds: float) -> datetime:
    return _CLOCK_START + timedelta(seconds=round(seconds, 6))


def _date(seconds: float) -> str:
    return _time(seconds).isoformat()
