"""Blur and drift: what changes, what stays, and that the key decides."""

import numpy as np
import pytest

from vos_jax.data import appearance, transforms

KEYS = [transforms.Key((13, i)) for i in range(12)]


def noise(length: int = 4) -> transforms.Clip:
    rng = np.random.default_rng(0)
    frames = np.zeros((length, 32, 40, 3), np.uint8)
    frames[:, :24, :30] = rng.integers(60, 200, (24, 30, 3))
    ids = (np.zeros((32, 40), np.uint8),) * length
    return transforms.Clip(tuple(frames), ids, (24, 30))


@pytest.mark.parametrize("change", [appearance.Blur, appearance.Drift])
def test_probability_key_and_padding_are_kept(change):
    clip = noise()
    assert change()(clip, KEYS[0]) is clip
    first, again = (change(prob=1.0)(clip, KEYS[1]) for _ in range(2))
    np.testing.assert_array_equal(np.stack(first.frames), np.stack(again.frames))
    assert np.any(np.stack(first.frames) != np.stack(clip.frames))
    assert not np.stack(first.frames)[:, 24:].any() and not np.stack(first.frames)[:, :, 30:].any()
    assert first.ids is clip.ids


def test_blur_takes_detail_away_in_some_clips_unevenly():
    details = np.array(
        [
            [frame[:24, :30].astype(float).std() for frame in appearance.Blur(prob=1.0)(noise(), key).frames]
            for key in KEYS
        ]
    )
    sharp = noise().frames[0][:24, :30].std()
    assert (details <= sharp + 0.5).all() and details.mean() < 0.8 * sharp
    uneven = details.std(1) > 0.5
    assert 2 < uneven.sum() < 10


def test_a_streak_is_as_long_as_asked_for_and_sums_to_one():
    kernel = appearance.streak(7.0, 0.0)
    assert kernel.shape == (9, 9) and kernel.sum() == pytest.approx(1)
    assert np.count_nonzero(kernel) == np.count_nonzero(kernel[4]) and 7 <= np.count_nonzero(kernel[4]) <= 9
    assert appearance.streak(0.0, 1.0).tolist() == [[1.0]]


def test_drift_begins_with_the_first_frame_as_it_is_and_grows():
    grown = 0
    for key in KEYS:
        clip = noise()
        drifted = appearance.Drift(prob=1.0)(clip, key)
        away = [np.abs(a.astype(int) - b).mean() for a, b in zip(clip.frames, drifted.frames, strict=True)]
        assert away[0] <= 0.51
        grown += away[3] > away[2] > away[1]
    assert grown >= 11
