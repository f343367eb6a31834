"""Cases B24 to B27 and B42: settings that programs took and dropped. They are followed or refused by name."""

import os

import numpy as np
import pytest

import app
import segment
import vos_jax
from tests.cases.user_files import LENGTH, SIZE, check_refused, write_frames
from tests.inference.coloured import make_engine, make_model, make_video
from vos_jax import errors
from vos_jax.data import mask_files
from vos_jax.inference import engine as engine_lib
from vos_jax.models import weights

DIRECTION = "--config.inference.direction=both"
FILES = "--config.model.proposals.source=file"
SCALES = "--config.inference.scales=-3"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder of frames with the first mask, a model that follows colours, and the settings of engines."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(weights, "load_model", lambda *_: (make_model(), {}, "colours"))
    write_frames("frames", ".png")
    mask_files.write_mask("first.png", make_video(SIZE, LENGTH)[1][0])
    made, straight = [], {flip: make_engine(flip=flip) for flip in (False, True)}

    def make(model, params, config, **options):
        made.append(config)
        return straight[config.flip]

    monkeypatch.setattr(engine_lib, "Engine", make)
    return made


def run(*arguments, out="out", mask="first.png"):
    return segment.main(["frames", "--masks", mask, "--no-overlay", "--out", out, *arguments])


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        (DIRECTION, ["segment.py cannot follow inference.direction=both", "set it to forward"]),
        ("--config.inference.direction=backward", ["inference.direction=backward"]),
        (SCALES, ["inference.scales"]),
        ("--config.inference.scales=big", ["inference.scales"]),
        (FILES, ["model.proposals.source=file"]),  # B27
        ("--config.model.template=dynamc", ["dynamc", "dynamic, first, previous, mean"]),  # B42
        ("--config.model.matching=hungarain", ["hungarain", "hungarian"]),
        ("--config.model.alignment=adaptiv", ["adaptiv", "adaptive"]),
        ("--config.model.memory.eviction=lru", ["lru", "fifo"]),
        ("--config.model.iou_with=next", ["next", "previous"]),
        ("--config.model.dtype=int8", ["int8", "float32"]),
        ("--config.eval.overlay=true", ["segment.py does not use eval.overlay"]),
        ("--config.data.root=x", ["segment.py does not use data.root"]),
        ("--config.train.init=x", ["segment.py does not use train"]),
    ],
)
def test_b24_b27_b42_segment_refuses_what_it_cannot_follow(here, capsys, argument, said):
    assert run(argument) == 2
    check_refused(capsys, *said)
    assert not here and not os.path.exists("out")


def test_b24_segment_follows_views(here):
    assert run("--config.inference.flip=true", "--config.inference.scales=1.0,1.5") == 0
    assert here[0].flip and here[0].scales == (1.0, 1.5)


@pytest.mark.parametrize(("argument", "said"), [(DIRECTION, "app.py"), (FILES, "app.py"), (SCALES, "scales")])
def test_b26_app_refuses_what_it_cannot_follow_before_the_page_opens(here, capsys, argument, said):
    assert app.main([argument]) == 2
    check_refused(capsys, said)
    assert not here


@pytest.mark.parametrize(
    "setting",
    [
        "model.dataset=nonsense",
        "inference.direction=both",
        "inference.scales=-3",
        "model.proposals.source=file",
        "model.dtype=int8",
        "model.dtype=nonsense",
        "checkpoint=none",
        "train.steps=3",
        "model.templte=first",
        "inference.flip=perhaps",
    ],
)
def test_b25_load_refuses_what_it_cannot_follow(setting):
    with pytest.raises(errors.VosError) as caught:
        vos_jax.load("lite0", overrides=[setting])
    assert setting.partition("=")[0].split(".")[-1] in str(caught.value) and "\n" not in str(caught.value)


def test_b25_load_follows_the_data_set_and_the_views(monkeypatch):
    engine = vos_jax.load("lite0", overrides=["model.dataset=davis", "inference.flip=true"])
    assert engine.model.config.dataset == "davis" and len(engine.views((64, 96))) == 2


# ---------------------------------------------------------------- the program's own masks
def test_b10_segment_corrects_the_only_object(here, capsys):
    ids = make_video(SIZE, LENGTH)[1]
    for name, index in (("first.png", 0), ("fix.png", 3)):
        mask_files.write_mask(name, (ids[index] == 3).astype(np.uint8) * np.uint8(255))
    assert run("--masks", "3:fix.png", mask="first.png@2") == 0
    assert np.unique(mask_files.read_mask("out/masks/005.png")).tolist() == [0, 2]
    assert "1 object(s)" in capsys.readouterr().out


def test_b44_a_folder_of_masks_is_taken(here):
    ids = make_video(SIZE, LENGTH)[1]
    os.mkdir("masks")
    for index in (0, 3):
        mask_files.write_mask(f"masks/{index:03d}.png", ids[index])
    assert run(mask="masks") == 0
    np.testing.assert_array_equal(mask_files.read_mask("out/masks/003.png"), ids[3])


def test_b44_a_folder_among_the_frames_names_the_file_that_fits_no_frame(here, capsys):
    assert run(mask="frames") == 2
    check_refused(capsys, "frames")
