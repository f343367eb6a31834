"""Running eval.py in-process on small rendered videos, with a model that copies masks in milliseconds."""

import dataclasses
import json
import pathlib

import numpy as np

import eval as program
from vos_jax.inference import config, frame_result
from vos_jax.inference import engine as engine_lib
from vos_jax.inference import session as session_lib

ROOT = pathlib.Path(__file__).resolve().parents[2]
SIZE = (48, 70)
FRAMES = 5
CSV = ["global_results-val.csv", "per-sequence_results-val.csv"]


class CopyEngine(engine_lib.Engine):
    """Computes nothing: every frame gets the first frame's masks. Notes how many frames each session had."""

    segmented: list[int] = []
    interrupt_after = None

    def __init__(self, model, params, *_, **options):
        super().__init__(model, {}, config.InferenceConfig(min_size=0), **options)


class CopySession(session_lib.Session):
    """A session whose masks are the first frame's."""

    def __init__(self, engine, size=None, prompts=None):
        super().__init__(engine, size, prompts)
        CopyEngine.segmented.append(0)

    def dispatch(self, frame, prompt=None, *, proposals=None, soft=False):
        if CopyEngine.interrupt_after == (len(CopyEngine.segmented), self.index):
            raise KeyboardInterrupt
        CopyEngine.segmented[-1] += 1
        self.first = prompt.ids if self.index == 0 else self.first
        assert frame.shape[:2] == self.first.shape and frame.dtype == np.uint8
        self._now = dataclasses.replace(self._now, index=self.index + 1)
        return frame_result.Pending(frame_result.FrameResult(index=self.index - 1, ids=self.first))


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
