"""The one step from frame to frame; streaming, `lax.scan` over a video and training all use it."""

from typing import Any

import jax
import jax.numpy as jnp

from vos_jax import geometry
from vos_jax.models import boxes as box_lib
from vos_jax.models import masks
from vos_jax.models import memory as memory_lib
from vos_jax.models import state as state_lib
from vos_jax.typing import Array, Float, Shaped


def frame_step(
    model: state_lib.Model,
    params: Any,
    state: state_lib.State,
    frame: Shaped[Array, "H W 3"],
    given: state_lib.Given,
) -> tuple[state_lib.State, Float[Array, "N+1 H/4 W/4"], state_lib.Prediction]:
    """Segments one frame and remembers it (DESIGN.md section 3).

    Objects that appear, are corrected or removed come in through `given`, so nothing recompiles.

    Args:
      model: the method.
      params: its parameters.
      state: what is known so far.
      frame: padded RGB, uint8 or float in [0, 1]; NaN is black.
      given: the user's masks for this frame; always passed (see `state.no_given`).

    Returns:
      The next state; probabilities of background and objects, which sum to 1; the model's prediction before
      `given` and aggregation.
    """
    state, encoded, prob, prediction = segment(model, params, state, frame, given)
    state = write(model, params, state, encoded, prob[1:], given=given, mass=prediction.read.mass)
    return state, prob, prediction


def segment(
    model: state_lib.Model,
    params: Any,
    state: state_lib.State,
    frame: Shaped[Array, "H W 3"],
    given: state_lib.Given,
) -> tuple[state_lib.State, state_lib.Encoded, Float[Array, "N+1 H/4 W/4"], state_lib.Prediction]:
    """Segments one frame and does not remember it: the first half of `frame_step`.

    Returns:
      The state with the objects that `given` adds and removes; the encoded frame; and the probabilities and
      prediction that `frame_step` returns.
    """
    removed = given.remove & ~given.valid
    state = state.replace(
        memory=memory_lib.forget(state.memory, given.remove),
        object_valid=state.object_valid & ~given.remove,
        prev_prob=jnp.where(given.remove[:, None, None], 0.0, state.prev_prob),
    )
    if jnp.issubdtype(frame.dtype, jnp.floating):
        frame = jnp.nan_to_num(jnp.clip(frame, 0.0, 1.0))
    encoded = model.encode(params, frame, state.frame_size)
    prediction = model.predict(params, encoded, state, given.proposals)

    given_prob = masks.downsample(given.prob, geometry.MASK_STRIDE)
    object_valid = (state.object_valid | given.valid) & ~removed
    prob = jnp.where(
        given.valid[:, None, None],
        given_prob,
        jnp.nan_to_num(prediction.prob, nan=0.0, posinf=0.0, neginf=0.0),
    )
    prob = masks.aggregate(prob, object_valid)
    return state.replace(object_valid=object_valid), encoded, prob, prediction


def write(
    model: state_lib.Model,
    params: Any,
    state: state_lib.State,
    encoded: state_lib.Encoded,
    prob: Float[Array, "N H/4 W/4"],
    *,
    given: state_lib.Given,
    mass: Float[Array, "N M"],
    remembered: Float[Array, "N H/4 W/4"] | None = None,
) -> state_lib.State:
    """Remembers a segmented frame: the second half of `frame_step`.

    Args:
      model, params: as in `frame_step`.
      state: from `segment`.
      encoded: the frame, from `segment`.
      prob: the objects' masks after aggregation; the next frame's previous masks.
      given: as in `frame_step`; its masks pin the frame.
      mass: attention mass per slot of the frame's read.
      remembered: masks that the memory gets in place of `prob`.

    Returns:
      The state for the next frame.
    """
    remembered = prob if remembered is None else remembered
    h, w = encoded.key.shape[:2]
    factor = prob.shape[1] // h

    def make_entry() -> memory_lib.Entry:
        return memory_lib.Entry(
            key=encoded.key,
            embed=encoded.embed,
            value=model.value(params, encoded, remembered, state),
            prob=masks.downsample(remembered, factor),
            pixel_valid=masks.pixel_valid(state.frame_size, (h, w), factor * geometry.MASK_STRIDE),
        )

    memory = memory_lib.record_usage(state.memory, mass, state.object_valid)
    memory = memory_lib.write(
        memory,
        make_entry,
        frame_index=state.frame_index,
        pinned=jnp.any(given.valid),
        first=given.valid & (memory.first_slot < 0),
        object_valid=state.object_valid,
        config=model.memory_config,
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
    given: state_lib.Given,
) -> tuple[state_lib.State, Float[Array, "T N+1 H/4 W/4"], state_lib.Prediction]:
    """Runs `frame_step` over a whole clip; every leaf of `given` has a leading axis T."""

    def step(state: state_lib.State, inputs: tuple) -> tuple[state_lib.State, tuple]:
        state, prob, prediction = frame_step(model, params, state, *inputs)
        return state, (prob, prediction)

    state, (prob, prediction) = jax.lax.scan(step, state, (frames, given))
    return state, prob, prediction
