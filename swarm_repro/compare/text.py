"""Diff and survey reports for a terminal.

Everything a model said goes through ``printable``: a completion cannot drive the terminal.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from swarm_repro.compare.causes import around
from swarm_repro.difference import first_difference
from swarm_repro.printable import printable

_ORIGINS = 10
_CALLS = 10
_CLASSES = {
    "identical": "identical",
    "root": "roots: same request, other completion",
    "changed": "other requests, by a cause of their own",
    "fallout": "fallout: other prompts that followed",
    "only_a": "only in A",
    "only_b": "only in B",
}

_SURVEYED = {
    "same": "ask what was recorded",
    "changed": "ask something else at their place",
    "unrecorded": "have no recording at their place",
    "unplayed": "recorded, and not asked for any more",
}
_GROUPS = 20

#: A report as JSON; its members are described by its schema.
Report = Mapping[str, Any]


def diff_lines(report: Report) -> Iterator[str]:
    """The lines of a report.

    Args:
        report: As ``DiffReport.to_json`` gives it.
    """
    yield printable(report["verdict"])
    yield ""
    for side in ("a", "b"):
        yield f"{side.upper()}  {_file(report[side])}"
    counts = report["counts"]
    yield ""
    for name, shown in _CLASSES.items():
        if counts[name]:
            yield f"{counts[name]:>8}  {shown}"
    if report["identical"]:
        yield from _environment(report["environment"], "the environments differ all the same:")
        return
    calls = {call["number"]: call for call in report["calls"]}
    origins = report["origins"]
    yield ""
    yield "where they part, in causal order"
    for origin in origins[:_ORIGINS]:
        yield from _origin(origin, calls.get(origin["call"]))
    more = len(origins) - _ORIGINS + report["origins_left_out"]
    if more > 0:
        yield f"  and {more} more"
    yield from _environment(report["environment"], "environments")
    yield from _tokens(report)
    yield from _metrics(report["metrics"])


def _file(side: Report) -> str:
    models = ", ".join(f"{model['name']} ({model['label']})" for model in side["models"])
    seeds = ", ".join(map(str, side["run_seeds"])) or "none"
    return printable(
        f"{side['file']}: {side['calls']} calls, run seed {seeds}, model {models}"
        f"{', strict' if side['strict'] else ''}"
    )


def _origin(origin: Report, call: Report | None) -> Iterator[str]:
    where = f"call {call['i']} of {call['scope']}" if call else f"call {origin['call']}"
    if call and call["at"]:
        where += f" at epoch {call['at'][0]}, step {call['at'][1]}"
    yield ""
    if origin["kind"] == "root":
        yield printable(f"  root {origin['id'] + 1}: {where}: same request, other completion")
        if origin["parting"]:
            yield from _parting(origin["parting"], call["completion"] if call else {})
        for difference in origin["environment"][:_CALLS]:
            yield printable(f"    environment: {_values(difference)}")
        for line in origin["evidence"]:
            yield f"    {line}"
    else:
        more = f", in {origin['calls']} calls of {', '.join(origin['scopes'])}"
        yield printable(f"  cause {origin['id'] + 1}: {where}: {origin['field']}{more}")
        at = "" if origin["character"] is None else f" (character {origin['character']})"
        yield printable(f"    A{at}: {origin['a']}")
        yield printable(f"    B{at}: {origin['b']}")
    yield f"    {_fallout(origin['fallout'])}"


def _parting(parting: Report, texts: Report) -> Iterator[str]:
    if texts and parting["unit"] == "token" and parting["a"] == parting["b"]:
        at = first_difference(texts["a"], texts["b"])
        yield printable(
            f"    the texts part at character {at}: {around(texts['a'], at)} in A, "
            f"{around(texts['b'], at)} in B; their tokens part before, at the same text:"
        )
    yield printable(
        f"    they part at {parting['unit']} {parting['index']}, after {parting['a_before']!r}"
    )
    for side in ("a", "b"):
        shown = f"    {side.upper()}: {parting[side]!r}"
        candidates = parting[f"{side}_candidates"]
        if candidates:
            best = "  ".join(
                f"{candidate['token']!r} {candidate['logprob']:.3f}"
                for candidate in candidates[:3]
                if candidate["logprob"] is not None
            )
            shown += f"    logprobs: {best}"
        yield printable(shown)
    if parting["margin"] is not None:
        tie = {True: ", a near tie", False: ", no near tie", None: ""}[parting["near_tie"]]
        yield f"    margin of the two tokens: {parting['margin']:.4f} nats{tie}"


def _fallout(fallout: Report) -> str:
    total = fallout["proven"] + fallout["assumed"]
    if not total:
        return "nothing followed"
    shared = f", {fallout['shared']} of these may follow from another" * bool(fallout["shared"])
    return (
        f"{total} later calls followed: {fallout['proven']} repeat its words, "
        f"{fallout['assumed']} are assumed{shared}"
    )


def _environment(found: Sequence[Report], title: str) -> Iterator[str]:
    if found:
        yield ""
        yield title
    for difference in found:
        yield printable(f"  {_values(difference)}")


def _values(difference: Report) -> str:
    return f"{difference['field']}: {difference['a']} in A, {difference['b']} in B"


def _tokens(report: Report) -> Iterator[str]:
    yield ""
    yield f"{'tokens':<12} {'prompt':>10} {'completion':>11} {'seconds':>9}"
    for side in ("a", "b"):
        used = report[side]
        yield (
            f"{side.upper():<12} {used['tokens']['prompt']:>10} "
            f"{used['tokens']['completion']:>11} {used['duration_s']:>9.1f}"
        )


def _metrics(moved: Sequence[Report]) -> Iterator[str]:
    if not moved:
        return
    yield ""
    yield "metrics that moved"
    for metric in moved[:_CALLS]:
        yield printable(
            f"  epoch {metric['epoch']}, {metric['metric']}: {metric['a']} in A, {metric['b']} in B"
        )
    if len(moved) > _CALLS:
        yield f"  and {len(moved) - _CALLS} more"


def survey_lines(report: Report) -> Iterator[str]:
    """The lines of a survey.

    Args:
        report: As ``Survey.to_json`` gives it.
    """
    yield printable(report["verdict"])
    for version in report["versions"]:
        yield printable(f"  {version}")
    counts, anew = report["counts"], report["record_anew"]
    yield ""
    for name, shown in _SURVEYED.items():
        if counts[name]:
            yield f"{counts[name]:>8}  {shown}"
    for group in report["groups"][:_GROUPS]:
        at = "" if group["character"] is None else f", character {group['character']}"
        yield ""
        yield printable(
            f"  {group['field']}{at}: {group['calls']} calls of {', '.join(group['scopes'])}, "
            f"first call {group['first']['i']} of {group['first']['scope']}"
        )
        yield printable(f"    recorded: {group['a']}")
        yield printable(f"    asked:    {group['b']}")
    if len(report["groups"]) > _GROUPS:
        yield f"  and {len(report['groups']) - _GROUPS} more kinds of difference"
    if anew["calls"]:
        yield ""
        yield (
            f"to record anew: {anew['calls']} calls, about {anew['seconds']:.0f} s at the recorded "
            f"speed; since other answers lead to other prompts, up to {anew['at_most_calls']} "
            f"calls, {anew['at_most_seconds']:.0f} s"
        )
