"""The report of a study in a real browser, its numbers computed again from its tables."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy import stats

from swarm_repro.study.page import render
from swarm_repro.study.statistics import Cell, Cost, Metric, Summary
from tests.support.browser import log_of, requested
from tests.support.command import ROOT
from tests.support.report_page import Page
from tests.support.studies import TAX, study

if TYPE_CHECKING:
    from selenium import webdriver

pytestmark = pytest.mark.browser
TAX_RATE = "governance.transaction_tax_rate"


def opened(browser: webdriver.Chrome, path: Path, *, theme: str = "light") -> Page:
    """Open a page, which fetches nothing and complains about nothing."""
    browser.get("about:blank")
    log_of(browser, "performance")
    log_of(browser, "browser")
    features = [{"name": "prefers-color-scheme", "value": theme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": features})
    browser.get(path.as_uri())
    fetched = [address for address in requested(browser) if not address.startswith("data:")]
    assert fetched == [path.as_uri()]
    assert log_of(browser, "browser") == []
    return Page(browser)


def table(page: Page, metric: str, caption: str) -> list[list[str]]:
    """The rows of a table as who looks at it reads them."""
    rows: list[list[str]] = page.run(
        """const caption = [...document.querySelectorAll(`section[id="${arguments[0]}"] caption`)]
             .find((one) => one.textContent === arguments[1]);
           return [...caption.parentElement.querySelectorAll("tbody tr")]
             .map((row) => [...row.children].map((cell) => cell.textContent));""",
        metric,
        caption,
    )
    return rows


#: Drawing all metrics takes ten times as long.
METRICS = ("--metric", "total_welfare", "--metric", "toxicity_rate")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The committed study, replayed, with its report."""
    folder = tmp_path_factory.mktemp("tax") / "out"
    study("run", TAX, "--workers", 2, "--out", folder, cwd=ROOT)
    study("report", TAX, "--out", folder, *METRICS, cwd=ROOT)
    return folder


def test_the_numbers_of_the_page_are_those_of_the_tables(
    browser: webdriver.Chrome, out: Path
) -> None:
    page = opened(browser, out / "report.html")
    with (out / "runs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    by_cell: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        by_cell.setdefault((row["scenario"], row[TAX_RATE]), []).append(float(row["total_welfare"]))
    shown = table(page, "total_welfare", "By setting")
    assert len(shown) == len(by_cell) == 4
    for (scenario, rate), line in zip(by_cell, shown, strict=True):
        values = by_cell[scenario, rate]
        known = stats.ttest_1samp(values, 0).confidence_interval(0.95)
        assert line == [
            scenario,
            f"transaction_tax_rate = {float(rate)}",
            "3",
            f"{np.mean(values):.4g}",
            f"{known.low:.4g} to {known.high:.4g}",
            "yes",
        ]
    for line in table(page, "total_welfare", "Differences, seed by seed"):
        before, after = by_cell[line[0], "0"], by_cell[line[0], "0.2"]
        paired = stats.ttest_rel(after, before).confidence_interval(0.95)
        unpaired = stats.ttest_ind(after, before, equal_var=False).confidence_interval(0.95)
        changes = np.subtract(after, before)
        assert line[1:5] == [TAX_RATE, "0.0", "0.2", "3"]
        assert line[5] == f"{changes.mean():.4g}"
        assert line[6] == f"{paired.low:.4g} to {paired.high:.4g}"
        assert line[7] == f"{unpaired.low:.4g} to {unpaired.high:.4g}"
        assert line[8] == f"{changes.mean() / changes.std(ddof=1):.4g}"


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_drawings_are_shown_and_described_and_all_text_can_be_read(
    theme: str, browser: webdriver.Chrome, out: Path
) -> None:
    page = opened(browser, out / "report.html", theme=theme)
    sizes = page.run("return [...document.images].map((one) => [one.naturalWidth, one.alt])")
    assert len(sizes) >= 2 * 2
    assert all(width > 100 and alt for width, alt in sizes)
    assert "total_welfare, demo: by epoch" in {alt for _, alt in sizes}
    assert page.low_contrast() == []


def test_texts_cannot_become_mark_up(browser: webdriver.Chrome, tmp_path: Path) -> None:
    hostile = '<img src=x onerror="document.title=1">$x$ \u202e'
    settings = {hostile: hostile}
    cells = (Cell(hostile, settings, 2, 1.0, (0.5, 1.5)),)
    costs = (Cost(hostile, settings, 2, "no", 1, 1, 1, 1, None),)
    summary = Summary(hostile, 2, 2, 0.95, (Metric(hostile, cells, (), ()),), costs)
    path = tmp_path / "report.html"
    path.write_bytes(render(summary))
    page = opened(browser, path)
    assert page.run("return document.title").startswith("Study <img")
    assert "\u202e" not in path.read_text()
    assert "NOT REPRODUCED" in page.text("table")


def test_the_same_results_give_the_same_page(out: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.html"
    study("report", TAX, "--out", out, *METRICS, "--html", again, cwd=ROOT)
    assert again.read_bytes() == (out / "report.html").read_bytes()
