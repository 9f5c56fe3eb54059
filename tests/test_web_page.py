"""The page of `trifocal serve` in Chromium: load, drop, slide, compare, download, errors, accessibility."""

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from helpers.browser import chromium, new_page, wait_for_result
from helpers.web import needs_web, png, served

needs_web()

import trifocal

PHOTO = png(96, 64)
IMAGE = {"name": "street.png", "mimeType": "image/png", "buffer": PHOTO}
TEXT = {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"a text and no image"}
MAKE_TRANSFER = """([data, name]) => {
  const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], name));
  return transfer;
}"""
UNNAMED = """(all) => all.filter((one) => !(one.labels?.length || one.getAttribute("aria-label")
  || one.textContent.trim())).map((one) => one.id)"""
COLOURS = """(one) => {
  let behind = one;
  while (behind && getComputedStyle(behind).backgroundColor.endsWith(", 0)")) behind = behind.parentElement;
  return [getComputedStyle(one).color, getComputedStyle(behind || document.body).backgroundColor];
}"""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with served(parallel=2, max_bytes=400_000) as url:
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def page(browser: Any, url: str) -> Iterator[Any]:
    with new_page(browser, url) as page:
        yield page


@pytest.fixture
def opened(page: Any) -> Any:
    """A page with an encoded image."""
    page.set_input_files("#file", IMAGE)
    wait_for_result(page)
    return page


def encoded(**options: Any) -> bytes:
    return trifocal.encode(PHOTO, **{"refinement": 0, **options}).to_bytes()


def read(download: Any) -> bytes:
    return Path(download.path()).read_bytes()


def transfer(page: Any, content: bytes, name: str) -> Any:
    return page.evaluate_handle(MAKE_TRANSFER, [base64.b64encode(content).decode(), name])


def natural_size(page: Any, selector: str) -> Any:
    return page.locator(selector).evaluate("(one) => [one.naturalWidth, one.naturalHeight]")


def test_an_image_is_encoded_and_compared(opened: Any) -> None:
    assert opened.title() == "Trifocal" and not opened.locator("#empty").is_visible()
    size = len(encoded())
    assert opened.inner_text("#bytes") == f"{size} bytes"
    assert natural_size(opened, "#right-image") == natural_size(opened, "#left-image") == [96, 64]
    assert opened.inner_text("#left-caption").startswith("Original")
    legend = opened.locator("#legend li").all_inner_texts()
    assert "Base, for detection" in legend[0] and "Enhancement" in legend[1]
    assert "Base, for detection" in opened.get_attribute("#bar", "aria-label")
    assert f"Encoded to {size} bytes" in opened.inner_text("#status")


def test_an_image_and_a_file_are_dropped_and_pasted(page: Any) -> None:
    page.dispatch_event("body", "dragenter", {"dataTransfer": transfer(page, b"", "x")})
    assert page.locator("#drop-hint").is_visible()
    page.dispatch_event("body", "drop", {"dataTransfer": transfer(page, PHOTO, "dog.png")})
    wait_for_result(page)
    assert not page.locator("#drop-hint").is_visible()
    assert page.get_attribute("#save-tri", "download") == "dog.tri"
    tri = encoded(quality=30)
    page.dispatch_event("body", "drop", {"dataTransfer": transfer(page, tri, "cat.tri")})
    page.wait_for_selector("#save-tri[download='cat.tri']", state="attached")
    wait_for_result(page)
    assert page.inner_text("#bytes") == f"{len(tri)} bytes" and page.inner_text("#quality-value") == "30"
    assert page.locator("#quality").is_disabled()
    assert page.locator("#left option").all_inner_texts() == ["Nothing", "Base layer alone"]
    event = "(transfer) => document.dispatchEvent(new ClipboardEvent('paste', {clipboardData: transfer}))"
    transfer(page, PHOTO, "pasted.png").evaluate(event)
    page.wait_for_selector("#save-tri[download='pasted.tri']", state="attached")
    wait_for_result(page)
    assert page.locator("#quality").is_enabled()


def test_the_quality_slider_shows_bytes_while_it_moves(opened: Any) -> None:
    before = opened.inner_text("#bytes")
    with opened.expect_response(lambda answer: "/encode" in answer.url) as answer:
        opened.focus("#quality")
        opened.keyboard.press("End")
        assert opened.inner_text("#bytes").startswith("about ")
        assert opened.inner_text("#quality-value") == "100"
    assert "quality=100" in answer.value.url
    wait_for_result(opened)
    expected = len(encoded(quality=100))
    assert opened.inner_text("#bytes") == f"{expected / 1000:.1f} kB" != before


