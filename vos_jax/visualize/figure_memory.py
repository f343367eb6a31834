"""The paper's Figure 2: the relevance of memory pixels for an object's pixels."""

from collections.abc import Iterator

import cv2
import jax
import jax.numpy as jnp
import numpy as np

from vos_jax.data import video as video_lib
from vos_jax.inference import inspection
from vos_jax.models import memory as memory_lib
from vos_jax.models import read as read_lib
from vos_jax.models import state as state_lib
from vos_jax.models import training_free, vos
from vos_jax.ops import masks as mask_lib
from vos_jax.typing import Array, Float, UInt8
from vos_jax.visualize import layout, overlay

COLUMNS = 3


def relevance(
    query_key: Float[Array, "h w Ck"],
    memory: memory_lib.Memory,
    config: read_lib.ReadConfig,
    weights: Float[Array, "N h w"],
) -> Float[Array, "N M h w"]:
    """Returns each memory pixel's attention, summed over an object's pixels.

    The read is linear in the values, so its gradient with respect to them is the attention, for every variant
    of the read.

    Args:
      query_key: of the current frame.
      memory, config: the memory and the settings of the read.
      weights: weight of each query pixel, per object.

    Returns:
      Non-negative; sums to the sum of `weights` for an object in the memory.
    """
    values = jnp.zeros((*memory.prob.shape, 1), memory.key.dtype)

    def total(values: Float[Array, "N M h w 1"]) -> Float[Array, ""]:
        read = read_lib.read(query_key, memory.replace(value=values), config)
        return jnp.sum(read.value[..., 0] * weights)

    return jax.grad(total)(values)[..., 0]


def read_config(model: state_lib.Model) -> read_lib.ReadConfig:
    """Returns a model's settings of the read."""
    if isinstance(model, training_free.TrainingFree):
        return model.config.training_free.read
    assert isinstance(model, vos.VOS)  # the only other model
    return model.config.read


def draw(
    video: video_lib.Video, inspected: inspection.Inspection
) -> Iterator[tuple[int, UInt8[np.ndarray, "H2 W2 3"]]]:
    """Yields (the user's object id, its figure): the current frame, then the memory frames in order."""
    memory = inspected.memory
    h, w = memory.prob.shape[2:]
    factor = inspected.prob.shape[1] // h
    shown = np.asarray(mask_lib.downsample(jnp.asarray(inspected.prob[1:]), factor)) > 0.5
    heat = jax.jit(relevance, static_argnums=2)(
        inspected.key, memory, read_config(inspected.model), jnp.asarray(shown, jnp.float32)
    )
    frame = inspected.see(video.frame(inspected.index))
    ids = inspected.ids(inspected.prob)
    slot_frames, pinned = np.asarray(memory.slot_frame), np.asarray(memory.slot_pinned)
    # The long-term slot belongs to no frame.
    slots = [m for m in np.argsort(slot_frames) if memory.slot_valid[m] and slot_frames[m] >= 0]
    width = layout.panel_width(COLUMNS)
    for user_id, index in inspected.objects.slots.items():
        only = np.where(ids == user_id, ids, 0).astype(np.uint8)
        panels = [
            layout.caption(
                layout.fit(overlay.overlay(frame, only), width), f"frame {inspected.index}: the object"
            )
        ]
        # One scale for all memory frames, so that they can be compared.
        scaled = np.asarray(heat[index], np.float32)
        scaled = scaled / max(float(scaled.max()), 1e-12)
        for m in slots:
            number = int(slot_frames[m])
            picture = lay_heat(inspected.see(video.frame(number)), scaled[m], inspected.inputs[0].shape[:2])
            text = f"memory: frame {number}{' (given)' if pinned[m] else ''}"
            panels.append(layout.caption(layout.fit(picture, width), text))
        title = (
            f"{video.name}, object {user_id} in frame {inspected.index}: "
            "relevance of memory pixels (red high, green medium, blue low)"
        )
        yield user_id, layout.grid(panels, columns=COLUMNS, title=title)


def lay_heat(
    frame: UInt8[np.ndarray, "H W 3"], heat: Float[np.ndarray, "h w"], padded: tuple[int, int]
) -> UInt8[np.ndarray, "H W 3"]:
    """Draws the heat map over the frame in grey; `heat` in [0, 1] covers the padded frame."""
    height, width = frame.shape[:2]
    full = cv2.resize(heat, padded[::-1], interpolation=cv2.INTER_LINEAR)[:height, :width]
    # The square root makes weak values visible next to a peak.
    level = np.round(255 * np.sqrt(np.clip(full, 0, 1))).astype(np.uint8)
    colours = cv2.cvtColor(cv2.applyColorMap(level, cv2.COLORMAP_JET), cv2.COLOR_BGR2RGB)
    grey = cv2.cvtColor(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return cv2.addWeighted(colours, 0.55, grey, 0.45, 0)
