"""A study's report as one HTML file: tables and drawings, no script, no network.

The same summary gives the same bytes, with the same version of matplotlib.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from swarm_repro.canonical import encode_canonical
from swarm_repro.errors import UsageError
from swarm_repro.printable import printable
from swarm_repro.study.statistics import Cell, Cost, Difference, Interval, Metric, Point, Summary

_SALT = "swarm-repro"
#: Distinguishable by those who see colours otherwise (Okabe and Ito, 2008), and in grey by dashes.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_DASHES = ("-", "--", "-.", ":")
_REPRODUCED = {"yes": "yes", "no": "NOT REPRODUCED", "not checked": "not checked"}


def write_page(summary: Summary, path: Path) -> None:
    """Write the report.

    Raises:
        UsageError: It cannot be written.
    """
    try:
        path.write_bytes(render(summary))
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror or error}") from error


def render(summary: Summary) -> bytes:
    """The report as UTF-8 bytes of an HTML file."""
    style = files("swarm_repro.study").joinpath("page.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    # Drawings carry style attributes of their own: they are this file's, made of numbers.
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'"
    title = f"Study {_text(summary.study)}"
    done = f"{summary.finished} of {summary.runs} runs are finished."
    body = [
        f"<h1>{title}</h1>",
        f"<p>{done} Intervals: {summary.confidence:.3g} of Student's t over seeds.</p>",
        _costs(summary.costs),
        *(_metric(metric, summary) for metric in summary.metrics),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{html.escape(policy)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{style}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(body)
        + "\n</main>\n</body>\n</html>\n"
    ).encode()


def _text(value: object) -> str:
    return html.escape(printable(str(value)))


def said_settings(settings: Mapping[str, object]) -> str:
    """Settings in one line, by the last part of each path."""
    if not settings:
        return "as written"
    return ", ".join(
        f"{path.rpartition('.')[2]} = {encode_canonical(value).decode()}"
        for path, value in settings.items()
    )


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"


def _interval(interval: Interval) -> str:
    return "none" if interval is None else f"{interval[0]:.4g} to {interval[1]:.4g}"


def _table(caption: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; cells are texts, and are escaped here."""
    heads = "".join(f'<th scope="col">{_text(one)}</th>' for one in head)
    lines = "".join(
        "<tr>"
        + "".join(
            f'<th scope="row">{_text(cell)}</th>' if place == 0 else f"<td>{_text(cell)}</td>"
            for place, cell in enumerate(row)
        )
        + "</tr>\n"
        for row in rows
    )
    return (
        f'<div class="wide"><table><caption>{_text(caption)}</caption><thead><tr>{heads}</tr>'
        f"</thead><tbody>\n{lines}</tbody></table></div>"
    )


def _costs(costs: Sequence[Cost]) -> str:
    head = ("scenario", "settings", "runs", "reproduced", "environments", "calls a run",
            "prompt tokens", "completion tokens", "seconds of the model")  # fmt: skip
    rows = [
        (
            cost.scenario,
            said_settings(cost.settings),
            str(cost.runs),
            _REPRODUCED[cost.reproduced],
            str(cost.environments),
            *map(
                _number,
                (cost.calls, cost.prompt_tokens, cost.completion_tokens, cost.model_s),
            ),
        )
        for cost in costs
    ]
    return f"<h2>Runs and what they cost</h2>\n{_table('Means over the runs', head, rows)}"


