"""A real browser, for pages that are made for one."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

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


@contextmanager
def running_browser(profile: Path) -> Iterator[webdriver.Chrome]:
    """A headless Chromium; skips the test where there is none.

    Args:
        profile: An empty folder.
    """
    binary = next(filter(None, map(shutil.which, BROWSERS)), None)
    driver = shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip(f"needs chromedriver and one of {', '.join(BROWSERS)} on PATH")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
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


def log_of(browser: webdriver.Chrome, kind: str) -> list[dict[str, Any]]:
    """What the browser wrote into a log, ``browser`` or ``performance``, since it was last read."""
    untyped: Any = browser  # its get_log() has no types
    entries: list[dict[str, Any]] = untyped.get_log(kind)
    return entries


def requested(browser: webdriver.Chrome) -> list[str]:
    """Addresses the browser asked for since the log was last read."""
    messages = (json.loads(entry["message"])["message"] for entry in log_of(browser, "performance"))
    return [
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    ]
