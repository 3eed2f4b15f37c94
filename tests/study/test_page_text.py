"""The report of a study as text and drawings, read without a browser."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from swarm_repro.errors import UsageError
from swarm_repro.study import page
from swarm_repro.study.page import render, said_settings, write_page
from swarm_repro.study.statistics import Cell, Cost, Difference, Metric, Point, Summary

LOW = {"governance.tax": 0.0}
HIGH = {"governance.tax": 0.5}


def cost(settings: Mapping[str, object], scenario: str = "s", reproduced: str = "yes") -> Cost:
    return Cost(scenario, settings, 3, reproduced, 2, 4.5, 1000.25, 5.0, None)


def points(settings: Mapping[str, object], *means: float, scenario: str = "s") -> list[Point]:
    return [
        Point(scenario, settings, epoch, mean, (mean - 1, mean + 2) if epoch else None)
        for epoch, mean in enumerate(means)
    ]


CELLS = (
    Cell("s", LOW, 3, 1.23456, (1.0, 1.5)),
    Cell("s", HIGH, 2, 7.0, None),
)
DIFFERENCE = Difference("s", "governance.tax", 0.0, 0.5, 2, 5.76544, (5.0, 6.5), None, None)
METRIC = Metric("welfare", CELLS, (DIFFERENCE,), (*points(LOW, 1.0, 2.0), *points(HIGH, 3.0, 4.0)))


def summary(*metrics: Metric, costs: Sequence[Cost] | None = None) -> Summary:
    known = (cost(LOW), cost(HIGH, reproduced="no"))
    return Summary("tax", 6, 5, 0.95, metrics, tuple(costs or known))


@dataclass
class Read(HTMLParser):
    """The content of a page: headings and paragraphs, tables by their captions, and images."""

    texts: list[str] = field(default_factory=list)
    tables: dict[str, list[list[str]]] = field(default_factory=dict)
    images: list[dict[str, str]] = field(default_factory=list)
    sections: list[str] = field(default_factory=list)
    _here: str = ""
    _caption: str = ""

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = {name: value or "" for name, value in attrs}
        self._here = tag
        if tag == "img":
            self.images.append(known)
        elif tag == "tr":
            self.tables[self._caption].append([])
        elif tag in ("td", "th"):
            self.tables[self._caption][-1].append("")
        elif tag == "section":
            self.sections.append(known["id"])

    def handle_data(self, data: str) -> None:
        if self._here == "caption":
            self._caption = f"{self.sections[-1] if self.sections else ''}:{data}"
            self.tables[self._caption] = []
        elif self._here in ("td", "th") and data.strip():
            self.tables[self._caption][-1][-1] += data
        elif self._here in ("h1", "h2", "p", "title") and data.strip():
            self.texts.append(data)

    def handle_endtag(self, tag: str) -> None:
        self._here = ""


def parsed(data: bytes) -> Read:
    found = Read()
    found.feed(data.decode())
    return found


@pytest.fixture(scope="module")
def data() -> bytes:
    return render(summary(METRIC))


@pytest.fixture(scope="module")
def shown(data: bytes) -> Read:
    return parsed(data)


def test_the_head_says_what_is_shown_and_how_far_it_is(shown: Read) -> None:
    assert shown.texts == [
        "Study tax",
        "Study tax",
        "5 of 6 runs are finished. Intervals: 0.95 of Student's t over seeds.",
        "Runs and what they cost",
        "welfare",
    ]
    assert shown.sections == ["welfare"]


def test_costs_are_a_row_for_each_combination(shown: Read) -> None:
    assert shown.tables[":Means over the runs"] == [
        ["scenario", "settings", "runs", "reproduced", "environments", "calls a run",
         "prompt tokens", "completion tokens", "seconds of the model"],
        ["s", "tax = 0.0", "3", "yes", "2", "4.5", "1000", "5", "none"],
        ["s", "tax = 0.5", "3", "NOT REPRODUCED", "2", "4.5", "1000", "5", "none"],
    ]  # fmt: skip


def test_a_metric_is_a_row_for_each_combination(shown: Read) -> None:
    assert shown.tables["welfare:By setting"] == [
        ["scenario", "settings", "seeds", "mean", "interval", "reproduced"],
        ["s", "tax = 0.0", "3", "1.235", "1 to 1.5", "yes"],
        ["s", "tax = 0.5", "2", "7", "none", "NOT REPRODUCED"],
    ]


def test_a_difference_is_a_row_for_each_other_value(shown: Read) -> None:
    assert shown.tables["welfare:Differences, seed by seed"] == [
        ["scenario", "setting", "from", "to", "seeds", "difference", "paired 0.95",
         "unpaired 0.95", "effect d_z"],
        ["s", "governance.tax", "0.0", "0.5", "2", "5.765", "5 to 6.5", "none", "none"],
    ]  # fmt: skip


def test_a_metric_without_differences_has_no_table_of_them() -> None:
    found = parsed(render(summary(Metric("welfare", CELLS, (), ()))))
    assert list(found.tables) == [":Means over the runs", "welfare:By setting"]


def test_each_scenario_is_drawn_by_setting_and_by_epoch_where_there_are_several(
    shown: Read,
) -> None:
    assert [image["alt"] for image in shown.images] == [
        "welfare, s: by setting", "welfare, s: by epoch",
    ]  # fmt: skip
    cells = (
        *CELLS,
        Cell("t", LOW, 2, 1.0, None),
        Cell("u", LOW, 0, None, None),
    )
    trajectories = (*points(LOW, 1.0), *points(LOW, 1.0, 2.0, scenario="t"))
    costs = [cost(LOW), cost(HIGH), cost(LOW, "t"), cost(LOW, "u", "not checked")]
    found = parsed(render(summary(Metric("m", cells, (), trajectories), costs=costs)))
    assert [image["alt"] for image in found.images] == [
        "m, s: by setting", "m, t: by setting", "m, t: by epoch",
    ]  # fmt: skip
    assert found.tables["m:By setting"][-1] == [
        "u",
        "tax = 0.0",
        "0",
        "none",
        "none",
        "not checked",
    ]


def test_images_are_in_the_page_and_nothing_is_fetched_or_run(data: bytes) -> None:
    page = data.decode()
    assert page.startswith("<!doctype html>\n")
    assert page.endswith("</html>\n")
    for source in re.findall(r'src="([^"]*)"', page):
        assert source.startswith("data:image/svg+xml;base64,")
        drawing = base64.b64decode(source.partition(",")[2])
        assert b"<svg" in drawing
        assert b"<text" not in drawing, "no font is asked for"
        assert b"<dc:date>" not in drawing
    assert "default-src &#x27;none&#x27;; style-src &#x27;sha256-" in page
    assert "<script" not in page
    assert data == render(summary(METRIC)), "the same bytes again"


def test_texts_of_others_are_escaped_and_shown() -> None:
    hostile = "<b>$x$\u202e&"
    settings = {f"a.{hostile}": hostile}
    cells = (Cell(hostile, settings, 2, 1.0, (0.5, 1.5)),)
    one = Cost(hostile, settings, 2, "yes", 1, 1, 1, 1, 2.5)
    metric = Metric(hostile, cells, (), tuple(points(settings, 1.0, 2.0, scenario=hostile)))
    said = Summary(hostile, 2, 2, 0.9, (metric,), (one,))
    written = render(said)
    assert b"<b>" not in written
    assert "\u202e" not in written.decode()
    found = parsed(written)
    assert found.tables[":Means over the runs"][1][0] == "<b>$x$\\u202e&"
    assert found.tables[":Means over the runs"][1][-1] == "2.5"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "as written"),
        ({"a.b.c": 1}, "c = 1"),
        ({"a.b": "x", "d": [1, 2.5]}, 'b = "x", d = [1,2.5]'),
    ],
)
def test_settings_are_named_by_the_last_part_of_their_path(
    settings: dict[str, object], said: str
) -> None:
    assert said_settings(settings) == said


def test_a_page_is_written_or_the_error_says_why_not(tmp_path: Path) -> None:
    said = summary()  # nothing is drawn
    write_page(said, tmp_path / "r.html")
    assert (tmp_path / "r.html").read_bytes() == render(said)
    with pytest.raises(UsageError) as raised:
        write_page(said, tmp_path)
    assert str(raised.value) == f"{tmp_path} cannot be written: Is a directory"


# --- What is drawn, as matplotlib has it.


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Axes]:
    """The axes of every drawing that is made."""
    found: list[Axes] = []
    for name in ("_draw_cells", "_draw_points"):
        draw = getattr(page, name)

        def keeping(values: object, axes: Axes, draw: object = draw) -> None:
            found.append(axes)
            draw(values, axes)  # type: ignore[operator]

        monkeypatch.setattr(page, name, keeping)
    return found


def error_bars(axes: Axes) -> list[ErrorbarContainer]:
    """The drawing by setting: for each a mark, the ends of its interval, and the bar between."""
    found = [one for one in axes.containers if isinstance(one, ErrorbarContainer)]
    assert len(found) == len(axes.containers)
    return found


def plain(values: ArrayLike) -> Any:
    """The numbers of an array, as lists."""
    return np.asarray(values).tolist()


def test_a_drawing_by_setting_has_a_mark_and_its_interval_at_each_place(
    drawn: list[Axes],
) -> None:
    render(summary(METRIC))
    axes = drawn[0]
    drawn_bars = error_bars(axes)
    marks = [one.lines[0] for one in drawn_bars]
    assert [plain(mark.get_xydata()) for mark in marks] == [[[0, 1.23456]], [[1, 7.0]]]
    (bars,) = drawn_bars[0].lines[2]
    assert bars.get_segments()[0].tolist() == [[0, 1.0], [0, 1.5]]
    (bars,) = drawn_bars[1].lines[2]
    assert bars.get_segments()[0].tolist() == [[1, 7.0], [1, 7.0]], "no interval, no width"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["tax = 0.0", "tax = 0.5"]
    assert {label.get_rotation() for label in axes.get_xticklabels()} == {0}
    assert [mark.get_color() for mark in marks] == ["#0072b2", "#d55e00"]
    assert {mark.get_marker() for mark in marks} == {"o"}
    caps = drawn_bars[0].lines[1]
    assert [cap.get_markersize() for cap in caps] == [8, 8], "both ends of an interval are marked"
    margins = axes.margins()
    assert margins is not None
    assert margins[0] == 0.2
    assert isinstance(axes.figure, Figure)
    assert axes.figure.get_size_inches().tolist() == [5.2, 3.2]
    assert not axes.spines["top"].get_visible()
    assert not axes.spines["right"].get_visible()
    assert axes.spines["left"].get_visible()


def test_many_settings_have_room_for_their_names_and_colours_come_again(
    drawn: list[Axes],
) -> None:
    settings = [{"tax": number} for number in range(9)]
    cells = tuple(Cell("s", one, 2, 1.0, None) for one in settings)
    trajectories = tuple(point for one in settings for point in points(one, 1.0, 2.0))
    costs = [cost(one) for one in settings]
    render(summary(Metric("m", cells, (), trajectories), costs=costs))
    by_setting, by_epoch = drawn
    assert {label.get_rotation() for label in by_setting.get_xticklabels()} == {30}
    colours = [one.lines[0].get_color() for one in error_bars(by_setting)]
    assert len(set(colours)) == 7
    assert colours[7:] == colours[:2]
    assert [line.get_color() for line in by_epoch.lines] == colours
    assert [line.get_linestyle() for line in by_epoch.lines[:5]] == ["-", "--", "-.", ":", "-"]


def test_a_drawing_by_epoch_has_a_line_and_its_band_for_each_setting(drawn: list[Axes]) -> None:
    render(summary(METRIC))
    axes = drawn[1]
    assert [plain(line.get_xydata()) for line in axes.lines] == [
        [[0, 1.0], [1, 2.0]], [[0, 3.0], [1, 4.0]],
    ]  # fmt: skip
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["tax = 0.0", "tax = 0.5"]
    assert not legend.get_frame_on()
    assert axes.get_xlabel() == "epoch"
    for band, (low, high) in zip(axes.collections, ((1.0, 4.0), (3.0, 6.0)), strict=True):
        corners = {tuple(point) for point in plain(band.get_paths()[0].vertices)}
        # No interval in epoch 0, from 1 below to 2 above in epoch 1.
        assert {(0.0, low), (1.0, low), (1.0, high)} <= corners
        assert len(corners) == 3
        assert band.get_alpha() == 0.15
        assert band.get_linewidth() == [0]
    colours = [line.get_color() for line in axes.lines]
    faces: list[Any] = [band.get_facecolor() for band in axes.collections]
    assert [to_hex(face[0]) for face in faces] == colours
    assert all(tick.is_integer() for tick in axes.get_xticks()), "there are no half epochs"
