"""A fixture for the modules that say `pytest_plugins = "tests.browser"`."""

import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

expect.set_options(timeout=30_000)  # milliseconds: a slow machine with other work is no failure


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium, without a window.

    Of one module: as long as it is open, Playwright's event loop runs, and no other may be started.
    """
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("chromium is not installed (.ci/install-packages installs it from Debian)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()
