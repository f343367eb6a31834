"""Compares variants of the method at test time, on data that were not trained on.

    python -m benchmarks.ablations --checkpoint auto --davis data/DAVIS --static data/static

The data are the held-back sequences of training, and pseudo-clips with look-alikes: photos with several
labelled instances (configs/train_small.py, JUDGED_PHOTOS) with objects of such photos pasted over them. The
weights are the same in every row, so the table does not show the gain of training with a variant.

J is the mean over objects of the mean over frames at full size, for the final masks, for the matched
proposals before refinement ("coarse"), and for the propagated masks.
"""

import argparse
import dataclasses
import json
import pathlib
import sys
import time
from collections.abc import Iterator

import jax
import numpy as np

from vos_jax import api, errors
from vos_jax import config as configs
from vos_jax.data import config as data_config
from vos_jax.data import datasets, pipeline, pseudo_clips
from vos_jax.evaluation import davis
from vos_jax.inference import engine as engine_lib
from vos_jax.inference import session as session_lib

JUDGED_PHOTOS = ("coco128/*", "pennfudan/*")
STAGES = ("final", "coarse", "propagated")
VARIANTS = {
    "the method": (),
    "alignment none": ("model.alignment=none",),
    "alignment pooled": ("model.alignment=pooled",),
    "alignment topk": ("model.alignment=topk",),
    "alignment transport": ("model.alignment=transport",),
    "template first": ("model.template=first",),
    "template previous": ("model.template=previous",),
    "template mean": ("model.template=mean",),
    "matching hungarian": ("model.matching=hungarian",),
    "matching greedy": ("model.matching=greedy",),
    "matching sinkhorn": ("model.matching=sinkhorn",),
    "read shared": ("model.read.weight=none",),
    "read topk": ("model.read.weight=none", "model.read.topk=32"),
    "propagated masks are the only proposals": ("model.proposals.source=none",),
    "no RefineNet": ("model.refine=false",),
}


@dataclasses.dataclass(frozen=True)
class Clip:
    """Frames uint8 [T, H, W, 3] and ids uint8 [T, H, W]; the first frame's ids are the prompt."""

    frames: np.ndarray
    ids: np.ndarray


def held_back(root: str, frames: int) -> Iterator[Clip]:
    """Yields the first frames of each held-back sequence."""
    sequences = configs.default().train.held_out.sequences
    for video in datasets.open_dataset(
        datasets.EvalDatasetConfig(kind="folders", root=root, sequences=sequences)
    ):
        length = min(frames, len(video))
        yield Clip(
            np.stack([video.frame(index) for index in range(length)]),
            np.stack([video.mask(index) for index in range(length)]),
        )


def look_alikes(root: str, count: int, *, length: int, crop: int, seed: int) -> Iterator[Clip]:
    """Yields pseudo-clips of one to four objects among similar ones; always the same clips."""
    batch = 4
    source = datasets.SourceConfig(kind="photos", root=root, weight=1.0, sequences=JUDGED_PHOTOS)
    config = data_config.ClipDataConfig(
        sources={"static": source},
        clip_length=length,
        crop=crop,
        batch=batch,
        pseudo=pseudo_clips.PseudoClip(size=(0.2, 0.5)),
    )
    data = pipeline.make_pipeline(config, dataset_names=("default",), seed=seed)
    for number in range(0, count, batch):
        drawn = next(data)
        for frames, ids in list(zip(drawn["frames"], drawn["ids"], strict=True))[: count - number]:
            yield Clip(frames, ids)
    data.close()


def score(engine: engine_lib.Engine, clips: list[Clip]) -> dict[str, float]:
    """Returns the mean J by stage, and the seconds per frame."""
    before, frames = engine.seconds["inference"], sum(len(clip.frames) for clip in clips)
    means: dict[str, list[float]] = {name: [] for name in STAGES}
    for clip in clips:
        results = list(session_lib.Session(engine).run(clip.frames, {0: clip.ids[0]}))
        for name in STAGES:
            ids = np.stack([r.ids if name == "final" else r.intermediates[name] for r in results])
            for i in np.unique(clip.ids[0])[1:]:
                pairs = zip(clip.ids[1:] == i, ids[1:] == i, strict=True)
                means[name].append(float(np.mean([davis.region_similarity(*pair) for pair in pairs])))
    seconds = (engine.seconds["inference"] - before) / frames
    return {name: float(np.mean(values)) for name, values in means.items()} | {"seconds": seconds}


@errors.entry_point
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--checkpoint", default="auto")
    parser.add_argument("--davis", required=True, help="a folder of folders with the held-back sequences")
    parser.add_argument("--static", required=True, help="photos with masks")
    parser.add_argument("--frames", type=int, default=30, help="of each held-back sequence")
    parser.add_argument("--clips", type=int, default=100, help="pseudo-clips")
    parser.add_argument("--length", type=int, default=8, help="frames of a pseudo-clip")
    parser.add_argument("--variants", help="names separated by commas; default: all")
    parser.add_argument("--out", type=pathlib.Path, help="a JSONL file that each row is added to")
    rest, overrides = configs.split_arguments(sys.argv[1:])
    options = parser.parse_args(rest)
    names = list(VARIANTS) if options.variants is None else options.variants.split(",")
    if unknown := [name for name in names if name not in VARIANTS]:
        raise errors.VosError(f"no variant {unknown[0]!r}; there are: {', '.join(VARIANTS)}")
    videos = list(held_back(options.davis, options.frames))
    clips = list(look_alikes(options.static, options.clips, length=options.length, crop=352, seed=7))
    print(
        f"{jax.devices()[0].device_kind}, checkpoint {options.checkpoint}, {len(videos)} held-back sequences"
    )
    print(f"of {options.frames} frames at most; {len(clips)} pseudo-clips of {options.length} frames\n")
    print("| variant | J | coarse | propagated | s/frame | J, look-alikes | coarse | propagated | s/frame |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    for name in names:
        config = configs.load("default", [*VARIANTS[name], *overrides])
        config = configs.replace(config, {"checkpoint": options.checkpoint})
        engine = api.make_engine(config, intermediates=STAGES[1:])
        start = time.perf_counter()
        judged = {"held_back": videos, "look_alikes": clips}
        found = {kind: score(engine, shown) for kind, shown in judged.items() if shown}
        cells = [f"{value:.3f}" for scores in found.values() for value in scores.values()]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
        if options.out is not None:
            row = {"variant": name, "overrides": overrides, **found, "wall": time.perf_counter() - start}
            with options.out.open("a") as file:
                file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    sys.exit(main())
