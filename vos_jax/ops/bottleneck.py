"""EfficientNet's inverted bottleneck, as one operation with a form for CPU and one for other platforms.

The expanded tensor is six times the block's input: 40 MB for a 480×864 frame. On GPU and TPU the block runs
layer by layer. On CPU, memory traffic of that tensor took most of the time, so the block runs in strips of
rows: a strip is expanded, convolved and projected while it is in the cache. A gradient needs the tensor, so
the block runs layer by layer on CPU, too, if it is differentiated.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from vos_jax.ops import depthwise, target
from vos_jax.typing import Array, Float

# Bytes of expanded rows per strip. Measured at 480×864 with 1 MiB of L2 per core and 32 MiB of L3: 2 to 16 MB
# differ little in the first stages (stage2's first block: 14 ms, `whole` 44 ms); late stages are best whole.
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
    x: Float[Array, "H W Ci"],
    expand: Dense | None,
    spatial: Spatial,
    project: Dense,
    *,
    stride: int,
    convolve: Callable[..., Array] = depthwise.grouped,
) -> Float[Array, "h w Co"]:
    """Runs layer by layer: expand 1×1, ReLU6, depthwise k×k, ReLU6, project 1×1."""
    if expand is not None:
        x = jax.nn.relu6(x @ expand.kernel + expand.bias[None, None, :])
    y = convolve(x, spatial.kernel, stride=stride)
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
    """Computes `whole` strip by strip; the inputs of the strips overlap by the height of the kernel."""
    size, channels = spatial.kernel.shape[0], spatial.kernel.shape[-1]
    row_bytes = (x.shape[1] + size - stride) * channels * x.dtype.itemsize
    most = max((strip_bytes // row_bytes - size) // stride + 1, 1)
    rows = -(-x.shape[0] // stride)
    # Without an expansion there is no large tensor, and strips only add cost.
    if expand is None or rows <= most:
        return _shifted(x, expand, spatial, project, stride=stride)
    num_strips = -(-rows // most)
    return _strips(x, expand, spatial, project, stride, -(-rows // num_strips))


_shifted = functools.partial(whole, convolve=depthwise.shifted)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _strips(x: Array, expand: Dense, spatial: Spatial, project: Dense, stride: int, rows: int) -> Array:
    """Runs `strips` with `rows` output rows per strip."""
    size = spatial.kernel.shape[0]
    h, w = (-(-n // stride) for n in x.shape[:2])
    num_strips = -(-h // rows)
    (top, bottom), sides = (depthwise.same_padding(n, kernel=size, stride=stride) for n in x.shape[:2])
    bottom += (num_strips * rows - h) * stride  # the last strip may reach below the frame
    # The bias is the weight of an additional channel, 1 in the frame and 0 in the padding. So the padding is
    # still 0 after the expansion, and the large tensor needs no copy to clear it.
    x = jnp.concatenate([x, jnp.ones((*x.shape[:2], 1), x.dtype)], axis=-1)
    x = jnp.pad(x, ((top, bottom), sides, (0, 0)))
    weights = jnp.concatenate([expand.kernel, expand.bias[None, :]])

    def strip(start: Array) -> Float[Array, "rows w Co"]:
        part = lax.dynamic_slice_in_dim(x, start, (rows - 1) * stride + size, axis=0)
        part = jax.nn.relu6(part @ weights)
        y = depthwise.shifted_valid(part, spatial.kernel, stride=stride)
        y = jax.nn.relu6(y + spatial.bias[None, None, :])
        return y @ project.kernel + project.bias[None, None, :]

    out = lax.map(strip, jnp.arange(num_strips) * (rows * stride))
    return out.reshape(num_strips * rows, w, -1)[:h]


def _forward(*block: Any) -> tuple[Array, Any]:
    *arguments, stride, _ = block
    return jax.vjp(functools.partial(_shifted, stride=stride), *arguments)


def _backward(stride: int, rows: int, gradient: Callable[[Array], Any], dy: Array) -> Any:
    del stride, rows
    return gradient(dy)


_strips.defvjp(_forward, _backward)


def inverted_bottleneck(
    x: Float[Array, "H W Ci"], expand: Dense | None, spatial: Spatial, project: Dense, *, stride: int
) -> Float[Array, "h w Co"]:
    """Applies expand 1×1, ReLU6, depthwise k×k (SAME), ReLU6, project 1×1, in the platform's fast form.

    Args:
        x: the block's input.
        expand: the first layer; None for a block without expansion.
        spatial: the depthwise layer.
        project: the last layer; no activation follows.
        stride: of the depthwise layer.
    """
    return target.choose(
        x,
        expand,
        spatial,
        project,
        cpu=functools.partial(strips, stride=stride),
        accelerator=functools.partial(whole, stride=stride),
    )
