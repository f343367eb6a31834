"""Cases A33, A36 and A37: results of inputs that are no longer there are refused, naming the input."""

import json
import os
import pathlib
import shutil

import numpy as np
import pytest
from PIL import Image

import segment as program
from tests.cases import films
from tests.cases.user_files import check_refused
from tests.eval import runs
from vos_jax.data import datasets, mask_files, media

COUNT = 5


pytestmark = pytest.mark.usefixtures("coloured_folder")


def draw(folder, suffix="bmp", *, backward=(), names=None):
    os.makedirs(folder, exist_ok=True)
    for index in range(COUNT):
        name = f"{index:03d}" if names is None else names[index]
        image = films.picture(-index if index in backward else index)
        Image.fromarray(image).save(f"{folder}/{name}.{suffix}")


def segment(video, *arguments):
    return program.main([video, "--masks", "first.png", "--out", "out", "--no-overlay", *arguments])


def touch_as(path, stat):
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


# ---------------------------------------------------------------- segment.py, frames
@pytest.mark.parametrize("changed", [(4,), (1,), (1, 2, 3, 4)])
@pytest.mark.parametrize("suffix", ["bmp", "png", "tif"])
def test_a36_masks_of_replaced_frames_are_not_kept(capsys, changed, suffix):
    """Names and sizes, and even times, are as before."""
    draw("frames", suffix)
    assert segment("frames", "--cutout", "png") == 0
    stats = {path: path.stat() for path in pathlib.Path("frames").iterdir()}
    draw("frames", suffix, backward=changed)
    for path, stat in stats.items():
        touch_as(path, stat)
    assert segment("frames", "--cutout", "png") == 2
    check_refused(capsys, "video.images has changed", "--overwrite")
    assert segment("frames", "--cutout", "png", "--overwrite") == 0
    kept = pathlib.Path("out/cutout/004.png").read_bytes()
    shutil.rmtree("out")
    assert segment("frames", "--cutout", "png") == 0
    assert pathlib.Path("out/cutout/004.png").read_bytes() == kept


def test_a36_frames_that_change_places_are_another_video(capsys):
    draw("frames")
    assert segment("frames") == 0
    (
        os.rename("frames/003.bmp", "x"),
        os.rename("frames/004.bmp", "frames/003.bmp"),
        os.rename("x", "frames/004.bmp"),
    )
    assert segment("frames") == 2
    check_refused(capsys, "video.images has changed")


@pytest.mark.parametrize("more", ["005.bmp", "004.bmp"])
def test_a36_a_frame_more_or_less_is_another_video(capsys, more):
    draw("frames")
    assert segment("frames") == 0
    if os.path.exists(f"frames/{more}"):
        os.remove(f"frames/{more}")
    else:
        shutil.copy("frames/004.bmp", f"frames/{more}")
    assert segment("frames") == 2
    check_refused(capsys, "video.images has changed")


def test_a36_another_rate_is_said(capsys):
    """Times in exports follow from it."""
    draw("frames")
    assert segment("frames", "--rle") == 0 and segment("frames", "--rle", "--fps", "12") == 2
    check_refused(capsys, "video.fps: 24, now 12")
    assert segment("frames", "--rle", "--fps", "12", "--overwrite") == 0
    images = json.loads(pathlib.Path("out/masks.json").read_text())["images"]
    assert images[1]["time"] == pytest.approx(1 / 12, abs=1e-5)


def test_a36_the_same_frames_elsewhere_are_the_same_video(capsys):
    draw("a/frames"), draw("b/frames")
    assert segment("a/frames") == 0 and segment("b/frames") == 0
    assert "are there already" in capsys.readouterr().out


