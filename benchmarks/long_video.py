"""Compares the cost of frames 100 and 1,900 of a long video in which the object leaves and returns.

    python -m benchmarks.long_video [--checkpoint auto] [--frames 2000] [--size 96x160]

One table row per eviction policy, all with the same number of slots. Times are medians over 81 frames of the
step alone, from the frame to its mask; memory is this process's resident set and the bytes of the state. J is
the mean over all frames but the first; while the object is away, an empty mask is correct. The video is
rendered, so nothing is downloaded.
"""

import argparse
import dataclasses
import platform
import statistics
import sys
import time
from typing import Any

import jax
import numpy as np

from benchmarks import speed
from vos_jax import config as configs
from vos_jax import devices, errors
from vos_jax.data.datasets import rendered
from vos_jax.evaluation import davis, reappearance
from vos_jax.inference import engine as engine_lib
from vos_jax.inference import session as session_lib
from vos_jax.models import memory, weights

EVICTIONS = tuple(memory.EVICTIONS)
PERIOD, GONE = 250, (150, 200)  # In each period the object is away between these frames.
AROUND, WINDOW = 100, 40  # Frames around this one are compared with frames this far from the end.


@dataclasses.dataclass(frozen=True)
class Run:
    """The results of one policy: milliseconds, megabytes, state bytes and J per frame; returns recovered."""

    milliseconds: list[float]
    resident: list[float]
    state_bytes: list[int]
    similarity: list[float]
    recovered: list[bool]

    def around(self, index: int, values: list) -> float:
        """Returns the median over the frames around frame `index`."""
        return statistics.median(values[max(0, index - WINDOW) : index + WINDOW + 1])


def make_video(size: tuple[int, int], frames: int) -> rendered.RenderedVideo:
    """Returns a video of one object that is away for 50 frames in every 250."""
    away = tuple((first + GONE[0], first + GONE[1]) for first in range(0, frames, PERIOD))
    return rendered.make_video(size=size, frames=frames, objects=1, away=away)


def parse_size(text: str) -> tuple[int, int]:
    """Parses HEIGHTxWIDTH; raises `VosError` for anything else."""
    try:
        height, width = map(int, text.split("x"))
    except ValueError:
        raise errors.VosError(f"--size {text!r}; write HEIGHTxWIDTH, like 96x160") from None
    return height, width


def of_policy(config, eviction: str):
    """Returns the config with another eviction policy and the same number of slots, long-term slot included.

    Raises:
      VosError: there is no such policy.
    """
    if eviction not in EVICTIONS:
        raise errors.VosError(f"no eviction policy {eviction!r}; there are: {', '.join(EVICTIONS)}")
    capacity = config.model.memory.capacity - (eviction == "consolidate")
    return configs.replace(config, {"model.memory.eviction": eviction, "model.memory.capacity": capacity})


def make_engine(config: configs.Config, model: Any, params: Any) -> engine_lib.Engine:
    """Returns an engine without resizing, test-time augmentation and adaptation."""
    plain = {"min_size": 0, "max_size": 0, "scales": (1.0,), "flip": False}
    still = dataclasses.replace(config.inference.adaptation, steps=0)
    return engine_lib.Engine(model, params, dataclasses.replace(config.inference, adaptation=still, **plain))


def segment(engine: engine_lib.Engine, video: rendered.RenderedVideo) -> Run:
    """Segments the video from its first mask and measures every frame."""
    session = session_lib.Session(engine, video.size)
    milliseconds, resident, sizes, truth, found = [], [], [], [], []
    for index in range(len(video)):
        frame, ids = video.frame(index), video.mask(index)
        start = time.perf_counter()
        result = session.step(frame, ids if index == 0 else None)
        milliseconds.append(1e3 * (time.perf_counter() - start))
        resident.append(speed.resident_megabytes())
        sizes.append(sum(leaf.nbytes for leaf in jax.tree.leaves(session.snapshot().states)))
        truth.append(np.packbits(ids == 1))
        found.append(np.packbits(result.ids == 1))

    def mask(packed: np.ndarray) -> np.ndarray:
        height, width = video.size
        return np.unpackbits(packed, count=height * width).reshape(height, width).astype(bool)

    truth, found = [mask(m) for m in truth], [mask(m) for m in found]
    similarity = [davis.region_similarity(a, b) for a, b in zip(truth, found, strict=True)]
    return Run(milliseconds, resident, sizes, similarity[1:], reappearance.recovered(truth, found))


def row(name: str, run: Run) -> str:
    """Formats one line of the table."""
    early, late = AROUND, len(run.milliseconds) - AROUND
    cells = [name]
    for values, form in ((run.milliseconds, "{:.1f}"), (run.resident, "{:.0f}")):
        before, after = run.around(early, values), run.around(late, values)
        cells += [form.format(before), form.format(after), f"{after / before:.3f}"]
    before, after = run.state_bytes[early], run.state_bytes[late]
    cells += [f"{before / 2**20:.2f}", f"{after / before:.3f}", f"{statistics.mean(run.similarity):.3f}"]
    cells.append(f"{sum(run.recovered)} of {len(run.recovered)}")
    return f"| {' | '.join(cells)} |"


@errors.entry_point
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--checkpoint", default="auto")
    parser.add_argument("--frames", type=int, default=2000)
    parser.add_argument("--size", default="96x160", help="HEIGHTxWIDTH")
    parser.add_argument("--evictions", default=",".join(EVICTIONS))
    options, overrides = configs.split_arguments(sys.argv[1:])
    options = parser.parse_args(options)
    if options.frames < 2 * (AROUND + WINDOW):
        raise errors.VosError(f"--frames {options.frames}: at least {2 * (AROUND + WINDOW)} are needed")
    height, width = parse_size(options.size)
    evictions = options.evictions.split(",")
    devices.choose(None)
    video = make_video((height, width), options.frames)
    device = f"{jax.devices()[0].device_kind}, {platform.machine()}, {jax.default_backend()}"
    print(f"# {len(video)} frames of {height}x{width}, checkpoint {options.checkpoint}, {device}")
    print(f"# before: around frame {AROUND}; after: around frame {len(video) - AROUND}\n")
    heads = [
        "eviction",
        "ms before",
        "after",
        "ratio",
        "RSS MB before",
        "after",
        "ratio",
        "state MB",
        "ratio",
    ]
    heads += ["J", "returns found"]
    print(f"| {' | '.join(heads)} |\n|---|{'---:|' * (len(heads) - 1)}")
    for eviction in evictions:
        config = of_policy(configs.load("default", overrides), eviction)
        model, params, _ = weights.load_model(config.model, options.checkpoint)
        engine = make_engine(config, model, params)
        print(row(eviction, segment(engine, video)), flush=True)


if __name__ == "__main__":
    sys.exit(main())
