"""The demo's page in a real browser."""

import json
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from predict.model import Model
from tests.predict.demo import page_of, png, serving
from tests.predict.drawings import DRAWINGS, draw

pytest_plugins = "tests.browser"


@pytest.fixture(scope="module")
def url(model_file: Path) -> Iterator[str]:
    with serving(model_file) as url:
        yield url


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


class Screen:
    """The fingers and the pen on a touch screen, at points in [0, 1] of the canvas."""

    def __init__(self, page: Page):
        self.session = page.context.new_cdp_session(page)
        self.box = page.locator("#canvas").bounding_box()

    def finger(self, kind: str, *points: tuple[float, float]) -> None:
        places = [self._place(point) for point in points]
        self.session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": places})

    def pen(self, kind: str, point: tuple[float, float]) -> None:
        button = {"button": "left", "buttons": int(kind != "mouseReleased"), "clickCount": 1}
        event = {"type": kind, "pointerType": "pen", **self._place(point), **button}
        self.session.send("Input.dispatchMouseEvent", event)

    def _place(self, point: tuple[float, float]) -> dict[str, float]:
        x, y = point
        return {
            "x": self.box["x"] + x * self.box["width"],
            "y": self.box["y"] + y * self.box["height"],
        }


def lose_releases(page: Page) -> None:
    """Hide from the page that a button or a finger is released, as a dialog of the system may."""
    page.evaluate(
        """() => {
            for (const name of ["pointerup", "pointercancel", "lostpointercapture"]) {
                addEventListener(name, (event) => event.stopPropagation(), { capture: true });
            }
        }"""
    )


def hand_over(page: Page, event: str, content: dict[str, str]) -> None:
    """Drop or paste a file, as bytes in base64, or a text of some type."""
    page.evaluate(
        """([name, content]) => {
            const transfer = new DataTransfer();
            for (const [type, data] of Object.entries(content)) {
                if (type.startsWith("text/")) transfer.setData(type, data);
                else transfer.items.add(new File(
                    [Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0))], "file", {type}));
            }
            const init = {bubbles: true, cancelable: true};
            document.body.dispatchEvent(name === "drop"
                ? new DragEvent(name, {dataTransfer: transfer, ...init})
                : new ClipboardEvent(name, {clipboardData: transfer, ...init}));
        }""",
        [event, content],
    )


def canvas_content(page: Page) -> str:
    return page.locator("#canvas").evaluate("canvas => canvas.toDataURL()")


def expect_digit(page: Page, digit: int) -> None:
    expect(page.locator("#result")).to_contain_text(f" {digit}, with ")
    expect(page.locator("#class")).to_have_text(str(digit))
    expect(page.locator("tr.best th")).to_have_text(str(digit))


def expect_empty(page: Page) -> None:
    expect(page.locator("#result")).to_have_text("Draw something, or drop a picture.")
    expect(page.locator("#class")).to_be_empty()
    expect(page.locator("#seen")).to_be_hidden()
    expect(page.get_by_role("button", name="Clear")).to_be_disabled()


def test_drawn_digits_are_recognised(page: Page):
    for digit in DRAWINGS:
        draw_by_mouse(page, digit)
        expect_digit(page, digit)
        expect(page.get_by_alt_text("What the network saw")).to_be_visible()
        page.get_by_role("button", name="Clear").click()
        expect_empty(page)


def test_selected_text_does_not_stop_a_stroke(page: Page):
    """The browser dragged the selection instead, so the stroke was a dot."""
    page.keyboard.press("Control+A")
    draw_by_mouse(page, 7)
    expect_digit(page, 7)


def test_the_bars_show_the_probabilities(page: Page):
    draw_by_mouse(page, 0)
    expect_digit(page, 0)
    rows = page.locator("tbody tr")
    expect(rows).to_have_count(10)
    bars = rows.evaluate_all(
        "all => all.map(row => [row.querySelector('meter').value, row.lastChild.textContent])"
    )
    assert sum(value for value, _ in bars) == pytest.approx(1, abs=1e-4)
    assert [text for _, text in bars] == [f"{100 * value:.1f} %" for value, _ in bars]


