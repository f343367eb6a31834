"""Measures the stages of a frame at 480x854: milliseconds, GFLOP, bytes and the lower bound of the time.

    python -m benchmarks.speed [--variants lite0] [--objects 1,3,5,10] [--slots 2,8,20] [--json OUT.json]
    python -m benchmarks.speed --compare BEFORE.json AFTER.json

A rendered video is segmented until the memory is full; then each stage is compiled separately and run on the
inputs of the next frame, so the stages need not add up to the whole step. The floor is the time of the
stage's arithmetic at the rate of a large matrix product, measured at the start of the run. GFLOP and MB are
XLA's count of the branches that ran (benchmarks/cost.py); MB give no floor, because caches serve most of
them. "Step" is the engine's whole frame: numpy in, ids out. I/O is decoding a JPEG and writing an indexed
PNG.
"""

import argparse
import dataclasses
import functools
import json
import math
import pathlib
import platform
import resource
import statistics
import sys
import tempfile
import time
from typing import Any
from unittest import mock

import cv2
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import cost, peaks, stages
from vos_jax import config as configs
from vos_jax import errors, geometry
from vos_jax.data import image_files as frame_lib
from vos_jax.data import mask_files
from vos_jax.data.datasets import rendered
from vos_jax.inference import engine as engine_lib
from vos_jax.inference import session as session_lib
from vos_jax.models import read as read_lib
from vos_jax.models import search_region, vos, weights
from vos_jax.models import state as state_lib
from vos_jax.ops import attention, windows

SIZE = (480, 854)


def peak_megabytes() -> float:
    """Returns the peak memory of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def resident_megabytes() -> float:
    """Returns the resident memory of this process, in MiB."""
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def segment(
    engine: engine_lib.Engine, count: int, frames: int
) -> tuple[session_lib.Session, np.ndarray, list[float]]:
    """Segments `count` rendered objects; returns the session, its next frame and each step's milliseconds."""
    video = rendered.make_video(size=SIZE, frames=24, objects=count)
    shown = [video.frame(index) for index in range(len(video))]
    session, times = session_lib.Session(engine, SIZE, {0: video.mask(0)}), []
    for index in range(frames):
        # Forward and backward, so that the loop is continuous.
        place = index % 46
        frame = shown[place if place < 24 else 46 - place]
        start = time.perf_counter()
        session.step(frame, video.mask(0) if index == 0 else None)
        times.append(1e3 * (time.perf_counter() - start))
    place = frames % 46
    return session, shown[place if place < 24 else 46 - place], times


def stage_rows(
    session: session_lib.Session, frame: np.ndarray, peak: peaks.Peaks
) -> dict[str, dict[str, float]]:
    """Measures every stage on a session's next frame."""

    def evaluate(function: Any, *arguments: Any) -> Any:
        return jax.jit(function)(*arguments)

    model, (state,) = session.engine.model, session.snapshot().states
    padded = jax.device_put(geometry.pad(frame, session.views[0].padded_size))
    rows = {}
    for name, function, arguments in stages.of_frame(model, session.params, state, padded, evaluate):
        compiled = jax.jit(function)
        took = peaks.measure(lambda compiled=compiled, arguments=arguments: compiled(*arguments))
        queries, held = _blocks_that_ran(model, state)
        with (
            mock.patch.object(attention, "QUERY_BLOCK", queries),
            mock.patch.object(attention, "MEMORY_BLOCK", held),
            mock.patch.object(windows, "sizes", _window_that_ran(model, state)),
        ):
            # A new function, because JAX would reuse the trace from above.
            alone = functools.partial(lambda function, *x: function(*x), function)
            found = cost.cost_of(alone, *jax.eval_shape(lambda *x: x, *arguments))
        rows[name] = {
            "ms": took.median,
            "iqr": took.iqr,
            "gflop": found.flops / 1e9,
            "mb": found.bytes / 1e6,
            "floor": peak.floor(found.flops),
        }
    return rows


