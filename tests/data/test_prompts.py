"""Masks as people hand them over: which file, which frame, which object."""

import numpy as np
import pytest
from PIL import Image

from vos_jax import errors
from vos_jax.data import mask_files, mask_options


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "120:odd.png", "me@2.png"):
        mask_files.write_mask(name, np.eye(8, dtype=np.uint8))
    return tmp_path


@pytest.mark.parametrize(
    "text, wanted",
    [
        ("a.png", (0, "a.png", None)),
        ("120:a.png", (120, "a.png", None)),
        ("120:a.png@7", (120, "a.png", 7)),
        ("120:odd.png", (0, "120:odd.png", None)),
        ("3:120:odd.png", (3, "120:odd.png", None)),
        ("me@2.png", (0, "me@2.png", None)),
        ("5:me@2.png@3", (5, "me@2.png", 3)),
    ],
)
def test_arguments_are_read_and_real_names_win(text, wanted):
    mask = mask_options.parse(text)
    assert (mask.frame, str(mask.path), mask.object_id) == wanted


@pytest.mark.parametrize(
    "text", ["", "b.png", "x:a.png", "-1:a.png", "1:", "a.png@0", "a.png@255", "a.png@x"]
)
def test_what_is_no_mask_is_refused(text):
    with pytest.raises(errors.VosError, match="--masks"):
        mask_options.parse(text)


def test_black_and_white_is_told_from_ids():
    ids = np.eye(8, dtype=np.uint8)
    forms = {
        "grey.png": (Image.fromarray(255 * ids), True),
        "one_bit.png": (Image.fromarray(255 * ids).convert("1"), True),
        "colour.png": (Image.fromarray(np.dstack([255 * ids] * 3)), True),
        "blue.png": (Image.fromarray(np.dstack([0 * ids, 0 * ids, 255 * ids])), False),
        "red.png": (Image.fromarray(mask_files.PALETTE[ids]), False),
    }
    for name, (image, binary) in forms.items():
        image.save(name)
        assert mask_files.read_prompt(name).is_binary == binary, name
    assert not mask_files.read("a.png").is_binary, "indexed: object 1 and no other"


def test_later_masks_correct_and_add_and_the_same_frame_is_shared():
    mask_files.write_mask("two.png", np.uint8([[1, 1, 0, 0], [0, 0, 2, 0]]))
    mask_files.write_mask("three.png", np.uint8([[0, 0, 3, 3], [0, 0, 0, 0]]))
    Image.fromarray(np.uint8([[255, 0, 0, 0], [0, 0, 0, 0]])).save("white.png")
    given = [mask_options.parse(text) for text in ("5:two.png", "two.png", "three.png", "7:white.png@2")]
    found = mask_options.read(given, (2, 4))
    assert list(found) == [0, 5, 7]
    np.testing.assert_array_equal(found[0].ids, [[1, 1, 3, 3], [0, 0, 2, 0]])
    np.testing.assert_array_equal(found[7].ids, [[2, 0, 0, 0], [0, 0, 0, 0]])
    one = [mask_options.parse(text) for text in ("white.png", "7:white.png")]
    assert list(mask_options.read(one, (2, 4))) == [0, 7], "of a single object white can only be that one"
