"""train.py as users run it: killed, asked to stop, resumed, evaluated, exported; on a tiny model.

All runs share one compilation cache, so that the step is compiled once.
"""

import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import safetensors.numpy
from flax import traverse_util

import train as program
from tests import tiny
from tests.data import tiny_training
from vos_jax import processes
from vos_jax.tools import export
from vos_jax.train import checkpoints

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONFIG = str(ROOT / "tests" / "train" / "tiny_train.py")
SIZE = (64, 80)
TIMES = ("clips_per_s", "data_share")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> pathlib.Path:
    """A folder with data/ (two videos to train on, one held back) and room for the runs and their cache."""
    folder = tmp_path_factory.mktemp("train")
    tiny_training.write_davis(folder / "data", sequences=2, frames=5, objects=2, size=SIZE)
    tiny_training.write_sequence(folder / "data", "held", 7, frames=4, size=SIZE)
    return folder


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """Keeps the program from joining other processes: JAX is at work already in this one."""
    monkeypatch.setattr(processes, "join", lambda *_, **__: processes.ProcessGroup())


def start(place, script, *arguments) -> subprocess.Popen:
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(place / "cache"),
    }
    command = [sys.executable, str(ROOT / script), "--config", CONFIG, *map(str, arguments)]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=place
    )


def train(place, workdir, *more) -> subprocess.Popen:
    return start(place, "train.py", "--workdir", place / workdir, "--data", place / "data", *more)


def finish(process: subprocess.Popen, code: int = 0) -> tuple[str, str]:
    out, err = process.communicate(timeout=500)
    assert process.returncode == code, f"{out}\n{err}"
    assert "Traceback" not in err
    return out, err


def rows(folder: pathlib.Path, name: str = "metrics.jsonl") -> list[dict]:
    path = folder / name
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def wait_for(process: subprocess.Popen, folder: pathlib.Path, step: int, before: int = 0) -> None:
    """Returns once a run has logged a step; `before` is the inode of the file that it takes over."""
    path = folder / "metrics.jsonl"
    while process.poll() is None:
        if path.exists() and path.stat().st_ino != before and path.read_text().count("\n") >= step:
            return
        time.sleep(0.002)
    pytest.fail(f"ended before step {step}: {process.communicate()}")


def learned(folder: pathlib.Path) -> list[dict]:
    """Returns the log without times."""
    return [{k: v for k, v in row.items() if k not in TIMES} for row in rows(folder)]


def assert_same_run(a: pathlib.Path, b: pathlib.Path, steps: int) -> None:
    """Two runs logged the same numbers and ended with the same bits, at the same place in the data."""
    assert [row["step"] for row in learned(a)] == list(range(1, steps + 1))
    assert len({row["loss"] for row in learned(a)}) > steps / 2
    assert learned(a) == learned(b)
    assert rows(a, "evaluations.jsonl") == rows(b, "evaluations.jsonl")
    finals = [folder / "checkpoints" / str(steps) / "data" / "process_0-of-1.json" for folder in (a, b)]
    positions = [json.loads(final.read_text()) for final in finals]
    assert positions[0] == positions[1] and positions[0]["step"] == steps
    jax.tree.map(np.testing.assert_array_equal, *(checkpoints.load_ema(folder, steps) for folder in (a, b)))


SHORT = (
    "--config.train.steps=8",
    "--config.train.checkpoint.every=2",
    "--config.train.held_out.every=8",
    "--config.train.picture_every=8",
)


@pytest.fixture(scope="module")
def short(place) -> tuple[pathlib.Path, str]:
    """An uninterrupted run with an evaluation at both ends and a picture; its folder and what it printed."""
    out, _ = finish(train(place, "short", *SHORT))
    return place / "short", out


def test_a_run_is_logged_evaluated_and_drawn(short):
    folder, out = short
    assert "held-back J" in out and "clips/s" in out and "ETA" in out and "trained to step 8" in out
    assert [row["step"] for row in rows(folder)] == list(range(1, 9))
    assert {"loss", "refined_ce", "grad_norm", "lr", *TIMES} < rows(folder)[-1].keys()
    scores = rows(folder, "evaluations.jsonl")
    assert [row["step"] for row in scores] == [0, 8]
    assert all(row["J"] == row["held"] and 0 <= row["J"] <= 1 for row in scores)
    (events,) = (folder / "tensorboard").iterdir()
    assert events.read_bytes().count(b"PNG") == 1
    assert checkpoints.last_record(folder)["score"] == scores[-1]["J"]


def test_killed_and_resumed_equals_uninterrupted(place, short):
    killed = train(place, "killed", *SHORT)
    wait_for(killed, place / "killed", 5)
    killed.kill()
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    kept = checkpoints.steps(place / "killed")[-1]
    assert 0 < kept < 8
    out, _ = finish(train(place, "killed", *SHORT))
    assert f"resumed at step {kept}" in out
    assert_same_run(short[0], place / "killed", 8)


def test_the_export_runs_and_scores_the_same(place, short):
    exported = place / "tiny.safetensors"
    assert export.main([str(short[0]), str(exported), "--checkpoint", "8", "--dtype", "float32"]) == 0
    evaluated = start(
        place, "eval.py", "--checkpoint", exported, "--data", place / "data", "--out", place / "results",
        "--sequences", "held", "--config.data.kind=folders",
    )  # fmt: skip
    finish(evaluated)
    results = json.loads((place / "results" / "results.json").read_text())
    assert results["checkpoint"] == str(exported)
    assert results["J"]["mean"] == pytest.approx(rows(short[0], "evaluations.jsonl")[-1]["J"], abs=1e-9)


