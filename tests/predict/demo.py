"""The demo as a real process, and its page in a real browser."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO

from PIL import Image
from playwright.sync_api import Browser, Page, expect

from tests.project import ROOT

COMMAND = [sys.executable, "-m", "predict.demo", "--port", "0", "--model"]


@contextmanager
def serving(model: object) -> Iterator[str]:
    """Run the demo on a free port and yield its URL; fail on a traceback in its log."""
    with subprocess.Popen(
        [*COMMAND, str(model)], cwd=ROOT, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            log = []
            while "Uvicorn running on " not in "".join(log[-1:]):
                log.append(process.stderr.readline())
                assert log[-1], log
            yield log[-1].partition(" on ")[2].split()[0]
        finally:
            process.terminate()
            assert "Traceback" not in process.stderr.read()


@contextmanager
def page_of(browser: Browser, url: str, **options: object) -> Iterator[Page]:
    """Open the page; fail on an error in its console, CSP violations included."""
    with browser.new_context(**options) as context:
        page = context.new_page()
        problems = []
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(url)
        # The page reacts to the pen only after it has fetched the model's description.
        expect(page.locator("#result")).not_to_be_empty()
        yield page
        assert problems == []


def png(image: Image.Image) -> bytes:
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
