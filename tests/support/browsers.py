"""Debian's Chromium without a window, driven by its own driver, for the tests of pages."""

from __future__ import annotations

import base64
import os
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from selenium.common.exceptions import (
    ElementClickInterceptedException,
    ElementNotInteractableException,
    StaleElementReferenceException,
)
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from waiting import Value, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from selenium.webdriver.remote.webelement import WebElement

SECONDS = 60.0

PACKAGES = "chromium chromium-driver"

_OPTIONS = (
    "--headless",
    "--no-sandbox",  # root, in a container
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)


@dataclass(frozen=True)
class FoundBrowser:
    """The installed browser.

    Attributes:
        chromium: The browser.
        driver: What drives it.
    """

    chromium: str
    driver: str


def find_browser() -> FoundBrowser | None:
    """Return what is installed; None if it is not all there."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    return FoundBrowser(chromium, driver) if chromium and driver else None


class Browser:
    """A window on one page.

    Args:
        driver: Selenium's.
    """

    def __init__(self, driver: Chrome) -> None:
        self.driver = driver

    def open(self, url: str) -> None:
        """Open a page."""
        self.driver.get(url)

    def shape(self, width: int, height: int, *, is_dark: bool = False) -> None:
        """Be a screen of this size, of a person who likes it light or dark."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})

    def all(self, selector: str) -> list[WebElement]:
        """Return the elements of a CSS selector."""
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def wait_for(self, selector: str, text: str = "") -> WebElement:
        """Return the first element of a selector that is shown and has this text in it, once it is there."""

        def found() -> WebElement | None:
            shown = (one for one in self.all(selector) if one.is_displayed() and text in one.text)
            return next(shown, None)

        return wait_until(lambda: self._steady(found), SECONDS, f"{selector} with {text!r}")

    def press(self, selector: str, text: str = "") -> None:
        """Press a button once it is enabled; one that was replaced meanwhile is looked up again."""
        wait_until(lambda: self._steady(lambda: self._pressed(selector, text)), SECONDS, f"{selector} to press")

    def press_twice(self, selector: str, text: str, question: str) -> None:
        """Press a button that asks again; a slow machine may need to be asked more often."""

        def is_done() -> bool:
            if self._steady(lambda: self._pressed(selector, question)):
                return True
            self._steady(lambda: self._pressed(selector, text))
            return False

        wait_until(is_done, SECONDS, f"{selector}: {question}")

    def _pressed(self, selector: str, text: str) -> bool:
        for one in self.all(selector):
            if one.is_displayed() and one.is_enabled() and text in one.text:
                one.click()
                return True
        return False

    def text(self, selector: str) -> str:
        """Return what a person reads in the first element of a selector."""
        return self.wait_for(selector).text

    def run(self, script: str, *arguments: Any) -> Any:
        """Run JavaScript in the page and return what it returns."""
        return self.driver.execute_script(script, *arguments)

    def complaints(self) -> list[str]:
        """Return what the page wrote to its console as errors: also what its policy forbade."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]

    def picture(self, file: Path, *, is_whole: bool = True) -> None:
        """Write a picture of the page."""
        found = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": is_whole})
        file.write_bytes(base64.b64decode(found["data"]))

    def _steady(self, look: Callable[[], Value | None]) -> Value | None:
        """Return what a look finds; None if the page changed under it."""
        try:
            return look()
        except (StaleElementReferenceException, ElementNotInteractableException, ElementClickInterceptedException):
            return None


@contextmanager
def opened(found: FoundBrowser, folder: Path) -> Iterator[Browser]:
    """Run a browser for the length of a block.

    Args:
        found: Which.
        folder: For its own files.
    """
    options = ChromeOptions()
    options.binary_location = found.chromium
    for option in (*_OPTIONS, f"--user-data-dir={folder / 'browser'}"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = Service(found.driver, env=os.environ | {"HOME": str(folder), "SE_OFFLINE": "true"})
    driver = Chrome(options=options, service=service)
    driver.set_page_load_timeout(SECONDS)
    try:
        yield Browser(driver)
    finally:
        driver.quit()