def _metric(metric: Metric, summary: Summary) -> str:
    name = _text(metric.name)
    parts = [f'<section id="{name}">', f"<h2>{name}</h2>"]
    scenarios = list(dict.fromkeys(cell.scenario for cell in metric.cells))
    for scenario in scenarios:
        cells = [cell for cell in metric.cells if cell.scenario == scenario and cell.seeds]
        points = [point for point in metric.trajectories if point.scenario == scenario]
        if not cells:
            continue
        heading = f"{metric.name}, {scenario}"
        parts.append('<div class="drawings">')
        parts.append(_drawn(partial(_draw_cells, cells), f"{heading}: by setting"))
        if len({point.epoch for point in points}) > 1:
            parts.append(_drawn(partial(_draw_points, points), f"{heading}: by epoch"))
        parts.append("</div>")
    parts.append(_cells(metric.cells, summary.costs))
    if metric.differences:
        parts.append(_differences(metric.differences, summary.confidence))
    parts.append("</section>")
    return "\n".join(parts)


def _cells(cells: Sequence[Cell], costs: Sequence[Cost]) -> str:
    head = ("scenario", "settings", "seeds", "mean", "interval", "reproduced")
    rows = [
        (
            cell.scenario,
            said_settings(cell.settings),
            str(cell.seeds),
            _number(cell.mean),
            _interval(cell.interval),
            _REPRODUCED[cost.reproduced],
        )
        for cell, cost in zip(cells, costs, strict=True)
    ]
    return _table("By setting", head, rows)


def _differences(differences: Sequence[Difference], confidence: float) -> str:
    intervals = (f"paired {confidence:.3g}", f"unpaired {confidence:.3g}")
    head = ("scenario", "setting", "from", "to", "seeds", "difference", *intervals, "effect d_z")
    rows = [
        (
            one.scenario,
            one.setting,
            encode_canonical(one.base).decode(),
            encode_canonical(one.value).decode(),
            str(one.seeds),
            _number(one.mean),
            _interval(one.paired),
            _interval(one.unpaired),
            _number(one.effect),
        )
        for one in differences
    ]
    return _table("Differences, seed by seed", head, rows)


def _drawn(draw: Callable[[Any], None], described: str) -> str:
    """A drawing as an image in the page: text as outlines, so that no font is asked for."""
    with matplotlib.rc_context({"svg.hashsalt": _SALT, "svg.fonttype": "path", "font.size": 9}):
        figure = Figure(figsize=(5.2, 3.2), layout="constrained")
        axes = figure.subplots()
        draw(axes)
        axes.spines[["top", "right"]].set_visible(False)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    image = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{_text(described)}" src="data:image/svg+xml;base64,{image}">'


def _plain(text: str) -> str:
    """A text as matplotlib shows it: dollar signs would begin a formula."""
    return printable(text).replace("$", r"\$")


def _draw_cells(cells: Sequence[Cell], axes: Any) -> None:
    for place, cell in enumerate(cells):
        mean = cell.mean or 0.0
        low, high = cell.interval or (mean, mean)
        colour = _COLOURS[place % len(_COLOURS)]
        axes.errorbar(
            [place], [mean], yerr=[[mean - low], [high - mean]],
            fmt="o", capsize=4, color=colour,
        )  # fmt: skip
    labels = [_plain(said_settings(cell.settings)) for cell in cells]
    axes.set_xticks(range(len(cells)), labels, rotation=30 if len(cells) > 2 else 0, ha="center")
    axes.margins(x=0.2)


def _draw_points(points: Sequence[Point], axes: Any) -> None:
    lines: dict[bytes, list[Point]] = {}
    for point in points:
        lines.setdefault(encode_canonical(dict(point.settings)), []).append(point)
    for place, line in enumerate(lines.values()):
        colour = _COLOURS[place % len(_COLOURS)]
        epochs = [point.epoch for point in line]
        label = _plain(said_settings(line[0].settings))
        style = _DASHES[place % len(_DASHES)]
        axes.plot(epochs, [point.mean for point in line], style, color=colour, label=label)
        bounds = [point.interval or (point.mean, point.mean) for point in line]
        axes.fill_between(
            epochs, [low for low, _ in bounds], [high for _, high in bounds],
            color=colour, alpha=0.15, linewidth=0,
        )  # fmt: skip
    axes.set_xlabel("epoch")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(frameon=False)
