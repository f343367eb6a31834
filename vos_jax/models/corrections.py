"""Corrections: what a user says about a known object can contradict its memory, which then forgets."""

import jax
import jax.numpy as jnp

from vos_jax import geometry
from vos_jax.models import memory as memory_lib
from vos_jax.models import state as state_lib
from vos_jax.ops import masks
from vos_jax.typing import Array, Bool, Float

BORDER_CELLS = 2
"""A correction is exact to so many cells of the masks' grid, 8 pixels."""

TAKEN_SHARE = 0.1
"""A correction that takes away more of an object's predicted mask contradicts the object's memory."""


def contradicted(
    prob: Float[Array, "N H/4 W/4"], prompt: state_lib.PromptArrays, state: state_lib.State
) -> Bool[Array, "N"]:
    """Marks known objects of whose predicted mask the prompt takes away more than an inexact border.

    Their memory, the first annotation included, shows the wrong thing and would bring it back.

    Args:
      prob: predicted masks; NaN and infinity count as 0.
      prompt: the user's masks.
      state: before the prompt. Predictions outside its real frame do not count: no prompt covers the padding.
    """
    object_valid, grid = state.object_valid, (prob.shape[1], prob.shape[2])
    finite = jnp.nan_to_num(prob, nan=0.0, posinf=0.0, neginf=0.0)
    predicted = masks.aggregate(finite, object_valid)[1:] > 0.5
    predicted &= masks.pixel_valid(state.frame_size, grid, geometry.MASK_STRIDE)[None]
    prompted = masks.downsample(prompt.mask, geometry.MASK_STRIDE) > 0
    window = (1, 2 * BORDER_CELLS + 1, 2 * BORDER_CELLS + 1)
    near = jax.lax.reduce_window(prompted.astype(jnp.float32), 0.0, jax.lax.max, window, (1, 1, 1), "SAME")
    taken = jnp.sum(predicted & (near == 0), axis=(1, 2))
    return prompt.given & object_valid & (taken > TAKEN_SHARE * jnp.sum(predicted, axis=(1, 2)))


def forget(memory: memory_lib.Memory, wrong: Bool[Array, "N"], absent: Bool[Array, "N"]) -> memory_lib.Memory:
    """Returns the memory without what the user contradicts.

    Slots that show no other object become empty, because their pixels would still take places among the top k
    of a read. An object whose first annotation shares its slot with another object's keeps its claim to that
    slot, so that no more slots are reserved than before (`memory.choose_slot`).

    Args:
      memory: before the prompt.
      wrong: objects without a past from now on; the prompt is their first.
      absent: objects that are not in the frame. Annotated frames keep them; other frames may show what was
        taken for them.
    """
    others = ~wrong[None, :] & (memory.first_slot[None, :] == memory.first_slot[:, None])
    freed = wrong & ~jnp.any(others, axis=1)
    annotated = memory.slot_pinned & (memory.slot_frame >= 0)  # the prototypes are pinned, too
    gone = wrong[:, None] | (absent[:, None] & ~annotated[None, :])
    known = memory.object_in_slot & ~gone
    empty = jnp.any(gone, axis=0) & ~jnp.any(known, axis=0)
    return memory.replace(
        object_in_slot=known,
        prob=jnp.where(gone[..., None, None], 0.0, memory.prob),
        first_slot=jnp.where(freed, -1, memory.first_slot),
        slot_valid=memory.slot_valid & ~empty,
        slot_pinned=memory.slot_pinned & ~empty,
        slot_frame=jnp.where(empty, -1, memory.slot_frame),
        usage=jnp.where(empty, 0.0, memory.usage),
    )
