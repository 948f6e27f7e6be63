"""A headless Chromium: the one of this machine, never one that a test tool fetches."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from selenium.webdriver import Chrome, ChromeOptions, ChromeService

# Where nobody looks on, as root (who has no sandbox), with nothing sent home.
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--window-size=1280,2000",
)


@contextmanager
def chromium() -> Iterator[Chrome]:
    """Calls of it block: make those that need a service in another thread than that of the service's loop.

    Where there is no Chromium the test is skipped, in CI it fails.
    """
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if browser is None or driver is None:
        missing = "chromium or chromedriver is not installed here (Debian: apt-get install chromium chromium-driver)"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    options = ChromeOptions()
    options.binary_location = browser
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for flag in _FLAGS:
        options.add_argument(flag)
    with Chrome(options, ChromeService(driver)) as chrome:
        yield chrome


def complaints(browser: Chrome) -> list[dict[str, Any]]:
    """What came on the console since the last call, of the page and of the browser itself: failed requests, violations
    of the content security policy."""
    return list(browser.get_log("browser"))  # type: ignore[no-untyped-call]
