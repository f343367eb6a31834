"""Depthwise convolution with SAME padding: `shifted` is fast on CPU, `grouped` on GPU and TPU."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from vos_jax.typing import Array, Float

# Outputs per iteration of the loop that sums a kernel's gradient. Measured on 16 frames of 16×16×672, 5×5:
# 14 ms with 32 or 64, 18 ms with 16, 73 ms without a loop, 136 ms as k² reductions (JAX's own gradient).
TURN = 32


def same_padding(size: int, *, kernel: int, stride: int) -> tuple[int, int]:
    """Returns the zeros before and after an axis of `size` for ceil(size / stride) outputs (SAME)."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def grouped(x: Float[Array, "H W C"], kernel: Float[Array, "k k C"], *, stride: int) -> Float[Array, "h w C"]:
    """Runs `lax.conv_general_dilated` with a group per channel; for GPU and TPU."""
    return lax.conv_general_dilated(
        x[None],
        kernel[:, :, None, :],
        window_strides=(stride, stride),
        padding="SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )[0]


def shifted(x: Float[Array, "H W C"], kernel: Float[Array, "k k C"], *, stride: int) -> Float[Array, "h w C"]:
    """Sums k² shifted copies of `x`, each times its tap; for CPU, where `grouped` takes 30× as long.

    Its gradients are such sums, too, because JAX's own take up to 10× as long.
    """
    return _shifted(x, kernel, stride)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _shifted(x: Array, kernel: Array, stride: int) -> Array:
    out = shifted_valid(_pad(x, kernel.shape[0], stride), kernel, stride=stride)
    # Changes no number. XLA would make the sum part of the matrix product that follows, and write each of the
    # k² shifted copies to memory for it (jaxlib 0.10: 18 kernels in place of 1); it does not fuse a clamp.
    largest = jnp.finfo(out.dtype).max
    return lax.clamp(-largest, out, largest)


def _forward(x: Array, kernel: Array, stride: int) -> tuple[Array, tuple[Array, Array]]:
    return _shifted(x, kernel, stride), (x, kernel)


def _backward(stride: int, inputs: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    x, kernel = inputs
    return _input_gradient(x, kernel, dy, stride), _kernel_gradient(x, kernel, dy, stride)


_shifted.defvjp(_forward, _backward)


def _input_gradient(x: Array, kernel: Array, dy: Array, stride: int) -> Float[Array, "H W C"]:
    """Sums shifted copies of `dy`, with the kernel mirrored.

    At stride 2 a pixel depends only on taps of its parity: one sum per parity of row and column, interleaved.
    """
    reach = -(-kernel.shape[0] // stride)  # maximum number of outputs per axis that depend on a pixel
    padded = _alone(jnp.pad(dy, ((reach - 1, reach - 1), (reach - 1, reach - 1), (0, 0))))

    def of_parity(i: int, j: int) -> Float[Array, "h+reach-1 w+reach-1 C"]:
        taps = kernel[i::stride, j::stride][::-1, ::-1]
        return shifted_valid(padded[reach - taps.shape[0] :, reach - taps.shape[1] :], taps, stride=1)

    rows = [jnp.stack([of_parity(i, j) for j in range(stride)], axis=2) for i in range(stride)]
    dx = jnp.stack(rows, axis=1)
    dx = dx.reshape(dx.shape[0] * stride, dx.shape[2] * stride, -1)
    (top, _), (left, _) = _zeros_around(x, kernel.shape[0], stride)
    return dx[top : top + x.shape[0], left : left + x.shape[1]]


def _kernel_gradient(x: Array, kernel: Array, dy: Array, stride: int) -> Float[Array, "k k C"]:
    """Sums the k×k inputs of each output times its `dy`, in float32, in a loop over blocks of rows."""
    size, (h, w, _) = kernel.shape[0], dy.shape
    rows = max(TURN // w, 1)
    turns = -(-h // rows)
    missing = turns * rows - h
    x = jnp.pad(_pad(x, size, stride), ((0, missing * stride), (0, 0), (0, 0))).astype(jnp.float32)
    dy = jnp.pad(dy, ((0, missing), (0, 0), (0, 0))).astype(jnp.float32)

    def turn(number: Array, total: Float[Array, "k k C"]) -> Float[Array, "k k C"]:
        inputs = lax.dynamic_slice_in_dim(x, number * rows * stride, (rows - 1) * stride + size)
        outputs = lax.dynamic_slice_in_dim(dy, number * rows, rows)
        for row in range(rows):
            for column in range(w):
                i, j = row * stride, column * stride
                total = total + inputs[i : i + size, j : j + size] * outputs[row, column][None, None, :]
        return total

    return lax.fori_loop(0, turns, turn, jnp.zeros(kernel.shape, jnp.float32)).astype(kernel.dtype)


def shifted_valid(
    x: Float[Array, "H W C"], kernel: Float[Array, "k l C"], *, stride: int
) -> Float[Array, "h w C"]:
    """Computes `shifted` for an `x` that is already padded, or is a part of a larger array."""
    h, w = ((n - size) // stride + 1 for n, size in zip(x.shape[:2], kernel.shape[:2], strict=True))
    out = None
    for i in range(kernel.shape[0]):
        for j in range(kernel.shape[1]):
            # Strided slices, so that no unused output is computed at stride 2.
            rows = slice(i, i + (h - 1) * stride + 1, stride)
            columns = slice(j, j + (w - 1) * stride + 1, stride)
            tap = x[rows, columns] * kernel[i, j][None, None, :]
            out = tap if out is None else out + tap
    assert out is not None  # a kernel has at least one tap
    return out


def _zeros_around(x: Float[Array, "H W C"], size: int, stride: int) -> list[tuple[int, int]]:
    """Returns the SAME padding of the rows and of the columns."""
    return [same_padding(n, kernel=size, stride=stride) for n in x.shape[:2]]


def _pad(x: Float[Array, "H W C"], size: int, stride: int) -> Float[Array, "H+p W+p C"]:
    return _alone(jnp.pad(x, (*_zeros_around(x, size, stride), (0, 0))))


def _alone(x: Array) -> Array:
    """Prevents fusion of `x` with its users: XLA would compute `x` again for each of the k² taps."""
    return lax.optimization_barrier(x)
