"""Objects cut out of sequences: whole ones only, played back and forth, and look-alikes."""

import dataclasses

import numpy as np
import pytest

from vos_jax.data import cutouts, transforms
from vos_jax.data import video as video_lib

KEYS = [transforms.Key((7, i)) for i in range(40)]
SIZE = (60, 100)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Moving(video_lib.Video):
    """A video of a square, 12 pixels wide, that moves by 6 pixels a frame and leaves at the right.

    Red is 40 times the video's number, green the time; blue is 200 in the object.
    """

    number: int
    size: tuple[int, int] = SIZE

    def mask(self, index):
        ids = np.zeros(SIZE, np.uint8)
        ids[20:32, 4 + 6 * index : 16 + 6 * index] = 3
        return ids

    def frame(self, index):
        ids = self.mask(index)
        red, green = np.full_like(ids, 40 * self.number), np.full_like(ids, 10 * index)
        return np.stack([red, green, ids // 3 * 200], -1)


VIDEOS = tuple(
    Moving(
        name=f"video{number}",
        frame_names=tuple(map(str, range(20))),
        annotated=tuple(range(20)),
        number=number,
    )
    for number in range(4)
)


def cut(key, **options):
    settings = {"length": 6, "max_gap": 2, "min_pixels": 50}
    return cutouts.cut_out(VIDEOS[1], **(settings | options), key=key)


def times_of(cutout):
    middles = [sprite[sprite.shape[0] // 2, sprite.shape[1] // 2] for sprite in cutout.sprites]
    return [int(middle[1]) // 10 for middle in middles]


def test_an_object_is_cut_out_where_it_is_whole_and_played_back_and_forth():
    turned = 0
    found = [cutout for cutout in map(cut, KEYS) if cutout is not None]
    assert 20 < len(found) < len(KEYS)  # in the last frames the border cuts it
    for cutout in found:
        times = times_of(cutout)
        # At time 14 the square's side lies in the last two columns.
        assert max(times) <= 13 and len(times) == 6
        steps = np.diff(times)
        assert np.abs(steps).max() <= 3
        turned += (steps > 0).any() and (steps < 0).any()
        for sprite in cutout.sprites:
            # No colour of the background near the object, nor a mixture with it.
            assert (sprite[1:-1, 1:-1, 2] == 200).all()
            assert not sprite[[0, -1], :, 3].any() and not sprite[:, [0, -1], 3].any()
            assert np.count_nonzero(sprite[..., 3] > 127) == pytest.approx(144, abs=8)
    assert turned >= 3


def test_a_steady_way_is_taken_out_and_what_deviates_from_it_stays():
    cutout = next(filter(None, map(cut, KEYS)))
    # The square's middle follows the path in every frame.
    np.testing.assert_allclose(cutout.anchors, np.full((6, 2), 6.0 + cutouts.RIM), atol=0.01)
    times, line = np.array([0, 1, 2, 3]), np.array([[0.0, 5], [2, 5], [4, 5], [6, 5]])
    np.testing.assert_allclose(cutouts._steady(times, line), line, atol=1e-9)
    sway = np.array([[0.0, 1], [0, -1], [0, -1], [0, 1]])
    np.testing.assert_allclose(cutouts._steady(times, line + sway), line, atol=1e-9)
    np.testing.assert_allclose(cutouts._steady(times * 0 + 5, line), np.tile(line.mean(0), (4, 1)))


@pytest.mark.parametrize(
    ("box", "whole"),
    [
        (np.s_[10:20, 10:20], True),
        (np.s_[0:10, 10:20], False),
        (np.s_[10:20, 88:99], False),
        (np.s_[10:14, 10:14], False),
        (np.s_[4:56, 4:96], False),
    ],
)
def test_objects_at_the_border_tiny_ones_and_huge_ones_are_not_cut_out(box, whole):
    mask = np.zeros(SIZE, bool)
    mask[box] = True
    assert cutouts.is_whole(mask, 50) == whole


def draw(key, *, count=2, lookalike=0.0):
    return cutouts.draw(
        (VIDEOS, VIDEOS), (1.0, 2.0), (0, 2), count, length=3, max_gap=0, min_pixels=50,
        lookalike=lookalike, key=key,
    )  # fmt: skip


def test_objects_come_of_other_sequences_and_a_look_alike_of_the_clips_own_or_of_another_one():
    reds = [[int(c.sprites[0][8, 8, 0]) for c in draw(key)] for key in KEYS]
    assert all(len(found) <= 2 for found in reds) and sum(map(len, reds)) > 60
    # Sequence 2 of the other source is another one.
    assert {red for found in reds for red in found} == {0, 40, 80, 120}
    only = [cutouts.draw((VIDEOS[:1],), (1.0,), (0, 0), 3, length=3, max_gap=0, min_pixels=50,
                         lookalike=0.0, key=key) for key in KEYS[:5]]  # fmt: skip
    assert not any(only)
    own = again = changed = 0
    for key in KEYS:
        first, *_, last = [*draw(key, count=3, lookalike=1.0), None, None][:3]
        if first is None or last is None:
            continue
        other_blue = int(last.sprites[0][8, 8, 2]) != 200
        changed += other_blue
        if not other_blue:
            red = int(last.sprites[0][8, 8, 0])
            own += red == 80
            again += red != 80
    assert min(own, again, changed) >= 4


def test_other_colours_are_the_same_in_all_frames():
    cutout = next(filter(None, map(cut, KEYS)))
    still = dataclasses.replace(cutout, sprites=cutout.sprites[:1] * 6)
    changed = cutouts.recolour(still, np.random.default_rng(0))
    assert np.any(changed.sprites[0][..., :3] != still.sprites[0][..., :3])
    for sprite in changed.sprites:
        np.testing.assert_array_equal(sprite, changed.sprites[0])
        np.testing.assert_array_equal(sprite[..., 3], still.sprites[0][..., 3])
