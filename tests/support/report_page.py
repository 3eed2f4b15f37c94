"""An opened report, in the words of who looks at it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.expected_conditions import (
    element_to_be_clickable,
    presence_of_element_located,
)
from selenium.webdriver.support.ui import WebDriverWait

_LIMIT_S = 10

#: Every piece of visible text whose contrast with what is behind it is below WCAG AA's 4.5.
_LOW_CONTRAST = """
const parse = (colour) => colour.match(/[\\d.]+/g).map(Number);
const light = (rgb) => {
  const [r, g, b] = rgb.slice(0, 3).map((value) => {
    value /= 255;
    return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const behind = (element) => {
  for (; element; element = element.parentElement) {
    const colour = parse(getComputedStyle(element).backgroundColor);
    if (colour.length === 3 || colour[3] > 0) return colour;
  }
};
const low = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const element = walker.currentNode.parentElement;
  if (!walker.currentNode.data.trim() || !element.checkVisibility() || element.disabled) continue;
  if (element.closest("script, style")) continue;
  const one = light(parse(getComputedStyle(element).color));
  const other = light(behind(element));
  const contrast = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
  if (contrast < 4.5)
    low.push([element.tagName, element.className, walker.currentNode.data, contrast].join(" "));
}
return low;
"""


class Page:
    """One report in the browser."""

    def __init__(self, browser: webdriver.Chrome) -> None:
        self.browser = browser

    def run(self, script: str, *arguments: object) -> Any:
        return self.browser.execute_script(script, *arguments)

    def find(self, selector: str) -> WebElement:
        """An element, as soon as it is there: the page's script may still be at work."""
        found: WebElement = self._until(presence_of_element_located((By.CSS_SELECTOR, selector)))
        return found

    def all(self, selector: str) -> list[WebElement]:
        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        """All text inside, laid out or not."""
        value: str = self.run("return arguments[0].textContent", self.find(selector))
        return value

    def texts(self, selector: str) -> list[str]:
        values: list[str] = self.run(
            "return [...document.querySelectorAll(arguments[0])].map((one) => one.textContent)",
            selector,
        )
        return values

    def click(self, selector: str) -> None:
        self._until(element_to_be_clickable((By.CSS_SELECTOR, selector))).click()

    def press_button(self, label: str, *, within: str = "body") -> None:
        """Click the first button with this label, as soon as it is there."""

        def labelled(_: object) -> WebElement | None:
            buttons = self.all(f"{within} button")
            return next((one for one in buttons if one.text.startswith(label)), None)

        self._until(labelled, f"no button {label!r} in {within}").click()

    def press(self, *keys: str) -> None:
        """Press keys, wherever the focus is."""
        for key in keys:
            ActionChains(self.browser).send_keys(key).perform()

    def wait(self, condition: Callable[[], object]) -> None:
        """Wait until something holds."""
        self._until(lambda _: condition())

    def _until(self, found: Callable[[webdriver.Chrome], object], otherwise: str = "") -> Any:
        waiting = WebDriverWait(
            self.browser,
            _LIMIT_S,
            poll_frequency=0.02,
            # An element that the script replaces between two looks is looked for again.
            ignored_exceptions=(StaleElementReferenceException,),
        )
        return waiting.until(found, otherwise)

    @property
    def heading(self) -> str:
        """Heading of the open detail panel; empty where it is closed."""
        panel = self.find("#detail")
        return self.find("#detail h2").text if panel.is_displayed() else ""

    @property
    def focused(self) -> str:
        """Id of the focused element, else its label."""
        value: str = self.run(
            "const at = document.activeElement;"
            "return at.id || at.getAttribute('aria-label') || at.textContent"
        )
        return value

    @property
    def selected_cell(self) -> str:
        """Accessible name of the timeline's active cell."""
        name: str = self.run(
            "const id = document.getElementById('timeline').getAttribute('aria-activedescendant');"
            "return document.getElementById(id).getAttribute('aria-label')"
        )
        return name

    @property
    def node_count(self) -> int:
        count: int = self.run("return document.getElementsByTagName('*').length")
        return count

    def low_contrast(self) -> list[str]:
        found: list[str] = self.run(_LOW_CONTRAST)
        return found
