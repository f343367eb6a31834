"""Cases B12, B37, B39 and B41: results and lists of others, read right or refused by name."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image

import eval as program
import segment
from tests import test_segment
from tests.cases.user_files import LENGTH, SIZE, check_refused
from tests.eval import runs
from tests.eval.conftest import copy_model, davis, pristine  # noqa: F401 - fixtures
from tests.inference.coloured import make_model, make_video
from vos_jax import files
from vos_jax.data import mask_files
from vos_jax.inference import engine as engine_lib
from vos_jax.models import weights


@pytest.fixture
def results(davis, tmp_path):  # noqa: F811
    """The truth as somebody's results."""
    return shutil.copytree(davis / "Annotations/480p", tmp_path / "results")


def score(davis, results, *more, config="davis17"):  # noqa: F811
    return program.main(
        [
            "--config",
            config,
            "--data",
            str(davis),
            "--score-only",
            str(results),
            "--out",
            f"{results}-scores",
            *more,
        ]
    )


def rewrite(results, change):
    for path in sorted(results.rglob("*.png")):
        change(mask_files.read_mask(path)).save(path)


def white(form):
    def save(ids):
        image = Image.fromarray(255 * (ids > 0).astype(np.uint8))
        return image if form == "grey" else image.convert({"1bit": "1", "rgb": "RGB", "indexed": "P"}[form])

    return save


@pytest.mark.parametrize("form", ["grey", "1bit", "rgb", "indexed"])
def test_b12_black_and_white_results_of_several_objects_are_refused(davis, results, capsys, form):  # noqa: F811
    rewrite(results, white(form))
    several = next(
        name for name in ("ant", "bee") if np.unique(mask_files.read_mask(_first(davis, name))).size > 2
    )
    assert score(davis, results, "--sequences", several) == 2
    check_refused(capsys, "black and white", several, "merge_objects=true")
    # The advice, followed.
    assert score(davis, results, "--sequences", several, "--config.data.merge_objects=true") == 0
    assert "1.000" in capsys.readouterr().out


def _first(davis, name):  # noqa: F811
    return davis / f"Annotations/480p/{name}/00000.png"


def test_b12_results_in_any_palette_score_alike(davis, results, capsys):  # noqa: F811
    """Quantised results were scored with exchanged ids."""
    rewrite(results, lambda ids: Image.fromarray(mask_files.PALETTE[ids]).quantize(8))
    assert score(davis, results) == 0
    assert "1.000" in capsys.readouterr().out


def test_b37_frames_that_are_never_scored_may_be_missing(davis, results, capsys):  # noqa: F811
    for name in ("ant", "bee"):
        os.remove(results / name / "00000.png")
        os.remove(results / name / f"{runs.FRAMES - 1:05d}.png")
    assert score(davis, results) == 0
    assert "1.000" in capsys.readouterr().out
    os.remove(results / "bee/00002.png")
    assert score(davis, results) == 2
    check_refused(capsys, "bee/00002.png: missing", f"1 of the {runs.FRAMES - 2} scored frames")


def test_b37_a_broken_frame_that_is_never_scored_does_no_harm(davis, results):  # noqa: F811
    (results / "ant/00000.png").write_bytes(b"")
    assert score(davis, results) == 0


@pytest.mark.parametrize("mark", ["utf-8-sig", "utf-8"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_b41_a_list_may_begin_with_a_byte_order_mark(davis, results, mark, line_end):  # noqa: F811
    (davis / "ImageSets/2017/val.txt").write_bytes(line_end.join(["ant", "bee", ""]).encode(mark))
    assert score(davis, results) == 0
    assert score(davis, results, "--sequences", "ant") == 0


# ---------------------------------------------------------------- names
@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(weights, "load_model", lambda *_: (make_model(), {}, "colours"))
    monkeypatch.setattr(engine_lib, "Engine", lambda *_, **__: test_segment.ENGINE)
    return tmp_path


@pytest.mark.skipif(os.name == "nt", reason="a colon names a drive there")
def test_b39_frames_named_by_the_time_are_segmented(here):
    frames, ids = make_video(SIZE, LENGTH)
    os.mkdir("frames")
    for index, frame in enumerate(frames):
        Image.fromarray(frame).save(f"frames/12:30:{index:02d}.png")
    mask_files.write_mask("first.png", ids[0])
    more = ["--no-overlay", "--cutout", "png", "--rle"]
    assert segment.main(["frames", "--masks", "first.png", "--out", "out", *more]) == 0
    wanted = [f"12:30:{index:02d}.png" for index in range(LENGTH)]
    assert sorted(os.listdir("out/masks")) == sorted(os.listdir("out/cutout")) == wanted
    shutil.copytree("out/masks", "masks")
    assert segment.main(["frames", "--masks", "masks", "--out", "out2", "--no-overlay"]) == 0


@pytest.mark.skipif(os.name == "nt", reason="a colon names a drive there")
@pytest.mark.parametrize("name", ["12:30", "a:b", ":", "C:", "x:"])
def test_b39_a_colon_is_part_of_a_name(name):
    assert files.safe_name(name) == name
