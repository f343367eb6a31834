"""Measures the share of returning objects that are found again, by eviction policy and search radius.

    python -m benchmarks.reidentification [--checkpoint auto] [--videos 2] [--frames 180] [--size 96x160]

The videos are rendered: in each, all objects leave twice for 30 frames and return. There is one object, or
two, or one among static background objects of a slightly different hue. A return is found if J exceeds 0.5 in
one of the first five frames in which the object is back (with a quarter of its usual area).

The table also has J in frames with the object, and the share of frames without it in which the mask is empty,
as it should be. All policies have the same number of slots.
"""

import argparse
import platform
import statistics
import sys

import jax
import numpy as np

from benchmarks import long_video
from vos_jax import config as configs
from vos_jax import devices, errors
from vos_jax.data.datasets import rendered
from vos_jax.evaluation import davis, reappearance
from vos_jax.inference import engine as engine_lib
from vos_jax.inference import session as session_lib
from vos_jax.models import weights

KINDS = {
    "alone": {"objects": 1},
    "two objects": {"objects": 2},
    "look-alikes": {"objects": 1, "look_alikes": 2},
}
AWAY = ((40, 70), (110, 140))
ROWS = (*long_video.EVICTIONS, "fifo:0", "consolidate:0")


def make_videos(
    kinds: list[str], size: tuple[int, int], frames: int, count: int
) -> dict[str, list[rendered.RenderedVideo]]:
    """Returns `count` videos of each kind, always the same ones."""
    return {
        kind: [
            rendered.make_video(f"returns{number}", size=size, frames=frames, away=AWAY, **settings)
            for number in range(count)
        ]
        for kind, settings in ((kind, KINDS[kind]) for kind in kinds)
    }


def score(engine: engine_lib.Engine, video: rendered.RenderedVideo) -> tuple[list[bool], list, list]:
    """Returns, for one video: returns found, J of visible objects, whether masks of absent ones are empty."""
    frames = (video.frame(index) for index in range(len(video)))
    ids = [video.mask(index) for index in range(len(video))]
    found = [result.ids for result in session_lib.Session(engine).run(frames, video.prompts())]
    recovered, similarity, empty = [], [], []
    for object_id, first in video.first_frames.items():
        truth, predicted = ([x == object_id for x in masks[first:]] for masks in (ids, found))
        recovered += reappearance.recovered(truth, predicted)
        for a, b in zip(truth[1:], predicted[1:], strict=True):
            if np.any(a):
                similarity.append(davis.region_similarity(a, b))
            else:
                empty.append(not np.any(b))
    return recovered, similarity, empty


@errors.entry_point
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--checkpoint", default="auto")
    parser.add_argument("--videos", type=int, default=2, help="of each kind")
    parser.add_argument("--frames", type=int, default=180)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--rows", default=",".join(ROWS), help="eviction policies: POLICY or POLICY:RADIUS")
    parser.add_argument("--size", default="96x160", help="HEIGHTxWIDTH")
    options, overrides = configs.split_arguments(sys.argv[1:])
    options = parser.parse_args(options)
    kinds = options.kinds.split(",")
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise errors.VosError(f"no kind {unknown[0]!r}; there are: {', '.join(KINDS)}")
    devices.choose(None)
    videos = make_videos(kinds, long_video.parse_size(options.size), options.frames, options.videos)
    device = f"{jax.devices()[0].device_kind}, {platform.machine()}, {jax.default_backend()}"
    print(
        f"# {options.videos} videos of each kind, {options.frames} frames of {options.size}, "
        f"checkpoint {options.checkpoint}, {device}\n"
    )
    print(f"| eviction | reach | {' | '.join(kinds)} | all | J in view | empty when away |")
    print(f"|---|---:|{'---:|' * (len(kinds) + 3)}")
    for eviction, _, reach in (row.partition(":") for row in options.rows.split(",")):
        more = [f"model.read.search_radius={reach}"] if reach else []
        config = long_video.of_policy(configs.load("default", [*overrides, *more]), eviction)
        model, params, _ = weights.load_model(config.model, options.checkpoint)
        engine = long_video.make_engine(config, model, params)
        shares, everything = [], ([], [], [])
        for drawn in videos.values():
            scored = [score(engine, video) for video in drawn]
            recovered = [x for part in scored for x in part[0]]
            shares.append(f"{sum(recovered)}/{len(recovered)}")
            for total, parts in zip(everything, zip(*scored, strict=True), strict=True):
                total += [x for part in parts for x in part]
        recovered, similarity, empty = everything
        radius = f"{config.model.read.search_radius:g}"
        cells = [eviction, radius, *shares, f"{statistics.mean(recovered):.2f}"]
        cells += [f"{statistics.mean(similarity):.3f}", f"{statistics.mean(empty):.3f}"]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