# ---------------------------------------------------------------- segment.py, films
@pytest.mark.parametrize("place", [0.999, 0.6, 0.3])
def test_a37_a_film_that_changed_anywhere_is_another_one(capsys, place):
    path = pathlib.Path("film.avi")
    films.film(path, "rawvideo", pixels="bgr24", count=COUNT)
    assert segment("film.avi") == 0
    stat, data = path.stat(), bytearray(path.read_bytes())
    with_pixel = int(place * films.SIZE[0] * films.SIZE[1] * 3 * COUNT)
    data[with_pixel + 5000] ^= 255
    path.write_bytes(data)
    touch_as(path, stat)
    assert segment("film.avi") == 2
    check_refused(capsys, "video.sha256 has changed", "--overwrite")


def test_a37_another_turn_of_the_same_pictures_is_another_film(capsys):
    path = films.film(pathlib.Path("film.mp4"), size=(64, 64), count=COUNT)
    before = media.open_media(path).identity()
    films.set_matrix(path, -1, 0, 0, -1)
    assert media.open_media(path).identity() != before


def test_a37_a_film_that_was_cut_between_runs(capsys):
    films.film("film.mkv", "mjpeg", pixels="yuvj420p", count=COUNT)
    assert segment("film.mkv") == 0
    films.cut("film.mkv", 0.8)
    assert segment("film.mkv") == 2
    assert "video.sha256 has changed" in capsys.readouterr().err


# ---------------------------------------------------------------- eval.py
def data(root, **changes):
    for name in ("ant", "bee"):
        draw(f"{root}/{name}", backward=changes.get(name, ()))
        os.makedirs(f"{root}/{name}/masks", exist_ok=True)
        for index in range(COUNT):
            ids = (films.first_mask() > 0).astype(np.uint8)
            mask_files.write_mask(f"{root}/{name}/masks/{index:03d}.png", ids)


def evaluate(*arguments, root="set"):
    return runs.run(pathlib.Path(root), pathlib.Path("out"), *arguments, config="lvos")


@pytest.mark.parametrize("changed", [(4,), (2, 3), (1, 2, 3, 4)])
def test_a33_results_of_data_that_changed_are_not_kept(capsys, changed):
    """The first frame and its mask, which are the prompt, are as before."""
    data("set")
    assert evaluate() == 0 and evaluate() == 0
    assert "2 finished before are kept" in capsys.readouterr().out
    data("set", bee=changed)
    assert evaluate() == 2
    check_refused(capsys, "out/bee was made with other settings (frames has changed)", "--overwrite")
    assert evaluate("--sequences", "ant") == 0
    assert evaluate("--overwrite") == 0 and evaluate() == 0


def test_a33_an_interrupted_run_does_not_go_on_with_other_frames(capsys):
    data("set")
    assert evaluate() == 0
    os.remove("out/bee/003.png")
    data("set", bee=(4,))
    assert evaluate() == 2
    check_refused(capsys, "frames has changed")


def test_a33_another_root_with_the_same_frames_is_the_same(capsys):
    data("set"), data("copy")
    assert evaluate() == 0 and evaluate(root="copy") == 0
    assert "2 finished before are kept" in capsys.readouterr().out


def test_a33_fingerprints_of_every_kind_of_video():
    """Equal for equal frames, and different for names, order and any pixel."""
    data("set")
    opened = datasets.open_dataset(datasets.EvalDatasetConfig(kind="folders", root="set"))
    assert opened["ant"].fingerprint() == opened["bee"].fingerprint()  # the name is the folder's
    before = opened["ant"].fingerprint()
    os.rename("set/ant/004.bmp", "set/ant/005.bmp"), os.remove("set/ant/masks/004.png")
    assert (
        opened["bee"].fingerprint()
        == before
        != datasets.open_dataset(datasets.EvalDatasetConfig(kind="folders", root="set"))["ant"].fingerprint()
    )
    rendered = datasets.open_dataset(datasets.EvalDatasetConfig(kind="rendered", root=""))
    prints = {video.fingerprint() for video in rendered}
    assert len(prints) == len(rendered) and prints == {video.fingerprint() for video in rendered}
