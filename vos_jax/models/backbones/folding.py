"""Converts a PyTorch backbone: renames its layers and folds each batch norm into its convolution."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from vos_jax import errors


class Layer(NamedTuple):
    """Names of one convolution of the source and its batch norm; their tensors are `conv`.weight, `norm`.*"""

    conv: str
    norm: str


class Plan(NamedTuple):
    """The layout of one backbone's source.

    Attributes:
        layer_of: maps our layer's path, e.g. ("stage1", "block0", "conv1"), to the source's names.
        epsilon: of the source's batch norms.
        ignored: prefixes of the source's tensors that the features do not need (the classifier).
    """

    layer_of: Callable[[tuple[str, ...]], Layer]
    epsilon: float
    ignored: tuple[str, ...]


def convert(
    source: Mapping[str, np.ndarray],
    shapes: Mapping[tuple[str, ...], tuple[int, ...]],
    plan: Plan,
    *,
    name: str,
) -> dict[str, np.ndarray]:
    """Returns the parameters of a backbone, `{"stage1/block0/conv1/kernel": float32 array, …}`.

    With y = scale (x - mean) + beta after a convolution without bias, scale = gamma / sqrt(var + epsilon),
    the folded layer has the kernel scale · kernel and the bias beta - scale · mean.

    Args:
        source: the PyTorch model's tensors.
        shapes: layer path -> shape of its kernel, in our layout.
        plan: the layout of the source.
        name: name of the source in errors.

    Raises:
        VosError: a tensor is missing, has another shape, is not finite or is not used.
    """
    used = set()

    def take(key: str, shape: tuple[int, ...]) -> np.ndarray:
        if key not in source:
            raise errors.VosError(f"{name}: has no tensor {key}; is it another architecture?")
        if source[key].shape != shape:
            raise errors.VosError(
                f"{name}: {key} has shape {source[key].shape}, not {shape}; is it another architecture?"
            )
        value = np.asarray(source[key], np.float64)
        if not np.isfinite(value).all():
            raise errors.VosError(f"{name}: {key} holds NaN or infinity; use another file")
        used.add(key)
        return value

    params = {}
    for path, shape in shapes.items():
        layer = plan.layer_of(path)
        # PyTorch: [Co, Ci, k, k], depthwise [C, 1, k, k]. Ours: [k, k, Ci, Co], depthwise [k, k, C].
        depthwise = len(shape) == 3
        channels = shape[-1]
        kernel = take(f"{layer.conv}.weight", (channels, 1 if depthwise else shape[2], *shape[:2]))
        gamma, beta, mean, variance = (
            take(f"{layer.norm}.{part}", (channels,))
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        scale = gamma / np.sqrt(variance + plan.epsilon)
        kernel = kernel * scale[:, None, None, None]
        kernel = kernel[:, 0].transpose(1, 2, 0) if depthwise else kernel.transpose(2, 3, 1, 0)
        params["/".join((*path, "kernel"))] = np.ascontiguousarray(kernel, np.float32)
        params["/".join((*path, "bias"))] = (beta - mean * scale).astype(np.float32)
    for key in source:
        if key not in used and not key.startswith(plan.ignored) and not key.endswith(".num_batches_tracked"):
            raise errors.VosError(f"{name}: has an unexpected tensor {key}; is it another architecture?")
    return params
