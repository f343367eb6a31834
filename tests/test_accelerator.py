"""benchmarks.accelerator: the whole course on a tiny model, resumed; and its parts."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import types

import jax
import ml_dtypes
import numpy as np
import optax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from benchmarks.accelerator import __main__ as program
from benchmarks.accelerator import clock, figures, kernels, state_files
from tests.data import tiny_training
from vos_jax import errors, weights_io
from vos_jax.data import datasets
from vos_jax.tools import builders
from vos_jax.train import state as state_lib

ROOT = pathlib.Path(__file__).resolve().parents[1]
LATER = clock.Clock(1e6)


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("data")
    tiny_training.write_davis(folder / "videos", sequences=2, frames=5, objects=2, size=(64, 80))
    config = datasets.SourceConfig(root=str(folder / "videos"))
    builders.pack(config, folder / "packed", name="videos")
    return folder / "packed"


@pytest.fixture
def no_cache():
    """Restores JAX's settings of its cache, which the program changes."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    jax.config.update(names[1], 0.1)
    compilation_cache.reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def lines(path: pathlib.Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.slow
def test_the_whole_course_stopped_and_resumed(packed, tmp_path, no_cache, monkeypatch):
    """Measures and trains until a signal; the same command measures nothing again and trains to the end."""
    out, said = tmp_path / "out", []
    arguments = ["--minutes", 9, "--measure-minutes", 9, "--reserve", 0, "--save-every", 0.5, "--out", out]
    arguments += ["--train", ROOT / "tests/train/tiny_train.py", "--data", f"davis={packed}"]
    arguments += ["--batches", 2, "--size", "64x64", "--frames", 4, "--peaks", "64,1"]
    arguments += [
        "--config.train.data.crop=32",
        "--config.train.data.clip_length=2",
        "--config.model.refine=false",
    ]
    arguments = [*map(str, arguments), "--config.train.steps=8"]

    def say(line: str) -> None:
        said.append(line)
        if line.startswith("step 3/8") and not any("goes on" in line for line in said):
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(program, "_say", say)
    assert program.main(arguments) == 0
    stopped = int(re.search(r"trained to step (\d) of 8 with batches of 2", said[-2])[1])
    assert 3 <= stopped < 8
    rows = lines(out / "figures.jsonl")
    names = ["peaks", "training step", "training kernels", "inference step"]
    assert [row["figure"] for row in rows] == names and all("values" in row for row in rows), rows
    assert rows[0]["values"]["float32_tflops"] > 0 and rows[1]["values"]["clips_per_second"] > 0
    assert 0 < len(rows[2]["values"]["kernels"]) <= 20 and rows[3]["values"]["compile_seconds"] > 0
    table = (out / "figures.txt").read_text()
    assert "batch 2): step_seconds" in table and "    kernel " in table
    before = lines(out / "curve.jsonl")
    assert [row["step"] for row in before] == [*range(1, stopped + 1)]

    assert program.main(arguments) == 0
    assert sum("known already" in line for line in said) == 4
    assert f"training resumes from step {stopped}" in said and "trained to step 8 of 8" in said[-2]
    assert lines(out / "figures.jsonl") == rows
    curve = lines(out / "curve.jsonl")
    assert curve[:stopped] == before and [row["step"] for row in curve] == [*range(1, 9)]
    assert all(np.isfinite(row["loss"]) for row in curve)
    tensors, metadata = weights_io.load((out / "weights.safetensors").read_bytes(), "weights")
    assert (metadata["variant"], metadata["step"]) == ("tiny", "8") and "model.alignment" in metadata["model"]
    assert tensors
    assert json.loads((out / "weights.json").read_text())["config"]["train.data.batch"] == 2
    _, metadata = weights_io.load((out / "state-1-of-1.safetensors").read_bytes(), "state")
    assert json.loads(metadata["position"])["step"] == 8
    assert list((out / "cache").iterdir()), "programs are kept"
    assert len([path for path in out.iterdir() if path.is_file()]) == 6, "nothing half written is left"

    assert program.main([*arguments, "--batch", "4"]) == 2, "a state goes on with its own batch"


def test_a_program_without_tensorflow_datasets_or_av(packed):
    """Packages that a bare accelerator machine lacks are not imported, nor needed to read packed data."""
    script = f"""
import sys
for name in ("tensorflow_datasets", "av", "tensorboardX", "pycocotools"):
    sys.modules[name] = None
from benchmarks.accelerator import __main__
from vos_jax.data import datasets
first, second = datasets.open_training_videos(datasets.SourceConfig(root={str(packed)!r}))
print(first.frame(1).shape, second.mask(2).max())
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.stdout == "(64, 80, 3) 2\n", done.stderr


# --- figures ------------------------------------------------------------------------------------------------


def test_a_figure_is_written_at_once_and_measured_once(tmp_path):
    found = figures.Figures(tmp_path, "gpu", "abc", say=lambda _: None)
    row = found.measure("step", {"batch": 2}, lambda: {"seconds": 0.5}, LATER)
    assert lines(tmp_path / "figures.jsonl") == [row] and row["commit"] == "abc"
    again = figures.Figures(tmp_path, "gpu", say=lambda _: None)
    assert again.measure("step", {"batch": 2}, pytest.fail, LATER) == row
    assert again.known("step", {"batch": 4}) is None
    assert figures.Figures(tmp_path, "cpu").known("step", {"batch": 2}) is None
    assert (tmp_path / "figures.txt").read_text() == "gpu\n===\nstep (batch 2): seconds 0.5\n"


def test_a_failure_is_noted_and_tried_again_but_not_out_of_memory(tmp_path):
    found = figures.Figures(tmp_path, "gpu", say=lambda _: None)

    def fail(text: str):
        raise RuntimeError(text)

    row = found.measure("step", {"batch": 2}, lambda: fail("no\nkernel"), LATER)
    assert row["failed"] == "RuntimeError: no kernel" and not figures.out_of_memory(row)
    found.measure("step", {"batch": 2}, lambda: {"ms": 1.0}, LATER)
    row = found.measure("step", {"batch": 4}, lambda: fail("RESOURCE_EXHAUSTED: 90 GB"), LATER)
    assert figures.out_of_memory(row) and found.measure("step", {"batch": 4}, pytest.fail, LATER) == row
    assert "no kernel" not in (tmp_path / "figures.txt").read_text(), "the last row counts"


def test_nothing_begins_that_cannot_end_in_time(tmp_path):
    found = figures.Figures(tmp_path, "gpu", say=lambda _: None)
    row = found.measure("step", {}, pytest.fail, clock.Clock(figures.FIRST - 1))
    assert row["failed"] == "not begun: 19 s left, 20 s needed"
    found.rows.append({**row, "seconds": 100.0, "values": {}, "settings": {"batch": 1}})
    assert "100 s needed" in found.measure("step", {}, pytest.fail, clock.Clock(99))["failed"]
    assert clock.Clock(50, within=clock.Clock(3)).left() < 3


def test_a_line_that_was_cut_off_is_dropped(tmp_path):
    found = figures.Figures(tmp_path, "gpu", say=lambda _: None)
    row = found.measure("peaks", {}, lambda: {"tflops": 1.0}, LATER)
    with (tmp_path / "figures.jsonl").open("a") as file:
        file.write('{"figure": "ste')
    assert figures.Figures(tmp_path, "gpu").rows == [row] == lines(tmp_path / "figures.jsonl")


# --- kernels ------------------------------------------------------------------------------------------------


def profile(**planes: dict[str, list[tuple[str, float]]]) -> types.SimpleNamespace:
    """A `jax.profiler.ProfileData` of planes, lines and (name, nanoseconds) of events."""

    def named(name, **more):
        return types.SimpleNamespace(name=name, **more)

    return types.SimpleNamespace(
        planes=[
            named(
                plane.replace("_", ":"),
                lines=[
                    named(line, events=[named(name, duration_ns=time) for name, time in events])
                    for line, events in found.items()
                ],
            )
            for plane, found in planes.items()
        ]
    )


def test_kernels_of_all_streams_are_added_up():
    gpu = {
        "Stream #7(Compute)": [("conv", 4e6), ("copy", 1e6)],
        "Stream #8": [("conv", 3e6)],
        "XLA Modules": [("jit_step", 9e6)],
    }
    host = {"python": [("dispatch", 1e9)]}
    found = kernels.rank(profile(**{"/device_GPU_0": gpu, "/host_CPU": host}), 1)
    assert found == [{"kernel": "conv", "calls": 2, "ms": 7.0, "share": 0.875}]
    cpu = {"tf_XLAEigen/1": [("dot.3", 2e6), ("Thunk::Run", 5e6), ("while.1", 9e6)], "python": [("f", 1.0)]}
    assert kernels.rank(profile(**{"/host_CPU": cpu}), 20)[0]["share"] == 1.0
    with pytest.raises(errors.VosError, match="saw no kernel; it saw /host:CPU"):
        kernels.rank(profile(**{"/host_CPU": host}), 20)


# --- states -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run() -> state_lib.TrainState:
    """A state after some steps, with moments and an average of their own."""
    rng = np.random.default_rng(0)
    shapes = {"stem": {"kernel": (3, 3, 8, 64), "bias": (64,)}, "head": {"kernel": (64, 300)}}
    params = jax.tree.map(
        lambda shape: rng.normal(size=shape).astype(np.float32), shapes, is_leaf=lambda x: type(x) is tuple
    )
    tx = optax.adam(1e-2)
    begun = state_lib.init_train_state(params, tx, jax.random.key(1))
    _, opt_state = tx.update(jax.tree.map(lambda x: 0.3 * x + 0.1, params), begun.opt_state, params)
    ema = jax.tree.map(lambda x: 0.9 * x, params)
    return jax.device_get(begun.replace(opt_state=opt_state, ema=ema, step=np.int32(7)))


CONFIG = {"model.variant": "tiny", "train.data.batch": 3}
NOTED = {"config": CONFIG, "commit": None, "command": "python"}


def test_a_state_comes_back_in_small_files(run, tmp_path, monkeypatch):
    monkeypatch.setattr(state_files, "MOST", 100_000)
    assert state_files.noted_config(tmp_path) is None and state_files.restore(tmp_path, run) is None
    state_files.save(tmp_path, run, {"step": 7}, NOTED)
    shards = sorted(path.name for path in tmp_path.glob("state-*"))
    assert len(shards) > 1 and shards[0] == f"state-1-of-{len(shards)}.safetensors"
    assert all(path.stat().st_size < 120_000 for path in tmp_path.glob("state-*"))
    found, position = state_files.restore(tmp_path, jax.eval_shape(lambda: run))
    assert position == {"step": 7} and found.step == 7 and state_files.noted_config(tmp_path) == CONFIG
    jax.tree.map(np.testing.assert_array_equal, found.params, run.params)
    rounded = jax.tree.map(
        lambda x: x.astype(ml_dtypes.bfloat16).astype(x.dtype) if x.dtype == np.float32 else x, run.opt_state
    )
    jax.tree.map(np.testing.assert_array_equal, found.opt_state, rounded)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2**-8), found.ema, run.ema)

    (tmp_path / shards[1]).unlink()
    with pytest.raises(errors.VosError, match=r"not complete \(\d of \d files, of step 7\); remove state"):
        state_files.restore(tmp_path, run)
    state_files.save(tmp_path, run, {"step": 7}, NOTED)
    kept = (tmp_path / shards[0]).read_bytes()
    state_files.save(tmp_path, run.replace(step=np.int32(9)), {"step": 9}, NOTED)
    (tmp_path / shards[0]).write_bytes(kept)
    with pytest.raises(errors.VosError, match="of step 7 and 9"):
        state_files.restore(tmp_path, run)


def test_a_state_of_another_model_is_refused(run, tmp_path):
    state_files.save(tmp_path, run, {"step": 7}, NOTED)
    other = run.replace(params={"head": {"kernel": np.zeros((3, 3), np.float32)}})
    with pytest.raises(errors.VosError, match="has no params/head/kernel"):
        state_files.restore(tmp_path, other)
    (tmp_path / "state-1-of-1.safetensors").write_bytes(b"1234")
    with pytest.raises(errors.VosError, match="not a complete safetensors file"):
        state_files.noted_config(tmp_path)