def test_the_divider_moves_by_keyboard_and_pointer(opened: Any) -> None:
    opened.focus("#split")
    opened.keyboard.press("Home")
    style = "(one) => one.style.getPropertyValue('--split')"
    assert opened.locator("#frame").evaluate(style) == "0%"
    assert opened.get_attribute("#split", "aria-valuetext") == "0 % Original"
    box = opened.locator("#split").bounding_box()
    opened.mouse.click(box["x"] + 0.75 * box["width"], box["y"] + box["height"] / 2)
    assert 70 < float(opened.locator("#frame").evaluate(style)[:-1]) < 80


@pytest.mark.parametrize("name", ["avif", "jpeg", "base"])
def test_comparison_with_other_images(opened: Any, name: str) -> None:
    path = "/decode?base_only" if name == "base" else f"/compare?format={name}"
    with opened.expect_response(lambda answer: path in answer.url) as answer:
        opened.select_option("#left", name)
    assert answer.value.ok
    wait_for_result(opened)
    if name == "avif":
        assert f"max_bytes={len(encoded())}" in answer.value.url
    assert natural_size(opened, "#left-image") == [96, 64]
    assert "bits per pixel" in opened.inner_text("#left-caption")


def test_objects_are_drawn(page: Any) -> None:
    large = png(320, 300)
    page.set_input_files("#file", {**IMAGE, "buffer": large})
    wait_for_result(page)
    found = trifocal.detect(trifocal.encode(large, refinement=0))
    assert len(found.names) >= 1
    assert page.locator("#found li").all_inner_texts()[0].startswith(found.names[0])
    assert "base layer alone" in page.inner_text("#found-source")
    assert not page.locator("#boxes").is_visible()
    page.check("#objects")
    assert page.locator("#boxes .box").count() == len(found.names)
    frame, box = (page.locator(one).first.bounding_box() for one in ("#frame", ".box"))
    x0, _, x1, _ = found.boxes[0].tolist()
    assert abs(box["width"] / frame["width"] - (x1 - x0) / 320) < 0.02


def test_components_are_switched_off(opened: Any) -> None:
    objects = [trifocal.Component("person", (0, 0, 2, 2)), trifocal.Component("dog", (3, 1, 5, 3))]
    opened.set_input_files("#file", {**IMAGE, "name": "parts.tri", "buffer": encoded(components=objects)})
    opened.wait_for_selector("#parts li")
    wait_for_result(opened)
    assert [one.split("\n")[0].strip() for one in opened.locator("#parts li").all_inner_texts()] == [
        "person",
        "dog",
        "the rest",
    ]
    with opened.expect_response(lambda answer: "/decode" in answer.url) as answer:
        opened.uncheck("#parts li:nth-child(1) input")
    assert answer.value.ok and answer.value.url.endswith("components=dog")
    assert opened.locator("#parts li:nth-child(3) input").is_disabled()
    wait_for_result(opened)
    assert "in part" in opened.inner_text("#right-caption")
    assert "damaged: person and the rest." in opened.locator("#notices").text_content()
    with opened.expect_response(lambda answer: "/decode" in answer.url) as answer:
        opened.check("#parts li:nth-child(1) input")
    assert "components" not in answer.value.url


def test_preference_and_words_are_shown_where_the_preset_has_them(opened: Any) -> None:
    assert not opened.locator("#preference").is_visible()
    opened.select_option("#preset", "ug-icm-compact")
    opened.wait_for_selector("#preference")
    wait_for_result(opened)
    assert not opened.locator("#options-card").is_visible()
    with opened.expect_response(lambda answer: "preference=1" in answer.url) as answer:
        opened.focus("#preference")
        opened.keyboard.press("End")
    assert answer.value.ok and opened.inner_text("#preference-value") == "machines"
    opened.select_option("#preset", "taco-compact")
    opened.wait_for_selector("#options-card")
    wait_for_result(opened)
    opened.click("#options-card summary")
    opened.fill("#text", "a woman & a flag")
    with opened.expect_response(lambda answer: "/encode" in answer.url) as answer:
        opened.click("#options button[type=submit]")
    assert answer.value.ok and "text=a+woman+%26+a+flag" in answer.value.url
    wait_for_result(opened)


