"""The demo: its API over real HTTP, and its page in a real browser."""

import asyncio
import base64
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from predict.demo.limits import MAX_BYTES, MAX_DROPPED
from predict.model import Model
from stages.datasets.pictures import read_picture
from tests.predict.drawings import DRAWINGS, draw
from tests.project import ROOT, clean_environment

pytest_plugins = "tests.browser"


@contextmanager
def serving(*arguments: object) -> Iterator[str]:
    """Run the demo on a free port and yield its URL."""
    command = [sys.executable, "-m", "predict.demo", "--port", "0", *map(str, arguments)]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            line = process.stdout.readline()
            assert line.startswith("http://127.0.0.1:"), line + process.stdout.read()
            yield line.split()[0]
        finally:
            process.terminate()
            assert "Traceback" not in process.stdout.read()


@pytest.fixture(scope="module")
def url(model_file: Path) -> Iterator[str]:
    with serving("--model", model_file) as url:
        yield url


@pytest.fixture
def client(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=30, trust_env=False) as client:
        yield client


def png(image: Image.Image) -> bytes:
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("digit", DRAWINGS)
def test_it_answers_what_predict_answers(client: httpx.Client, model_file: Path, digit: int):
    content = png(draw(digit))
    answer = client.post("/predict", content=content).raise_for_status().json()
    seen = read_picture(BytesIO(content), "mnist")
    assert answer["class"] == str(digit)
    assert answer["probabilities"] == pytest.approx(Model(model_file)(seen[None])[0], abs=1e-6)
    with Image.open(decoded(answer["seen"])) as image:
        assert np.array_equal(np.asarray(image), seen)


def decoded(url: str) -> BytesIO:
    return BytesIO(base64.b64decode(url.removeprefix("data:image/png;base64,")))


def test_an_empty_drawing_is_no_error(client: httpx.Client):
    response = client.post("/predict", content=png(Image.new("L", (400, 400), 255)))
    assert response.status_code == 200
    assert response.json() == {"class": None, "probabilities": None, "seen": None}


@pytest.mark.parametrize(
    ("content", "status", "message"),
    [
        (b"", 400, "empty"),
        (b"no picture", 422, "not a picture"),
        (png(draw(1))[:500], 422, "damaged picture"),
        (png(Image.new("1", (10_000, 6_000))), 422, "larger than 50 megapixels"),
        (b"\0" * (MAX_BYTES + 1), 413, "larger than 10,000,000 bytes"),
    ],
)
def test_a_wrong_request_gets_one_line(
    client: httpx.Client, content: bytes, status: int, message: str
):
    response = client.post("/predict", content=content)
    assert response.status_code == status
    assert response.json()["error"].startswith(message)
    assert "\n" not in response.json()["error"]


def test_a_body_that_is_much_too_long_is_cut_off(client: httpx.Client):
    sent, length = 0, 10 * MAX_DROPPED

    def endless() -> Iterator[bytes]:
        nonlocal sent
        while sent < length:
            sent += 65_536
            yield b"\0" * 65_536

    with suppress(httpx.WriteError):  # the server may have closed the connection by then
        headers = {"Content-Length": str(length)}
        assert client.post("/predict", content=endless(), headers=headers).status_code == 413
    assert sent < 2 * MAX_DROPPED


def test_localhost_is_a_name_of_it(client: httpx.Client):
    assert client.get("/", headers={"Host": "localhost:8000"}).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/app.py",
        "/static/index.html",
        "/../app.py",
        "/%2e%2e/app.py",
        "/..%2fapp.py",
        "//etc/passwd",
        "/index.html",
    ],
)
def test_there_are_no_other_files(client: httpx.Client, path: str):
    request = client.build_request("GET", "/")
    request.url = request.url.copy_with(raw_path=path.encode())
    assert client.send(request, follow_redirects=True).status_code in (400, 404)


