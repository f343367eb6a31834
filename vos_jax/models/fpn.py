"""The feature pyramid P3..P6 of the proposal network, and its convolution block.

Padding never changes a result: cells outside the real frame are set to zero before every spatial convolution,
like the convolution's own border padding, and no other operation mixes cells.
"""

import functools
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from vos_jax.models.backbones import Features, conv
from vos_jax.ops import depthwise
from vos_jax.typing import Array, Bool, DTypeLike, Float, Shaped

STRIDES = (8, 16, 32, 64)  # of P3..P6


def real_cells(shape: tuple[int, ...], frame_size: Array, stride: int) -> Bool[Array, "h w"]:
    """Marks the cells of a map [h, w, ...] that hold a pixel of the real frame, [2] (height, width)."""
    rows = jnp.arange(shape[0]) * stride < frame_size[0]
    columns = jnp.arange(shape[1]) * stride < frame_size[1]
    return rows[:, None] & columns[None, :]


def keep_real(x: Float[Array, "h w C"], frame_size: Array, stride: int) -> Float[Array, "h w C"]:
    """Sets cells outside the real frame to zero."""
    return jnp.where(real_cells(x.shape, frame_size, stride)[:, :, None], x, jnp.zeros((), x.dtype))


def places(shapes: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], list[tuple[int, int]]]:
    """Returns the size of a packed map, and each level's corner (row, column) in it.

    The finest level lies above the others, which lie side by side; zero cells between them are to each the
    border that a 3x3 convolution pads.

    Args:
      shapes: (height, width) of each level in cells, the finest first.
    """
    (height, width), *others = shapes
    corners, column = [(0, 0)], 0
    for _, w in others:
        corners.append((height + 1, column))
        column += w + 1
    return (height + 1 + max(h for h, _ in others), max(width, column - 1)), corners


def pack(levels: Sequence[Shaped[Array, "_ _ C"]]) -> Shaped[Array, "H W C"]:
    """Returns one map that holds all levels; cells between them are 0. See `places`."""
    size, corners = places([(x.shape[0], x.shape[1]) for x in levels])
    packed = jnp.zeros((*size, levels[0].shape[2]), levels[0].dtype)
    for x, (row, column) in zip(levels, corners, strict=True):
        packed = jax.lax.dynamic_update_slice(packed, x, (row, column, 0))
    return packed


def unpack(packed: Shaped[Array, "H W C"], shapes: Sequence[tuple[int, int]]) -> list[Shaped[Array, "_ _ C"]]:
    """Returns the levels of a packed map; the inverse of `pack`."""
    _, corners = places(shapes)
    pairs = zip(shapes, corners, strict=True)
    return [packed[row : row + h, column : column + w] for (h, w), (row, column) in pairs]


class Depthwise(nn.Module):
    """3×3 depthwise convolution with bias, in the platform's fast form (`ops.depthwise`)."""

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "h w C"]) -> Float[Array, "h w C"]:
        channels = x.shape[-1]
        kernel = self.param("kernel", conv.INIT_DEPTHWISE, (3, 3, channels)).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (channels,)).astype(self.dtype)
        forms = {"cpu": depthwise.shifted, "default": depthwise.grouped}
        forms = {name: functools.partial(form, stride=1) for name, form in forms.items()}
        return jax.lax.platform_dependent(x.astype(self.dtype), kernel, **forms) + bias[None, None, :]


class ConvBlock(nn.Module):
    """3×3 convolution, LayerNorm over the channels, ReLU: `[h, w, Ci] -> [h, w, features]`.

    The norm's statistics are per location, unlike GroupNorm's, so padding cannot change them.

    Attributes:
      features: output channels.
      depthwise: 3×3 depthwise then 1×1 (an eighth of the cost at 64 channels) instead of one dense 3×3.
    """

    features: int
    depthwise: bool = True
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "h w Ci"]) -> Float[Array, "h w Co"]:
        if self.depthwise:
            x = Depthwise(self.dtype, name="depthwise")(x)
            x = conv.Conv(self.features, 1, dtype=self.dtype, name="pointwise")(x)
        else:
            x = conv.Conv(self.features, 3, dtype=self.dtype, name="dense")(x)
        return nn.relu(nn.LayerNorm(dtype=self.dtype, name="norm")(x))


class FeaturePyramid(nn.Module):
    """Computes P3, P4, P5, P6 from C3, C4, C5.

    1×1 laterals, top-down sums and one block per level; P6 is a stride-2 convolution of P5, as in FCOS.

    Source: Lin et al., Feature Pyramid Networks, 2017.
    """

    channels: int
    depthwise: bool = True
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, features: Features, frame_size: Array) -> tuple[Float[Array, "h w C"], ...]:
        merged = []
        for name, x, stride in (("5", features.c5, 32), ("4", features.c4, 16), ("3", features.c3, 8)):
            # A backbone's levels differ much in scale; the norm gives them equal weight at the start.
            lateral = conv.Conv(self.channels, 1, dtype=self.dtype, name=f"lateral{name}")(x)
            lateral = nn.LayerNorm(dtype=self.dtype, name=f"norm{name}")(lateral)
            if merged:
                above = jnp.repeat(jnp.repeat(merged[-1], 2, axis=0), 2, axis=1)
                lateral = lateral + above[: lateral.shape[0], : lateral.shape[1]]
            merged.append(keep_real(lateral, frame_size, stride))
        levels = []
        for index, x in enumerate(reversed(merged)):
            block = ConvBlock(self.channels, self.depthwise, self.dtype, name=f"output{index + 3}")
            levels.append(keep_real(block(x), frame_size, STRIDES[index]))
        # Symmetric: the SAME rule would shift the grid with the parity of the padded size.
        down = conv.Conv(self.channels, 3, stride=2, symmetric=True, dtype=self.dtype, name="output6")
        levels.append(keep_real(down(levels[-1]), frame_size, STRIDES[-1]))
        return tuple(levels)