@pytest.mark.slow
def test_killed_stopped_and_resumed_over_and_over_equals_uninterrupted(place):
    long = ("--config.train.steps=60", "--config.train.checkpoint.every=10", "--config.seed=1")
    finish(train(place, "whole", *long))

    killed = train(place, "parts", *long)
    wait_for(killed, place / "parts", 24)
    killed.kill()
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    kept, lost = checkpoints.steps(place / "parts")[-1], rows(place / "parts")[-1]["step"]
    assert 10 <= kept <= lost < 60

    before = (place / "parts" / "metrics.jsonl").stat().st_ino
    stopped = train(place, "parts", *long)
    wait_for(stopped, place / "parts", kept + 4, before)
    stopped.terminate()
    out, _ = finish(stopped)
    assert f"resumed at step {kept}" in out and "stopped by SIGTERM" in out
    halted = checkpoints.steps(place / "parts")[-1]
    assert kept < halted < 60 and f"at step {halted}" in out

    out, _ = finish(train(place, "parts", *long))
    assert f"resumed at step {halted}" in out
    assert_same_run(place / "whole", place / "parts", 60)

    out, _ = finish(train(place, "parts", *long))
    assert "trained to step 60" in out and len(rows(place / "parts")) == 60


@pytest.mark.slow
def test_a_loss_that_is_no_number_stops_the_run_and_keeps_its_batch(place):
    params = traverse_util.flatten_dict(jax.device_get(tiny.params(proposals=tiny.NO_NETWORK)), sep="/")
    params["matcher/null_cost"] = np.float32(np.nan)
    broken = {**params, "key_head/kernel": np.full_like(params["key_head/kernel"], np.nan)}
    safetensors.numpy.save_file(
        {key: np.asarray(value) for key, value in broken.items()},
        place / "nan.safetensors",
        metadata={"variant": "tiny"},
    )
    _, err = finish(train(place, "nan", "--init", place / "nan.safetensors"), code=2)
    assert err.startswith("error: step 1: ") and "no longer finite" in err
    batch = np.load(place / "nan" / "nonfinite-1.npz")
    assert batch["frames"].shape == (2, 3, 64, 64, 3) and batch["frames"].any()
    assert checkpoints.steps(place / "nan") == []


def write_checkpoint(workdir: pathlib.Path, place: pathlib.Path) -> None:
    """A checkpoint of the tiny config, good enough to be compared with."""
    config = program.configs.load(CONFIG)
    train = program.setup.apply_data(config.train, [str(place / "data")])
    with checkpoints.Checkpoints(workdir, checkpoints.CheckpointConfig()) as saved:
        record = {"config": program.configs.flatten(dataclasses.replace(config, train=train))}
        noted = {**record, "version": "0", "commit": "", "command": "python train.py"}
        (workdir / "config.json").write_text(json.dumps(noted))
        saved.save(1, {"x": np.zeros(2)}, {"step": 1}, record=record)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--config.train.data.batch=4", "--config.seed=3"], "seed: 0, now 3; train.data.batch: 2, now 4"),
        (["--config.train.data.sources.davis.exclude="], "train.data.sources.davis.exclude"),
        (
            ["--config.train.data.workers=1", "--data", "nowhere"],
            "nowhere",
        ),  # neither changes what is learned
    ],
)
def test_another_config_is_refused_by_its_keys(place, tmp_path, capsys, more, told):
    write_checkpoint(tmp_path, place)
    arguments = ["--config", CONFIG, "--workdir", tmp_path, "--data", place / "data", *more]
    assert program.main(list(map(str, arguments))) == 2
    err = capsys.readouterr().err
    assert told in err and err.count("\n") == 1
    assert ("another config" in err) == (told != "nowhere")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--config", "train_davis", "--data", "a", "--workdir", "{}"], "--data a: of which source"),
        (["--config", "train_davis", "--data", "dvais=a", "--workdir", "{}"], "no source of that name"),
        (["--config", "davis17", "--workdir", "{}"], "nothing to train on"),
        (["--config", "train_davis"], "--workdir DIR is needed"),
        (["--config", "train_davis", "--workdir", "{}/run", "--data", "davis={}/no", "static={}/no"],
         "{}/no: no such folder"),
        (["--config", "train_davis", "--workdir", "/proc/vos_jax"], "cannot write to /proc/vos_jax"),
        (["--config", CONFIG, "--workdir", "{}", "--data", "{data}", "--config.train.held_out.every=1",
          "--config.train.data.sources.davis.exclude="], "held: trained on and evaluated on"),
        (["--config", CONFIG, "--workdir", "{}", "--data", "{data}", "--init", "{}/no"], "no checkpoint at"),
        (["--config", CONFIG, "--workdir", "{}", "--data", "{data}", "--init", "imagenet"], "--init random"),
    ],
)  # fmt: skip
def test_bad_input_is_one_clear_line(place, tmp_path, capsys, arguments, told):
    def fill(text):
        return text.replace("{}", str(tmp_path)).replace("{data}", str(place / "data"))

    assert program.main([fill(argument) for argument in arguments]) == 2
    err = capsys.readouterr().err
    assert fill(told) in err and err.count("\n") == 1
