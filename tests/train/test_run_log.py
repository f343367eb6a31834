"""Logs for people: lines of JSON that survive interruptions, and the batch of a bad step."""

import io
import json

import numpy as np
import pytest
from rich import console

from vos_jax import errors
from vos_jax.train import run_log


def view(folder, start: int, stream=None) -> run_log.RunLog:
    screen = console.Console(file=stream or io.StringIO(), soft_wrap=True)
    return run_log.RunLog(folder, screen, start=start, total=10, clips=4)


def steps(folder, name: str = run_log.METRICS) -> list[int]:
    return [json.loads(line)["step"] for line in (folder / name).read_text().splitlines()]


def test_lines_beyond_the_checkpoint_are_written_anew(tmp_path):
    with view(tmp_path, 0) as first:
        for step in range(1, 6):
            first.scalars(step, {"loss": 1.0 / step})
        first.evaluation(2, 0.5, {"dog": 0.5})
        first.evaluation(4, 0.6, {"dog": 0.6})
    with (tmp_path / run_log.METRICS).open("a") as file:
        file.write('{"step": 6, "lo')
    with view(tmp_path, 3) as second:
        assert steps(tmp_path) == [1, 2, 3] and steps(tmp_path, run_log.EVALUATIONS) == [2]
        second.scalars(4, {"loss": 0.25})
    assert steps(tmp_path) == [1, 2, 3, 4]


def test_the_line_shows_speed_waiting_and_time_left(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(run_log.time, "perf_counter", lambda: now[0])
    stream = io.StringIO()
    with view(tmp_path, 0, stream) as shown:
        shown.begin(1)
        with shown.waiting():
            now[0] += 1.0
        with shown.pause():
            now[0] += 100.0
        now[0] += 3.0
        shown.scalars(3, {"loss": 0.5})
    # Two steps of four clips in four seconds, one of them waited; seven steps left at two seconds each.
    assert "step 3/10  loss 0.5  2.00 clips/s  data 25%  ETA 0:00:14" in stream.getvalue()
    row = json.loads((tmp_path / run_log.METRICS).read_text())
    assert row == {"step": 3, "loss": 0.5, "clips_per_s": 2.0, "data_share": 0.25}


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_step_that_is_not_finite_stops_and_keeps_its_batch(tmp_path, value):
    batch = {"frames": np.arange(6, dtype=np.uint8), "dataset": np.zeros(2, np.int32)}
    run_log.check_finite(3, {"loss": 1.0}, batch, tmp_path, "")
    with pytest.raises(errors.VosError, match=r"step 4: box no longer finite; its batch is in .*Go back\."):
        run_log.check_finite(4, {"loss": 1.0, "box": value}, batch, tmp_path, "Go back.")
    (path,) = tmp_path.glob("*.npz")
    kept = np.load(path)
    assert path.name == "nonfinite-4.npz" and set(kept) == set(batch)
    np.testing.assert_array_equal(kept["frames"], batch["frames"])


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / run_log.METRICS).mkdir()
    with pytest.raises(errors.VosError, match="cannot write .*the last checkpoint is complete"):
        view(tmp_path, 0)
