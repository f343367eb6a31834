"""Returns of an object that was gone, by hand."""

import numpy as np
import pytest

from vos_jax.evaluation import reappearance


def video(areas):
    masks = [np.zeros((4, 5), bool) for _ in areas]
    for mask, area in zip(masks, areas, strict=True):
        mask.flat[:area] = True
    return masks


@pytest.mark.parametrize(
    "areas, expected",
    [
        ([8, 8, 0, 0, 0, 0, 0, 8, 8], [7]),
        ([8, 8, 0, 0, 0, 0, 8, 8], []),  # hidden for a moment
        ([0, 0, 0, 0, 0, 0, 8, 8], []),  # it was not there before
        ([8, 8, 0, 0, 0, 0, 0, 1, 1, 2, 8], [9]),  # a sliver at the border is not yet it
        ([8, 0, 0, 0, 0, 0, 1, 0, 0, 8, 0, 0, 0, 0, 0, 8], [9, 15]),
        ([8, 0, 0, 0, 0, 0], []),
        ([0, 0], []),
    ],
)
def test_an_object_is_back_when_enough_of_it_shows_again(areas, expected):
    assert reappearance.returns(video(areas)) == expected


def test_it_is_found_when_one_of_five_frames_overlaps_by_more_than_half():
    truth = video([8] + [0] * 5 + [8] * 7)
    found = video([8] + [0] * 5 + [8] * 7)
    assert reappearance.recovered(truth, found) == [True]
    assert reappearance.recovered(truth, video([8] + [0] * 5 + [0] * 4 + [5] * 3)) == [True], "in the fifth"
    assert reappearance.recovered(truth, video([8] + [0] * 5 + [0] * 5 + [8] * 2)) == [False], "in the sixth"
    assert reappearance.recovered(truth, video([8] + [0] * 5 + [4] * 7)) == [False], (
        "half is not more than half"
    )
    assert reappearance.recovered(truth[:8], found[:8]) == [True], "the video may end before"