def _blocks_that_ran(model: Any, state: state_lib.State) -> tuple[int, int]:
    """Returns the numbers of near query pixels and of near pixels of a slot, rounded up to blocks.

    With blocks of these sizes every loop of the read runs once, so a count of the program is correct.
    """
    radius, memory = model.config.read.search_radius, state.memory
    n, slots, h, w = memory.prob.shape
    if radius == 0:
        return h * w, h * w
    there = memory.object_in_slot & memory.slot_valid[None]
    region = search_region.search_region(state.prev_prob, memory, radius)
    region &= jnp.any(there, axis=1)[:, None, None]
    held = search_region.around(memory.prob.reshape(n * slots, h, w), (h, w), radius, read_lib.COVERED)
    held = jnp.where(there, jnp.sum(held.reshape(n, slots, -1), axis=-1), 0)
    sizes = attention.QUERY_BLOCK, attention.MEMORY_BLOCK
    counts = int(jnp.sum(jnp.any(region, axis=0))), int(jnp.max(held))
    queries, pixels = (size * math.ceil(count / size) for size, count in zip(sizes, counts, strict=True))
    return max(queries, sizes[0]), max(pixels, sizes[1])


def _window_that_ran(model: Any, state: state_lib.State) -> Any:
    """Replaces `windows.sizes` by one window: the largest that any object needs."""
    known, reach = windows.sizes, model.config.read.search_radius
    memory = state.memory
    h, w = memory.prob.shape[2:]
    if reach == 0:
        return known
    largest = 0
    for near in np.asarray(search_region.around(state.prev_prob, (h, w), reach)):
        extent = [np.ptp(np.nonzero(near.any(axis))[0]) + 1 + 2 * windows.MARGIN for axis in (1, 0)]
        wanted = np.minimum(extent, (h, w))
        largest = max(largest, next(i for i, size in enumerate(known((h, w))) if np.all(size >= wanted)))
    return lambda grid: [known(grid)[largest]]


