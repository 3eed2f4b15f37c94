"""Reports opened in a real browser."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from swarm_repro.reporting.html import write_html
from tests.reporting.making import Report
from tests.reporting.page import Page

BROWSERS = ("google-chrome", "chromium", "chromium-browser")
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--window-size=1400,1000",
)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """One headless Chromium for all tests."""
    binary = next(filter(None, map(shutil.which, BROWSERS)), None)
    driver = shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip(f"needs chromedriver and one of {', '.join(BROWSERS)} on PATH")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SE_OFFLINE", "true")
        chrome = webdriver.Chrome(
            options=options,
            service=Service(driver, env=dict(os.environ)),
        )
        yield chrome
        chrome.quit()


@pytest.fixture
def open_page(browser: webdriver.Chrome, tmp_path: Path) -> Iterator[Callable[..., Page]]:
    """Write a report and open it; at the end nothing was complained about, nothing was fetched."""
    opened: list[str] = []
    browser.get("about:blank")
    browser.get_log("performance")
    browser.get_log("browser")

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
        return Page(browser)

    yield open_
    assert browser.get_log("browser") == []
    assert requested(browser) == opened


def requested(browser: webdriver.Chrome) -> list[str]:
    """Addresses the browser asked for since the log was last read."""
    messages = (json.loads(entry["message"])["message"] for entry in browser.get_log("performance"))
    return [
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    ]
