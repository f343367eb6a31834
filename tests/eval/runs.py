"""Running eval.py in-process on small rendered videos, with a model that copies masks in milliseconds."""

import json
import pathlib

import numpy as np

import eval as program
from vos_jax.inference import tracked
from vos_jax.models import memory

ROOT = pathlib.Path(__file__).resolve().parents[2]
SIZE = (48, 70)
FRAMES = 5
CSV = ["global_results-val.csv", "per-sequence_results-val.csv"]


class CopyTracker:
    """Follows nothing: every frame gets what `answer` makes of the given masks."""

    followed: list[int] = []
    interrupt_after = None

    def __init__(self, model, params, **kwargs):
        self.seconds = {"compile": 0.0, "inference": 0.0, "adaptation": 0.0}

    def bucket(self, num_objects):
        return num_objects

    @property
    def model(self):
        return self

    memory_spec = memory.MemorySpec(
        config=memory.MemoryConfig(capacity=8), stride=16, key_size=0, embed_size=0, value_size=0
    )

    def start(self, size, num_objects):
        CopyTracker.followed.append(0)
        return CopyTrack()


class CopyTrack:
    """A track whose masks are the first frame's."""

    index = 0

    def step(self, frame, ids, proposals=None):
        if CopyTracker.interrupt_after == (len(CopyTracker.followed), self.index):
            raise KeyboardInterrupt
        CopyTracker.followed[-1] += 1
        self.first = ids if self.index == 0 else self.first
        self.index += 1
        assert frame.shape[:2] == self.first.shape and frame.dtype == np.uint8
        return tracked.TrackedFrame(ids=self.first, presence={})


def run(davis, out, *more, config="davis17"):
    return program.main(["--config", config, "--data", str(davis), "--out", str(out), *map(str, more)])


def results_of(out):
    return json.loads((out / "results.json").read_text())


def times(out):
    return {path: path.stat().st_mtime_ns for path in sorted(out.glob("*/*.png"))}


def check_message(capsys, named: str, lines: int | None = 1):
    error = capsys.readouterr().err
    assert error.startswith("error: ") and named in error, error
    assert lines is None or len(error.strip().splitlines()) == lines, error
