"""A report page in a real browser: nothing fails, everything is laid out, both schemes, keyboard, narrow screens."""

from __future__ import annotations

import struct
import zlib
from collections import Counter

import pytest

import reports
import tqs_fast as tqs
from browser import Browser, find_browser

PROGRAM = find_browser()
pytestmark = pytest.mark.skipif(
    PROGRAM is None, reason="no Chromium found (Debian: apt-get install chromium-headless-shell)"
)
BOXES = """[...document.querySelectorAll(%r)].map(e => {const b = e.getBoundingClientRect();
return [e.id || e.textContent.slice(0, 40), b.left, b.top, b.width, b.height]})"""
FOCUSED = "(e => e.id || e.getAttribute('aria-label') || e.textContent)(document.activeElement)"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    reports.full(24, diverged=[(1, 0)]).save(path)
    return path


@pytest.fixture(scope="module")
def fracast_page(tmp_path_factory):
    """A real one: scored, allocated, searched and evaluated, all briefly."""
    pytest.importorskip("fracast", reason="needs the extra models")
    system, initial = tqs.load_system("fracast"), tqs.Synthetic(count=2)
    table = tqs.score(system, horizon=4, initial=initial, method=tqs.Residual(bits=(3, 4, 8)))
    search = tqs.search(system, table, tqs.allocate(table, average_bits=4.2), evaluations=6, initial=initial)
    error = tqs.evaluate(system, tqs.quantize(system.module, search.plan), horizon=4, initial=initial)
    path = tmp_path_factory.mktemp("fracast") / "report.html"
    tqs.Report(table, search.plan, search=search, evaluation={"other synthetic series": error}).save(path)
    return path


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(PROGRAM, tmp_path_factory.mktemp("profile")) as started:
        yield started


def complaints(browser):
    wrong = ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Network.loadingFailed")
    return [event for event in browser.events if event["method"] in wrong]


def requests(browser):
    return [e["params"]["request"]["url"] for e in browser.events if e["method"] == "Network.requestWillBeSent"]


def pixels(path):
    """Rows of (r, g, b) of an 8-bit PNG without interlacing (ISO/IEC 15948, filters of section 9)."""
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    at, body, width, channels = 8, b"", 0, 0
    while at < len(data):
        (length,), kind = struct.unpack(">I", data[at : at + 4]), data[at + 4 : at + 8]
        content = data[at + 8 : at + 8 + length]
        if kind == b"IHDR":
            width, _, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", content)
            assert (depth, interlaced) == (8, 0)
            channels = {2: 3, 6: 4}[colour]
        body += content if kind == b"IDAT" else b""
        at += 12 + length
    raw, stride = zlib.decompress(body), width * channels
    before, rows = bytes(stride), []
    for start in range(0, len(raw), stride + 1):
        kind, line = raw[start], bytearray(raw[start + 1 : start + 1 + stride])
        for i in range(stride) if kind else ():
            left = line[i - channels] if i >= channels else 0
            up, corner = before[i], before[i - channels] if i >= channels else 0
            guess = left + up - corner
            nearest = min((left, up, corner), key=lambda value: abs(guess - value))
            line[i] = (line[i] + (0, left, up, (left + up) // 2, nearest)[kind]) & 255
        rows.append([tuple(line[i : i + 3]) for i in range(0, stride, channels)])
        before = bytes(line)
    return rows


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
def test_everything_is_laid_out(browser, page, width, dark):
    browser.open(page, width=width, dark=dark)
    assert complaints(browser) == []
    assert requests(browser) == [page.as_uri()]
    assert browser.value("document.compatMode") == "CSS1Compat"
    assert browser.value("document.documentElement.scrollWidth") == width  # nothing sticks out
    for selector, least in (("h1,h2,h3", 9), ("figure svg[role=img]", 4), ("main > section", 7), (".scroll", 5)):
        boxes = browser.value(BOXES % selector)
        assert len(boxes) >= least
        for name, left, _, wide, high in boxes:
            if name.endswith("-table") or wide:  # tables in closed details have no box
                assert wide > 10, name
                assert high > 10, name
                assert left >= 0, name
    for name, _, _, wide, high in browser.value(BOXES % "figure svg[role=img]"):
        assert wide >= min(600, width), name
        assert high > 90, name
    text = browser.value("getComputedStyle(document.body).color")
    background = browser.value("getComputedStyle(document.body).backgroundColor")
    bright = [sum(map(int, colour[4:-1].split(","))) for colour in (text, background)]
    assert (bright[0] > bright[1]) == dark


@pytest.mark.parametrize("which", ["page", "fracast_page"])
def test_text_of_the_charts_does_not_overlap_or_leave_them(browser, which, request):
    browser.open(request.getfixturevalue(which))
    assert complaints(browser) == []
    names = browser.value("[...document.querySelectorAll('figure svg[role=img]')].map(e => e.id)")
    for name in names:
        (_, left, top, wide, high), *_ = browser.value(BOXES % f"#{name}")
        texts = browser.value(BOXES % f"#{name} text")
        for i, (text, x, y, w, h) in enumerate(texts):
            assert min(x - left, left + wide - x - w, y - top, top + high - y - h) >= -1, (name, text)
            for other, x2, y2, w2, h2 in texts[:i]:
                across = min(x + w, x2 + w2) - max(x, x2)
                down = min(y + h, y2 + h2) - max(y, y2)
                # Boxes of text hold room above and below the letters.
                assert across < 2 or down < 0.4 * min(h, h2), (name, text, other)


def test_the_keyboard_reaches_everything_in_reading_order(browser, page):
    browser.open(page)
    reached = []
    for _ in range(60):
        browser.press("Tab", 9)
        reached.append(browser.value(FOCUSED))
        if browser.value("document.activeElement === document.body"):
            break
    assert reached[0] == "Skip to the summary"
    assert reached[1:3] == ["Summary", "Damage of every layer"]
    wanted = browser.value(
        "[...document.querySelectorAll('a,summary,[tabindex=\"0\"]')].filter(e => e.checkVisibility())"
        ".map(e => e.id || e.getAttribute('aria-label') || e.textContent)"
    )
    assert reached[: len(wanted)] == wanted


def test_the_skip_link_shows_and_details_open_with_keys(browser, page):
    browser.open(page)
    browser.press("Tab", 9)
    (_, left, top, wide, high), *_ = browser.value(BOXES % ".skip")
    assert min(left, top, wide, high) >= 0
    browser.press("Enter", 13)
    assert browser.value("document.activeElement.id") == "content"
    browser.value("document.querySelector('summary').focus()")
    browser.press("Enter", 13)
    assert browser.value("document.querySelector('details').open") is True
    (_, _, _, wide, high), *_ = browser.value(BOXES % "#curves-table")
    assert min(wide, high) > 50


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_screenshot_shows_the_page(browser, page, tmp_path, dark):
    browser.open(page, width=700, dark=dark)
    browser.value("document.querySelectorAll('section:not(#time)').forEach(e => e.remove())")
    browser.screenshot(tmp_path / "page.png")
    found = Counter(pixel for row in pixels(tmp_path / "page.png") for pixel in row)
    series = browser.value(
        "[0,1,2,3,4,5].map(k => getComputedStyle(document.documentElement).getPropertyValue('--series' + k))"
    )
    panel = browser.value("getComputedStyle(document.documentElement).getPropertyValue('--panel')")
    assert found.most_common(1)[0][0] == tuple(bytes.fromhex(panel[1:]))
    for colour in series:
        assert found[tuple(bytes.fromhex(colour[1:]))] > 20, colour
