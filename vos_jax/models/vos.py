"""The method: dynamic memory, adaptive alignment, matching, refinement, one frame at a time (DESIGN.md).

frame - backbone -+- proposals -------------------------------+
                  +- memory read - templates - alignment - matching - coarse masks -+
                  +- skip features ------------------------------- RefineNet - masks - memory write
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from vos_jax import geometry
from vos_jax.models import alignment as alignment_lib
from vos_jax.models import backbones, masks, refine, roi_align, templates
from vos_jax.models import config as config_lib
from vos_jax.models import matching as matching_lib
from vos_jax.models import memory as memory_lib
from vos_jax.models import proposals as proposals_lib
from vos_jax.models import read as read_lib
from vos_jax.models import state as state_lib
from vos_jax.models import value as value_lib
from vos_jax.typing import Array, Bool, Float, PRNGKeyArray, Shaped


class Out(flax.struct.PyTreeNode):
    """Every intermediate of one frame; what a caller does not use, `jit` does not compute."""

    detections: proposals_lib.Detections | None
    proposals: proposals_lib.Proposals  # P candidates, the N propagated masks last
    templates: templates.Template  # [N, ...]
    attention: Float[Array, "N P S S"] | None
    similarity: Float[Array, "N P"]
    iou: Float[Array, "N P"]
    cost: Float[Array, "N P"]
    null_cost: Float[Array, "N"]
    assignment: Float[Array, "N P+1"]  # the last column: in no proposal
    coarse: Float[Array, "N H/4 W/4"]
    refined_logits: Float[Array, "N H/4 W/4"] | None


STAGES: dict[str, Callable[[Out], Float[Array, "N H/4 W/4"]]] = {
    "coarse": lambda out: out.coarse,
    "propagated": lambda out: out.proposals.masks[-out.coarse.shape[0] :],
}
"""Masks on the way to the final ones, by name."""


class VOSNet(nn.Module):
    """The network; `encode`, `predict` and `value` are its three uses in a frame."""

    config: config_lib.ModelConfig
    hard: bool = True

    def setup(self):
        c = self.config
        # Flax annotates no axes, and their default is a number.
        vmap: Callable[..., Any] = nn.vmap
        over_objects = functools.partial(vmap, variable_axes={"params": None}, split_rngs={"params": False})
        make_backbone = backbones.BACKBONES[c.backbone] if isinstance(c.backbone, str) else c.backbone
        self.backbone = make_backbone(dtype=c.compute_dtype)
        self.key_head = nn.Conv(c.key_size, (3, 3), dtype=c.compute_dtype)
        self.embed_head = nn.Conv(c.embed_size, (3, 3), dtype=c.compute_dtype)
        self.value_encoder = over_objects(value_lib.ValueEncoder, in_axes=(None, 0, 0))(
            c.value_size, c.compute_dtype
        )
        if c.uses_network:
            self.proposal_network = proposals_lib.ProposalNetwork(c.proposals, c.compute_dtype)
        self.match_projection = nn.Dense(c.match_size, dtype=c.compute_dtype)
        self.log_temperature = self.param("log_temperature", nn.initializers.constant(-2.3), ())
        self.lambda_logit = self.param("lambda_logit", nn.initializers.zeros, (len(config_lib.DATASETS),))
        self.null_cost = self.param("null_cost", nn.initializers.constant(-0.25), ())
        if c.refine:
            self.refine = refine.RefineNet(c.refine_channels, c.compute_dtype)

    def encode(self, frame: Shaped[Array, "H W 3"]) -> state_lib.Encoded:
        """The frame's features, its key and its embedding, shared by all objects."""
        features = self.backbone(frame)
        return state_lib.Encoded(
            key=self.key_head(features.c4), embed=self.embed_head(features.c4), features=features
        )

    def predict(
        self,
        encoded: state_lib.Encoded,
        state: state_lib.State,
        supplied: proposals_lib.Proposals | None = None,
    ) -> state_lib.Prediction:
        """Finds every object in the frame: read, propose, make templates, align, match, refine."""
        c = self.config
        read = read_lib.read(encoded.key, state.memory, c.read, state.prev_prob)
        propagated = masks.upsample(read.prob, geometry.MEMORY_STRIDE // geometry.MASK_STRIDE)

        detections = self.proposal_network(encoded.features, state.frame_size) if c.uses_network else None
        candidates = self._candidates(detections, supplied, propagated, state.object_valid)
        compared = state.prev_prob if c.iou_with == "previous" else propagated
        matched = self.match(read, encoded.embed, candidates, compared, state)
        refined_logits = None
        if c.refine:
            refined_logits = refine.refine_all(
                self.refine,
                encoded.features,
                read,
                matched.coarse,
                state.prev_prob,
                windowed=c.read.search_radius > 0,
            )
        prob = matched.coarse if refined_logits is None else nn.sigmoid(refined_logits)
        factor = geometry.MEMORY_STRIDE // geometry.MASK_STRIDE
        assert read.near is not None  # `read_lib.read` says it always
        prob = jnp.where(jnp.repeat(jnp.repeat(read.near, factor, 1), factor, 2), prob, 0.0)
        return state_lib.Prediction(
            prob=prob,
            presence=jnp.clip(1.0 - matched.assignment[:, -1], 0.0, 1.0),
            read=read,
            out=matched.replace(detections=detections, refined_logits=refined_logits),
        )

    def match(
        self,
        read: read_lib.Read,
        embed: Float[Array, "h w Ce"],
        candidates: proposals_lib.Proposals,
        compared: Float[Array, "N H/4 W/4"],
        state: state_lib.State,
    ) -> Out:
        """Gives every object its proposals: templates, adaptive alignment, matching layer, coarse masks."""
        c = self.config
        template = self._templates(read, state)
        regions = self._regions(embed, candidates.boxes, state.frame_size)
        similarity, attention = alignment_lib.score_all(
            alignment_lib.resolve(c.alignment),
            self.match_projection(template.vectors),
            template.weights,
            self.match_projection(regions),
            jnp.exp(self.log_temperature),
        )
        iou = matching_lib.mask_iou(compared > 0.5, candidates.masks > 0.5)
        cost = matching_lib.cost(similarity, iou, self.lambda_logit[state.dataset])
        null_cost = jnp.broadcast_to(self.null_cost, state.object_valid.shape)
        assignment = self._assign(cost, null_cost, state.object_valid, candidates.valid)
        coarse = jnp.einsum("np,phw->nhw", assignment[:, :-1], candidates.masks)
        return Out(
            detections=None,
            proposals=candidates,
            templates=template,
            attention=attention,
            similarity=similarity,
            iou=iou,
            cost=cost,
            null_cost=null_cost,
            assignment=assignment,
            coarse=jnp.clip(coarse, 0.0, 1.0),
            refined_logits=None,
        )

    def value(
        self, encoded: state_lib.Encoded, prob: Float[Array, "N H/4 W/4"], state: state_lib.State
    ) -> Float[Array, "N h w Cv"]:
        """Returns the values of this frame for each object's memory."""
        del state
        others = jnp.sum(prob, axis=0, keepdims=True) - prob
        return self.value_encoder(encoded.features.c4, prob, others)

    def mask_of_box(
        self, frame: Shaped[Array, "H W 3"], box: Float[Array, "4"], frame_size: Float[Array, "2"]
    ) -> Float[Array, "H W"]:
        """The soft mask of what the user drew a box around."""
        features, boxes = self.backbone(frame), box[None]
        logits = self.proposal_network.masks_of_boxes(features, boxes, frame_size)
        height, width = (n // geometry.MASK_STRIDE for n in frame.shape[:2])
        valid = jnp.ones(1, bool)
        prob = proposals_lib.paste(nn.sigmoid(logits), boxes, valid, height=height, width=width)
        return masks.upsample(prob, geometry.MASK_STRIDE)[0]

    def _candidates(
        self,
        detections: proposals_lib.Detections | None,
        supplied: proposals_lib.Proposals | None,
        propagated: Float[Array, "N H/4 W/4"],
        object_valid: Bool[Array, "N"],
    ) -> proposals_lib.Proposals:
        """The proposals handed in, or else the network's, and always what the memory propagates."""
        if supplied is None and detections is not None:
            supplied = detections.proposals
        if supplied is None:
            height, width = propagated.shape[1:]
            size = height * geometry.MASK_STRIDE, width * geometry.MASK_STRIDE
            supplied = proposals_lib.empty(0, size)
        return proposals_lib.append(supplied, propagated, object_valid)

    def _templates(self, read: read_lib.Read, state: state_lib.State) -> templates.Template:
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
        return jax.vmap(make, in_axes=(templates.OBJECT_AXES,))(context)

    def _regions(
        self, embed: Float[Array, "h w Ce"], boxes: Float[Array, "P 4"], frame_size: Float[Array, "2"]
    ) -> Float[Array, "P S Ce"]:
        size, stride = self.config.template_size, geometry.MEMORY_STRIDE

        def region(box: Float[Array, "4"]) -> Float[Array, "S Ce"]:
            grid = roi_align.roi_align(embed, box, size=size, stride=stride, frame_size=frame_size)
            return grid.reshape(size * size, -1)

        return jax.vmap(region)(boxes)

    def _assign(
        self,
        cost: Float[Array, "N P"],
        null_cost: Float[Array, "N"],
        object_valid: Bool[Array, "N"],
        proposal_valid: Bool[Array, "P"],
    ) -> Float[Array, "N P+1"]:
        c = self.config
        layer = matching_lib.MATCHINGS[c.matching] if isinstance(c.matching, str) else c.matching
        # Through the soft masks the null cost only ever learns to win: it has a loss of its own.
        null_cost = jax.lax.stop_gradient(null_cost)
        assignment = layer(cost, null_cost, object_valid, proposal_valid, config=c.matching_options)
        return matching_lib.hard(assignment) if self.hard else assignment

    def initialise(self, frame: Shaped[Array, "H W 3"], state: state_lib.State) -> None:
        """Touches every parameter; for `init` only."""
        encoded = self.encode(frame)
        prediction = self.predict(encoded, state)
        self.value(encoded, prediction.prob, state)


@dataclasses.dataclass(frozen=True, kw_only=True)
class VOS:
    """The trained method as a `state.Model`: pure functions of parameters.

    Attributes:
      config: which model.
      hard: whether each object takes its best proposal only, as at test time; training needs the soft one.
    """

    config: config_lib.ModelConfig = config_lib.ModelConfig()
    hard: bool = True

    @property
    def memory_config(self) -> memory_lib.MemoryConfig:
        """The write policy."""
        return self.config.memory

    def _apply(self, params: Any, *args: Any, method: str) -> Any:
        return VOSNet(self.config, self.hard).apply({"params": params}, *args, method=method)

    def init(self, key: PRNGKeyArray, size: tuple[int, int] = (64, 64)) -> Any:
        """Returns random parameters; they do not depend on the frame's `size`."""
        state = state_lib.init_state(self, 1, size, size)
        frame = jnp.zeros((*size, 3), jnp.float32)
        # Op by op this takes minutes, and XLA compiles each of a hundred threefry draws by itself.
        key = jax.random.wrap_key_data(jnp.tile(jax.random.key_data(key), 2), impl="rbg")
        init = jax.jit(functools.partial(VOSNet(self.config, self.hard).init, method="initialise"))
        return init(key, frame, state)["params"]

    def init_memory(self, num_objects: int, size: tuple[int, int]) -> memory_lib.Memory:
        """Returns an empty memory for padded frames of (H, W) pixels."""
        c = self.config
        return memory_lib.init_memory(
            c.memory,
            num_objects,
            (size[0] // geometry.MEMORY_STRIDE, size[1] // geometry.MEMORY_STRIDE),
            key_size=c.key_size,
            embed_size=c.embed_size,
            value_size=c.value_size,
            dtype=c.compute_dtype,
        )

    def encode(
        self, params: Any, frame: Shaped[Array, "H W 3"], frame_size: Float[Array, "2"]
    ) -> state_lib.Encoded:
        """See `VOSNet.encode`."""
        del frame_size
        return self._apply(params, frame, method="encode")

    def predict(
        self,
        params: Any,
        encoded: state_lib.Encoded,
        state: state_lib.State,
        supplied: proposals_lib.Proposals | None = None,
    ) -> state_lib.Prediction:
        """See `VOSNet.predict`; `supplied` proposals replace the network's."""
        return self._apply(params, encoded, state, supplied, method="predict")

    def value(
        self, params: Any, encoded: state_lib.Encoded, prob: Float[Array, "N H/4 W/4"], state: state_lib.State
    ) -> Float[Array, "N h w Cv"]:
        """See `VOSNet.value`."""
        return self._apply(params, encoded, prob, state, method="value")

    def mask_of_box(
        self,
        params: Any,
        frame: Shaped[Array, "H W 3"],
        box: Float[Array, "4"],
        frame_size: Float[Array, "2"],
    ) -> Float[Array, "H W"]:
        """The soft mask, in [0, 1], of what the user drew a box (y0, x0, y1, x1) around."""
        return self._apply(params, frame, box, frame_size, method="mask_of_box")
