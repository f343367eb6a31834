"""Mistakes of users are named, in one line and before any work."""

import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from tests.eval import runs
from vos_jax.data import mask_files


def _drop_frame(davis):
    (davis / "JPEGImages/480p/bee/00002.jpg").unlink()
    return "JPEGImages/480p/bee/00002"


def _truncate_frame(davis):
    path = davis / "JPEGImages/480p/bee/00002.jpg"
    path.write_bytes(path.read_bytes()[:-200])
    return "bee/00002.jpg"


def _resize_mask(davis):
    mask_files.write_mask(davis / "Annotations/480p/bee/00000.png", np.ones((24, 35), np.uint8))
    return "bee/00000.png"


def _empty_mask(davis):
    mask_files.write_mask(davis / "Annotations/480p/bee/00000.png", np.zeros(runs.SIZE, np.uint8))
    return "bee/00000.png"


def _wide_ids(davis):
    ids = np.zeros(runs.SIZE, np.uint16)
    ids[5:20, 5:20] = 300
    Image.fromarray(ids).save(davis / "Annotations/480p/bee/00000.png")
    return "bee/00000.png"


def _many_objects(davis):
    ids = np.arange(runs.SIZE[0] * runs.SIZE[1]).reshape(runs.SIZE) % 201
    mask_files.write_mask(davis / "Annotations/480p/bee/00000.png", ids.astype(np.uint8))
    return "200 objects"


def _no_data(davis):
    shutil.rmtree(davis)
    return "davischallenge.org"


@pytest.mark.parametrize(
    "breakage",
    [_drop_frame, _truncate_frame, _resize_mask, _empty_mask, _wide_ids, _many_objects, _no_data],
    ids=lambda breakage: breakage.__name__,
)
def test_broken_data_is_named_before_anything_is_written(davis, tmp_path, copy_model, capsys, breakage):
    named = breakage(davis)
    assert runs.run(davis, tmp_path / "out") == 2
    runs.check_message(capsys, named, lines=3 if breakage is _no_data else 1)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "arguments, named",
    [
        (["--sequences", "ant,bea"], "bee"),
        (["--sequences", ","], "--sequences"),
        (["--config.memory.evry=3"], "model.memory.every"),
        (["--config.model.memory.every=x"], "model.memory.every"),
        (["--config", "davis18"], "davis17"),
        (["--dtype", "float8"], "float8"),
        (["--surprise"], "--surprise"),
        (["--config.data.year=2016"], "ImageSets/2016"),
        (["--config.data.kind=web"], "davis, youtube_vos, folders, photos"),
        (["--config.eval.workers=0"], "eval.workers"),
    ],
)
def test_wrong_arguments_are_named(davis, tmp_path, copy_model, capsys, arguments, named):
    assert runs.run(davis, tmp_path / "out", *arguments) == 2
    runs.check_message(capsys, named, lines=None)
    assert not (tmp_path / "out").exists()


def test_rendered_source_takes_no_data(tmp_path, copy_model, capsys):
    assert runs.run(tmp_path, tmp_path / "out", config="demo") == 2
    runs.check_message(capsys, "--data")


def test_unwritable_out(davis, tmp_path, copy_model, capsys):
    (tmp_path / "file").write_text("")
    assert runs.run(davis, tmp_path / "file" / "out") == 2
    runs.check_message(capsys, "--out")


@pytest.mark.parametrize(
    "arguments, named",
    [
        (["--config.model.variant=vgg"], "lite0"),
        (["--checkpoint", "/nowhere/weights.safetensors"], "/nowhere/weights.safetensors"),
        (["--checkpoint", str(runs.ROOT / "README.md")], "README.md"),
        (
            ["--checkpoint", str(runs.ROOT / "vos_jax/weights/efficientnet_lite0.safetensors")],
            "efficientnet_lite0",
        ),
    ],
)
def test_weights_of_another_model_are_named(davis, tmp_path, capsys, arguments, named):
    assert runs.run(davis, tmp_path / "out", *arguments) == 2
    runs.check_message(capsys, named)
    assert not (tmp_path / "out").exists()


def test_absent_device_is_named(davis, tmp_path, capsys):
    if jax.default_backend() != "cpu":
        pytest.skip(f"needs a machine without accelerators; JAX uses {jax.default_backend()} here")
    assert runs.run(davis, tmp_path / "out", "--device", "gpu") == 2
    runs.check_message(capsys, "gpu")


def test_a_user_sees_no_traceback():
    """The program itself, as it is typed."""
    command = [sys.executable, "eval.py", "--config", "davis17", "--data", "/nowhere"]
    done = subprocess.run(command, cwd=runs.ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 3 and "--config demo" in done.stderr
