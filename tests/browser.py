"""Headless Chromium for pages that lie on the disk: what they show, log, and ask the network for.

It drives the `chromium` and `chromedriver` that are installed, and never looks for others.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

PROGRAMS = (("chromium", "chromium-browser", "google-chrome"), ("chromedriver",))
WIDE, NARROW = (1280, 900), (390, 844)


def missing() -> str:
    """Why there is no browser, or "" where there is one."""
    absent = [names[0] for names in PROGRAMS if not any(map(shutil.which, names))]
    return f"not installed: {', '.join(absent)}" if absent else ""


class Browser:
    """One browser with one tab."""

    def __init__(self, driver: Any) -> None:
        self._driver = driver

    def open(
        self,
        path: Path,
        size: tuple[int, int] = WIDE,
        *,
        dark: bool = False,
        media: str = "screen",
        scripts: bool = True,
    ) -> None:
        """Show a file in a window of so many CSS pixels; what was logged before is forgotten."""
        width, height = size
        self._do(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._do("Emulation.setEmulatedMedia", media=media, features=[scheme])
        self._do("Emulation.setScriptExecutionDisabled", value=not scripts)
        for log in ("browser", "performance"):
            self._driver.get_log(log)
        self._driver.get(path.resolve().as_uri())

    def ask(self, script: str, *arguments: object) -> Any:
        """What a function body in JavaScript returns."""
        return self._driver.execute_script(script, *arguments)

    def logged(self) -> list[str]:
        """Warnings and errors of the console since the last call."""
        return [
            f"{entry['level']}: {entry['message']}" for entry in self._driver.get_log("browser")
        ]

    def requested(self) -> list[str]:
        """Addresses that were asked for since the last call, the page's own first; none inside of it."""
        messages = (
            json.loads(entry["message"])["message"] for entry in self._driver.get_log("performance")
        )
        sent = (m["params"] for m in messages if m["method"] == "Network.requestWillBeSent")
        addresses = [params["request"]["url"] for params in sent]
        return [a for a in addresses if not a.startswith(("data:", "blob:"))]

    def press(self, selector: str) -> None:
        """Click on the first element of this CSS selector."""
        self._driver.find_element("css selector", selector).click()

    def download(self, selector: str, folder: Path, *, patience: float = 10.0) -> Path:
        """The file that clicking on an element saves to an empty folder.

        Raises:
            TimeoutError: none came.
        """
        self._do("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))
        self.press(selector)
        end = time.monotonic() + patience
        while time.monotonic() < end:
            found = [path for path in folder.iterdir() if path.suffix != ".crdownload"]
            if found:
                return found[0]
            time.sleep(0.02)
        raise TimeoutError(f"{selector} saved nothing in {patience:g} s")

    def screenshot(self, *, whole: bool = False) -> bytes:
        """PNG of the window, or of all that one can scroll to."""
        clip = {"clip": {"x": 0, "y": 0, "scale": 1, **self._extent()}} if whole else {}
        taken = self._do(
            "Page.captureScreenshot", format="png", captureBeyondViewport=whole, **clip
        )
        return base64.b64decode(taken["data"])

    def _extent(self) -> dict[str, float]:
        size = self._do("Page.getLayoutMetrics")["cssContentSize"]
        return {"width": size["width"], "height": size["height"]}

    def pdf(self) -> bytes:
        """The page printed on A4, with backgrounds; from then on it is shown as on paper."""
        self._do("Emulation.setEmulatedMedia", media="print")
        taken = self._do(
            "Page.printToPDF", printBackground=True, paperWidth=8.27, paperHeight=11.69
        )
        return base64.b64decode(taken["data"])

    def _do(self, command: str, **arguments: object) -> dict[str, Any]:
        return dict(self._driver.execute_cdp_cmd(command, arguments))


@contextmanager
def browser() -> Iterator[Browser]:
    """One with a fresh profile, which is closed at the end.

    Raises:
        RuntimeError: where it is not installed.
    """
    if missing():
        raise RuntimeError(missing())
    from selenium import webdriver

    os.environ["SE_OFFLINE"] = "true"
    chromium, chromedriver = (next(filter(None, map(shutil.which, names))) for names in PROGRAMS)
    with TemporaryDirectory(prefix="qcompile-chromium-", ignore_cleanup_errors=True) as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = chromium
        for switch in _switches(profile):
            options.add_argument(switch)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        driver = webdriver.Chrome(options, webdriver.ChromeService(chromedriver))
        try:
            yield Browser(driver)
        finally:
            driver.quit()


def _switches(profile: str) -> Iterator[str]:
    yield from (
        "--headless=new",
        f"--user-data-dir={profile}",
        "--hide-scrollbars",
        "--no-first-run",
    )
    yield from ("--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking")
    yield from ("--disable-component-update", "--disable-sync", "--force-color-profile=srgb")
    if os.geteuid() == 0:  # Chromium has no sandbox for root
        yield "--no-sandbox"
