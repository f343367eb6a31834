"""Masks of several objects in one frame that overlap: none may vanish without a word."""

from collections.abc import Mapping

import numpy as np

from vos_jax import errors, geometry
from vos_jax.typing import Bool, UInt8

# A new mask that covers more of a smaller object lies around it.
_NESTED_SHARE = 0.5


def stack(layers: Mapping[int, Bool[np.ndarray, "H W"]], where: str) -> UInt8[np.ndarray, "H W"]:
    """Returns the ids of masks of one frame; where they overlap, the smaller mask has the pixel.

    Args:
      layers: object id -> its mask, at least one; the order does not matter.
      where: the frame or file, for the error.

    Raises:
      VosError: a mask is covered whole by smaller ones.
    """
    by_size = sorted(layers, key=lambda i: (-int(np.count_nonzero(layers[i])), -i))
    ids = np.zeros(layers[by_size[0]].shape, np.uint8)
    for object_id in by_size:
        ids[layers[object_id]] = object_id
    for object_id in by_size:
        if not np.any(ids == object_id):
            raise _vanishes(where, object_id, np.unique(ids[layers[object_id]]))
    return ids


def edit(
    ids: UInt8[np.ndarray, "H W"], prompt_ids: UInt8[np.ndarray, "H W"], where: str
) -> UInt8[np.ndarray, "H W"]:
    """Returns the ids of a frame after another prompt of the same frame.

    The prompt's pixels replace those of other objects, except of a smaller object of which the prompt's mask
    covers more than half: that one lies on top, such as a helmet on a person.

    Args:
      ids: of the prompts before.
      prompt_ids: of the new one; 0 where it says nothing.
      where: the frame, for the error.

    Raises:
      VosError: an object of either would have no pixel left.
    """
    result = geometry.overwrite(ids, prompt_ids)
    new = [int(i) for i in np.unique(prompt_ids) if i]
    area = {i: int(np.count_nonzero(prompt_ids == i)) for i in new}
    for object_id in (int(i) for i in np.unique(ids) if i and i not in area):
        mine = ids == object_id
        size = np.count_nonzero(mine)
        for cover in new:
            hidden = mine & (prompt_ids == cover)
            if np.count_nonzero(hidden) > _NESTED_SHARE * size and size < area[cover]:
                result[hidden] = object_id
    for object_id in sorted({int(i) for i in np.unique(ids) if i} | set(new)):
        if not np.any(result == object_id):
            mask = prompt_ids == object_id if object_id in area else ids == object_id
            raise _vanishes(where, object_id, np.unique(result[mask]))
    return result


def _vanishes(where: str, object_id: int, others: np.ndarray) -> errors.VosError:
    covering = ", ".join(str(i) for i in others if i)
    return errors.VosError(
        f"{where}: object {object_id} would vanish: the masks of {covering} cover all of it; give it pixels "
        f"that are its own, or remove it"
    )
