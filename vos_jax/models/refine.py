"""RefineNet: from coarse mask and memory read to a sharp mask (DESIGN.md section 7, paper section 4)."""

import flax.linen as nn
import jax.numpy as jnp

from vos_jax.models import backbones, masks
from vos_jax.typing import Array, Float

# Odds are taken of probabilities clipped to this; a certain pixel stays within +-9.2 logits.
CLIP = 1e-4


def logit(prob: Float[Array, "*p"]) -> Float[Array, "*p"]:
    """Log-odds of a probability, finite also at 0 and 1."""
    prob = jnp.clip(prob, CLIP, 1.0 - CLIP)
    return jnp.log(prob) - jnp.log1p(-prob)


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(relu(x)))), 3x3."""

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "h w C"]) -> Float[Array, "h w C"]:
        y = nn.Conv(x.shape[-1], (3, 3), dtype=self.dtype, name="conv1")(nn.relu(x))
        return x + nn.Conv(x.shape[-1], (3, 3), dtype=self.dtype, name="conv2")(nn.relu(y))


class RefineNet(nn.Module):
    """Refines ONE object's mask; `vmap` over objects with the features shared.

    Convolutions of what all objects share stand apart from those of what is the object's own, so that they
    run once per frame: conv(concat(a, b)) = conv(a) + conv(b).

    Attributes:
      channels: at strides 16, 8, 4.
      dtype: of the computation; parameters and the logits are float32.
    """

    channels: tuple[int, int, int] = (128, 64, 32)
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        features: backbones.Features,
        value: Float[Array, "h w Cv"],
        prob: Float[Array, "h w"],
        coarse: Float[Array, "H/4 W/4"],
        prev_prob: Float[Array, "H/4 W/4"],
    ) -> Float[Array, "H/4 W/4"]:
        """Returns the refined mask's logits at stride 4.

        Args:
          features: the frame's, shared by all objects.
          value: what the memory read for this object, R^v.
          prob: the memory's own propagated mask R^p in [0, 1].
          coarse: the matched proposals' mask in [0, 1].
          prev_prob: the previous frame's mask in [0, 1].
        """
        c16, c8, c4 = self.channels

        def conv(channels: int, size: int, name: str) -> nn.Conv:
            return nn.Conv(channels, (size, size), dtype=self.dtype, name=name)

        def double(x: Float[Array, "h w C"]) -> Float[Array, "2*h 2*w C"]:
            return jnp.moveaxis(masks.upsample(jnp.moveaxis(x, -1, 0), 2), 0, -1)

        propagated = logit(prob)
        fine = jnp.stack([coarse, prev_prob], axis=-1)
        own = [value, prob[..., None], propagated[..., None], masks.downsample(fine.transpose(2, 0, 1), 4)]
        own[3] = own[3].transpose(1, 2, 0)
        own = jnp.concatenate([x.astype(self.dtype) for x in own], axis=-1)

        x = conv(c16, 3, "object16")(own) + conv(c16, 3, "frame16")(features.c4)
        x = ResidualBlock(self.dtype, name="block16")(x)
        x = double(conv(c8, 1, "narrow8")(nn.relu(x))) + conv(c8, 3, "frame8")(features.c3)
        x = ResidualBlock(self.dtype, name="block8")(x)
        x = double(conv(c4, 1, "narrow4")(nn.relu(x))) + conv(c4, 3, "frame4")(features.c2)
        x = x + conv(c4, 3, "object4")(fine)
        x = ResidualBlock(self.dtype, name="block4")(x)

        # Zero at first: an untrained RefineNet hands on what the memory says.
        head = nn.Conv(1, (3, 3), dtype=self.dtype, kernel_init=nn.initializers.zeros, name="logit")
        gain = self.param("propagated_gain", nn.initializers.ones, ())
        return head(nn.relu(x))[..., 0].astype(jnp.float32) + gain * masks.upsample(propagated, 4)
