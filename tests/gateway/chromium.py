"""Chromium, as a user's browser, for tests of the page: Debian's packages chromium and chromium-driver."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
WITHIN_S = 60
needs_chromium = pytest.mark.skipif(
    BROWSER is None or DRIVER is None, reason="no browser here: apt-get install chromium chromium-driver"
)


class Browser:
    """Blocks, so it is for a thread beside the loop: `await browser.do(lambda: ...)`."""

    def __init__(self, folder: Path, width: int = 1300, height: int = 850, dark: bool = False) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = BROWSER or ""
        for word in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", f"user-data-dir={folder}"):
            options.add_argument(f"--{word}")
        options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(DRIVER))
        self._logs: Any = self.driver  # (its get_log has no types)
        self.look(width, height, dark)

    def look(self, width: int, height: int, dark: bool = False) -> None:
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def find(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def until(self, is_so: Callable[[], Any]) -> None:
        """What is drawn anew meanwhile is looked at again."""
        wait = WebDriverWait(self.driver, WITHIN_S, 0.1, [StaleElementReferenceException])
        wait.until(lambda _: is_so())

    def asked(self) -> list[str]:
        """Addresses of what was asked for, since the last call."""
        messages = [json.loads(entry["message"])["message"] for entry in self._logs.get_log("performance")]
        sent = [one["params"]["request"] for one in messages if one["method"] == "Network.requestWillBeSent"]
        return [str(request["url"]) for request in sent]

    def complaints(self) -> list[str]:
        """Of its console: errors of scripts, what the policy refused."""
        return [str(entry["message"]) for entry in self._logs.get_log("browser")]

    def quit(self) -> None:
        self.driver.quit()

    async def do(self, what: Callable[[], Any]) -> Any:
        return await asyncio.to_thread(what)
