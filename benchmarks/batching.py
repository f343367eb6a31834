"""Compares segmenting several videos of one size in one program with segmenting them one after the other.

    python -m benchmarks.batching [--checkpoint auto] [--sizes 480x854,240x432] [--batches 2,4] [--objects 1]

Measures the step alone, with a full memory: B videos in one program (`jax.vmap`) against B calls of the
program for one video, with the same states and frames. Times are medians of `--repeats` alternating rounds.
"""

import argparse
import platform
import statistics
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import long_video
from vos_jax import config as configs
from vos_jax import devices, errors, geometry
from vos_jax.data.datasets import rendered
from vos_jax.inference import engine as engine_lib
from vos_jax.inference import session as session_lib
from vos_jax.models import state as state_lib
from vos_jax.models import step as step_lib
from vos_jax.models import weights
from vos_jax.ops import masks


def full_state(engine: engine_lib.Engine, size: tuple[int, int], objects: int):
    """Returns the state after a few frames, the next frame, and its empty prompt.

    Empty slots are filled with copies of the newest frame, so that reads cost as much as later in a video.
    """
    video = rendered.make_video(size=size, frames=3, objects=objects)
    session = session_lib.Session(engine, size, {0: video.mask(0)})
    for index in range(2):
        session.step(video.frame(index), video.mask(0) if index == 0 else None)
    (state,) = session.snapshot().states
    memory = state.memory
    newest = jnp.argmax(memory.slot_frame)

    def fill(x, axis: int):
        one = jnp.take(x, newest[None], axis=axis)
        empty = (memory.slot_frame < 0).reshape(*[1] * axis, -1, *[1] * (x.ndim - axis - 1))
        return jnp.where(empty, one, x)

    shared = ("key", "embed", "pixel_valid", "slot_valid", "slot_frame")
    own = ("value", "prob", "object_in_slot")
    memory = memory.replace(
        **{name: fill(getattr(memory, name), 0) for name in shared},
        **{name: fill(getattr(memory, name), 1) for name in own},
    )
    ((frame, prompt, _),) = session.prepare(video.frame(2)).arrays
    return state.replace(memory=memory), frame, prompt


def compare(model, params, inputs: tuple, batches: list[int], repeats: int):
    """Yields the number of videos, median seconds one by one and together, and whether ids are equal."""

    def step(params, state: state_lib.State, frame, prompt):
        state, output = step_lib.step(model, params, state, frame, prompt)
        return state, masks.to_ids(output.prob, geometry.MASK_STRIDE)

    alone = jax.jit(step).lower(params, *inputs).compile()
    _, one = jax.block_until_ready(alone(params, *inputs))
    for batch in batches:
        stacked = jax.tree.map(lambda x, batch=batch: jnp.stack([jnp.asarray(x)] * batch), inputs)
        together = jax.jit(jax.vmap(step, in_axes=(None, 0, 0, 0))).lower(params, *stacked).compile()
        _, many = jax.block_until_ready(together(params, *stacked))
        times: tuple[list[float], list[float]] = ([], [])
        for _ in range(repeats):
            start = time.perf_counter()
            for _ in range(batch):
                jax.block_until_ready(alone(params, *inputs))
            middle = time.perf_counter()
            jax.block_until_ready(together(params, *stacked))
            times[0].append(middle - start)
            times[1].append(time.perf_counter() - middle)
        yield batch, *map(statistics.median, times), all(np.array_equal(one, each) for each in many)


@errors.entry_point
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--checkpoint", default="auto")
    parser.add_argument("--sizes", default="480x854,240x432", help="HEIGHTxWIDTH, separated by commas")
    parser.add_argument("--batches", default="2,4")
    parser.add_argument("--objects", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=7)
    options, overrides = configs.split_arguments(sys.argv[1:])
    options = parser.parse_args(options)
    devices.choose(None)
    config = configs.load("default", overrides)
    model, params, _ = weights.load_model(config.model, options.checkpoint)
    params = jax.device_put(params)
    engine = long_video.make_engine(config, model, params)
    device = f"{jax.devices()[0].device_kind}, {platform.machine()}, {jax.default_backend()}"
    print(
        f"# checkpoint {options.checkpoint}, {options.objects} object(s), {device}; seconds per video frame\n"
    )
    print("| size | videos | one by one | together | together / one by one | same ids |")
    print("|---|---:|---:|---:|---:|---|")
    for size in map(long_video.parse_size, options.sizes.split(",")):
        inputs = full_state(engine, size, options.objects)
        batches = [int(batch) for batch in options.batches.split(",")]
        for batch, alone, together, same in compare(model, params, inputs, batches, options.repeats):
            cells = [f"{size[0]}x{size[1]}", batch, f"{alone / batch:.3f}", f"{together / batch:.3f}"]
            print(f"| {' | '.join(map(str, cells))} | {together / alone:.2f} | {same} |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
