"""The proposal network: class-agnostic boxes and masks of ONE frame, in one stage, with static shapes.

    C3..C5 → FPN P3..P6 → per location objectness · centerness and a box (FCOS form) → top-K → NMS → top-P
           boxes → RoIAlign 14×14 of P3 → mask head 28×28 → pasted to stride 4

Proposals from files replace the network's in `step.step`; `train.oracle` makes proposals from the ground
truth. See docs/method.md, "Proposals".
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from vos_jax import checks, geometry
from vos_jax.models import fpn
from vos_jax.models.backbones import Features
from vos_jax.ops import boxes as box_lib
from vos_jax.ops import paste as paste_lib
from vos_jax.ops import roi_align
from vos_jax.typing import Array, Bool, DTypeLike, Float, Shaped

ROI_STRIDE = 8  # of P3
SOURCES = ("network", "file", "none")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProposalConfig:
    """Settings of the proposals and of the proposal network.

    Attributes:
      source: "network"; "file" (another program's, see docs/proposals.md); "none" (only the masks that the
        memory propagates are candidates).
      folder: The folder with one <sequence>.json per video, for "file".
      capacity: Maximum number of proposals of a frame.
      channels: Channels of the pyramid and the heads.
      depthwise: Whether 3x3 convolutions are depthwise-separable.
      head_layers: Blocks before the dense outputs, shared by all levels.
      mask_layers: Blocks of the mask head.
      candidates: Number of best locations that non-maximum suppression gets.
      nms: Non-maximum suppression: a name in `boxes.NMS`, or a callable of that signature.
      nms_threshold: IoU above which the lower-scored of two boxes is suppressed.
      score_threshold: Lowest score of a valid proposal.
      min_size: Shortest side of a valid box, in pixels.
      roi_size: Bins per side of a box; its mask has twice as many.

    Raises:
      VosError: a value out of range.
    """

    source: str = "network"
    folder: str = ""
    capacity: int = 32
    channels: int = 64
    depthwise: bool = True
    head_layers: int = 2
    mask_layers: int = 2
    candidates: int = 256
    nms: str | Callable[..., Array] = "greedy"
    nms_threshold: float = 0.6
    score_threshold: float = 0.05
    min_size: float = 4.0
    roi_size: int = 14

    def __post_init__(self):
        checks.one_of(self, "source", SOURCES)
        checks.known_name(self, "nms", box_lib.NMS)
        checks.at_least(
            self, 1, "capacity", "channels", "head_layers", "mask_layers", "candidates", "roi_size"
        )


class Proposals(flax.struct.PyTreeNode):
    """A frame's P candidates, best first; entries that are not `valid` are padding."""

    boxes: Float[Array, "*b P 4"]  # pixels of the padded frame, inside the real frame
    scores: Float[Array, "*b P"]  # [0, 1]
    masks: Float[Array, "*b P H4 W4"]  # probability at stride 4, zero outside the box
    valid: Bool[Array, "*b P"]