def test_a_change_is_sent_at_once(page: Page):
    page.evaluate(
        """() => {
            window.events = [];
            const fetch = window.fetch;
            window.fetch = (...all) => { events.push("sent"); return fetch(...all); };
            document.addEventListener("pointerdown", () => {
                events.push("drawn");
                setTimeout(() => events.push("later"));
            }, { capture: true });
        }"""
    )
    draw_by_mouse(page, 1)
    expect_digit(page, 1)
    assert page.evaluate("events.slice(0, 3)") == ["drawn", "sent", "later"]


def test_undo_removes_the_last_stroke(page: Page):
    draw_by_mouse(page, 1)
    expect_digit(page, 1)
    before = canvas_content(page)
    draw_by_mouse(page, 0)
    page.get_by_role("button", name="Undo").click()
    expect_digit(page, 1)
    assert canvas_content(page) == before
    page.get_by_role("button", name="Undo").click()
    expect_empty(page)


def test_the_keyboard_does_everything_but_drawing(page: Page):
    # Chromium needs longer than a key press to hand the dialog over, so listen from the start.
    page.on("filechooser", lambda _: None)
    draw_by_mouse(page, 7)
    draw_by_mouse(page, 0)
    page.keyboard.press("Control+z")
    expect_digit(page, 7)
    page.keyboard.press("Escape")
    expect_empty(page)
    draw_by_mouse(page, 7)
    for name in ("undo", "clear", "upload"):
        page.keyboard.press("Tab")
        expect(page.locator(f"#{name}")).to_be_focused()
        expect(page.locator(f"#{name}")).to_have_css("outline-style", "solid")
    page.locator("#clear").press("Enter")
    expect_empty(page)
    expect(page.locator("#upload")).to_be_focused()
    with page.expect_file_chooser():
        page.keyboard.press("Enter")


def test_a_screen_reader_announces_a_prediction_once(page: Page):
    """It would never finish a sentence if each movement of the pen were announced."""
    page.evaluate(
        """() => {
            window.announced = [];
            new MutationObserver(() => announced.push(announcement.textContent))
                .observe(announcement, { childList: true });
        }"""
    )
    draw_by_mouse(page, 3)
    expect(page.get_by_role("status")).to_contain_text(" 3, with ")
    announced = page.evaluate("announced")
    assert announced[-1] == page.locator("#result").text_content()
    assert len(announced) < page.evaluate("performance.getEntriesByType('resource').length") / 3


def test_a_stroke_ends_outside_the_canvas(page: Page):
    box = page.locator("#canvas").bounding_box()
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] / 2, middle)
    page.mouse.down()
    page.mouse.move(box["x"] + 2 * box["width"], middle)
    page.mouse.up()
    before = canvas_content(page)
    page.mouse.move(box["x"] + box["width"] / 4, box["y"] + box["height"] / 4, steps=3)
    assert canvas_content(page) == before


def test_the_mouse_draws_nothing_after_a_lost_release(page: Page):
    lose_releases(page)
    draw_by_mouse(page, 1)
    before = canvas_content(page)
    box = page.locator("#canvas").bounding_box()
    page.mouse.move(box["x"] + 50, box["y"] + 50, steps=3)
    assert canvas_content(page) == before
    draw_by_mouse(page, 7)
    assert canvas_content(page) != before


def test_a_lost_capture_ends_the_stroke(page: Page):
    box = page.locator("#canvas").bounding_box()
    page.mouse.move(box["x"] + 200, box["y"] + 50)
    page.mouse.down()
    page.evaluate(
        """canvas.addEventListener("pointermove",
            (event) => canvas.releasePointerCapture(event.pointerId), { once: true })"""
    )
    for x, y in ((200, 60), (200, 70), (300, 300)):  # a capture is lost with the next event
        page.mouse.move(box["x"] + x, box["y"] + y)
    assert is_inked(page, (200 / box["width"], 50 / box["height"]))
    assert not is_inked(page, (300 / box["width"], 300 / box["height"]))


def test_a_click_draws_a_dot(page: Page):
    page.locator("#canvas").click(position={"x": 224, "y": 112})
    assert is_inked(page, (0.5, 0.25))
    expect(page.locator("#result")).to_contain_text(", with ")


def is_inked(page: Page, place: tuple[float, float]) -> bool:
    return page.locator("#canvas").evaluate(
        """(canvas, [x, y]) => {
            const pixel = new OffscreenCanvas(1, 1).getContext("2d", {willReadFrequently: true});
            pixel.drawImage(canvas, -x * canvas.width, -y * canvas.height);
            return pixel.getImageData(0, 0, 1, 1).data[0] < 128;
        }""",
        place,
    )


