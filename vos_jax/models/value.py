"""The value encoder: encodes the frame's features and an object's mask for the memory."""

import flax.linen as nn
import jax.numpy as jnp

from vos_jax.models import refine
from vos_jax.typing import Array, DTypeLike, Float


class ValueEncoder(nn.Module):
    """Encodes the value of ONE object; `vmap` over objects, with shared features.

    Attributes:
      channels: Cv.
      dtype: of the computation; parameters are float32.
    """

    channels: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        features: Float[Array, "h w C"],
        prob: Float[Array, "H/4 W/4"],
        others: Float[Array, "H/4 W/4"],
    ) -> Float[Array, "h w Cv"]:
        """Encodes the frame's features, the object's mask and the sum of the other objects' masks.

        The masks keep their stride-4 resolution: the 4 x 4 values of a cell become channels.
        """
        h, w = features.shape[:2]
        blocks = jnp.stack([prob, others], axis=-1).reshape(h, 4, w, 4, 2)
        blocks = blocks.transpose(0, 2, 1, 3, 4).reshape(h, w, 32)
        x = nn.Conv(self.channels, (3, 3), dtype=self.dtype, name="mask")(blocks)
        # The same for every object, so it runs once per frame.
        x = x + nn.Conv(self.channels, (1, 1), dtype=self.dtype, name="frame")(features)
        return refine.ResidualBlock(self.dtype, name="block")(x)
