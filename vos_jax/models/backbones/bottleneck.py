"""EfficientNet's inverted bottleneck, as one operation with a form for CPU and one for other platforms.

Its expanded tensor is six times the block's input: 40 MB for a 480×864 frame. A GPU or TPU has one operation
per layer and the bandwidth for that. On CPU that tensor's way through memory took most of the time, so there
the block runs in strips of rows: a strip is expanded, convolved and projected while it lies in the cache.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from vos_jax.models.backbones import depthwise
from vos_jax.typing import Array, Float

# Of expanded rows per strip. Measured at 480×864 with 1 MiB of L2 per core and 32 MiB of L3: for the first
# stages 2 to 16 MB differ little (stage2's first block: 14 ms of CPU, whole 44); late stages are best whole.
STRIP_BYTES = 6_000_000


class Dense(NamedTuple):
    """A 1×1 convolution."""

    kernel: Float[Array, "Ci Co"]
    bias: Float[Array, " Co"]


class Spatial(NamedTuple):
    """A depthwise k×k convolution."""

    kernel: Float[Array, "k k C"]
    bias: Float[Array, " C"]


def whole(
    x: Float[Array, "H W Ci"], expand: Dense | None, spatial: Spatial, project: Dense, *, stride: int
) -> Float[Array, "h w Co"]:
    """Layer by layer: expand 1×1, ReLU6, depthwise k×k, ReLU6, project 1×1."""
    if expand is not None:
        x = jax.nn.relu6(x @ expand.kernel + expand.bias[None, None, :])
    y = depthwise.grouped(x, spatial.kernel, stride=stride)
    y = jax.nn.relu6(y + spatial.bias[None, None, :])
    return y @ project.kernel + project.bias[None, None, :]


def strips(
    x: Float[Array, "H W Ci"],
    expand: Dense | None,
    spatial: Spatial,
    project: Dense,
    *,
    stride: int,
    strip_bytes: int = STRIP_BYTES,
) -> Float[Array, "h w Co"]:
    """The same sums as `whole`, strip by strip; the strips overlap by the rows that the kernel spans."""
    size, channels = spatial.kernel.shape[0], spatial.kernel.shape[-1]
    (h, w), (top, bottom), (left, right) = _geometry(x, size, stride)
    row_bytes = (x.shape[1] + size - stride) * channels * x.dtype.itemsize
    most = max((strip_bytes // row_bytes - size) // stride + 1, 1)
    # Without an expansion nothing large is made on the way, and strips only cost.
    num_strips = 1 if expand is None else -(-h // most)
    rows = -(-h // num_strips)
    bottom += (num_strips * rows - h) * stride  # the last strip may reach below the frame

    if expand is not None:
        # The bias is the weight of one more channel, 1 in the frame and 0 in the padding: thus the padding is
        # still 0 after the expansion, and the large tensor needs no copy for it.
        x = jnp.concatenate([x, jnp.ones((*x.shape[:2], 1), x.dtype)], axis=-1)
        weights = jnp.concatenate([expand.kernel, expand.bias[None, :]])
    x = jnp.pad(x, ((top, bottom), (left, right), (0, 0)))

    def strip(start: Array) -> Float[Array, "rows w Co"]:
        part = lax.dynamic_slice_in_dim(x, start, (rows - 1) * stride + size, axis=0)
        if expand is not None:
            part = jax.nn.relu6(part @ weights)
        y = depthwise.shifted_valid(part, spatial.kernel, stride=stride)
        y = jax.nn.relu6(y + spatial.bias[None, None, :])
        return y @ project.kernel + project.bias[None, None, :]

    if num_strips == 1:
        return strip(jnp.zeros((), jnp.int32))
    out = lax.map(strip, jnp.arange(num_strips) * (rows * stride))
    return out.reshape(num_strips * rows, w, -1)[:h]


def _geometry(x: Float[Array, "H W C"], size: int, stride: int) -> tuple[tuple[int, int], ...]:
    """The output's size, and the zeros around the rows and around the columns."""
    height, width, _ = x.shape
    out = (-(-height // stride), -(-width // stride))
    return out, *(depthwise.same_padding(n, kernel=size, stride=stride) for n in (height, width))


def inverted_bottleneck(
    x: Float[Array, "H W Ci"], expand: Dense | None, spatial: Spatial, project: Dense, *, stride: int
) -> Float[Array, "h w Co"]:
    """Expand 1×1, ReLU6, depthwise k×k (SAME), ReLU6, project 1×1, in the platform's fast form.

    Args:
        x: the block's input.
        expand: None where the block does not expand.
        spatial: the depthwise layer.
        project: the last layer; no activation follows.
        stride: of the depthwise layer.
    """

    def on_cpu(*arguments):
        return strips(*arguments, stride=stride)

    def elsewhere(*arguments):
        return whole(*arguments, stride=stride)

    return lax.platform_dependent(x, expand, spatial, project, cpu=on_cpu, default=elsewhere)
