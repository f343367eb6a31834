"""Working sizes, padding, resizing of ids and probabilities, and masks that a prompt overwrites."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vos_jax import errors, geometry


@pytest.mark.parametrize(
    ("size", "limits", "seen"),
    [
        ((480, 854), (480, 0), (480, 854)),
        ((360, 640), (480, 0), (480, 853)),
        ((640, 360), (480, 0), (853, 480)),
        ((240, 320), (480, 0), (480, 640)),
        ((100, 150), (480, 0), (300, 450)),  # threefold at most
        ((1080, 1920), (480, 720), (720, 1280)),
        ((240, 320), (480, 360), (360, 480)),  # the largest size has the last word
        ((240, 320), (0, 0), (240, 320)),
        ((5, 40), (480, 0), (15, 120)),  # what is tiny already is not refused for being enlarged
    ],
)
def test_sizes_at_which_frames_are_followed(size, limits, seen):
    assert geometry.working_size(size, *limits) == seen


def test_frames_are_not_shrunk_to_nothing():
    with pytest.raises(errors.VosError, match="854x480 would be segmented at 14x8"):
        geometry.working_size((480, 854), max_size=8)


def test_argmax_resized_is_the_argmax_of_resized_planes():
    planes = np.random.default_rng(0).random((4, 30, 40)).astype(np.float32)
    for size in ((30, 40), (45, 60), (15, 20)):
        resized = np.stack([geometry.resize_prob(plane, size) for plane in planes])
        np.testing.assert_array_equal(geometry.argmax_resized(planes, size), resized.argmax(axis=0))


def test_no_object_is_lost_when_ids_shrink():
    ids = np.zeros((40, 60), np.uint8)
    ids[:20, :30], ids[30, 50], ids[5, 5] = 1, 9, 200
    small = geometry.resize_ids(ids, (10, 15))
    assert set(np.unique(small)) == {0, 1, 9, 200}
    assert small[7, 12] == 9 and small[1, 1] == 200 and np.sum(small == 1) == 5 * 7 - 1
    np.testing.assert_array_equal(geometry.resize_ids(ids, (40, 60)), ids)
    assert set(np.unique(geometry.resize_ids(ids, (60, 90)))) == {0, 1, 9, 200}


def test_padding_repeats_the_border_or_adds_zeros_in_numpy_and_jax():
    frame = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    for array in (frame, jnp.asarray(frame)):
        padded = geometry.pad(array, (4, 5))
        assert type(padded) is type(array) and padded.shape == (4, 5, 3) and padded.dtype == np.uint8
        np.testing.assert_array_equal(padded[:2, :3], frame)
        np.testing.assert_array_equal(padded[3, 4], frame[1, 2])
        assert geometry.pad(array, (2, 3)) is array
    empty = geometry.pad(frame[..., 0], (4, 5), mode="constant")
    assert empty.sum() == frame[..., 0].sum() and empty.shape == (4, 5)


def test_a_prompt_overwrites_its_objects_and_no_others_in_numpy_and_jax():
    ids = np.array([[1, 1, 2], [0, 2, 254]], np.uint8)
    prompt = np.array([[0, 1, 1], [254, 0, 0]], np.uint8)
    expected = [[0, 1, 1], [254, 2, 0]]
    found = geometry.overwrite(ids, prompt)
    traced = jax.jit(geometry.overwrite)(ids, prompt)
    for result in (found, traced):
        assert result.dtype == np.uint8
        np.testing.assert_array_equal(result, expected)
    assert ids[0, 0] == 1, "the input stays as it was"
    np.testing.assert_array_equal(geometry.overwrite(ids, np.zeros_like(ids)), ids)
