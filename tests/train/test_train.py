"""train.py as users run it: killed, asked to stop, resumed, evaluated, exported; on a tiny model.

All runs share one compilation cache, so that the step is compiled once.
"""

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
from vos_jax.train import checkpoints

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONFIG = str(ROOT / "tests" / "train" / "tiny_train.py")
STEPS, EVERY = 60, 10  # of the run that is interrupted, and of its checkpoints
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
    """In this process JAX is at work already, and may not look for others any more."""
    monkeypatch.setattr(program.distributed, "initialise", lambda *_: False)


def start(place, script, *arguments) -> subprocess.Popen:
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(place / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
        "XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1",
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


def wait_for(process: subprocess.Popen, folder: pathlib.Path, step: int) -> None:
    """Returns once a run has logged a step."""
    path = folder / "metrics.jsonl"
    while process.poll() is None:
        if path.exists() and path.read_text().count("\n") >= step:
            return
        time.sleep(0.002)
    pytest.fail(f"ended before step {step}: {process.communicate()}")


def test_killed_and_stopped_and_resumed_equals_uninterrupted(place):
    long = (f"--config.train.steps={STEPS}", f"--config.train.checkpoint.every={EVERY}")
    finish(train(place, "whole", *long))

    killed = train(place, "parts", *long)
    wait_for(killed, place / "parts", 24)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    kept = checkpoints.steps(place / "parts")[-1]
    lost = rows(place / "parts")[-1]["step"]
    assert EVERY <= kept <= lost < STEPS

    stopped = train(place, "parts", *long)
    wait_for(stopped, place / "parts", kept + 4)
    stopped.send_signal(signal.SIGTERM)
    out, _ = finish(stopped)
    assert f"resumed at step {kept}" in out and "stopped by SIGTERM" in out
    halted = checkpoints.steps(place / "parts")[-1]
    assert kept < halted < STEPS and f"at step {halted}" in out

    out, _ = finish(train(place, "parts", *long))
    assert f"resumed at step {halted}" in out

    def losses(folder):
        return [{k: v for k, v in row.items() if k not in TIMES} for row in rows(place / folder)]

    assert [row["step"] for row in losses("whole")] == list(range(1, STEPS + 1))
    assert len({row["loss"] for row in losses("whole")}) > STEPS / 2
    assert losses("parts") == losses("whole")
    finals = [place / name / "checkpoints" / str(STEPS) for name in ("whole", "parts")]
    positions = [json.loads((final / "data" / "process_0-of-1.json").read_text()) for final in finals]
    assert positions[0] == positions[1] and positions[0]["step"] == STEPS
    averages = [checkpoints.load_ema(place / name, STEPS) for name in ("whole", "parts")]
    jax.tree.map(np.testing.assert_array_equal, *averages)

    out, _ = finish(train(place, "parts", *long))
    assert f"trained to step {STEPS}" in out and len(rows(place / "parts")) == STEPS


def test_trains_evaluates_exports_and_the_export_runs(place):
    watched = ("--config.train.evaluation.every=2", "--config.train.picture_every=2")
    out, _ = finish(train(place, "short", *watched))
    assert "held-back J" in out and "clips/s" in out and "ETA" in out
    assert [row["step"] for row in rows(place / "short")] == [1, 2, 3]
    scores = rows(place / "short", "evaluations.jsonl")
    assert [row["step"] for row in scores] == [0, 2, 3]
    assert all(row["J"] == row["held"] and 0 <= row["J"] <= 1 for row in scores)
    (events,) = (place / "short" / "tensorboard").iterdir()
    assert events.read_bytes().count(b"PNG") == 1
    step, noted = checkpoints.find(place / "short", "best")
    assert noted["score"] == max(row["J"] for row in scores)

    exported = place / "tiny.safetensors"
    command = [sys.executable, "-m", "vos_jax.export", place / "short", exported, "--dtype", "float32"]
    subprocess.run(command, check=True, cwd=ROOT)
    evaluated = start(
        place, "eval.py", "--checkpoint", exported, "--data", place / "data", "--out", place / "results",
        "--sequences", "held", "--config.data.source=folders",
    )  # fmt: skip
    finish(evaluated)
    results = json.loads((place / "results" / "results.json").read_text())
    assert results["checkpoint"] == str(exported)
    assert results["J"]["mean"] == pytest.approx(noted["score"], abs=1e-9)

    begun = finish(train(place, "second", "--init", exported, "--config.train.steps=3"))[0]
    assert "trained to step 3" in begun


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_its_batch(place):
    params = traverse_util.flatten_dict(jax.device_get(tiny.params(use_proposals=False)), sep="/")
    params["null_cost"] = np.float32(np.nan)
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
    program.setup.apply_data(config, [str(place / "data")])
    with checkpoints.Checkpoints(workdir, checkpoints.CheckpointConfig()) as saved:
        record = {"config": program.configs.as_dict(config)}
        saved.save(1, {"x": np.zeros(2)}, {"step": 1}, record=record)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--config.train.batch=4", "--config.seed=3"], "seed: 0, now 3; train.batch: 2, now 4"),
        (["--config.train.sources.davis.exclude="], "train.sources.davis.exclude"),
        (["--config.train.workers=1", "--data", "nowhere"], "nowhere"),  # neither changes what is learned
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
        (["--config", "train_davis", "--data", "a", "b", "c", "--workdir", "{}"], "3 folders"),
        (["--config", "train_davis", "--data", "dvais=a", "--workdir", "{}"], "no source of that name"),
        (["--config", "davis17", "--workdir", "{}"], "nothing to train on"),
        (["--config", "train_davis"], "--workdir DIR is needed"),
        (["--config", "train_davis", "--workdir", "{}", "--data", "{}/no", "{}/no"], "{}/no: no such folder"),
        (["--config", "train_davis", "--workdir", "/proc/vos_jax"], "cannot write to /proc/vos_jax"),
        (["--config", CONFIG, "--workdir", "{}", "--data", "{data}", "--config.train.evaluation.every=1",
          "--config.train.sources.davis.exclude="], "held: trained on and evaluated on"),
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
