"""Corrupts the masks that are written to the memory in training, as drift does in long videos.

A clip is too short for masks to drift, so a model that learns from clips alone trusts whatever is written.
Here the written mask of an object sometimes takes pixels of another one, loses some of its own, or grows. The
losses and the next frame's previous mask stay as they were predicted.
"""

import dataclasses

import jax
import jax.numpy as jnp

from vos_jax import checks
from vos_jax.typing import Array, Bool, Float, PRNGKeyArray

# Cells of stride 4 by which a mask grows: 16 pixels.
GROWTH = 4
# Blob radius as a share of the square root of the object's area.
RADIUS = (0.25, 0.75)
# Background near an object is this likely to be taken, relative to another object's pixel.
BACKGROUND = 0.1


@dataclasses.dataclass(frozen=True, kw_only=True)
class CorruptionConfig:
    """Errors in masks that are written to the memory: probabilities per object and frame.

    Attributes:
      take: Probability that a blob of another object, or of the background nearby, becomes this object's.
      lose: Probability that a blob of the object becomes background.
      grow: Probability that the mask grows by 16 pixels.

    Raises:
      VosError: a value outside [0, 1].
    """

    take: float = 0.0
    lose: float = 0.0
    grow: float = 0.0

    def __post_init__(self):
        checks.probability(self, "take", "lose", "grow")

    @property
    def enabled(self) -> bool:
        """Whether any mask is ever changed."""
        return self.take > 0 or self.lose > 0 or self.grow > 0


def corrupt(
    prob: Float[Array, "N H W"], object_valid: Bool[Array, "N"], key: PRNGKeyArray, config: CorruptionConfig
) -> Float[Array, "N H W"]:
    """Returns masks with errors of the kind that a tracker makes; each cell still sums to at most 1.

    Args:
      prob: the objects' masks after aggregation, in [0, 1].
      object_valid: objects that exist; others stay as they are.
      key: of this clip and frame.
      config: how often masks change.
    """
    num_objects = prob.shape[0]
    grown = _dilate(prob)
    others = jnp.sum(prob, axis=0, keepdims=True) - prob
    takeable = others + BACKGROUND * jnp.clip(_dilate(grown) - prob - others, 0.0, 1.0)

    def of_object(
        prob: Array, grown: Array, takeable: Array, valid: Array, key: PRNGKeyArray
    ) -> tuple[Array, Array]:
        choice_key, take_key, lose_key = jax.random.split(key, 3)
        chances = jnp.asarray([config.take, config.lose, config.grow])
        take, lose, grow = jax.random.bernoulli(choice_key, chances) & valid & (jnp.sum(prob) > 1.0)
        area = jnp.sum(prob)
        claim = jnp.where(take, _blob(takeable, area, take_key) * (takeable > 0), 0.0)
        claim = jnp.maximum(claim, jnp.where(grow, grown, 0.0))
        kept = prob * (1.0 - jnp.where(lose, _blob(prob, area, lose_key), 0.0))
        return kept, claim

    keys = jax.random.split(key, num_objects)
    kept, claim = jax.vmap(of_object)(prob, grown, takeable, object_valid, keys)
    # A claim takes the cell from all others; of several claims the last object's counts.
    free = 1.0 - claim
    later = jnp.triu(jnp.ones((num_objects, num_objects), bool), 1)[:, :, None, None]
    wins = jnp.prod(jnp.where(later, free[None], 1.0), axis=1)
    other = ~jnp.eye(num_objects, dtype=bool)[:, :, None, None]
    left = jnp.prod(jnp.where(other, free[None], 1.0), axis=1)
    out = jnp.maximum(kept * left, claim * wins)
    return out / jnp.maximum(jnp.sum(out, axis=0, keepdims=True), 1.0)


def _dilate(prob: Float[Array, "N H W"]) -> Float[Array, "N H W"]:
    """The largest value within `GROWTH` cells."""
    for window in ((1, 2 * GROWTH + 1, 1), (1, 1, 2 * GROWTH + 1)):
        prob = jax.lax.reduce_window(prob, -jnp.inf, jax.lax.max, window, (1, 1, 1), "SAME")
    return prob


def _blob(weights: Float[Array, "H W"], area: Array, key: PRNGKeyArray) -> Float[Array, "H W"]:
    """A ragged disc, 1 inside and 0 outside, around a cell drawn by `weights`; its size follows `area`."""
    height, width = weights.shape
    centre_key, radius_key, noise_key = jax.random.split(key, 3)
    centre = jax.random.categorical(centre_key, jnp.log(weights.ravel() + 1e-9))
    radius = jnp.sqrt(area) * jax.random.uniform(radius_key, minval=RADIUS[0], maxval=RADIUS[1])
    rows, columns = jnp.arange(height)[:, None], jnp.arange(width)[None, :]
    distance = jnp.hypot(rows - centre // width, columns - centre % width)
    noise = jax.random.uniform(noise_key, (8, 8), minval=0.5, maxval=1.5)
    ragged = radius * jax.image.resize(noise, weights.shape, "bilinear")
    return (distance < ragged).astype(weights.dtype)
