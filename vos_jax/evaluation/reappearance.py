"""Re-identification: whether an object that was gone is found again when it is back."""

from collections.abc import Sequence

import numpy as np

from vos_jax.evaluation import davis
from vos_jax.typing import Bool

WITHIN = 5
"""An object shall be found in one of so many frames, the first one in which it is back included."""

ABSENT = 5
"""An object that was out of sight in fewer frames on end was not gone."""

IN_VIEW = 0.25
"""It is back when so much of it shows, as a share of its median area where it shows at all."""


def returns(truth: Sequence[Bool[np.ndarray, "H W"]]) -> list[int]:
    """The frames in which an object is back, given its true mask in every frame.

    The time before it shows up first is no absence.
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
    """Of each return, whether J exceeds 0.5 in one of its first `WITHIN` frames."""
    return [
        any(
            davis.region_similarity(truth[index], predicted[index]) > 0.5
            for index in range(start, min(start + WITHIN, len(truth)))
        )
        for start in returns(truth)
    ]