def test_a_port_in_use_is_one_line(url: str, model_file: Path, tmp_path: Path):
    port = url.rpartition(":")[2]
    result = subprocess.run(
        [sys.executable, "-m", "predict.demo", "--port", port, "--model", str(model_file)],
        cwd=ROOT,
        env=clean_environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert result.stderr == f"error: port {port}: in use; choose another with --port\n"


@pytest.mark.slow
def test_fifty_clients_at_once_are_all_answered(url: str):
    contents = {digit: png(draw(digit)) for digit in DRAWINGS}
    seconds = []

    async def ask_ten_times(client: httpx.AsyncClient, digit: int) -> None:
        for _ in range(10):
            start = time.perf_counter()
            response = await client.post("/predict", content=contents[digit])
            seconds.append(time.perf_counter() - start)
            assert response.raise_for_status().json()["class"] == str(digit)

    async def load() -> None:
        limits = httpx.Limits(max_connections=50)
        async with httpx.AsyncClient(
            base_url=url, limits=limits, timeout=120, trust_env=False
        ) as client:
            digits = [list(DRAWINGS)[number % len(DRAWINGS)] for number in range(50)]
            await asyncio.gather(*(ask_ten_times(client, digit) for digit in digits))

    with ThreadPoolExecutor() as pool:  # a browser of another test may have a loop in this thread
        pool.submit(asyncio.run, load()).result()
    assert len(seconds) == 500
    p50, p99 = np.percentile(seconds, (50, 99))
    print(f"50 clients, 500 requests: p50 {1e3 * p50:.0f} ms, p99 {1e3 * p99:.0f} ms")


@contextmanager
def page_of(browser: Browser, url: str, **options: object) -> Iterator[Page]:
    """Open the page; at the end there must have been no error, CSP violations included."""
    with browser.new_context(**options) as context:
        page = context.new_page()
        problems = []
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on(
            "requestfailed",
            lambda one: problems.append(one.url) if "predict" not in one.url else None,
        )
        page.goto(url)
        # It is loaded before it has fetched what the model is, and until then it hears no pen.
        expect(page.locator("#result")).not_to_be_empty()
        yield page
        assert problems == []


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Page]:
    with page_of(browser, url, viewport={"width": 1280, "height": 800}) as page:
        yield page


def draw_by_mouse(page: Page, digit: int) -> None:
    box = page.locator("#canvas").bounding_box()
    for stroke in DRAWINGS[digit]:
        points = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in stroke]
        page.mouse.move(*points[0])
        page.mouse.down()
        for point in points[1:]:
            page.mouse.move(*point, steps=3)
        page.mouse.up()


def drawn(page: Page) -> str:
    """Return what is on the canvas, as a data URL."""
    return page.locator("#canvas").evaluate("canvas => canvas.toDataURL()")


def expect_digit(page: Page, digit: int) -> None:
    expect(page.locator("#result")).to_contain_text(f"This is {digit}, with ")
    expect(page.locator("#class")).to_have_text(str(digit))
    expect(page.locator("tr.best th")).to_have_text(str(digit))


def expect_nothing(page: Page) -> None:
    expect(page.locator("#result")).to_have_text("Draw something, or drop a picture.")
    expect(page.locator("#seen")).to_be_hidden()
    expect(page.get_by_role("button", name="Clear")).to_be_disabled()


def test_drawn_digits_are_recognised(page: Page):
    for digit in DRAWINGS:
        draw_by_mouse(page, digit)
        expect_digit(page, digit)
        expect(page.get_by_alt_text("What the network saw")).to_be_visible()
        page.get_by_role("button", name="Clear").click()
        expect_nothing(page)


def test_the_bars_show_the_probabilities(page: Page):
    draw_by_mouse(page, 0)
    expect_digit(page, 0)
    rows = page.locator("tbody tr")
    expect(rows).to_have_count(10)
    shown = rows.evaluate_all(
        "all => all.map(row => [row.querySelector('meter').value, row.lastChild.textContent])"
    )
    assert sum(value for value, _ in shown) == pytest.approx(1, abs=1e-4)
    assert [text for _, text in shown] == [f"{100 * value:.1f} %" for value, _ in shown]


def test_a_change_is_asked_about_at_once(page: Page):
    page.evaluate(
        """() => {
            window.happened = [];
            const fetch = window.fetch;
            window.fetch = (...all) => { happened.push("asked"); return fetch(...all); };
            document.addEventListener("pointerdown", () => {
                happened.push("drawn");
                setTimeout(() => happened.push("later"));
            }, { capture: true });
        }"""
    )
    draw_by_mouse(page, 1)
    expect_digit(page, 1)
    assert page.evaluate("happened.slice(0, 3)") == ["drawn", "asked", "later"]


def test_undo_takes_back_the_last_stroke(page: Page):
    draw_by_mouse(page, 1)
    expect_digit(page, 1)
    before = drawn(page)
    draw_by_mouse(page, 0)
    page.get_by_role("button", name="Undo").click()
    expect_digit(page, 1)
    assert drawn(page) == before
    page.get_by_role("button", name="Undo").click()
    expect_nothing(page)


def test_the_keyboard_is_enough_for_everything_but_drawing(page: Page):
    # From the start, since Chromium takes longer than a key press until it hands the dialog over.
    page.on("filechooser", lambda _: None)
    draw_by_mouse(page, 7)
    draw_by_mouse(page, 0)
    page.keyboard.press("Control+z")
    expect_digit(page, 7)
    page.keyboard.press("Escape")
    expect_nothing(page)
    draw_by_mouse(page, 7)
    reached = []
    for _ in range(3):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id"))
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid"
    assert reached == ["undo", "clear", "upload"]
    page.locator("#clear").press("Enter")
    expect_nothing(page)
    expect(page.locator("#upload")).to_be_focused()
    with page.expect_file_chooser():
        page.keyboard.press("Enter")


