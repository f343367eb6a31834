"""Previews of one training clip: frames, ground truth, coarse and refined masks."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vos_jax import geometry
from vos_jax.models import state as state_lib
from vos_jax.models import step as step_lib
from vos_jax.models import vos
from vos_jax.ops import masks
from vos_jax.typing import Array, UInt8
from vos_jax.visualize import overlay

WIDTH = 192  # of one picture, in pixels


def make_preview(model: vos.VOS) -> Callable[[Any, Mapping[str, np.ndarray]], UInt8[np.ndarray, "H2 W2 3"]]:
    """Returns a function from parameters and ONE clip (`clips.ClipArrays`) to a contact sheet.

    A row is a frame; the columns are the frame, ground truth, coarse masks and refined masks.
    """

    def predict(params: Any, clip: Mapping[str, Any]) -> tuple[Array, Array]:
        height, width = clip["frames"].shape[1:3]
        size, count = (height, width), clip["object_valid"].shape[0]
        state = state_lib.init_state(model, count, size, clip["frame_size"])
        first = masks.one_hot(clip["ids"][0], count)
        nothing = state_lib.no_prompt(count, size)
        truth = nothing.replace(mask=first.astype(jnp.float32), given=clip["object_valid"])

        def step(state: state_lib.State, inputs: tuple) -> tuple[state_lib.State, tuple[Array, Array]]:
            frame, time = inputs
            prompt = jax.tree.map(lambda a, b: jnp.where(time == 0, a, b), truth, nothing)
            state, output = step_lib.step(model, params, state, frame, prompt)
            prob = output.prob
            coarse = jnp.where(time == 0, prob[1:], output.prediction.out.coarse)
            coarse = masks.aggregate(coarse, state.object_valid)
            coarse_ids, ids = (masks.to_ids(p, geometry.MASK_STRIDE) for p in (coarse, prob))
            return state, (coarse_ids, ids)

        times = jnp.arange(clip["frames"].shape[0])
        return jax.lax.scan(step, state, (clip["frames"], times))[1]

    predict = jax.jit(predict)

    def preview(params: Any, clip: Mapping[str, np.ndarray]) -> UInt8[np.ndarray, "H2 W2 3"]:
        found = [np.asarray(ids) for ids in predict(params, dict(clip))]
        pictures = []
        for time, frame in enumerate(clip["frames"]):
            pictures.append(frame)
            pictures += [overlay.overlay(frame, ids[time]) for ids in (clip["ids"], *found)]
        return overlay.contact_sheet(pictures, columns=4, width=4 * WIDTH)

    return preview