def test_downloads_are_the_files(opened: Any) -> None:
    with opened.expect_download() as download:
        opened.click("#save-tri")
    assert download.value.suggested_filename == "street.tri" and read(download.value) == encoded()
    with opened.expect_download() as download:
        opened.click("#save-png")
    assert download.value.suggested_filename == "street.png"
    with Image.open(io.BytesIO(read(download.value))) as image:
        assert image.tobytes() == trifocal.decode(encoded()).picture.rgb.tobytes()


def test_errors_are_shown_and_the_image_stays(opened: Any) -> None:
    opened.set_input_files("#file", TEXT)
    opened.wait_for_selector("#error")
    assert opened.inner_text("#error-text") == "This image cannot be read: it seems to be text."
    assert opened.get_attribute("#error", "role") == "alert"
    wait_for_result(opened)
    with opened.expect_response(lambda answer: "/encode" in answer.url) as answer:
        opened.focus("#quality")
        opened.keyboard.press("Home")
    assert answer.value.ok
    wait_for_result(opened)
    assert opened.inner_text("#bytes") == f"{len(encoded(quality=0))} bytes"
    assert not opened.locator("#error").is_visible()
    opened.set_input_files("#file", {**TEXT, "buffer": bytes(400_001)})
    opened.wait_for_selector("#error")
    assert "at most 400 kB" in opened.inner_text("#error-text")
    opened.click("#error-close")
    opened.context.set_offline(True)
    opened.set_input_files("#file", IMAGE)
    opened.wait_for_selector("#error")
    assert "does not answer" in opened.inner_text("#error-text")
    opened.context.set_offline(False)


def test_labels_of_a_file_are_text_and_not_markup(page: Any) -> None:
    label = "<img src=x onerror=alert(1)>"
    tri = encoded(components=[trifocal.Component(label, (0, 0, 2, 2))])
    page.set_input_files("#file", {**IMAGE, "name": "x.tri", "buffer": tri})
    page.wait_for_selector("#parts li")
    assert label in page.inner_text("#parts")


def test_every_control_has_a_name_and_is_reached_by_keyboard(opened: Any) -> None:
    assert opened.locator("button, select, input:not([hidden]), a").evaluate_all(UNNAMED) == []
    reached = set()
    for _ in range(40):
        opened.keyboard.press("Tab")
        reached |= set(opened.locator(":focus").evaluate_all("(all) => all.map((one) => one.id)"))
    assert {"open", "left", "objects", "fit", "split", "quality", "preset", "save-tri", "save-png"} <= reached
    assert opened.locator("html").get_attribute("lang") == "en"
    assert opened.get_attribute("#status", "aria-live") == "polite"


def contrast(colours: list[str]) -> float:
    """The contrast ratio of two CSS colours (WCAG 2.2)."""
    light = []
    for colour in colours:
        values = [int(part) / 255 for part in colour.removeprefix("rgb(").rstrip(")").split(",")[:3]]
        linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in values]
        light.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
    return (max(light) + 0.05) / (min(light) + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 1280])
def test_layout_fits_and_text_is_legible(browser: Any, url: str, scheme: str, width: int) -> None:
    with new_page(browser, url, color_scheme=scheme, viewport={"width": width, "height": 800}) as page:
        overflow = "(one) => one.scrollWidth - one.clientWidth"
        assert page.locator("html").evaluate(overflow) == 0
        for selector in ("#empty p", "#limits", "#choose", "#sample", "footer a"):
            assert contrast(page.locator(selector).first.evaluate(COLOURS)) >= 4.5, selector
        page.set_input_files("#file", IMAGE)
        wait_for_result(page)
        assert page.locator("html").evaluate(overflow) == 0
        for selector in ("#rate", "#preset-summary", "#legend span:last-child", "#save-tri", "#left-caption"):
            assert contrast(page.locator(selector).first.evaluate(COLOURS)) >= 4.5, selector
        ground = page.locator("body").evaluate("(one) => getComputedStyle(one).backgroundColor")
        assert (contrast([ground, "rgb(0, 0, 0)"]) > 10) is (scheme == "light")
        page.click("#theme")
        assert page.locator("body").evaluate("(one) => getComputedStyle(one).backgroundColor") != ground
