"""The page itself, in headless Chromium: load, step, drag, remove, freeze, record, come back. Skipped without it.

Needs the package playwright, and Chromium on the path (its own download is not used)::

    pip install playwright && python -m pytest -m slow tests/play/test_browser.py
"""

import os
import re
import shutil
import subprocess
import sys

import pytest

from worldkit.factory import get_model_spec, list_models

pytest.importorskip("aiohttp", reason="extra 'play'")
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [pytest.mark.slow,
              pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on the path")]


@pytest.fixture(scope="module")
def chromium():
    with sync_api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def served():
    """Addresses of games by model, each started by the command that users type; the newest two go on."""
    games = {}

    def end(game, _):
        game.terminate()
        game.wait(20)
        game.stdout.close()

    def start(model):
        if model not in games:
            while len(games) > 1:
                end(*games.pop(next(iter(games))))
            game = subprocess.Popen([sys.executable, "-m", "worldkit", "play", model, "--web", "--port", "0"],
                                    stdout=subprocess.PIPE, text=True, env={**os.environ, "COLUMNS": "300"})
            said = ""
            while not (found := re.search(r"http://\S+", said)):
                line = game.stdout.readline()
                assert line, said
                said += line
            games[model] = game, found.group()
        return games[model][1]

    yield start
    for each in games.values():
        end(*each)


@pytest.fixture
def opened(chromium, served):
    """Open a game: a page whose `wait` looks at the page's own variables."""
    pages = []

    def open_(model):
        context = chromium.new_context(viewport={"width": 1360, "height": 860}, bypass_csp=True)  # `wait` evaluates
        page, errors = context.new_page(), []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(served(model))
        page.wait_for_function("head !== null && state.model")
        pages.append((context, errors))
        return page

    yield open_
    for context, errors in pages:
        context.close()
        assert errors == []


def at(page, y, x, future=0):
    """Where a place of a future lies on the screen."""
    box = page.locator(".frame").nth(future).bounding_box()
    return box["x"] + (x + 1) / 2 * box["width"], box["y"] + (y + 1) / 2 * box["height"]


def click(page, y, x, future=0):
    page.mouse.click(*at(page, y, x, future))
    page.wait_for_function("picked && picked.box")


def first_particle(page, future=0):
    y, x, *_ = page.evaluate(f"head.futures[{future}].boxes[0]")
    return y, x


def test_load_step_drag_play_record(opened, tmp_path):
    page = opened("lpwm-balls-mini")
    assert page.title() == "lpwm-balls-mini · worldkit play"
    for _ in range(2):
        page.keyboard.press(".")
    page.wait_for_function("head.futures[0].t === 2")
    page.click("[data-overlay=boxes]")
    y, x = first_particle(page)
    page.mouse.move(*at(page, y, x))
    page.mouse.down()
    page.wait_for_function("picked && picked.box")
    to = (y + (0.5 if y < 0 else -0.5), x + (0.3 if x < 0 else -0.3))
    page.mouse.move(*at(page, *to), steps=4)
    page.mouse.up()
    page.wait_for_function("head.futures.length === 2")
    near = "head.futures[{}].boxes.some(([y, x]) => Math.hypot(y - {}, x - {}) < 0.25)"
    assert page.evaluate(near.format(1, *to)) and not page.evaluate(near.format(0, *to))
    page.click("#record")
    page.wait_for_function("state.recording")
    page.click("#play")
    page.wait_for_function("head.futures[0].t >= 5 && head.futures[1].t >= 5")
    page.click("#play")
    page.wait_for_function("!state.playing")
    page.click("#record")
    page.wait_for_function("state.recorded >= 4")
    with page.expect_download() as download:
        page.click("#gif")
    assert download.value.suggested_filename == "dream.gif"
    download.value.save_as(tmp_path / "dream.gif")
    assert (tmp_path / "dream.gif").read_bytes()[:3] == b"GIF"
    page.click("[data-overlay=masks]")
    page.wait_for_function("head.futures[0].mask && new Set(head.futures[0].mask).size > 1")
    page.click("[data-overlay=difference]")
    glow = "(() => { const c = shown[1].over, p = c.getContext('2d').getImageData(0, 0, c.width, c.height).data; " \
           "return p.filter((x, k) => k % 4 === 0 && x > 200).length / (p.length / 4) })()"
    assert 0.01 < page.evaluate(glow) < 0.7
    page.locator("#time").fill("2")
    page.wait_for_function("head.futures[0].t === 2")
    page.keyboard.press(".")  # the line has the focus
    page.wait_for_function("head.futures[0].t === 3")
    page.click("#drop")
    page.wait_for_function("head.futures.length === 1")


def test_remove_freeze_branch_and_another_clip(opened):
    page = opened("lpwm-balls-mini")
    page.keyboard.press("n")
    page.wait_for_function("head.futures.length === 1 && head.futures[0].t === 0")
    y, x = first_particle(page)
    click(page, y, x)
    page.click("#remove")
    page.wait_for_function("head.futures.length === 2")
    page.keyboard.press("d")
    page.wait_for_function("head.futures.length === 1")
    click(page, y, x)
    page.keyboard.press("f")
    page.wait_for_function("head.futures.length === 2 && head.futures[1].frozen")
    page.click("#drop")
    page.click("#branch")
    page.wait_for_function("head.futures.length === 2 && !head.futures[1].frozen")


def test_whoever_comes_back_finds_the_game_as_it_was(opened):
    page = opened("lpwm-balls-mini")
    page.keyboard.press("n")
    page.wait_for_function("head.futures[0].t === 0")
    page.keyboard.press(".")
    page.wait_for_function("head.futures[0].t === 1")
    clip = page.evaluate("state.clip")
    page.reload()
    page.wait_for_function("head !== null && state.model")
    assert page.evaluate("[head.futures[0].t, state.clip]") == [1, clip]


def test_steering_by_keys_and_pad(opened):
    page = opened("lpwm-push-mini")
    assert page.locator("#pad").is_visible()
    page.keyboard.down("ArrowRight")
    page.keyboard.press(".")
    page.wait_for_function("head.futures[0].t === 1")
    right = page.evaluate("Array.from(head.futures[0].rgb)")
    page.keyboard.up("ArrowRight")
    page.keyboard.press(",")
    page.wait_for_function("head.futures[0].t === 0")
    page.locator("#pad").scroll_into_view_if_needed()
    box = page.locator("#pad").bounding_box()
    page.mouse.move(box["x"] + 4, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.keyboard.press(".")
    page.wait_for_function("head.futures[0].t === 1")
    left = page.evaluate("Array.from(head.futures[0].rgb)")
    page.mouse.up()
    assert sum(abs(a - b) for a, b in zip(left, right, strict=True)) > 2000


SHIPPED = [spec for spec in map(get_model_spec, list_models()) if spec.weights]
DRAWING = [spec.name for spec in SHIPPED if spec.config.get("decoder") and spec.config.get("dynamics")]


@pytest.mark.parametrize("model", DRAWING)
def test_every_shipped_model_that_predicts_pictures(opened, model):
    page = opened(model)
    for step, keys in enumerate((".", "ArrowRight .", "2 ."), 1):
        for key in keys.split():
            page.keyboard.press(key)
        page.wait_for_function(f"head.futures[0].t >= {step}")
