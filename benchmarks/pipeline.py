"""Measures clips per second of the training pipeline, and the shares of its stages.

    python benchmarks/pipeline.py --davis ../shared/data/davis2016-train-360p --static ../shared/data/static

Rows: a DAVIS folder, the same packed into ArrayRecord, pseudo-clips from photos; each with 0 workers (threads
of this process) and with worker processes. Clips per second are wall time, so they are reliable on an idle
machine only; CPU milliseconds per clip (one thread, no workers) depend less on other load.
"""

import argparse
import cProfile
import dataclasses
import pstats
import tempfile
import time

import cv2
import numpy as np
import tensorflow_datasets as tfds

from vos_jax.data import config as data_config
from vos_jax.data import datasets, pipeline
from vos_jax.tools import builders

STAGES = {
    "frames: read, decode": ("frame",),
    "masks: read, decode": ("mask",),
    "place the crop": ("place",),
    "warp": ("render",),
    "pseudo-clip": ("__call__", "pseudo_clips.py"),
    "objects, colours": ("finish",),
    "to arrays": ("to_arrays",),
}
"""Stage -> (function name, end of its file's name); without a file, any file of vos_jax/data."""


def wall(settings: data_config.ClipDataConfig, seconds: float) -> tuple[float, float]:
    """Returns clips per second and the seconds until the first batch."""
    begin = time.perf_counter()
    iterator = pipeline.make_pipeline(settings, dataset_names=("default",))
    next(iterator)
    first = time.perf_counter() - begin
    begin, clip_count = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds:
        clip_count += len(next(iterator)["dataset"])
    iterator.close()
    return clip_count / (time.perf_counter() - begin), first


def profile(settings: data_config.ClipDataConfig, clip_count: int) -> tuple[float, dict[str, float]]:
    """Returns CPU milliseconds per clip, unprofiled, and the profiled share of each stage."""
    videos = tuple(datasets.open_training_videos(source) for source in settings.drawn().values())
    make = pipeline.MakeClip(settings, videos, ("default",), 0)
    items = np.random.default_rng(0).integers(len(videos[0]), size=clip_count)

    def run() -> None:
        for position, item in enumerate(items):
            make(position, np.array([0, item]))

    run()
    begin = time.process_time()
    run()
    spent = (time.process_time() - begin) / clip_count * 1e3
    profiler = cProfile.Profile(time.process_time)
    profiler.runcall(run)
    stats = pstats.Stats(profiler)
    shares = {}
    for stage, (name, *file) in STAGES.items():
        inside = [
            cumulative
            for (path, _, function), (_, _, _, cumulative, _) in stats.stats.items()
            if function == name and "vos_jax/data/" in path and path.endswith(file[0] if file else ".py")
        ]
        # If functions of one name call each other, the outermost has the total time.
        shares[stage] = max(inside, default=0.0) / stats.total_tt
    return spent, shares


def main() -> None:
    """Prints both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--davis", required=True, help="DAVIS layout")
    parser.add_argument("--static", required=True, help="photos with masks")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=5.0, help="per row")
    args = parser.parse_args()
    tfds.disable_progress_bar()
    with tempfile.TemporaryDirectory() as packed:
        davis = datasets.SourceConfig(root=args.davis, weight=1.0)
        builders.pack(davis, packed, name="davis")
        sources = {
            "folder": davis,
            "array_record": datasets.SourceConfig(kind="array_record", root=packed, weight=1.0),
            "pseudo-clips": datasets.SourceConfig(kind="photos", root=args.static, weight=1.0),
        }
        settings = {
            name: data_config.ClipDataConfig(sources={name: s}, batch=4) for name, s in sources.items()
        }
        threads = cv2.getNumThreads()
        print(f"{'source':<14}{'workers':>8}{'clips/s':>10}{'first batch s':>15}")
        for name, setting in settings.items():
            for workers in (0, args.workers):
                setting = dataclasses.replace(setting, workers=workers)
                rate, first = wall(setting, args.seconds)
                print(f"{name:<14}{workers:>8}{rate:>10.1f}{first:>15.1f}", flush=True)
        print(f"\n{'source':<14}{'CPU ms/clip':>12}  " + "".join(f"{stage:>22}" for stage in STAGES))
        cv2.setNumThreads(1)
        for name, setting in settings.items():
            spent, shares = profile(setting, 60)
            print(f"{name:<14}{spent:>12.1f}  " + "".join(f"{share:>22.0%}" for share in shares.values()))
        cv2.setNumThreads(threads)


if __name__ == "__main__":
    main()
