"""The trained model: the method for one frame (docs/method.md).

frame - backbone -+- proposals -------------------------------+
                  +- memory read - templates - alignment - matching - coarse masks -+
                  +- skip features ------------------------------- RefineNet - masks - memory write
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from vos_jax import geometry
from vos_jax.models import backbones, matcher, refine, search_region, templates, value
from vos_jax.models import config as config_lib
from vos_jax.models import matching as matching_lib
from vos_jax.models import memory as memory_lib
from vos_jax.models import proposals as proposals_lib
from vos_jax.models import read as read_lib
from vos_jax.models import state as state_lib
from vos_jax.ops import masks, roi_align, target
from vos_jax.typing import Array, Float, PRNGKeyArray, Shaped


class Out(flax.struct.PyTreeNode):
    """The intermediates of one frame; `jit` does not compute unused ones."""

    proposals: proposals_lib.Proposals  # P candidates, the N propagated masks last
    templates: templates.Template  # [N, ...], before the matcher's projection
    regions: Float[Array, "P S Ce"]  # of the proposals, likewise
    match: matcher.Match
    coarse: Float[Array, "N H/4 W/4"]
    refined_logits: Float[Array, "N H/4 W/4"] | None = None


INTERMEDIATES: dict[str, Callable[[Out], Float[Array, "N H/4 W/4"]]] = {
    "coarse": lambda out: out.coarse,
    "propagated": lambda out: out.proposals.masks[-out.coarse.shape[0] :],
}
"""Intermediate masks by name."""

NETWORKS = ("backbone", "key_head", "embed_head", "value_encoder", "proposal_network", "matcher", "refine")
"""Branches of the parameters, one per network."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class VOS:
    """The trained method as a `state.Model`: pure functions of parameters.

    The parameters are a dict with one branch per network. The stages of `track` are public: `read`,
    `make_templates`, `make_regions`, `match` and `refine`.

    Attributes:
      config: the settings of the method.
    """

    config: config_lib.ModelConfig = config_lib.ModelConfig()

    @property
    def networks(self) -> dict[str, Any]:
        """The Linen modules, by the name of their branch of the parameters."""
        c, dtype = self.config, self.config.compute_dtype
        networks = {
            "backbone": backbones.make(c.backbone, dtype),
            "key_head": nn.Conv(c.key_size, (3, 3), dtype=dtype),
            "embed_head": nn.Conv(c.embed_size, (3, 3), dtype=dtype),
            "value_encoder": value.ValueEncoder(c.value_size, dtype),
            "matcher": matcher.AlignedMatcher(c),
        }
        if c.uses_network:
            networks["proposal_network"] = proposals_lib.ProposalNetwork(c.proposals, dtype)
        if c.refine:
            networks["refine"] = refine.RefineNet(c.refine_channels, dtype)
        return networks

    @property
    def memory_spec(self) -> memory_lib.MemorySpec:
        """The memory that the model needs."""
        c = self.config
        return memory_lib.MemorySpec(
            config=c.memory,
            stride=geometry.MEMORY_STRIDE,
            key_size=c.key_size,
            embed_size=c.embed_size,
            value_size=c.value_size,
            dtype=c.compute_dtype,
        )

    def init(self, key: PRNGKeyArray, datasets: Sequence[str] = ("default",)) -> Any:
        """Returns random parameters.

        Args:
          key: is folded with each network's number.
          datasets: names of the data sets that get a lambda of their own.
        """
        # rbg: XLA would compile each of a hundred threefry draws separately.
        key = jax.random.wrap_key_data(jnp.tile(jax.random.key_data(key), 2), impl="rbg")
        return jax.jit(functools.partial(self._init, datasets=tuple(datasets)))(key)

    def _init(self, key: PRNGKeyArray, datasets: tuple[str, ...]) -> Any:
        c, networks, params = self.config, self.networks, {}
        known = dataclasses.replace(c, dataset=datasets[0])
        networks["matcher"] = matcher.AlignedMatcher(known, datasets)
        size, locations = 64, c.template_size**2

        def init(name: str, *args: Any, **kwargs: Any) -> Any:
            if name not in networks:
                return None
            network_key = jax.random.fold_in(key, NETWORKS.index(name))
            output, variables = networks[name].init_with_output(network_key, *args, **kwargs)
            params[name] = variables["params"]
            return output

        features = backbones.check_features(init("backbone", jnp.zeros((size, size, 3))))
        mask = jnp.zeros((size // geometry.MASK_STRIDE, size // geometry.MASK_STRIDE))
        init("key_head", features.c4)
        init("embed_head", features.c4)
        encoded_value = init("value_encoder", features.c4, mask, mask)
        init("proposal_network", features, jnp.full(2, size, jnp.float32))
        vectors = jnp.zeros((1, locations, c.embed_size))
        template = templates.Template(vectors=vectors, weights=vectors[..., 0], box=jnp.zeros((1, 4)))
        valid = jnp.ones(1, bool)
        init("matcher", template, vectors, jnp.zeros((1, 1)), valid, valid, soft=True)
        init("refine", features, encoded_value, encoded_value[..., 0], mask, mask)
        return params

    def _apply(self, params: Any, name: str, *args: Any, **kwargs: Any) -> Any:
        return self.networks[name].apply({"params": params[name]}, *args, **kwargs)

    def encode(
        self, params: Any, frame: Shaped[Array, "H W 3"], frame_size: Float[Array, "2"]
    ) -> state_lib.Encoded:
        """Computes everything that depends on the frame alone: key, embedding, features and proposals."""
        features = self._apply(params, "backbone", frame)
        if not isinstance(self.config.backbone, str):
            backbones.check_features(features)
        detections = None
        if self.config.uses_network:
            detections = self._apply(params, "proposal_network", features, frame_size)
        return state_lib.Encoded(
            key=self._apply(params, "key_head", features.c4),
            embed=self._apply(params, "embed_head", features.c4),
            features=features,
            detections=detections,
            proposals=None if detections is None else detections.proposals,
        )

    def track(
        self, params: Any, encoded: state_lib.Encoded, state: state_lib.State, *, train: bool = False
    ) -> state_lib.Prediction:
        """Finds every object in an encoded frame: read, templates, alignment, matching, refinement.

        Args:
          params: of all networks.
          encoded: the frame.
          state: before the frame.
          train: keep the matching soft and search the whole frame, as clips skip frames and are cropped.
        """
        if train:
            # An object in no slot would read 0 / 0, whose gradient is NaN. So unused object indices read
            # every slot; the masks of the other objects do not depend on them.
            memory = state.memory
            in_slot = memory.object_in_slot | ~state.object_valid[:, None]
            state = state.replace(memory=memory.replace(object_in_slot=in_slot))
        read = self.read(encoded, state, everywhere=train)
        propagated = masks.upsample(read.prob, geometry.MEMORY_STRIDE // geometry.MASK_STRIDE)
        candidates = self._candidates(encoded.proposals, propagated, state)
        out = self.match(params, read, encoded.embed, candidates, state, soft=train)
        prob = out.coarse
        if self.config.refine:
            windowed = self.config.read.search_radius > 0 and not train and target.is_cpu()
            logits = self.refine(params, encoded, read, out.coarse, state, windowed=windowed)
            out, prob = out.replace(refined_logits=logits), nn.sigmoid(logits)
        factor = geometry.MEMORY_STRIDE // geometry.MASK_STRIDE
        prob = jnp.where(jnp.repeat(jnp.repeat(read.region, factor, 1), factor, 2), prob, 0.0)
        presence = jnp.clip(1.0 - out.match.assignment[:, -1], 0.0, 1.0)
        return state_lib.Prediction(prob=prob, presence=presence, read=read, out=out)

    def encode_value(
        self, params: Any, encoded: state_lib.Encoded, prob: Float[Array, "N H/4 W/4"]
    ) -> Float[Array, "N h w Cv"]:
        """Returns the values of this frame for each object's memory."""
        assert encoded.features is not None  # `encode` always sets it
        others = jnp.sum(prob, axis=0, keepdims=True) - prob
        encode = functools.partial(self._apply, params, "value_encoder", encoded.features.c4)
        return jax.vmap(encode)(prob, others)

    def mask_of_box(
        self, params: Any, encoded: state_lib.Encoded, box: Float[Array, "4"], frame_size: Float[Array, "2"]
    ) -> Float[Array, "H/4 W/4"]:
        """Returns the soft mask, in [0, 1], of the object in a box (y0, x0, y1, x1)."""
        assert encoded.features is not None  # `encode` always sets it
        boxes = box[None]
        method = proposals_lib.ProposalNetwork.masks_of_boxes
        logits = self._apply(params, "proposal_network", encoded.features, boxes, frame_size, method=method)
        height, width = encoded.features.c2.shape[:2]
        valid = jnp.ones(1, bool)
        return proposals_lib.paste(nn.sigmoid(logits), boxes, valid, height=height, width=width)[0]

    def read(
        self, encoded: state_lib.Encoded, state: state_lib.State, *, everywhere: bool = False
    ) -> read_lib.Read:
        """Reads the memory; `everywhere` ignores the search radius."""
        config, region = self.config.read, None
        if config.search_radius and not everywhere:
            region = search_region.search_region(state.prev_prob, state.memory, config.search_radius)
        return read_lib.read(encoded.key, state.memory, config, region)

    def match(
        self,
        params: Any,
        read: read_lib.Read,
        embed: Float[Array, "h w Ce"],
        candidates: proposals_lib.Proposals,
        state: state_lib.State,
        *,
        soft: bool,
    ) -> Out:
        """Assigns candidates to objects: templates, regions, aligned matcher, coarse masks."""
        template = self.make_templates(read, state)
        regions = self.make_regions(embed, candidates.boxes, state.frame_size)
        compared = state.prev_prob
        if self.config.iou_with == "propagated":
            compared = masks.upsample(read.prob, geometry.MEMORY_STRIDE // geometry.MASK_STRIDE)
        iou = matching_lib.mask_iou(compared > 0.5, candidates.masks > 0.5)
        valid = state.object_valid, candidates.valid
        match = self._apply(params, "matcher", template, regions, iou, *valid, soft=soft)
        coarse = jnp.einsum("np,phw->nhw", match.assignment[:, :-1], candidates.masks)
        return Out(
            proposals=candidates,
            templates=template,
            regions=regions,
            match=match,
            coarse=jnp.clip(coarse, 0.0, 1.0),
        )

    def refine(
        self,
        params: Any,
        encoded: state_lib.Encoded,
        read: read_lib.Read,
        coarse: Float[Array, "N H/4 W/4"],
        state: state_lib.State,
        *,
        windowed: bool,
    ) -> Float[Array, "N H/4 W/4"]:
        """Returns the refined masks' logits."""
        assert encoded.features is not None  # `encode` always sets it
        return refine.refine_all(
            self.networks["refine"],
            params["refine"],
            encoded.features,
            read,
            coarse,
            state.prev_prob,
            windowed=windowed,
        )

    def make_templates(self, read: read_lib.Read, state: state_lib.State) -> templates.Template:
        """Makes each object's template, [N, ...]."""
        c, memory = self.config, state.memory
        make = templates.TEMPLATES[c.template] if isinstance(c.template, str) else c.template
        context = templates.TemplateContext(
            read_embed=read.embed,
            read_prob=read.prob,
            prev_prob=state.prev_prob,
            last_box=state.last_box,
            frame_size=state.frame_size,
            memory_embed=memory.embed,
            memory_prob=memory.prob,
            in_slot=memory.object_in_slot & memory.slot_valid[None, :],
            slot_frame=memory.slot_frame,
            first_slot=memory.first_slot,
        )
        make = functools.partial(make, size=c.template_size)
        if not isinstance(c.template, str):
            make = functools.partial(templates.call, make, size=c.template_size)
        return jax.vmap(make, in_axes=(templates.OBJECT_AXES,))(context)

    def make_regions(
        self, embed: Float[Array, "h w Ce"], boxes: Float[Array, "P 4"], frame_size: Float[Array, "2"]
    ) -> Float[Array, "P S Ce"]:
        """Samples the embedding in each proposal's box on the template's grid."""
        size, stride = self.config.template_size, geometry.MEMORY_STRIDE

        def region(box: Float[Array, "4"]) -> Float[Array, "S Ce"]:
            grid = roi_align.roi_align(embed, box, size=size, stride=stride, frame_size=frame_size)
            return grid.reshape(size * size, -1)

        return jax.vmap(region)(boxes)

    def _candidates(
        self,
        proposals: proposals_lib.Proposals | None,
        propagated: Float[Array, "N H/4 W/4"],
        state: state_lib.State,
    ) -> proposals_lib.Proposals:
        """Returns the frame's proposals, if any, followed by the propagated masks."""
        if proposals is None:
            height, width = propagated.shape[1:]
            size = height * geometry.MASK_STRIDE, width * geometry.MASK_STRIDE
            proposals = proposals_lib.empty(0, size)
        return proposals_lib.append(proposals, propagated, state.object_valid)
