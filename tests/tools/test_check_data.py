"""The layout check: finds the layout by itself and names everything that is wrong, not only the first."""

import numpy as np
import pytest
from PIL import Image

from tests.data import tiny_training
from vos_jax.data import mask_files
from vos_jax.data.datasets import rendered
from vos_jax.tools import check_data


def make_folders(root, sequences=("ant", "bee"), frames=3):
    """The simplest layout: frames in a folder, masks in masks/ beside them."""
    for name in sequences:
        video = rendered.make_video(name, size=(32, 48), frames=frames, objects=2)
        (root / name / "masks").mkdir(parents=True)
        for index in range(frames):
            Image.fromarray(video.frame(index)).save(root / name / f"{index}.jpg")
            mask_files.write_mask(root / name / "masks" / f"{index}.png", video.mask(index))
    return root


def test_every_layout_is_recognised_and_counted(tmp_path, capsys):
    tiny_training.write_static(tmp_path / "photos", photos=3)
    rendered.write_davis(tmp_path / "davis", sequences=("cat",), frames=4, size=(32, 48), split="train")
    make_folders(tmp_path / "mine")
    for name, line in (
        ("photos", "photos: photos: 3 photos, 3 frames, 3 masks"),
        ("davis", "davis: davis: 1 sequences, 4 frames, 4 masks"),
        ("mine", "mine: folders: 2 sequences, 6 frames, 6 masks"),
    ):
        assert check_data.main([str(tmp_path / name)]) == 0
        printed = capsys.readouterr().out
        assert line in printed and "ready to train on" in printed


def test_all_that_is_wrong_is_named_at_once(tmp_path, capsys):
    root = make_folders(tmp_path / "mine", sequences=("ant", "bee", "cow"))
    mask_files.write_mask(root / "ant/masks/1.png", np.ones((16, 16), np.uint8))
    path = root / "bee/2.jpg"
    path.write_bytes(path.read_bytes()[:-20])
    for index in range(3):
        mask_files.write_mask(root / f"cow/masks/{index}.png", np.zeros((32, 48), np.uint8))
    assert check_data.main([str(root)]) == 2
    printed = capsys.readouterr()
    problems = [line for line in printed.out.splitlines() if line.startswith("problem: ")]
    assert len(problems) == 3 and "3 problem(s)" in printed.err
    for line, words in zip(
        problems, ("ant/masks/1.png: the mask is 16x16", "bee/2.jpg", "'cow'"), strict=True
    ):
        assert words in line
    assert "ready" not in printed.out


@pytest.mark.parametrize("name, match", [("nowhere", "no such folder"), ("empty", "no sequences")])
def test_what_is_no_data_set_is_one_line(tmp_path, capsys, name, match):
    (tmp_path / "empty").mkdir()
    assert check_data.main([str(tmp_path / name)]) == 2
    error = capsys.readouterr().err.strip()
    assert match in error and "\n" not in error
