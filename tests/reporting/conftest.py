"""Reports opened in a real browser."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from selenium import webdriver

from swarm_repro.reporting.html import write_html
from tests.support.browser import log_of, requested
from tests.support.report_page import Page
from tests.support.reports import Report


@pytest.fixture
def open_page(browser: webdriver.Chrome, tmp_path: Path) -> Iterator[Callable[..., Page]]:
    """Write a report and open it; at the end nothing was complained about, nothing was fetched."""
    opened: list[str] = []
    browser.get("about:blank")
    log_of(browser, "performance")
    log_of(browser, "browser")

    def open_(report: Report, *, theme: str = "light", width: int = 1400) -> Page:
        browser.set_window_size(width, 1000)
        path = tmp_path / f"{len(opened)}.html"
        write_html(report, path)
        browser.execute_cdp_cmd(
            "Emulation.setEmulatedMedia",
            {"media": "", "features": [{"name": "prefers-color-scheme", "value": theme}]},
        )
        opened.append(path.as_uri())
        browser.get(opened[-1])
        page = Page(browser)
        page.find("#page > header")  # which its script makes, with all the rest
        return page

    yield open_
    assert log_of(browser, "browser") == []
    assert requested(browser) == opened