def test_a_screen_reader_is_told_the_answer_once(page: Page):
    """The answers to every movement of the pen would never let it finish a sentence."""
    page.evaluate(
        """() => {
            window.told = [];
            new MutationObserver(() => told.push(announcement.textContent))
                .observe(announcement, { childList: true });
        }"""
    )
    draw_by_mouse(page, 3)
    expect(page.get_by_role("status")).to_contain_text("This is 3, with ")
    told = page.evaluate("told")
    assert told[-1] == page.locator("#result").text_content()
    assert len(told) < page.evaluate("performance.getEntriesByType('resource').length") / 3


def test_a_stroke_that_leaves_the_canvas_ends_where_the_button_is_released(page: Page):
    box = page.locator("#canvas").bounding_box()
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] / 2, middle)
    page.mouse.down()
    page.mouse.move(box["x"] + 2 * box["width"], middle)
    page.mouse.up()
    before = drawn(page)
    page.mouse.move(box["x"] + box["width"] / 4, box["y"] + box["height"] / 4, steps=3)
    assert drawn(page) == before


def test_a_finger_draws(browser: Browser, url: str):
    phone = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
    with page_of(browser, url, **phone) as page:
        box = page.locator("#canvas").bounding_box()
        touch = page.context.new_cdp_session(page)
        # A touch that the system takes away, for a call or a gesture, ends its stroke.
        for kind, points in (
            ("touchStart", [{"x": box["x"] + 9, "y": box["y"] + 9}]),
            ("touchCancel", []),
        ):
            touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
        page.get_by_role("button", name="Undo").tap()
        expect_nothing(page)
        for stroke in DRAWINGS[3]:
            for kind, points in (
                ("touchStart", stroke[:1]),
                *(("touchMove", [point]) for point in stroke[1:]),
                ("touchEnd", []),
            ):
                places = [
                    {"x": box["x"] + x * box["width"], "y": box["y"] + y * box["height"]}
                    for x, y in points
                ]
                touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": places})
        expect_digit(page, 3)
        assert page.evaluate("scrollY") == 0
        assert page.evaluate("document.documentElement.scrollWidth") == 390


def test_a_file_can_be_uploaded(page: Page, tmp_path: Path):
    for digit in (2, 5):
        draw(digit).save(tmp_path / f"{digit}.png")
        page.locator("#file").set_input_files(tmp_path / f"{digit}.png")
        expect_digit(page, digit)
    (tmp_path / "text.png").write_text("no picture")
    page.locator("#file").set_input_files(tmp_path / "text.png")
    expect(page.locator("#result")).to_contain_text("no picture")


def test_an_older_answer_never_replaces_a_newer_one(page: Page):
    """The first request is held back until the second is answered."""
    held = []

    def hold(route):
        if held:
            route.continue_()
        else:
            held.append(route)

    page.route("**/predict", hold)
    with page.expect_request("**/predict"):
        draw_by_mouse(page, 1)
    page.keyboard.press("Escape")
    draw_by_mouse(page, 0)
    expect_digit(page, 0)
    held[0].fulfill(body=json.dumps({"class": "1", "probabilities": [0.1] * 10, "seen": "data:,"}))
    page.wait_for_timeout(200)
    expect_digit(page, 0)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [(390, 844), (1280, 800)], ids=["phone", "desktop"])
def test_it_fits_every_screen_in_light_and_dark(
    browser: Browser, url: str, tmp_path: Path, scheme: str, size: tuple[int, int]
):
    viewport = dict(zip(("width", "height"), size, strict=True))
    with page_of(browser, url, viewport=viewport, color_scheme=scheme) as page:
        draw_by_mouse(page, 3)
        expect_digit(page, 3)
        page.screenshot(path=tmp_path / "page.png", full_page=True)
        assert page.evaluate("document.documentElement.scrollWidth") == size[0]
        for selector in ("body", ".answer", "button:enabled >> nth=0", "caption", "tr.best td"):
            assert contrast(page, selector) >= 4.5  # WCAG 2.2, level AA


def contrast(page: Page, selector: str) -> float:
    """Return the contrast of an element's text and what is behind it, as WCAG defines it."""
    colours = page.locator(selector).first.evaluate(
        """element => {
            const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
            let behind = element;
            while (numbers(getComputedStyle(behind).backgroundColor)[3] === 0) {
                behind = behind.parentElement;
            }
            return [getComputedStyle(element).color, getComputedStyle(behind).backgroundColor]
                .map(numbers);
        }"""
    )
    brightness = []
    for colour in colours:
        linear = [
            one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4
            for one in (part / 255 for part in colour[:3])
        ]
        brightness.append(float(np.dot(linear, (0.2126, 0.7152, 0.0722))))
    return (max(brightness) + 0.05) / (min(brightness) + 0.05)
