"""The stages of a frame, each as a function of its own with what it is given in that frame."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from vos_jax import geometry
from vos_jax.inference import rollout
from vos_jax.models import alignment, masks, refine, vos
from vos_jax.models import matching as matching_lib
from vos_jax.models import read as read_lib
from vos_jax.models import state as state_lib

WHOLE = "whole step, compiled as one"


class Stage(NamedTuple):
    """A part of a frame's work."""

    name: str
    function: Callable
    arguments: tuple[Any, ...]


def of_frame(
    model: vos.VOS, params: Any, state: state_lib.State, frame: Any, evaluate: Callable
) -> Iterator[Stage]:
    """Yields each stage of following the objects into `frame`, and last the whole step.

    Args:
      model: the trained model.
      params: its parameters.
      state: before the frame.
      frame: padded.
      evaluate: called with a function and its arguments, makes what the next stage is given: `jax.eval_shape`
        for arrays that are shapes only.
    """
    network = vos.VOSNet(model.config, model.hard)

    def part(name: str, method: Callable, *arguments: Any) -> Stage:
        def function(params: Any, *arguments: Any) -> Any:
            return network.apply({"params": params}, *arguments, method=method)

        return Stage(name, function, (params, *arguments))

    encoded = evaluate(model.encode, params, frame, state.frame_size)
    prediction = evaluate(model.predict, params, encoded, state)
    features, read, out = encoded.features, prediction.read, prediction.out

    yield part("backbone", lambda net, frame: net.backbone(frame), frame)
    yield part("key and embedding", lambda net, c4: (net.key_head(c4), net.embed_head(c4)), features.c4)
    yield Stage(
        "read",
        lambda key, memory, prob: read_lib.read(key, memory, model.config.read, prob),
        (encoded.key, state.memory, state.prev_prob),
    )
    if model.config.uses_network:
        yield part(
            "proposals",
            lambda net, features, size: net.proposal_network(features, size).proposals,
            features,
            state.frame_size,
        )
    yield part("templates, regions, alignment", _align, read, encoded.embed, out.proposals.boxes, state)
    yield part("matching", _match, out.similarity, out.proposals, state.prev_prob, state)
    if model.config.refine:
        yield part(
            "RefineNet",
            lambda net, *arguments: refine.refine_all(
                net.refine, *arguments, windowed=net.config.read.search_radius > 0
            ),
            *(features, read, out.coarse, state.prev_prob),
        )
    yield Stage("upsampling and argmax", _finish, (prediction.prob, state.object_valid))
    yield Stage("value", model.value, (params, encoded, state.prev_prob, state))

    def step(params: Any, state: state_lib.State, frame: Any) -> Any:
        given = state_lib.no_given(state.prev_prob.shape[0], frame.shape[:2])
        state, prob, prediction = rollout.frame_step(model, params, state, frame, given)
        return state, masks.to_ids(prob, geometry.MASK_STRIDE), prediction.presence

    yield Stage(WHOLE, step, (params, state, frame))


def _align(net: vos.VOSNet, read: Any, embed: Any, boxes: Any, state: state_lib.State) -> Any:
    template = net._templates(read, state)
    regions = net._regions(embed, boxes, state.frame_size)
    return alignment.score_all(
        alignment.resolve(net.config.alignment),
        net.match_projection(template.vectors),
        template.weights,
        net.match_projection(regions),
        jnp.exp(net.log_temperature),
    )[0]


def _match(net: vos.VOSNet, similarity: Any, candidates: Any, compared: Any, state: state_lib.State) -> Any:
    iou = matching_lib.mask_iou(compared > 0.5, candidates.masks > 0.5)
    cost = matching_lib.cost(similarity, iou, net.lambda_logit[state.dataset])
    null_cost = jnp.broadcast_to(net.null_cost, state.object_valid.shape)
    assignment = net._assign(cost, null_cost, state.object_valid, candidates.valid)
    return jnp.einsum("np,phw->nhw", assignment[:, :-1], candidates.masks), assignment


def _finish(prob: jax.Array, valid: jax.Array) -> Any:
    return masks.to_ids(masks.aggregate(prob, valid), geometry.MASK_STRIDE)