def io_rows(folder: pathlib.Path, frame: np.ndarray, ids: np.ndarray) -> dict[str, dict[str, float]]:
    """Times reading a frame and writing a mask."""
    path = folder / "frame.jpg"
    cv2.imwrite(str(path), frame[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
    took = {
        "decode a frame": peaks.measure(lambda: frame_lib.read_frame(path)),
        "write a mask": peaks.measure(lambda: mask_files.write_mask(folder / "mask.png", ids)),
    }
    return {name: {"ms": spread.median, "iqr": spread.iqr} for name, spread in took.items()}


def make_model(config: Any, checkpoint: str) -> tuple[Any, Any, str]:
    """Loads a model as `weights.load_model`, or one with random weights, which is as fast."""
    if checkpoint != "random":
        return weights.load_model(config.model, checkpoint)
    model = vos.VOS(config=config.model)
    return model, model.init(jax.random.key(0)), checkpoint


def case(config: Any, checkpoint: str, count: int, frames: int, peak: peaks.Peaks) -> dict[str, Any]:
    """Measures one variant with `count` objects and the config's number of memory slots."""
    model, params, label = make_model(config, checkpoint)
    engine = engine_lib.Engine(model, params, dataclasses.replace(config.inference, min_size=0))
    session, frame, times = segment(engine, count, frames)
    ids = np.zeros(SIZE, np.uint8)
    rows = stage_rows(session, frame, peak)
    last = times[-min(40, frames // 2) :]
    low, _, high = statistics.quantiles(last, n=4)
    rows["step"] = {"ms": statistics.median(last), "iqr": high - low}
    with tempfile.TemporaryDirectory() as folder:
        rows |= io_rows(pathlib.Path(folder), frame, ids)
    return {
        "variant": config.model.variant,
        "checkpoint": label,
        "objects": count,
        "room": session.snapshot().states[0].object_valid.size,
        "slots": config.model.memory.capacity,
        "stages": rows,
        "compile_seconds": engine.seconds["compile"],
        "peak_mb": peak_megabytes(),
    }


def as_markdown(found: dict[str, Any]) -> str:
    """Formats one case as a table."""
    lines = [
        f"## {found['variant']} ({found['checkpoint']}), {found['objects']} object(s) in a room for "
        f"{found['room']}, {found['slots']} slots\n",
        "| stage | median ms | IQR | GFLOP | MB | floor ms | floor / time |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, row in found["stages"].items():
        cells = [name, f"{row['ms']:.1f}", f"{row['iqr']:.1f}"]
        if "floor" in row:
            cells += [f"{row['gflop']:.2f}", f"{row['mb']:.0f}", f"{row['floor']:.1f}"]
            cells += [f"{row['floor'] / row['ms']:.0%}"]
        else:
            cells += [""] * 4
        lines.append(f"| {' | '.join(cells)} |")
    lines.append(f"\ncompile {found['compile_seconds']:.1f} s, peak memory {found['peak_mb']:.0f} MB\n")
    return "\n".join(lines)


def compare(before: pathlib.Path, after: pathlib.Path) -> str:
    """Formats the ratio after / before of every stage in both files.

    Raises:
      VosError: a file is none of ours, or they have no case in common.
    """

    def read(path: pathlib.Path) -> dict[tuple, dict[str, Any]]:
        try:
            cases = json.loads(path.read_text())["cases"]
            return {(c["variant"], c["objects"], c["slots"]): c["stages"] for c in cases}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise errors.VosError(f"{path} was not written by --json ({error})") from error

    old, new = read(before), read(after)
    both = [key for key in old if key in new]
    if not both:
        raise errors.VosError(f"{before} and {after} have no variant, objects and slots in common")
    lines = ["| variant | objects | slots | stage | before ms | after ms | after / before |"]
    lines.append("|---|---:|---:|---|---:|---:|---:|")
    for key in both:
        for name in [name for name in old[key] if name in new[key]]:
            a, b = old[key][name]["ms"], new[key][name]["ms"]
            lines.append(f"| {key[0]} | {key[1]} | {key[2]} | {name} | {a:.1f} | {b:.1f} | {b / a:.2f} |")
    return "\n".join(lines)


@errors.entry_point
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--variants", default="lite0")
    parser.add_argument("--checkpoint", default="auto", help="of lite0; other variants have random weights")
    parser.add_argument("--objects", default="1,3")
    parser.add_argument("--slots", default="8", help="model.memory.capacity")
    parser.add_argument("--frames", type=int, default=62, help="steps before the stages are measured")
    parser.add_argument("--json", type=pathlib.Path, help="file for the measurements")
    parser.add_argument("--compare", nargs=2, type=pathlib.Path, metavar=("BEFORE", "AFTER"))
    rest, overrides = configs.split_arguments(sys.argv[1:])
    options = parser.parse_args(rest)
    if options.compare:
        print(compare(*options.compare))
        return
    peak = peaks.measured()
    device = f"{jax.devices()[0].device_kind}, {platform.machine()}, {jax.default_backend()}"
    print(f"# {SIZE[0]}x{SIZE[1]}, {device}, jax {jax.__version__}\n")
    print(f"peak {peak.flops / 1e9:.0f} GFLOP/s, {peak.bytes / 1e9:.1f} GB/s\n", flush=True)
    cases = []
    for variant in options.variants.split(","):
        for slots in map(int, options.slots.split(",")):
            settings = [f"model.variant={variant}", f"model.memory.capacity={slots}", *overrides]
            config = configs.load("default", settings)
            checkpoint = options.checkpoint if variant == "lite0" else "random"
            for count in map(int, options.objects.split(",")):
                cases.append(case(config, checkpoint, count, options.frames, peak))
                print(as_markdown(cases[-1]), flush=True)
    if options.json:
        named = {"device": device, "jax": jax.__version__, "peaks": peak._asdict(), "cases": cases}
        options.json.write_text(json.dumps(named, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
