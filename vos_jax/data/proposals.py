"""Proposals of a frame as arrays."""

from typing import NamedTuple

import numpy as np

from vos_jax.typing import Bool, Float


class ProposalArrays(NamedTuple):
    """A frame's proposals in P fixed places, best first; places that are not `valid` hold nothing."""

    boxes: Float[np.ndarray, "P 4"]  # pixels of the padded frame
    scores: Float[np.ndarray, "P"]  # [0, 1]
    masks: Float[np.ndarray, "P H4 W4"]  # probability at stride 4
    valid: Bool[np.ndarray, "P"]
