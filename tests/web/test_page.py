"""The page in a real browser: upload, box, paint, segment, see the masks; nothing comes from elsewhere."""

import functools
import importlib.util
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import time
import urllib.parse

import numpy as np
import pytest

from tests.web import test_project
from vos_jax.data import mask_files
from vos_jax.visualize import overlay

if importlib.util.find_spec("gradio") is None:
    pytest.skip("gradio is not installed (requirements-app.txt)", allow_module_level=True)
webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
ROOT = pathlib.Path(__file__).parents[2]
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
if not BROWSER or not DRIVER:
    pytest.skip("no chromium with chromedriver here", allow_module_level=True)

FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --window-size=1400,1000"
)


@pytest.fixture
def browser(tmp_path):
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in (*FLAGS.split(), f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    if shots := os.environ.get("VOS_JAX_SCREENSHOTS"):
        driver.save_screenshot(str(pathlib.Path(shots) / "last.png"))
    driver.quit()


@pytest.fixture
def page(tmp_path):
    """app.py at a free port; gives its address."""
    (tmp_path / "root").mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = ["--checkpoint", "none", "--port", str(port), "--max-mb", "1"]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "app.py"), *arguments],
            stdout=log,
            stderr=log,
            cwd=ROOT,
            env=os.environ | {"TMPDIR": str(tmp_path / "root")},
        )

        def answers():
            assert process.poll() is None, (tmp_path / "log").read_text()
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        wait_for(answers)
        yield f"http://127.0.0.1:{port}"
        process.terminate()
        process.wait(20)


def wait_for(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "the page did not come to this"
        time.sleep(0.2)
    return found


def element(browser, selector):
    """The first such element, as soon as the page has one."""
    return wait_for(lambda: browser.find_elements("css selector", selector))[0]


def test_a_video_is_boxed_segmented_and_fetched(browser, page, tmp_path):
    by = "css selector"
    the = functools.partial(element, browser)

    def said():
        return the("#said").text

    def source():
        pictures = browser.find_elements(by, "#picture img")
        return pictures[0].get_attribute("src") if pictures else None

    def toast():
        return " ".join(e.text for e in browser.find_elements(by, ".toast-body"))

    browser.get(page)
    # Segmenting nothing says what to do.
    the("#run").click()
    wait_for(lambda: "drop a video first" in toast())

    frames, truth = (x.repeat(4, 1).repeat(4, 2) for x in test_project.squares())
    video = overlay.write_video(tmp_path / "squares.mp4", frames, fps=12)
    the("#video input[type=file]").send_keys(str(video))
    wait_for(lambda: "6 frames of 384x256" in said())
    untouched = wait_for(source)

    def at(element, x, y, largest=1.0):
        """Moves to a pixel of the video, whatever size it is shown at."""
        scale = min(element.rect["width"] / 384, element.rect["height"] / 256, largest)
        offset = int((x - 192) * scale), int((y - 128) * scale)
        return webdriver.ActionChains(browser).move_to_element_with_offset(element, *offset)

    # Two clicks around the red square, which is in the upper left.
    for x, y, answer in ((4, 4, "opposite corner"), (150, 140, "painted frames: 0")):
        at(the("#picture img"), x, y).click().perform()
        wait_for(lambda answer=answer: answer in said())
    boxed = wait_for(lambda: source() != untouched and source())

    # A dab on the green square, in the lower middle, is object 2.
    number = the("input[type=number][aria-label='Object'], label input[type=number]")
    number.clear()
    number.send_keys("2\t")
    canvas = the("#editor canvas")
    at(canvas, 256, 190, largest=1.4).click_and_hold().move_by_offset(8, 0).release().perform()
    time.sleep(1.0)
    the("#use").click()
    painted = wait_for(lambda: source() != boxed and source())

    the("#run").click()
    wait_for(lambda: "6 of 6 frames" in said())
    wait_for(lambda: source() != painted)
    if shots := os.environ.get("VOS_JAX_SCREENSHOTS"):
        browser.save_screenshot(str(pathlib.Path(shots) / "page.png"))
    project = next((tmp_path / "root").glob("vos_jax-*/project-*"))
    found = [mask_files.read_mask(path, (256, 384)) for path in sorted((project / "masks").glob("*.png"))]
    assert len(found) == 6
    assert np.mean((found[0] == 1) == (truth[0] == 1)) > 0.95
    dab = found[0] == 2
    assert dab.any() and (truth[0][dab] == 2).mean() > 0.9, "painted where the pointer was"
    assert (found[5] == 1)[truth[5] == 1].mean() > 0.5, "the red square has moved, and its mask with it"
    the("#fetch").click()
    wait_for(lambda: {"masks.zip", "overlay.mp4"} <= {p.name for p in project.iterdir()})
    wait_for(lambda: {"masks", "overlay"} <= set(the("#files").text.split()))

    sent = [json.loads(line["message"])["message"] for line in browser.get_log("performance")]
    urls = {m["params"]["request"]["url"] for m in sent if m["method"] == "Network.requestWillBeSent"}
    hosts = {urllib.parse.urlsplit(url).hostname for url in urls if url.startswith("http")}
    assert hosts == {"127.0.0.1"}, "everything comes from this machine"


def test_what_is_no_film_is_refused_without_paths(browser, page, tmp_path):
    the = functools.partial(element, browser)
    by = "css selector"
    browser.get(page)
    (tmp_path / "text.mp4").write_text("no film")
    the("#video input[type=file]").send_keys(str(tmp_path / "text.mp4"))
    words = wait_for(lambda: " ".join(e.text for e in browser.find_elements(by, ".toast-body")))
    assert "video.mp4" in words and str(tmp_path) not in words and "Traceback" not in words
