"""Proposals: where the objects of ONE frame may be. Class-agnostic, one stage, every shape static (DESIGN
§4).

    C3..C5 → FPN P3..P6 → per location objectness · centerness and a box (FCOS form) → top-K → NMS → top-P
           boxes → RoIAlign 14×14 of P3 → mask head 28×28 → pasted to stride 4

Proposals of files replace them in `step.step`; `train.oracle` makes some of the truth.
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
from vos_jax.typing import Array, Bool, DTypeLike, Float

ROI_STRIDE = 8  # of P3
SOURCES = ("network", "file", "none")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProposalConfig:
    """Where proposals come from, and the proposal network.

    Attributes:
      source: "network"; "file" (another program's, see docs/proposals.md); "none" leaves the masks that the
        memory propagates.
      folder: The folder with one <sequence>.json per video, for "file".
      capacity: Most proposals of a frame.
      channels: Channels of the pyramid and the heads.
      depthwise: Whether 3x3 convolutions are depthwise-separable.
      head_layers: Blocks before the dense outputs, shared by all levels.
      mask_layers: Blocks of the mask head.
      candidates: Locations that reach non-maximum suppression.
      nms: Non-maximum suppression: a name in `boxes.NMS`, or a callable of that signature.
      nms_threshold: IoU above which the lesser of two boxes goes.
      score_threshold: A proposal that scores less is not valid.
      min_size: Shortest valid side of a box in pixels.
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
    """A frame's candidates in P fixed places, best first; places that are not `valid` hold nothing."""

    boxes: Float[Array, "*b P 4"]  # pixels of the padded frame, inside the real frame
    scores: Float[Array, "*b P"]  # [0, 1]
    masks: Float[Array, "*b P H4 W4"]  # probability at stride 4, zero outside the box
    valid: Bool[Array, "*b P"]


def empty(capacity: int, size: tuple[int, int]) -> Proposals:
    """P = `capacity` places for a padded frame of (H, W) pixels, none of them valid."""
    return Proposals(
        boxes=jnp.zeros((capacity, 4)),
        scores=jnp.zeros((capacity,)),
        masks=jnp.zeros((capacity, size[0] // geometry.MASK_STRIDE, size[1] // geometry.MASK_STRIDE)),
        valid=jnp.zeros((capacity,), bool),
    )


class Detections(flax.struct.PyTreeNode):
    """The network's dense outputs over all L locations of all levels, for the losses; and its proposals."""

    locations: Float[Array, "*b L 2"]  # centre (y, x) of each location, pixels
    strides: Float[Array, "*b L"]  # of each location's level, pixels
    location_valid: Bool[Array, "*b L"]  # centre inside the real frame
    objectness_logits: Float[Array, "*b L"]
    centerness_logits: Float[Array, "*b L"]
    boxes: Float[Array, "*b L 4"]  # pixels, not clipped
    proposals: Proposals
    mask_logits: Float[Array, "*b P 28 28"]  # on the grid of each proposal's box


def locations_of(shape: tuple[int, ...], stride: int) -> Float[Array, "L 2"]:
    """The centres (y, x) of a map's cells, in pixels, row by row."""
    rows = (jnp.arange(shape[0], dtype=jnp.float32) + 0.5) * stride
    columns = (jnp.arange(shape[1], dtype=jnp.float32) + 0.5) * stride
    return jnp.stack(jnp.meshgrid(rows, columns, indexing="ij"), -1).reshape(-1, 2)


class DenseHead(nn.Module):
    """Per location of every level: objectness, centerness, and the distances to the box's four sides.

    The same parameters serve every level but for one learned factor each (FCOS). The convolutions see all
    levels in one packed map, which compiles once.
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
        self, levels: Sequence[Float[Array, "h w C"]], frame_size: Float[Array, "2"]
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
        # exp(8) strides is wider than any frame: the bound only keeps a diverging network finite.
        logs = jnp.clip(distances * self.scales[level][:, None], -8.0, 8.0)
        strides = np.array(fpn.STRIDES, np.float32)[level]
        return objectness, centerness, jnp.exp(logs) * strides[:, None]


class MaskHead(nn.Module):
    """The mask of ONE region, on twice its grid: `[s, s, C] -> [2s, 2s]` logits."""

    config: ProposalConfig
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "s s C"]) -> Float[Array, "2*s 2*s"]:
        c = self.config
        for index in range(c.mask_layers):
            x = fpn.ConvBlock(c.channels, c.depthwise, self.dtype, name=f"block{index}")(x)
        # A 2×2 transposed convolution of stride 2: every cell becomes four, none overlap, one matrix product.
        size, quarter = x.shape[0], max(c.channels // 2, 1)
        x = nn.relu(nn.Dense(4 * quarter, dtype=self.dtype, name="upsample")(x))
        x = x.reshape(size, size, 2, 2, quarter).transpose(0, 2, 1, 3, 4).reshape(2 * size, 2 * size, quarter)
        return nn.Dense(1, dtype=self.dtype, name="logit")(x)[..., 0].astype(jnp.float32)


class ProposalNetwork(nn.Module):
    """Finds the objects of ONE frame; `vmap` for more. Source: DESIGN §4 [O]; Tian et al., FCOS, 2019."""

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
        """Dense outputs and proposals of a frame.

        Args:
          features: the backbone's, C3..C5 are used, each [H/s, W/s, C].
          frame_size: [2] real (height, width) in pixels; what lies beyond neither counts nor is proposed.

        Returns:
          `Detections`. Boxes and scores of its proposals are constants to the gradient (they learn by the
          dense losses); their masks and mask logits are not.
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
        """Mask logits of any boxes, on each box's own grid (`mask_paste.paste` puts them into the frame).

        Without `frame_size` the whole padded frame counts as real.
        """
        if frame_size is None:
            frame_size = jnp.array([n * ROI_STRIDE for n in features.c3.shape[:2]])
        return self._masks(self.pyramid(features, frame_size)[0], boxes, frame_size)

    def _masks(self, p3: Float[Array, "h w C"], boxes: Float[Array, "K 4"], frame_size: Array) -> Array:
        # One level for all sizes: choosing per box means pooling from every level and keeping one. P3 is the
        # sharpest, and the top-down sums have brought it what P4 and P5 know.
        def pool(box: Array) -> Array:
            size = self.config.roi_size
            return roi_align.roi_align(p3, box, size=size, stride=ROI_STRIDE, frame_size=frame_size)

        return self.mask_head(jax.vmap(pool)(boxes))


def select(
    boxes: Float[Array, "L 4"], score: Float[Array, "L"], frame_size: Array, config: ProposalConfig
) -> tuple[Float[Array, "P 4"], Float[Array, "P"], Bool[Array, "P"]]:
    """The best P boxes after suppression, with scores and validity; constants to the gradient."""
    boxes, score = jax.lax.stop_gradient((boxes, score))
    scores, index = jax.lax.top_k(score, min(config.candidates, score.shape[0]))
    boxes = box_lib.clip(boxes[index], frame_size)
    # A tiny frame has fewer locations than places.
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
    """Masks on their boxes' grids -> masks at stride 4, height×width cells; zero where not valid."""

    def one(prob: Array, box: Array) -> Array:
        return paste_lib.paste(prob, box, height=height, width=width, stride=geometry.MASK_STRIDE)

    return jnp.where(valid[:, None, None], jax.vmap(one)(prob, boxes), 0.0)


def append(proposals: Proposals, masks: Float[Array, "N H4 W4"], valid: Bool[Array, "N"]) -> Proposals:
    """Adds N masks as candidates of their own, behind the others: P + N places (DESIGN §4).

    Args:
      proposals: P places.
      masks: [N, H/4, W/4] probability, such as the memory's own propagated masks; kept as they are.
      valid: [N]; a mask that is nowhere above .5 is not valid either.

    Returns:
      `Proposals`; the boxes of the new ones are tight around prob > .5, their scores the mean prob there.
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
