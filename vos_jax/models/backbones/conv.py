"""The layers of the backbones: kernel and bias only, because the conversion folds batch norm into them."""

import flax.linen as nn
import jax.numpy as jnp
from jax import lax

from vos_jax.typing import Array, DTypeLike, Float

INIT_KERNEL = nn.initializers.variance_scaling(2.0, "fan_out", "truncated_normal")
# The axes are given because the fan-in of a depthwise kernel [k, k, C] is k², not k² C.
INIT_DEPTHWISE = nn.initializers.variance_scaling(
    2.0, "fan_in", "truncated_normal", in_axis=(0, 1), out_axis=()
)


class Conv(nn.Module):
    """A k×k convolution with bias, `[H, W, Ci] -> [ceil(H/stride), ceil(W/stride), features]`.

    Attributes:
        features: output channels.
        size: k, odd.
        stride: 1 or 2.
        symmetric: pads (k-1)/2 on both sides, as PyTorch models do; else by the SAME rule, as TensorFlow
            models do, which at stride 2 on an even axis pads one zero less in front.
        dtype: of the computation; parameters stay float32.
    """

    features: int
    size: int
    stride: int = 1
    symmetric: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "H W Ci"]) -> Float[Array, "h w Co"]:
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", INIT_KERNEL, shape).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.features,)).astype(self.dtype)
        x = x.astype(self.dtype)
        if self.size == 1:
            y = x[:: self.stride, :: self.stride] @ kernel[0, 0]
        else:
            pad = (self.size - 1) // 2
            y = lax.conv_general_dilated(
                x[None],
                kernel,
                window_strides=(self.stride, self.stride),
                padding=((pad, pad), (pad, pad)) if self.symmetric else "SAME",
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )[0]
        return y + bias[None, None, :]


class Weights(nn.Module):
    """Returns a kernel and a bias, for layers that are computed together (`ops.bottleneck`)."""

    shape: tuple[int, ...]
    init: nn.initializers.Initializer
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self) -> tuple[Float[Array, "..."], Float[Array, " Co"]]:
        kernel = self.param("kernel", self.init, self.shape).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, self.shape[-1:]).astype(self.dtype)
        return kernel, bias
