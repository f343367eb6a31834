"""The step of one frame: encode, track, apply the prompt, write. Streaming, scans and training share it."""

from typing import Any

import jax
import jax.numpy as jnp

from vos_jax import geometry
from vos_jax.models import corrections
from vos_jax.models import memory as memory_lib
from vos_jax.models import proposals as proposals_lib
from vos_jax.models import state as state_lib
from vos_jax.ops import boxes as box_lib
from vos_jax.ops import masks
from vos_jax.typing import Array, Bool, Float, Shaped


def step(
    model: state_lib.Model,
    params: Any,
    state: state_lib.State,
    frame: Shaped[Array, "H W 3"],
    prompt: state_lib.PromptArrays,
    proposals: proposals_lib.Proposals | None = None,
) -> tuple[state_lib.State, state_lib.StepOutput]:
    """Segments one frame and writes it to the memory.

    `prompt` adds, corrects and removes objects without a new compilation.

    Args:
      model: the method.
      params: its parameters.
      state: before the frame.
      frame: padded RGB, uint8 or float in [0, 1]; NaN counts as 0.
      prompt: the user's masks of this frame; `state.no_prompt` if there are none.
      proposals: of another program; they replace the network's.

    Returns:
      The state after the frame, and its masks.
    """
    state, encoded, output = segment(model, params, state, frame, prompt, proposals)
    state = write(
        model,
        params,
        encoded,
        state,
        output.prob,
        prompted=prompt.given | prompt.absent,
        slot_attention=output.prediction.read.slot_attention,
    )
    return state, output


def segment(
    model: state_lib.Model,
    params: Any,
    state: state_lib.State,
    frame: Shaped[Array, "H W 3"],
    prompt: state_lib.PromptArrays,
    proposals: proposals_lib.Proposals | None = None,
) -> tuple[state_lib.State, state_lib.Encoded, state_lib.StepOutput]:
    """Segments one frame without writing it: the first half of `step`.

    Returns:
      The state with the objects that `prompt` adds and removes and without the memory that it contradicts,
      the encoded frame, and its masks.
    """
    state = remove_objects(state, prompt.removed)
    if jnp.issubdtype(frame.dtype, jnp.floating):
        frame = jnp.nan_to_num(jnp.clip(frame, 0.0, 1.0))
    encoded = model.encode(params, frame, state.frame_size)
    if proposals is not None:
        encoded = encoded.replace(proposals=proposals)
    prediction = model.track(params, encoded, state)
    wrong = corrections.contradicted(prediction.prob, prompt, state)
    state = state.replace(memory=corrections.forget(state.memory, wrong, prompt.absent))
    prob, object_valid = apply_prompt(prediction.prob, prompt, state.object_valid)
    state = state.replace(object_valid=object_valid)
    return state, encoded, state_lib.StepOutput(prob=prob, prediction=prediction)


def remove_objects(state: state_lib.State, removed: Bool[Array, "N"]) -> state_lib.State:
    """Returns the state without the `removed` objects; their indices are free for new ones."""
    return state.replace(
        memory=memory_lib.remove_objects(state.memory, removed),
        object_valid=state.object_valid & ~removed,
        prev_prob=jnp.where(removed[:, None, None], 0.0, state.prev_prob),
    )


def apply_prompt(
    prob: Float[Array, "N H/4 W/4"], prompt: state_lib.PromptArrays, object_valid: Bool[Array, "N"]
) -> tuple[Float[Array, "N+1 H/4 W/4"], Bool[Array, "N"]]:
    """Replaces predicted masks by prompted ones, then aggregates all objects.

    Args:
      prob: predicted masks; NaN and infinity count as 0.
      prompt: the user's masks.
      object_valid: objects that exist before the prompt.

    Returns:
      Probabilities that sum to 1, background first; the objects that exist now.
    """
    prompted = masks.downsample(prompt.mask, geometry.MASK_STRIDE)
    finite = jnp.nan_to_num(prob, nan=0.0, posinf=0.0, neginf=0.0)
    object_valid = object_valid | prompt.given
    prob = jnp.where(prompt.given[:, None, None], prompted, finite)
    prob = jnp.where(prompt.absent[:, None, None], 0.0, prob)
    return masks.aggregate(prob, object_valid), object_valid


def write(
    model: state_lib.Model,
    params: Any,
    encoded: state_lib.Encoded,
    state: state_lib.State,
    prob: Float[Array, "N+1 H/4 W/4"],
    *,
    prompted: Bool[Array, "N"],
    slot_attention: Float[Array, "N M"] | None = None,
    memory_prob: Float[Array, "N H/4 W/4"] | None = None,
) -> state_lib.State:
    """Writes a segmented frame to the memory: the second half of `step`.

    Args:
      model, params: as in `step`.
      encoded: the frame.
      state: before the frame, with the frame's objects.
      prob: the frame's masks, background first. They are the next frame's previous masks.
      prompted: objects of which the user said where they are, or that they are absent; if there are any, the
        frame is pinned.
      slot_attention: of the frame's read; added to the usage of the slots. None if nothing was read.
      memory_prob: masks that the memory stores in place of the objects' `prob`.

    Returns:
      The state for the next frame.
    """
    prob = prob[1:]
    stored = prob if memory_prob is None else memory_prob
    h, w = encoded.key.shape[:2]
    factor = prob.shape[1] // h

    def make_entry() -> memory_lib.Entry:
        return memory_lib.Entry(
            key=encoded.key,
            embed=encoded.embed,
            value=model.encode_value(params, encoded, stored),
            prob=masks.downsample(stored, factor),
            pixel_valid=masks.pixel_valid(state.frame_size, (h, w), factor * geometry.MASK_STRIDE),
        )

    memory = state.memory
    if slot_attention is not None:
        memory = memory_lib.record_usage(memory, slot_attention, state.object_valid)
    memory = memory_lib.write(
        memory,
        make_entry,
        frame_index=state.frame_index,
        pinned=jnp.any(prompted),
        first=prompted & (memory.first_slot < 0),
        object_valid=state.object_valid,
        config=model.memory_spec.config,
    )
    boxes, found = jax.vmap(box_lib.of_mask)(prob)
    return state.replace(
        memory=memory,
        prev_prob=prob,
        last_box=jnp.where(found[:, None], boxes, state.last_box),
        frame_index=state.frame_index + 1,
    )


def scan(
    model: state_lib.Model,
    params: Any,
    state: state_lib.State,
    frames: Shaped[Array, "T H W 3"],
    prompts: state_lib.PromptArrays,
) -> tuple[state_lib.State, state_lib.StepOutput]:
    """Runs `step` over a clip; every leaf of `prompts` and of the result has a leading axis T."""

    def one(state: state_lib.State, inputs: tuple) -> tuple[state_lib.State, state_lib.StepOutput]:
        return step(model, params, state, *inputs)

    return jax.lax.scan(one, state, (frames, prompts))
