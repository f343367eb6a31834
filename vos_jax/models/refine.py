"""RefineNet: refines coarse masks with the memory read and skip features (paper, supplement section 4)."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vos_jax.models import backbones
from vos_jax.models import read as read_lib
from vos_jax.ops import masks, windows
from vos_jax.typing import Array, DTypeLike, Float

# Probabilities are clipped to [CLIP, 1 - CLIP] before the logit, which is then within +-9.2.
CLIP = 1e-4
ABSENT = math.log(CLIP) - math.log1p(-CLIP)  # logit of a mask of 0


def logit(prob: Float[Array, "*p"]) -> Float[Array, "*p"]:
    """Returns the log-odds of a probability, finite also at 0 and 1."""
    prob = jnp.clip(prob, CLIP, 1.0 - CLIP)
    return jnp.log(prob) - jnp.log(1.0 - prob)


class ResidualBlock(nn.Module):
    """Returns x + conv(relu(conv(relu(x)))), 3x3."""

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "h w C"]) -> Float[Array, "h w C"]:
        y = nn.Conv(x.shape[-1], (3, 3), dtype=self.dtype, name="conv1")(nn.relu(x))
        return x + nn.Conv(x.shape[-1], (3, 3), dtype=self.dtype, name="conv2")(nn.relu(y))


class RefineNet(nn.Module):
    """Refines ONE object's mask; `refine_all` maps it over objects.

    The convolutions of the shared features (`frame`) are separate from those of the object's own inputs, so
    that they run once per frame: conv(concat(a, b)) = conv(a) + conv(b).

    Attributes:
      channels: at strides 16, 8, 4.
      dtype: of the computation; parameters and the logits are float32.
    """

    channels: tuple[int, int, int] = (128, 64, 32)
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        c16, c8, c4 = self.channels

        def conv(channels: int, size: int, **settings: Any) -> nn.Conv:
            return nn.Conv(channels, (size, size), dtype=self.dtype, **settings)

        self.frame16, self.frame8, self.frame4 = conv(c16, 3), conv(c8, 3), conv(c4, 3)
        self.object16, self.object4 = conv(c16, 3), conv(c4, 3)
        self.narrow8, self.narrow4 = conv(c8, 1), conv(c4, 1)
        self.block16, self.block8, self.block4 = (ResidualBlock(self.dtype) for _ in range(3))
        # Zero at the start: an untrained RefineNet returns the propagated mask.
        self.logit = conv(1, 3, kernel_init=nn.initializers.zeros)
        self.propagated_gain = self.param("propagated_gain", nn.initializers.ones, ())

    def frame(self, features: backbones.Features) -> tuple[Array, Array, Array]:
        """Returns the features that all objects share, at strides 16, 8 and 4."""
        return self.frame16(features.c4), self.frame8(features.c3), self.frame4(features.c2)

    def __call__(
        self,
        features: backbones.Features,
        value: Float[Array, "h w Cv"],
        prob: Float[Array, "h w"],
        coarse: Float[Array, "H/4 W/4"],
        prev_prob: Float[Array, "H/4 W/4"],
    ) -> Float[Array, "H/4 W/4"]:
        """Returns the refined mask's logits at stride 4; arguments as for `refine_object`."""
        return self.refine_object(self.frame(features), value, prob, coarse, prev_prob)

    def refine_object(
        self,
        frame: tuple[Array, Array, Array],
        value: Float[Array, "h w Cv"],
        prob: Float[Array, "h w"],
        coarse: Float[Array, "H/4 W/4"],
        prev_prob: Float[Array, "H/4 W/4"],
    ) -> Float[Array, "H/4 W/4"]:
        """Returns the refined mask's logits at stride 4.

        Args:
          frame: the result of `frame`.
          value: this object's value from the read, R^v.
          prob: the propagated mask R^p in [0, 1].
          coarse: the matched proposals' mask in [0, 1].
          prev_prob: the previous frame's mask in [0, 1].
        """

        def double(x: Float[Array, "h w C"]) -> Float[Array, "2*h 2*w C"]:
            rows, columns = (masks.bilinear_weights(n, 2).astype(x.dtype) for n in x.shape[:2])
            return jnp.einsum("hwc,hH,wW->HWc", x, rows, columns, precision=jax.lax.Precision.HIGHEST)

        frame16, frame8, frame4 = frame
        propagated = logit(prob)
        fine = jnp.stack([coarse, prev_prob], axis=-1)
        own = [value, prob[..., None], propagated[..., None], masks.downsample(fine.transpose(2, 0, 1), 4)]
        own[3] = own[3].transpose(1, 2, 0)
        own = jnp.concatenate([x.astype(self.dtype) for x in own], axis=-1)

        x = self.block16(self.object16(own) + frame16)
        x = self.block8(double(self.narrow8(nn.relu(x))) + frame8)
        x = self.block4(double(self.narrow4(nn.relu(x))) + frame4 + self.object4(fine))
        residual = self.logit(nn.relu(x))[..., 0].astype(jnp.float32)
        return residual + self.propagated_gain * masks.upsample(propagated, 4)


def refine_all(
    net: RefineNet,
    params: Any,
    features: backbones.Features,
    read: read_lib.Read,
    coarse: Float[Array, "N H/4 W/4"],
    prev_prob: Float[Array, "N H/4 W/4"],
    *,
    windowed: bool,
) -> Float[Array, "N H/4 W/4"]:
    """Refines all objects' masks.

    Args:
      net: the network.
      params: its parameters.
      features: the frame's.
      read: the memory read.
      coarse, prev_prob: the matched proposals' masks and the previous frame's masks, in [0, 1].
      windowed: refine each object only in a window around `read.region`, one object after the other;
        outside the window the logits are those of a mask of 0.

    Returns:
      Logits.
    """
    frame = net.apply({"params": params}, features, method=RefineNet.frame)

    def refine(images: tuple[Any, ...]) -> Float[Array, "wH/4 wW/4"]:
        logits: Any = net.apply({"params": params}, *images, method=RefineNet.refine_object)
        return logits

    images = read.value, read.prob, coarse, prev_prob
    if not windowed:
        return jax.vmap(lambda *own: refine((frame, *own)))(*images)

    def in_window(inputs: tuple[Array, ...]) -> Float[Array, "H/4 W/4"]:
        near, *own = inputs
        return windows.apply(refine, near, (frame, *own), factor=4, outside=ABSENT)

    return jax.lax.map(in_window, (read.region, *images))