def empty(capacity: int, size: tuple[int, int]) -> Proposals:
    """Returns P = `capacity` invalid proposals for a padded frame of (H, W) pixels."""
    return Proposals(
        boxes=jnp.zeros((capacity, 4)),
        scores=jnp.zeros((capacity,)),
        masks=jnp.zeros((capacity, size[0] // geometry.MASK_STRIDE, size[1] // geometry.MASK_STRIDE)),
        valid=jnp.zeros((capacity,), bool),
    )


class Detections(flax.struct.PyTreeNode):
    """The network's dense outputs over the L locations of all levels, for the losses, and its proposals."""

    locations: Float[Array, "*b L 2"]  # centre (y, x) of each location, pixels
    strides: Float[Array, "*b L"]  # of each location's level, pixels
    location_valid: Bool[Array, "*b L"]  # centre inside the real frame
    objectness_logits: Float[Array, "*b L"]
    centerness_logits: Float[Array, "*b L"]
    boxes: Float[Array, "*b L 4"]  # pixels, not clipped
    proposals: Proposals
    mask_logits: Float[Array, "*b P 28 28"]  # on the grid of each proposal's box


def locations_of(shape: tuple[int, ...], stride: int) -> Float[Array, "L 2"]:
    """Returns the centres (y, x) of a map's cells, in pixels, in row-major order."""
    rows = (jnp.arange(shape[0], dtype=jnp.float32) + 0.5) * stride
    columns = (jnp.arange(shape[1], dtype=jnp.float32) + 0.5) * stride
    return jnp.stack(jnp.meshgrid(rows, columns, indexing="ij"), -1).reshape(-1, 2)


class DenseHead(nn.Module):
    """Predicts objectness, centerness and the distances to the box's four sides at each location.

    All levels share the parameters, except for one learned factor per level (FCOS). The convolutions see all
    levels in one packed map, so they are compiled once.
    """

    config: ProposalConfig
    dtype: DTypeLike = jnp.float32

    def setup(self):
        c = self.config
        self.blocks = [fpn.ConvBlock(c.channels, c.depthwise, self.dtype) for _ in range(c.head_layers)]
        # Prior 0.01: at the start almost all locations are background (focal loss, Lin et al. 2017, §4.1).
        prior = nn.initializers.constant(-math.log((1 - 0.01) / 0.01))
        self.objectness = nn.Dense(1, dtype=self.dtype, bias_init=prior)
        self.centerness = nn.Dense(1, dtype=self.dtype)
        # A box starts 8 strides wide: the middle of its level's range of sizes.
        self.distances = nn.Dense(4, dtype=self.dtype, bias_init=nn.initializers.constant(math.log(4.0)))
        self.scales = self.param("scales", nn.initializers.ones, (len(fpn.STRIDES),))

    def __call__(
        self, levels: Sequence[Float[Array, "_ _ C"]], frame_size: Shaped[Array, "2"]
    ) -> tuple[Float[Array, "L"], Float[Array, "L"], Float[Array, "L 4"]]:
        """Returns objectness and centerness logits and distances in pixels, the finest level first."""
        pairs = list(zip(levels, fpn.STRIDES, strict=True))
        real = fpn.pack([fpn.real_cells(x.shape, frame_size, stride)[:, :, None] for x, stride in pairs])
        packed = fpn.pack(levels)
        for block in self.blocks:
            packed = block(jnp.where(real, packed, jnp.zeros((), packed.dtype)))
        maps = fpn.unpack(packed, [(x.shape[0], x.shape[1]) for x in levels])
        x = jnp.concatenate([x.reshape(-1, x.shape[-1]) for x in maps])
        outputs = (self.objectness(x)[:, 0], self.centerness(x)[:, 0], self.distances(x))
        objectness, centerness, distances = (y.astype(jnp.float32) for y in outputs)
        sizes = np.array([x.shape[0] * x.shape[1] for x in levels])
        level = np.repeat(np.arange(len(levels)), sizes)
        # exp(8) strides is wider than any frame; the bound only keeps a diverging network finite.
        logs = jnp.clip(distances * self.scales[level][:, None], -8.0, 8.0)
        strides = np.array(fpn.STRIDES, np.float32)[level]
        return objectness, centerness, jnp.exp(logs) * strides[:, None]


class MaskHead(nn.Module):
    """Predicts the mask of ONE region at twice its resolution: `[s, s, C] -> [2s, 2s]` logits."""

    config: ProposalConfig
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "s s C"]) -> Float[Array, "2*s 2*s"]:
        c = self.config
        for index in range(c.mask_layers):
            x = fpn.ConvBlock(c.channels, c.depthwise, self.dtype, name=f"block{index}")(x)
        # A 2×2 transposed convolution of stride 2 as one matrix product: its outputs do not overlap.
        size, quarter = x.shape[0], max(c.channels // 2, 1)
        x = nn.relu(nn.Dense(4 * quarter, dtype=self.dtype, name="upsample")(x))
        x = x.reshape(size, size, 2, 2, quarter).transpose(0, 2, 1, 3, 4).reshape(2 * size, 2 * size, quarter)
        return nn.Dense(1, dtype=self.dtype, name="logit")(x)[..., 0].astype(jnp.float32)


class ProposalNetwork(nn.Module):
    """Finds the objects of ONE frame; `vmap` for more.

    Source: docs/method.md, "Proposals"; Tian et al., FCOS, 2019.
    """

    config: ProposalConfig = ProposalConfig()
    dtype: DTypeLike = jnp.float32

    def setup(self):
        c = self.config
        self.pyramid = fpn.FeaturePyramid(c.channels, c.depthwise, self.dtype)
        self.dense_head = DenseHead(c, self.dtype)
        self.mask_head = nn.vmap(
            MaskHead, in_axes=0, variable_axes={"params": None}, split_rngs={"params": False}
        )(c, self.dtype)

    def __call__(self, features: Features, frame_size: Array) -> Detections:
        """Computes the dense outputs and the proposals of a frame.

        Args:
          features: of the backbone; C3..C5 are used, each [H/s, W/s, C].
          frame_size: [2] real (height, width) in pixels; the padding outside is ignored.

        Returns:
          `Detections`. The gradient flows through masks and mask logits of the proposals, but not through
          their boxes and scores, which the dense losses train.
        """
        c = self.config
        levels = self.pyramid(features, frame_size)
        objectness, centerness, distances = self.dense_head(levels, frame_size)
        pairs = list(zip(levels, fpn.STRIDES, strict=True))
        locations = jnp.concatenate([locations_of(x.shape, stride) for x, stride in pairs])
        strides = jnp.concatenate([jnp.full(x.shape[:2], stride, jnp.float32).ravel() for x, stride in pairs])
        location_valid = (locations < frame_size[None, :]).all(1)
        boxes = jnp.concatenate([locations - distances[:, :2], locations + distances[:, 2:]], 1)
        score = jnp.sqrt(nn.sigmoid(objectness) * nn.sigmoid(centerness))
        score = jnp.where(location_valid, score, 0.0)
        kept, scores, valid = select(boxes, score, frame_size, c)

        mask_logits = self._masks(levels[0], kept, frame_size)
        height, width = (n * ROI_STRIDE // geometry.MASK_STRIDE for n in levels[0].shape[:2])
        masks = paste(nn.sigmoid(mask_logits), kept, valid, height=height, width=width)
        return Detections(
            locations=locations,
            strides=strides,
            location_valid=location_valid,
            objectness_logits=objectness,
            centerness_logits=centerness,
            boxes=boxes,
            proposals=Proposals(boxes=kept, scores=scores, masks=masks, valid=valid),
            mask_logits=mask_logits,
        )

    def masks_of_boxes(
        self, features: Features, boxes: Float[Array, "K 4"], frame_size: Array | None = None
    ) -> Float[Array, "K 28 28"]:
        """Returns mask logits of any boxes, on each box's own grid (`paste` moves them to the frame).

        Without `frame_size` the whole padded frame is real.
        """
        if frame_size is None:
            frame_size = jnp.array([n * ROI_STRIDE for n in features.c3.shape[:2]])
        return self._masks(self.pyramid(features, frame_size)[0], boxes, frame_size)

    def _masks(self, p3: Float[Array, "h w C"], boxes: Float[Array, "K 4"], frame_size: Array) -> Array:
        # One level for all sizes: a level per box would need pooling from every level. P3 has the highest
        # resolution and includes P4 and P5 through the top-down sums.
        def pool(box: Array) -> Array:
            size = self.config.roi_size
            return roi_align.roi_align(p3, box, size=size, stride=ROI_STRIDE, frame_size=frame_size)

        return self.mask_head(jax.vmap(pool)(boxes))


def select(
    boxes: Float[Array, "L 4"], score: Float[Array, "L"], frame_size: Array, config: ProposalConfig
) -> tuple[Float[Array, "P 4"], Float[Array, "P"], Bool[Array, "P"]]:
    """Returns the best P boxes after suppression, their scores and validity, without a gradient."""
    boxes, score = jax.lax.stop_gradient((boxes, score))
    scores, index = jax.lax.top_k(score, min(config.candidates, score.shape[0]))
    boxes = box_lib.clip(boxes[index], frame_size)
    # A tiny frame has fewer locations than `capacity`.
    missing = max(config.capacity - index.shape[0], 0)
    boxes, scores = jnp.pad(boxes, ((0, missing), (0, 0))), jnp.pad(scores, (0, missing))
    large = (boxes[:, 2:] - boxes[:, :2] >= config.min_size).all(1)
    valid = large & (scores >= config.score_threshold)
    suppress = box_lib.NMS[config.nms] if isinstance(config.nms, str) else config.nms
    scores = suppress(boxes, scores, valid, threshold=config.nms_threshold)
    scores, index = jax.lax.top_k(scores, config.capacity)
    valid = valid[index] & (scores >= config.score_threshold)
    return jnp.where(valid[:, None], boxes[index], 0.0), jnp.where(valid, scores, 0.0), valid


def paste(
    prob: Float[Array, "K s s"],
    boxes: Float[Array, "K 4"],
    valid: Bool[Array, "K"],
    *,
    height: int,
    width: int,
) -> Float[Array, "K H4 W4"]:
    """Moves masks from their boxes' grids to the frame at stride 4 (height×width); zero if not valid."""

    def one(prob: Array, box: Array) -> Array:
        return paste_lib.paste(prob, box, height=height, width=width, stride=geometry.MASK_STRIDE)

    return jnp.where(valid[:, None, None], jax.vmap(one)(prob, boxes), 0.0)


def append(proposals: Proposals, masks: Float[Array, "N H4 W4"], valid: Bool[Array, "N"]) -> Proposals:
    """Appends N masks to the P proposals as candidates.

    Args:
      proposals: P proposals.
      masks: [N, H/4, W/4] probabilities, such as the masks that the memory propagates; stored unchanged.
      valid: [N]; a mask without a value above 0.5 is not valid either.

    Returns:
      P + N proposals. A new one's box is the tight box of prob > 0.5, its score the mean prob there.
    """
    boxes, found = jax.vmap(box_lib.of_mask)(masks)
    inside = masks > 0.5
    scores = jnp.where(inside, masks, 0.0).sum((1, 2)) / jnp.maximum(inside.sum((1, 2)), 1)
    valid = valid & found
    new = Proposals(
        boxes=jnp.where(valid[:, None], boxes, 0.0),
        scores=jax.lax.stop_gradient(jnp.where(valid, scores, 0.0)),
        masks=jnp.where(valid[:, None, None], masks, 0.0),
        valid=valid,
    )
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b.astype(a.dtype)]), proposals, new)
