"""The output of every backbone, and the normalisation of its input."""

import flax.struct
import jax.numpy as jnp

from vos_jax.typing import Array, DTypeLike, Float, Shaped

STRIDES = {"c2": 4, "c3": 8, "c4": 16, "c5": 32}


class Features(flax.struct.PyTreeNode):
    """A frame's features at strides 4, 8, 16, 32; ck is `[ceil(H/2^k), ceil(W/2^k), Ck]`."""

    c2: Float[Array, "*b h4 w4 C2"]
    c3: Float[Array, "*b h8 w8 C3"]
    c4: Float[Array, "*b h w C4"]
    c5: Float[Array, "*b h32 w32 C5"]


def normalise(
    frame: Shaped[Array, "H W 3"],
    *,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    dtype: DTypeLike,
) -> Float[Array, "H W 3"]:
    """Scales RGB pixels, uint8 or float in [0, 1], to zero mean and unit deviation, in `dtype`.

    Computed in float32, because bfloat16 has 8 bits of precision, too few for a pixel minus the mean.
    """
    scale = 255.0 if jnp.issubdtype(frame.dtype, jnp.integer) else 1.0
    # Gain and offset are computed in Python, so that the scaling is one multiply and one add per pixel.
    gain = jnp.asarray([1.0 / (scale * s) for s in std], jnp.float32)
    offset = jnp.asarray([-m / s for m, s in zip(mean, std, strict=True)], jnp.float32)
    return (frame.astype(jnp.float32) * gain[None, None, :] + offset[None, None, :]).astype(dtype)
