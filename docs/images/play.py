"""Draws docs/images/play-what-if.png and play-steer.png: `worldkit play --web` in headless Chromium.

    pip install playwright && python docs/images/play.py
"""

import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from playwright.sync_api import sync_playwright

HERE = Path(__file__).parent
MIDDLE = """(() => {  // of what is yellow
  const { width, height } = head, rgb = head.futures[0].rgb, found = [];
  for (let k = 0; k < width * height; k++)
    if (rgb[3 * k] > 150 && rgb[3 * k + 1] > 150 && rgb[3 * k + 2] < 60) found.push(k);
  const mean = (f) => found.reduce((sum, k) => sum + f(k), 0) / found.length;
  return [mean((k) => (Math.floor(k / width) + .5) / height * 2 - 1), mean((k) => (k % width + .5) / width * 2 - 1)];
})()"""


def serve(model):
    game = subprocess.Popen([sys.executable, "-m", "worldkit", "play", model, "--web", "--port", "0"],
                            stdout=subprocess.PIPE, text=True)
    for line in game.stdout:
        if found := re.search(r"http://\S+", line):
            return game, found.group()
    raise SystemExit(f"worldkit play {model} ended")


def place(page, y, x, future=0):
    box = page.locator(".frame").nth(future).bounding_box()
    return box["x"] + (x + 1) / 2 * box["width"], box["y"] + (y + 1) / 2 * box["height"]


def grab(page, y, x):
    page.mouse.move(*place(page, y, x))
    page.mouse.down()
    page.wait_for_function("picked && picked.box")


def what_if(page):
    """A ball is dragged, and both futures are played for some steps."""
    page.click("[data-mode=mean]")
    page.click("[data-overlay=boxes]")
    page.wait_for_function("head.futures[0].boxes.length > 2")
    y, x, *_ = page.evaluate("head.futures[0].boxes.reduce((a, b) => b[0] > a[0] ? b : a)")
    grab(page, y, x)
    page.mouse.move(*place(page, y - 0.55, x + 0.1), steps=4)
    page.mouse.up()
    page.wait_for_function("head.futures.length === 2")
    for t in (1, 2):
        page.keyboard.press(".")
        page.wait_for_function(f"head.futures[0].t === {t}")


def steer(page):
    """The white disc is pushed to the right while a disc is being dragged."""
    page.click("[data-mode=mean]")
    page.keyboard.down("ArrowDown")
    page.keyboard.down("ArrowRight")
    for t in (1, 2, 3):
        page.keyboard.press(".")
        page.wait_for_function(f"head.futures[0].t === {t}")
    y, x = page.evaluate(MIDDLE)
    grab(page, y, x)
    page.mouse.move(*place(page, y - 0.4, x + 0.5), steps=4)


with sync_playwright() as driver:
    browser = driver.chromium.launch(executable_path=shutil.which("chromium") or shutil.which("google-chrome"),
                                     args=["--no-sandbox"])
    for model, work, name in (("lpwm-balls-mini", what_if, "play-what-if"), ("lpwm-push-mini", steer, "play-steer")):
        game, address = serve(model)
        try:
            page = browser.new_context(viewport={"width": 1280, "height": 800}, bypass_csp=True).new_page()
            page.goto(address)
            page.wait_for_function("head !== null && state.model")
            work(page)
            time.sleep(4)  # the note has faded
            page.screenshot(path=HERE / f"{name}.png")
        finally:
            game.terminate()
    browser.close()
