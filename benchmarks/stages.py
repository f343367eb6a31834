"""The stages of a frame, each as a separate function with its inputs."""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from vos_jax import geometry
from vos_jax.models import matcher, vos
from vos_jax.models import matching as matching_lib
from vos_jax.models import state as state_lib
from vos_jax.models import step as step_lib
from vos_jax.ops import masks

WHOLE = "whole step, compiled as one"


class Stage(NamedTuple):
    """A part of a frame's work."""

    name: str
    function: Callable
    arguments: tuple[Any, ...]


def of_frame(
    model: vos.VOS, params: Any, state: state_lib.State, frame: Any, evaluate: Callable
) -> Iterator[Stage]:
    """Yields each stage of segmenting `frame`, and last the whole step.

    Args:
      model: the trained model.
      params: its parameters.
      state: before the frame.
      frame: padded.
      evaluate: called with a function and its arguments, returns the inputs of the next stages;
        `jax.eval_shape` if the arrays are shapes.
    """
    networks = model.networks

    def part(name: str, network: str, *arguments: Any, **settings: Any) -> Stage:
        def function(params: Any, *arguments: Any) -> Any:
            return networks[network].apply({"params": params[network]}, *arguments, **settings)

        return Stage(name, function, (params, *arguments))

    encoded = evaluate(model.encode, params, frame, state.frame_size)
    prediction = evaluate(model.track, params, encoded, state)
    features, read, out = encoded.features, prediction.read, prediction.out
    candidates = out.proposals

    def heads(params: Any, c4: Any) -> Any:
        names = ("key_head", "embed_head")
        return [networks[name].apply({"params": params[name]}, c4) for name in names]

    def align(params: Any, read: Any, embed: Any, boxes: Any, state: state_lib.State) -> Any:
        template = model.make_templates(read, state)
        regions = model.make_regions(embed, boxes, state.frame_size)
        variables = {"params": params["matcher"]}
        return networks["matcher"].apply(variables, template, regions, method=matcher.AlignedMatcher.align)[0]

    def match(params: Any, similarity: Any, candidates: Any, state: state_lib.State) -> Any:
        iou = matching_lib.mask_iou(state.prev_prob > 0.5, candidates.masks > 0.5)
        arguments = similarity, iou, state.object_valid, candidates.valid
        variables, method = {"params": params["matcher"]}, matcher.AlignedMatcher.assign
        found = networks["matcher"].apply(variables, *arguments, soft=False, method=method)
        return jnp.einsum("np,phw->nhw", found.assignment[:, :-1], candidates.masks), found.assignment

    def step(params: Any, state: state_lib.State, frame: Any) -> Any:
        prompt = state_lib.no_prompt(state.prev_prob.shape[0], frame.shape[:2])
        state, output = step_lib.step(model, params, state, frame, prompt)
        ids = masks.to_ids(output.prob, geometry.MASK_STRIDE)
        return state, ids, output.prediction.presence

    yield part("backbone", "backbone", frame)
    yield Stage("key and embedding", heads, (params, features.c4))
    yield Stage("read", model.read, (encoded, state))
    if model.config.uses_network:
        yield part("proposals", "proposal_network", features, state.frame_size)
    aligned = read, encoded.embed, candidates.boxes, state
    yield Stage("templates, regions, alignment", align, (params, *aligned))
    yield Stage("matching", match, (params, out.match.similarity, candidates, state))
    if model.config.refine:
        windowed = model.config.read.search_radius > 0
        refine = functools.partial(model.refine, windowed=windowed)
        yield Stage("RefineNet", refine, (params, encoded, read, out.coarse, state))
    yield Stage("upsampling and argmax", _finish, (prediction.prob, state.object_valid))
    yield Stage("value", model.encode_value, (params, encoded, state.prev_prob))
    yield Stage(WHOLE, step, (params, state, frame))


def _finish(prob: jax.Array, valid: jax.Array) -> Any:
    return masks.to_ids(masks.aggregate(prob, valid), geometry.MASK_STRIDE)
