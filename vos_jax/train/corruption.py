"""Corrupts the masks that are written to the memory in training, like drift in long videos.

Clips are too short for masks to drift, so a model trained on clips alone does not expect wrong masks in the
memory. Here the written mask of an object sometimes takes pixels of another one, loses some of its own, or
grows. The losses and the next frame's previous mask use the unchanged prediction.
"""

import dataclasses

import jax
import jax.numpy as jnp

from vos_jax import checks
from vos_jax.typing import Array, Bool, Float, PRNGKeyArray

# Growth of a mask in cells of stride 4: 16 pixels.
GROWTH = 4
# Blob radius as a share of the square root of the object's area.
RADIUS = (0.25, 0.75)
# Weight of a background pixel near an object as centre of a blob, relative to another object's pixel.
BACKGROUND = 0.1


@dataclasses.dataclass(frozen=True, kw_only=True)
class CorruptionConfig:
    """Errors in the masks that are written to the memory, as probabilities per object and frame.

    Attributes:
      take: Probability that a blob of another object, or of the background nearby, is added to the object.
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
        """True if any probability is above 0."""
        return self.take > 0 or self.lose > 0 or self.grow > 0


def corrupt(
    prob: Float[Array, "N H W"], object_valid: Bool[Array, "N"], key: PRNGKeyArray, config: CorruptionConfig
) -> Float[Array, "N H W"]:
    """Returns masks with errors like those of drift; each cell still sums to at most 1.

    Args:
      prob: the objects' masks after aggregation, in [0, 1].
      object_valid: objects that exist; others are unchanged.
      key: of this clip and frame.
      config: probabilities of the errors.
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
    # A claimed cell is removed from all other objects; of several claims, the last object's wins.
    free = 1.0 - claim
    later = jnp.triu(jnp.ones((num_objects, num_objects), bool), 1)[:, :, None, None]
    wins = jnp.prod(jnp.where(later, free[None], 1.0), axis=1)
    other = ~jnp.eye(num_objects, dtype=bool)[:, :, None, None]
    left = jnp.prod(jnp.where(other, free[None], 1.0), axis=1)
    out = jnp.maximum(kept * left, claim * wins)
    return out / jnp.maximum(jnp.sum(out, axis=0, keepdims=True), 1.0)


def _dilate(prob: Float[Array, "N H W"]) -> Float[Array, "N H W"]:
    """Returns the largest value within `GROWTH` cells."""
    for window in ((1, 2 * GROWTH + 1, 1), (1, 1, 2 * GROWTH + 1)):
        prob = jax.lax.reduce_window(prob, -jnp.inf, jax.lax.max, window, (1, 1, 1), "SAME")
    return prob


def _blob(weights: Float[Array, "H W"], area: Array, key: PRNGKeyArray) -> Float[Array, "H W"]:
    """Draws a ragged disc of ones around a cell drawn by `weights`; its radius scales with sqrt(area)."""
    height, width = weights.shape
    centre_key, radius_key, noise_key = jax.random.split(key, 3)
    centre = jax.random.categorical(centre_key, jnp.log(weights.ravel() + 1e-9))
    radius = jnp.sqrt(area) * jax.random.uniform(radius_key, minval=RADIUS[0], maxval=RADIUS[1])
    rows, columns = jnp.arange(height)[:, None], jnp.arange(width)[None, :]
    distance = jnp.hypot(rows - centre // width, columns - centre % width)
    noise = jax.random.uniform(noise_key, (8, 8), minval=0.5, maxval=1.5)
    ragged = radius * jax.image.resize(noise, weights.shape, "bilinear")
    return (distance < ragged).astype(weights.dtype)
