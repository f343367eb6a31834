"""Re-identification: the share of returning objects that are found again."""

from collections.abc import Sequence

import numpy as np

from vos_jax.evaluation import davis
from vos_jax.typing import Bool

WITHIN = 5
"""Number of frames, from the first frame of a return on, in one of which the object must be found."""

ABSENT = 5
"""Smallest number of consecutive frames without the object that count as an absence."""

IN_VIEW = 0.25
"""Visible area at which an object is back, as a share of its median area in frames that show it."""


def returns(truth: Sequence[Bool[np.ndarray, "H W"]]) -> list[int]:
    """Returns the first frame of each return of an object, given its true mask in every frame.

    The time before its first appearance is no absence.
    """
    areas = np.array([int(np.count_nonzero(mask)) for mask in truth])
    if not areas.any():
        return []
    enough = IN_VIEW * float(np.median(areas[areas > 0]))
    found, seen, absent = [], False, 0
    gone = False
    for index, area in enumerate(areas.tolist()):
        absent = 0 if area else absent + 1
        gone |= seen and absent >= ABSENT
        if area >= enough:
            if gone:
                found.append(index)
            seen, gone = True, False
    return found


def recovered(
    truth: Sequence[Bool[np.ndarray, "H W"]], predicted: Sequence[Bool[np.ndarray, "H W"]]
) -> list[bool]:
    """Returns, for each return, whether J exceeds 0.5 in one of its first `WITHIN` frames."""
    return [
        any(
            davis.region_similarity(truth[index], predicted[index]) > 0.5
            for index in range(start, min(start + WITHIN, len(truth)))
        )
        for start in returns(truth)
    ]
