"""Reports of this package's commands as one Markdown page, for the summary of a CI job.

A report is what a command printed with ``--json``. Members that a report lacks are shown as not
known: a page on a broken build must not break itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from swarm_repro.project.markdown import code, escaped, joined, preformatted, table

#: GitHub takes 1 MiB a step.
LIMIT_BYTES = 900_000
#: Rows of a table that are shown; the others are counted.
_ROWS = 20
_CALLS = 30
_METRICS = 60
_TEXT = 160


@dataclass(frozen=True)
class Named:
    """A report and where it came from.

    Attributes:
        name: Name of its file, or of the cassette it is about.
        content: The JSON object; None where there is none.
        note: What is to be said instead, or beside it.
    """

    name: str
    content: Mapping[str, object] | None
    note: str | None = None


def summary(reports: Sequence[Named], *, notes: Sequence[str] = ()) -> str:
    """The page.

    Args:
        reports: In the order in which they are shown.
        notes: Lines on what could not be looked at.
    """
    runs = [report for report in reports if _kind(report) == "run"]
    others = [report for report in reports if _kind(report) != "run"]
    # `run --verify` holds a report of its own.
    others += [
        Named(run.name, verified)
        for run in runs
        if (verified := _object(run.content or {}, "verify")).get("report") == "verify"
    ]
    sections: list[Sequence[str]] = [["## swarm-repro"]]
    if runs:
        sections.append(_runs(runs))
        sections.extend(_messages(run) for run in runs if _list(run.content, "messages"))
    for report in others:
        sections.extend(_section(report))
    sections.extend([code(note, limit=1_000)] for note in notes)
    if len(sections) == 1:
        sections.append(["Nothing was run, and no cassette changed."])
    return joined(sections, limit_bytes=LIMIT_BYTES)


def _kind(report: Named) -> str:
    if report.content is None:
        return "note"
    if "report" in report.content:
        return str(report.content["report"])
    return "run" if {"mode", "exit_code"} <= report.content.keys() else "unknown"


def _section(report: Named) -> Iterator[Sequence[str]]:
    kind = _kind(report)
    content = report.content or {}
    heading = f"### {code(_text(content, 'cassette', report.name))}"
    if kind == "note":
        yield [heading, "", code(report.note or "no report", limit=1_000)]
    elif kind == "unknown" or kind not in _SECTIONS:
        yield [heading, "", "This report is of a kind that this version does not know."]
    else:
        yield [heading, "", f"**{kind}:** {code(_text(content, 'verdict'), limit=1_000)}"]
        yield from _SECTIONS[kind](content)


def _runs(runs: Sequence[Named]) -> list[str]:
    rows = []
    for run in runs:
        content = run.content or {}
        exit_code = content.get("exit_code")
        artifacts = content.get("artifacts")
        verdict = "not compared"
        if isinstance(artifacts, Mapping):
            differing = [str(name) for name in _list(artifacts, "differing")]
            verdict = "identical" if artifacts.get("identical") else f"differ: {code(differing)}"
        rows.append(
            [
                code(content.get("scenario")),
                code(content.get("seed")),
                code(content.get("mode")),
                "passed" if exit_code == 0 else f"**failed**, exit code {code(exit_code)}",
                f"{code(content.get('hits'))} + {code(content.get('called'))}",
                verdict,
                _seconds(content.get("duration_s")),
            ]
        )
    columns = ["scenario", "seed", "mode", "result", "calls: cassette + model", "artifacts", "time"]
    return table(columns, rows)


def _messages(run: Named) -> list[str]:
    content = run.content or {}
    artifacts = content.get("artifacts")
    moved = _list(artifacts, "metrics") if isinstance(artifacts, Mapping) else []
    lines = [f"### {code(content.get('scenario'))}: what went wrong", ""]
    messages = _list(content, "messages")
    lines += [preformatted(str(message)) for message in messages[:_ROWS]]
    lines += _more(len(messages) - _ROWS, "messages")
    if moved:
        lines += [
            "",
            "Metrics that moved:",
            "",
            preformatted("\n".join(map(str, moved[:_METRICS]))),
            *_more(len(moved) - _METRICS, "metrics"),
        ]
    return lines


def _diff(content: Mapping[str, object]) -> Iterator[Sequence[str]]:
    files = [content.get(side) for side in ("a", "b")]
    base, head = (side if isinstance(side, Mapping) else {} for side in files)
    counts = _object(content, "counts")
    yield table(
        ["", "calls", "prompt tokens", "completion tokens", "seconds"],
        [
            [
                label,
                code(side.get("calls")),
                code(_object(side, "tokens").get("prompt")),
                code(_object(side, "tokens").get("completion")),
                code(side.get("duration_s")),
            ]
            for label, side in (("before", base), ("after", head))
        ],
    )
    yield ["Calls: " + ", ".join(f"{code(n)} {escaped(name)}" for name, n in counts.items() if n)]
    calls = {str(call.get("number")): call for call in _objects(content, "calls")}
    origins = _objects(content, "origins")
    if origins:
        yield [
            "#### Where they part, in causal order",
            "",
            *table(
                ["", "call", "what", "before", "after", "followed"],
                [_origin(origin, calls) for origin in origins[:_ROWS]],
            ),
            *_more(max(len(origins) - _ROWS, 0) + _count(content, "origins_left_out"), "origins"),
        ]
    yield from _environment(content, ("before", "after"))
    yield from _changed_calls(content)
    yield from _metrics(content)


def _origin(origin: Mapping[str, object], calls: Mapping[str, Mapping[str, object]]) -> list[str]:
    call = calls.get(str(origin.get("call")))
    fallout = _object(origin, "fallout")
    if origin.get("kind") == "root":
        parting = _object(origin, "parting")
        place = f"{_text(parting, 'unit', 'character')} {parting.get('index', 0)}"
        what = f"the answer, at {escaped(place)}"
        if not parting:
            # The texts are the same; the first line of the evidence says what is not.
            what = f"the answer, {code(next(iter(_list(origin, 'evidence')), 'beside its text'))}"
        if parting.get("near_tie"):
            what += ", near tie"
        texts = [
            code(_text(parting, "a_before") + "⟨" + _text(parting, side) + "⟩", limit=_TEXT)
            for side in ("a", "b")
        ]
    else:
        what = f"{code(origin.get('field'))}, in {code(origin.get('calls'))} calls"
        texts = [code(origin.get(side), limit=_TEXT) for side in ("a", "b")]
    followed = f"{code(fallout.get('proven', 0))} proven, {code(fallout.get('assumed', 0))} assumed"
    kind = "root" if origin.get("kind") == "root" else "cause"
    return [kind, _place(call), what, *texts, followed]


def _changed_calls(content: Mapping[str, object]) -> Iterator[Sequence[str]]:
    changed = [
        call
        for call in _objects(content, "calls")
        if _object(call, "completion").get("a") != _object(call, "completion").get("b")
    ]
    if not changed:
        return
    left_out = content.get("left_out")
    count = f"{len(changed)} of those in the report" if left_out else f"{len(changed)}"
    yield [
        f"<details><summary>Changed completions ({count})</summary>",
        "",
        *table(
            ["call", "kind", "class", "before", "after"],
            [
                [
                    _place(call),
                    code(call.get("kind") or "-"),
                    escaped(_text(call, "class")),
                    *(_said(_object(call, "completion").get(side)) for side in ("a", "b")),
                ]
                for call in changed[:_CALLS]
            ],
        ),
        *_more(len(changed) - _CALLS, "changed completions"),
        "",
        "</details>",
    ]


def _metrics(content: Mapping[str, object]) -> Iterator[Sequence[str]]:
    metrics = _objects(content, "metrics")
    if not metrics:
        return
    yield [
        f"<details open><summary>Metrics that moved ({len(metrics)})</summary>",
        "",
        *table(
            ["seed", "epoch", "metric", "before", "after", "change"],
            [
                [
                    *(code(metric.get(name)) for name in ("seed", "epoch", "metric", "a", "b")),
                    _change(metric.get("a"), metric.get("b")),
                ]
                for metric in metrics[:_METRICS]
            ],
        ),
        *_more(len(metrics) - _METRICS, "metrics"),
        "",
        "</details>",
    ]


def _verify(content: Mapping[str, object]) -> Iterator[Sequence[str]]:
    counts = _object(content, "counts")
    asked = f"each asked {code(content.get('repeat'))} x, in {code(content.get('order'))} order"
    yield [", ".join(f"{code(n)} {escaped(name)}" for name, n in counts.items()) + f"; {asked}"]
    yield from _environment(content, ("recorded", "now"))
    calls = [call for call in _objects(content, "calls") if call.get("group") != "same"]
    if calls:
        yield [
            "#### Calls that were not the same",
            "",
            *table(
                ["call", "kind", "group", "differing", "recorded", "now"],
                [
                    [
                        _place(call),
                        code(call.get("kind") or "-"),
                        escaped(_text(call, "group")),
                        f"{code(call.get('differing'))} of {code(call.get('of'))}",
                        *(
                            [code(call.get("why"), limit=_TEXT), ""]
                            if _object(call, "completion").get("b") is None
                            else [_said(_object(call, "completion").get(x)) for x in ("a", "b")]
                        ),
                    ]
                    for call in calls[:_CALLS]
                ],
            ),
            *_more(len(calls) - _CALLS, "calls"),
        ]


def _survey(content: Mapping[str, object]) -> Iterator[Sequence[str]]:
    groups = _objects(content, "groups")
    yield [f"- {code(version)}" for version in _list(content, "versions")] or [""]
    if groups:
        yield [
            *table(
                ["field", "calls", "recorded", "asked now"],
                [
                    [
                        code(group.get("field")),
                        code(group.get("calls")),
                        *(code(group.get(side), limit=_TEXT) for side in ("a", "b")),
                    ]
                    for group in groups[:_ROWS]
                ],
            ),
            *_more(len(groups) - _ROWS, "groups"),
        ]


def _audit(content: Mapping[str, object]) -> Iterator[Sequence[str]]:
    recommended = _object(content, "recommended")
    if recommended:
        flags = " ".join(str(flag) for flag in _list(recommended, "flags"))
        yield ["Recommended:", "", preformatted(flags)]
    yield [f"- missing: {code(line)}" for line in _list(content, "missing")] or [""]


_SECTIONS = {"diff": _diff, "verify": _verify, "survey": _survey, "audit": _audit}


def _environment(content: Mapping[str, object], sides: tuple[str, str]) -> Iterator[Sequence[str]]:
    differences = _objects(content, "environment")
    if differences:
        yield [
            "#### Environment",
            "",
            *table(
                ["field", *sides],
                [
                    [code(difference.get(name), limit=_TEXT) for name in ("field", "a", "b")]
                    for difference in differences[:_ROWS]
                ],
            ),
            *_more(len(differences) - _ROWS, "fields"),
        ]


def _place(call: Mapping[str, object] | None) -> str:
    if call is None:
        return "-"
    at = call.get("at")
    where = f", at {at[0]}.{at[1]}" if isinstance(at, list) and len(at) == 2 else ""
    return code(f"{call.get('scope')} {call.get('i')}{where}")


def _said(text: object) -> str:
    return "not recorded" if text is None else code(text, limit=_TEXT) or "(nothing)"


def _change(a: object, b: object) -> str:
    if not isinstance(a, (int, float)) or not isinstance(b, (int, float)):
        return ""
    if isinstance(a, bool) or isinstance(b, bool):
        return ""
    relative = f" ({(b - a) / abs(a):+.1%})" if a else ""
    return code(f"{b - a:+.6g}{relative}")


def _seconds(value: object) -> str:
    return code(f"{value:.1f} s") if isinstance(value, (int, float)) else ""


def _more(count: int, what: str) -> Iterable[str]:
    return ["", f"{count} more {what} are in the report."] if count > 0 else []


def _text(content: Mapping[str, object], name: str, default: str = "") -> str:
    value = content.get(name)
    return value if isinstance(value, str) else default


def _object(content: Mapping[str, object], name: str) -> Mapping[str, object]:
    value = content.get(name)
    return value if isinstance(value, Mapping) else {}


def _count(content: Mapping[str, object], name: str) -> int:
    value = content.get(name)
    return value if isinstance(value, int) else 0


def _list(content: Mapping[str, object] | None, name: str) -> list[object]:
    value = None if content is None else content.get(name)
    return value if isinstance(value, list) else []


def _objects(content: Mapping[str, object], name: str) -> list[Mapping[str, object]]:
    return [item for item in _list(content, name) if isinstance(item, Mapping)]