def test_a_browser_that_returns_noise_for_the_canvas_sends_the_drawing(page: Page):
    """Firefox with privacy.resistFingerprinting, so Tor Browser and LibreWolf."""
    page.evaluate(
        """() => {
            CanvasRenderingContext2D.prototype.getImageData = (x, y, width, height) =>
                new ImageData(Uint8ClampedArray.from({length: 4 * width * height},
                    (_, place) => place % 4 < 3 ? 256 * Math.random() : 255), width, height);
            const {toDataURL} = HTMLCanvasElement.prototype;
            HTMLCanvasElement.prototype.toDataURL = function () {
                const context = this.getContext("2d");
                context.putImageData(context.getImageData(0, 0, this.width, this.height), 0, 0);
                return toDataURL.call(this);
            };
        }"""
    )
    for digit in (3, 7):
        draw_by_mouse(page, digit)
        expect_digit(page, digit)
        page.keyboard.press("Escape")


PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}


def test_a_finger_draws(browser: Browser, url: str):
    with page_of(browser, url, **PHONE) as page:
        screen = Screen(page)
        screen.finger("touchStart", (0.1, 0.1))
        screen.finger("touchCancel")  # by the system, for a call or a gesture
        page.get_by_role("button", name="Undo").tap()
        expect_empty(page)
        for first, *others in DRAWINGS[3]:
            screen.finger("touchStart", first)
            for point in others:
                screen.finger("touchMove", point)
            screen.finger("touchEnd")
        expect_digit(page, 3)
        assert page.evaluate("scrollY") == 0
        assert page.evaluate("document.documentElement.scrollWidth") == 390


def test_a_finger_draws_after_a_lost_release(browser: Browser, url: str):
    with page_of(browser, url, **PHONE) as page:
        screen = Screen(page)
        lose_releases(page)
        for place in ((0.2, 0.2), (0.8, 0.8)):
            screen.finger("touchStart", place)
            screen.finger("touchEnd")
            assert is_inked(page, place)


def test_a_pen_draws_while_a_palm_rests_on_the_screen(browser: Browser, url: str):
    palm, first, last = (0.9, 0.9), (0.5, 0.2), (0.5, 0.8)
    with page_of(browser, url, **PHONE) as page:
        screen = Screen(page)
        screen.finger("touchStart", palm)
        screen.pen("mousePressed", first)
        screen.pen("mouseMoved", last)
        screen.finger("touchMove", (0.8, 0.9))
        screen.pen("mouseReleased", last)
        assert is_inked(page, (0.5, 0.5))
        assert not is_inked(page, palm)
        expect_digit(page, 1)


def test_a_palm_does_not_interrupt_a_pen(browser: Browser, url: str):
    with page_of(browser, url, **PHONE) as page:
        screen = Screen(page)
        screen.pen("mousePressed", (0.5, 0.2))
        screen.finger("touchStart", (0.9, 0.9))
        screen.pen("mouseMoved", (0.5, 0.8))
        assert is_inked(page, (0.5, 0.5))
        assert not is_inked(page, (0.9, 0.9))


def test_a_file_is_uploaded(page: Page, tmp_path: Path):
    for digit in (2, 5):
        draw(digit).save(tmp_path / f"{digit}.png")
        page.locator("#file").set_input_files(tmp_path / f"{digit}.png")
        expect_digit(page, digit)
    (tmp_path / "text.png").write_text("text")
    page.locator("#file").set_input_files(tmp_path / "text.png")
    expect(page.locator("#result")).to_contain_text("cannot open this file as a picture")


def test_the_page_shows_the_servers_error(browser: Browser, url: str, tmp_path: Path):
    draw(3).resize((64, 64)).save(tmp_path / "three.ico")  # which Chromium can open
    with browser.new_page() as page:  # whose console logs the failed request
        page.goto(url)
        expect(page.locator("#result")).not_to_be_empty()
        page.locator("#file").set_input_files(tmp_path / "three.ico")
        expect(page.locator("#result")).to_contain_text(
            "Not read: not a picture that can be read ("
        )


