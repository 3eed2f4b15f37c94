"""An audit's report for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from swarm_repro.audit.experiments import Experiment
from swarm_repro.audit.report import AuditReport, Cell
from swarm_repro.canonical import encode_json
from swarm_repro.compare.parting import Parting
from swarm_repro.printable import printable

_HEADINGS = {
    "within": "within a setting: distinct answers in N; one everywhere makes it deterministic",
    "across": "a setting against itself changed: must two machines have this in common?",
    "seed": "seeds",
}


def render(report: AuditReport) -> str:
    """The report as text, without control characters: what a model said is escaped."""
    return "".join(printable(line) + "\n" for line in _lines(report))


def _lines(report: AuditReport) -> Iterator[str]:
    yield from _head(report)
    yield ""
    yield from _table(report)
    yield from _partings(report)
    yield ""
    yield report.verdict
    yield from _advice(report)
    for note in report.notes:
        yield f"note: {note}"
    for line in report.missing:
        yield f"missing: {line}"


def _head(report: AuditReport) -> Iterator[str]:
    environment = report.environment
    shown = [environment.get(name) for name in ("cpu", "system", "machine", "build")]
    where = ", ".join(str(part) for part in shown if part)
    binary = environment.get("binary_sha256")
    yield f"model {report.model_file}, sha256 {report.model_sha256[:12]}…"
    yield f"on {where or 'this machine'}" + (f", binary {str(binary)[:12]}…" if binary else "")
    threads = "1 thread" if report.threads == 1 else f"{report.threads} threads"
    prompts = ", ".join(_prompt(p.name, p.tokens, p.source) for p in report.prompts)
    yield f"{threads}, context {report.n_ctx}, {report.repeat} answers to compare"
    yield f"prompts: {prompts}"


def _prompt(name: str, tokens: int | None, source: str) -> str:
    where = "" if source == "built in" else f" ({source})"
    return f"{name}{where}" + ("" if tokens is None else f" of {tokens} tokens")


def _table(report: AuditReport) -> Iterator[str]:
    names = [setting.name for setting in report.settings]
    rows: list[list[str] | str] = [["", *names]]
    for kind, heading in _HEADINGS.items():
        experiments = report.of_kind(kind)  # type: ignore[arg-type]
        if experiments:
            rows.append(heading)
            rows.extend(_row(report, one, names) for one in experiments)
    if report.prices:
        rows.append("price: the same requests, one after another")
        prices = {price.setting: price for price in report.prices}
        timed = [prices.get(name) for name in names]
        rows.append(["  seconds", *(f"{price.seconds:.1f}" if price else "-" for price in timed)])
        rows.append(
            [
                "  to default",
                *(f"{p.relative:.2f}" if p and p.relative is not None else "-" for p in timed),
            ]
        )
    yield from _aligned(rows)


def _row(report: AuditReport, experiment: Experiment, names: Sequence[str]) -> list[str]:
    cells = (report.cell(name, experiment.name) for name in names)
    return [f"  {experiment.name}", *(_shown(cell, experiment) for cell in cells)]


def _shown(cell: Cell, experiment: Experiment) -> str:
    if cell.status != "done":
        return "failed" if cell.status == "failed" else "-"
    drift = f" ±{cell.logprob_drift:.2g}" if cell.logprob_drift else ""
    if experiment.kind == "across":
        return ("same" if cell.distinct == 1 else "other") + drift
    return f"{cell.distinct} of {cell.of}{drift if cell.distinct == 1 else ''}"


def _aligned(rows: Sequence[list[str] | str]) -> Iterator[str]:
    table = [row for row in rows if isinstance(row, list)]
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    for row in rows:
        if isinstance(row, str):
            yield row
            continue
        first, *rest = (text.ljust(width) for text, width in zip(row, widths, strict=True))
        yield "  ".join((first, *rest)).rstrip()


def _partings(report: AuditReport) -> Iterator[str]:
    """Where answers part, the first place of each setting with more than one answer within it."""
    deciding = [one.name for one in report.of_kind("within")]
    lines = []
    for setting in report.settings:
        for name in deciding:
            cell = report.cell(setting.name, name)
            if cell.divergence is not None:
                where = f"{setting.name}, {name}, {cell.worst_prompt}"
                lines.append(f"  {where}: {_parting(cell.divergence)}")
                break
    if lines:
        yield ""
        yield "where answers part first:"
        yield from lines


def _parting(parting: Parting) -> str:
    a, b = (_quoted(text[:24]) for text in (parting.a, parting.b))
    said = f"{parting.unit} {parting.index}, after {_quoted(parting.a_before[-24:])}: {a} or {b}"
    if parting.margin is not None:
        tie = ", a near tie" if parting.near_tie else ""
        said += f" (margin {parting.margin:.3g} nats{tie})"
    return said


def _quoted(text: str) -> str:
    return f'"{printable(text)}"'


def _advice(report: AuditReport) -> Iterator[str]:
    if report.recommended is None:
        return
    setting = report.recommended.setting
    yield f"  {setting.command}"
    yield f"  llama-server {' '.join(setting.flags)}"
    request = encode_json({**setting.request, "seed": "<yours>"}).decode()
    yield f"  in every request: {request}"
