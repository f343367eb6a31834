"""Cases A40 and A47 through segment.py: names that are no text, and names that look like addresses."""

import io
import os
import pathlib
import sys

import av
import pytest
from PIL import Image

import segment as program
from tests.cases import films
from vos_jax import errors

LATIN = b"caf\xe9".decode("utf-8", "surrogateescape")
COUNT = 4


pytestmark = pytest.mark.usefixtures("coloured_folder")


@pytest.fixture
def make_strict(monkeypatch):
    """Makes output as it is in ordinary locales, which refuse what is no text; call it in the test."""

    def make():
        streams = {}
        for name in ("stdout", "stderr"):
            streams[name] = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="strict")
            monkeypatch.setattr(sys, name, streams[name])
        return streams

    return make


def said(stream):
    stream.flush()
    return stream.buffer.getvalue().decode()


def segment(video, *arguments, out="out", mask="first.png"):
    return program.main([video, "--masks", mask, "--out", out, *arguments])


def test_a47_a_film_whose_name_is_no_text(make_strict):
    strict = make_strict()
    films.film(f"{LATIN}.mp4", count=COUNT)
    assert segment(f"{LATIN}.mp4", "--rle", "--cutout", "webm") == 0, said(strict["stderr"])
    assert "caf\\udce9.mp4: 96x64" in said(strict["stdout"])
    assert sorted(os.listdir("out")) == [
        "cutout.webm",
        "files.jsonl",
        "masks",
        "masks.json",
        "overlay.mp4",
        "run.json",
    ]
    assert segment(f"{LATIN}.mp4", "--rle", "--cutout", "webm") == 0
    assert "all 4 masks are there already" in said(strict["stdout"])


def test_a47_a_folder_and_frames_whose_names_are_no_text(make_strict):
    strict = make_strict()
    os.makedirs(LATIN)
    for index in range(COUNT):
        Image.fromarray(films.picture(index)).save(f"{LATIN}/{index:03d}.png")
    assert segment(LATIN, "--rle", "--no-overlay") == 0, said(strict["stderr"])
    assert len(os.listdir("out/masks")) == COUNT


@pytest.mark.parametrize("what", ["out", "mask"])
def test_a47_an_out_or_a_mask_whose_name_is_no_text(make_strict, what):
    strict = make_strict()
    films.film("film.mp4", count=COUNT)
    if what == "mask":
        os.rename("first.png", f"{LATIN}.png")
        assert segment("film.mp4", mask=f"{LATIN}.png") == 0, said(strict["stderr"])
    else:
        assert segment("film.mp4", "--cutout", "png", out=LATIN) == 0, said(strict["stderr"])
        assert {"overlay.mp4", "masks", "cutout"} <= set(os.listdir(LATIN))


@pytest.mark.parametrize("name", [LATIN, "missing\x1b[31m", "\udcff"])
def test_a47_errors_name_what_is_no_text(make_strict, name):
    strict = make_strict()
    assert segment(f"{name}.mp4") == 2
    assert said(strict["stderr"]).startswith("error: ") and said(strict["stderr"]).count("\n") == 1
    assert "\x1b" not in said(strict["stderr"])


def test_a47_letters_that_a_terminal_lacks(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict"))

    @errors.entry_point
    def main():
        print("å " + LATIN)

    assert main() == 0
    sys.stdout.flush()
    assert sys.stdout.buffer.getvalue() == b"\\xe5 caf\\udce9\n"


@pytest.mark.parametrize("out", ["take:2", "http:/x", "a/b:c"])
def test_a40_a_colon_in_out(out):
    films.film("film.mp4", count=COUNT)
    assert segment("film.mp4", "--cutout", "webm", out=out) == 0
    for name in ("overlay.mp4", "cutout.webm"):
        with av.open(f"file:{pathlib.Path(out) / name}") as container:
            assert sum(1 for _ in container.decode(video=0)) == COUNT
