"""Copy-paste: the truth follows the layers exactly; objects pass behind, leave, return and stay in sight."""

import dataclasses

import cv2
import numpy as np
import pytest

from vos_jax import errors
from vos_jax.data import cutouts, motion, paste, transforms

KEYS = [transforms.Key((11, i)) for i in range(30)]
SIZE = (96, 128)
COLOURS = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)


def base(length: int = 5) -> transforms.Clip:
    """A red disk, id 7, that crosses a black background."""
    frames, truths = [], []
    for time in range(length):
        ids = np.zeros(SIZE, np.uint8)
        cv2.circle(ids, (40 + 10 * time, 48), 20, 7, -1)
        frames.append(COLOURS[(ids > 0).view(np.uint8)])
        truths.append(ids)
    return transforms.Clip(tuple(frames), tuple(truths), SIZE)


def disk(colour: np.ndarray, length: int = 5, radius: int = 16) -> cutouts.Cutout:
    side = 2 * (radius + cutouts.RIM) + 1
    opacity = np.zeros((side, side), np.uint8)
    cv2.circle(opacity, (side // 2, side // 2), radius, 255, -1)
    opacity = cv2.GaussianBlur(opacity, (3, 3), 0)
    sprite = np.dstack([np.tile(colour, (side, side, 1)), opacity])
    return cutouts.Cutout((sprite,) * length, np.full((length, 2), side / 2), 1)


TWO = (disk(COLOURS[2]), disk(COLOURS[3]))
MAKER = paste.Paste(size=(0.25, 0.4))


def laid(key, cut=TWO, **changes) -> transforms.Clip:
    return dataclasses.replace(MAKER, **changes)(base(), cut, max_gap=5, key=key)


def inner_of(mask):
    kernel = np.ones((7, 7), np.uint8)
    return cv2.erode(mask.view(np.uint8), kernel, borderType=cv2.BORDER_CONSTANT, borderValue=0) > 0


def counts(clip, number):
    return [np.count_nonzero(ids == number) for ids in clip.ids]


def test_every_pixel_has_the_id_of_the_layer_whose_colour_it_shows():
    seen = {1: 0, 2: 0, 3: 0}
    for key in KEYS:
        clip = laid(key)
        for frame, ids in zip(clip.frames, clip.ids, strict=True):
            assert ids.max() <= 3
            # The nearest of four colours; edges are soft, so a few pixels where three layers meet may differ.
            distance = ((frame[:, :, None].astype(int) - COLOURS.astype(int)) ** 2).sum(-1)
            assert np.mean(distance.argmin(-1) != ids) < 0.002
            for number in seen:
                inner = inner_of(ids == number)
                assert (np.abs(frame[inner].astype(int) - COLOURS[number]) <= 3).all()
                seen[number] += bool(inner.any())
    assert min(seen.values()) > 80


def test_the_first_frame_shows_at_least_half_of_every_object():
    laid_at_all = 0
    for key in KEYS:
        clip = laid(key)
        for number in (2, 3):
            laid_at_all += counts(clip, number)[0] > 0
            # The smallest disk has a fourth of the crop's side: two thirds of its box are opaque.
            assert counts(clip, number)[0] == 0 or counts(clip, number)[0] >= 0.5 * 0.6 * 0.25**2 * 96 * 128
        assert counts(clip, 1)[0] >= 0.5 * np.count_nonzero(base().ids[0])
    assert laid_at_all > 50


def test_an_object_behind_never_hides_the_clips_own_and_one_in_front_does():
    hidden = 0
    for key in KEYS:
        behind = laid(key, behind=1.0)
        for frame, ids, own, before in zip(behind.frames, behind.ids, base().ids, base().frames, strict=True):
            assert np.count_nonzero((own == 7) & (ids != 1)) <= 4  # single pixels that stick out
            inner = inner_of(own == 7)
            np.testing.assert_array_equal(frame[inner], before[inner])
        front = laid(key, behind=0.0)
        hidden += min(counts(front, 1)) < 0.8 * counts(base(), 7)[0]
    assert hidden > 8


def test_objects_leave_the_frame_and_half_of_them_come_back():
    gone = back = 0
    for key in KEYS:
        clip = laid(key, cut=TWO[:1], leave=1.0)
        seen = counts(clip, 2)
        assert seen[0] > 0 and min(seen) == 0
        gone += seen[-1] == 0
        back += seen[-1] > 0
        stays = counts(laid(key, cut=TWO[:1], leave=0.0, behind=0.0), 2)
        assert stays[0] > 0
    assert min(gone, back) >= 8


def test_the_way_of_an_object_is_smooth():
    still = motion.Motion(turn=0, scale=0, shear=0, shift=0, warp=0, jitter=0, sway=0)
    cut = (disk(COLOURS[2], length=12, radius=8),)
    for key in KEYS[:10]:
        maker = dataclasses.replace(MAKER, object=still, leave=0.0, behind=0.0, min_pixels=30)
        clip = maker(base(12), cut, max_gap=0, key=key)
        middles = [np.argwhere(ids == 2).mean(0) for ids in clip.ids if (ids == 2).any()]
        bends = np.diff(np.array(middles), n=2, axis=0)
        assert np.abs(bends).max() < 2.0


def test_the_same_key_lays_the_same_and_the_clip_itself_stays_as_it_is():
    clip = base()
    first, again = (MAKER(clip, TWO, max_gap=5, key=KEYS[0]) for _ in range(2))
    np.testing.assert_array_equal(np.stack(first.frames), np.stack(again.frames))
    np.testing.assert_array_equal(np.stack(first.ids), np.stack(again.ids))
    np.testing.assert_array_equal(np.stack(clip.ids), np.stack(base().ids))
    np.testing.assert_array_equal(np.stack(clip.frames), np.stack(base().frames))
    other = MAKER(clip, TWO, max_gap=5, key=KEYS[1])
    assert np.any(np.stack(first.frames) != np.stack(other.frames))


def test_an_object_for_which_there_is_no_room_is_left_out():
    huge = dataclasses.replace(MAKER, size=(2.0, 2.0))
    clip = huge(base(), (disk(COLOURS[2], radius=90),), max_gap=5, key=KEYS[0])
    np.testing.assert_array_equal(np.stack(clip.ids), np.stack(base().ids) // 7)


def test_the_number_pasted_counts_the_clips_own_objects():
    counts = [MAKER.num_pasted(base(), key) for key in KEYS]
    assert set(counts) == {2, 3, 4}
    few = dataclasses.replace(MAKER, objects=(1, 1))
    assert few.num_pasted(base(), KEYS[0]) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prob": 1.5}, "prob is 1.5"),
        ({"objects": (5, 3)}, "objects is"),
        ({"size": (0.0, 0.5)}, "size is"),
    ],
)
def test_impossible_values_are_refused(change, message):
    with pytest.raises(errors.VosError, match=message):
        paste.Paste(**change)