def test_a_large_file_is_not_sent(page: Page, tmp_path: Path):
    noise = np.random.default_rng(0).integers(0, 256, (2000, 2000, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "large.png")  # 12 MB
    page.locator("#file").set_input_files(tmp_path / "large.png")
    expect(page.locator("#result")).to_have_text("Not read: larger than 10 MB; scale it down.")


@pytest.mark.parametrize("event", ["drop", "paste"])
def test_a_file_is_dropped_or_pasted(page: Page, event: str):
    hand_over(page, event, {"image/png": b64encode(png(draw(2))).decode()})
    expect_digit(page, 2)


def test_a_dropped_link_is_refused_in_one_line(page: Page):
    hand_over(page, "drop", {"image/png": b64encode(png(draw(3))).decode()})
    expect_digit(page, 3)
    hand_over(page, "drop", {"text/uri-list": "https://example.com/three.png"})
    expect(page.locator("#result")).to_contain_text("Only files can be dropped or pasted.")
    expect(page.locator("#class")).to_have_text("3")  # the drawing and its prediction stay


def test_a_stroke_replaces_a_picture_until_it_is_undone(page: Page, tmp_path: Path):
    draw(2).save(tmp_path / "two.png")
    page.locator("#file").set_input_files(tmp_path / "two.png")
    expect_digit(page, 2)
    draw_by_mouse(page, 1)
    expect_digit(page, 1)
    page.keyboard.press("Control+z")
    expect_digit(page, 2)
    page.keyboard.press("Control+z")
    expect_empty(page)


def test_the_page_describes_the_model(page: Page, model_file: Path):
    model = Model(model_file)
    expect(page.locator("header")).to_contain_text(
        f"{model.title}; recipe {model.recipe}; {100 * model.accuracy:.2f}\u00a0% of "
        f"{model.test_images:,} test images are classified correctly."
    )


def test_test_images_are_classified_on_click(page: Page):
    samples = page.locator("#samples button")
    expect(samples).to_have_count(10)
    for digit in (0, 6):
        samples.nth(digit).click()
        expect_digit(page, digit)


def test_a_page_without_its_server_reports_it(browser: Browser, url: str):
    with browser.new_page() as page:
        page.route("**/model", lambda route: route.abort())
        page.goto(url)
        expect(page.locator("#result")).to_have_text(
            "The server does not answer. Is it still running?"
        )


def test_a_page_without_javascript_reports_it(browser: Browser, url: str):
    with browser.new_context(java_script_enabled=False) as context:
        page = context.new_page()
        page.goto(url)
        expect(page.locator("noscript")).to_be_visible()
        expect(page.locator("main")).to_be_hidden()


def test_a_late_response_never_replaces_a_newer_one(page: Page):
    held = []

    def hold_the_first(route):
        if held:
            route.continue_()
        else:
            held.append(route)

    page.route("**/predict", hold_the_first)
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
def test_the_page_fits_the_screen_with_enough_contrast(
    browser: Browser, url: str, scheme: str, size: tuple[int, int]
):
    viewport = {"width": size[0], "height": size[1]}
    with page_of(browser, url, viewport=viewport, color_scheme=scheme) as page:
        draw_by_mouse(page, 3)
        expect_digit(page, 3)
        assert page.evaluate("document.documentElement.scrollWidth") == size[0]
        if size[0] > size[1]:
            assert page.evaluate("document.documentElement.scrollHeight") == size[1]
        for selector in ("body", ".answer", "button:enabled >> nth=0", "caption", "tr.best td"):
            assert contrast(page, selector) >= 4.5  # WCAG 2.2, level AA


def contrast(page: Page, selector: str) -> float:
    """Return the contrast of an element's text to its background, as WCAG 2.2 defines it."""
    colours = page.locator(selector).first.evaluate(
        """element => {
            const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
            let behind = element;
            while (numbers(getComputedStyle(behind).backgroundColor)[3] === 0) {
                behind = behind.parentElement;
            }
            return [getComputedStyle(element).color, getComputedStyle(behind).backgroundColor]
                .map((colour) => numbers(colour).slice(0, 3));
        }"""
    )
    scaled = np.array(colours) / 255
    linear = np.where(scaled <= 0.04045, scaled / 12.92, ((scaled + 0.055) / 1.055) ** 2.4)
    darker, lighter = sorted(linear @ (0.2126, 0.7152, 0.0722))
    return (lighter + 0.05) / (darker + 0.05)
