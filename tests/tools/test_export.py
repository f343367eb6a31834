"""Exported weights: what is in the file and its record, and that eval.py's loader takes them."""

import hashlib
import json
import pathlib
import subprocess
import sys

import jax
import ml_dtypes
import numpy as np
import pytest
from flax import traverse_util

from tests import tiny
from vos_jax import config as configs
from vos_jax import errors, weights_io
from vos_jax.models import config as model_config
from vos_jax.models import weights
from vos_jax.tools import export
from vos_jax.train import checkpoints

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def params():
    model = tiny.model()
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)


@pytest.fixture
def workdir(tmp_path, params):
    """A run with two checkpoints: the first scored better, and holds the weights twice as large."""
    config = {**configs.flatten(configs.load("train_davis")), "model.variant": "tiny"}
    record = {"config": config, "commit": "abc", "command": "python train.py"}
    with checkpoints.Checkpoints(tmp_path / "run", checkpoints.CheckpointConfig()) as saved:
        for step, score, scale in ((10, 0.7, 2.0), (20, 0.6, 1.0)):
            state = {"params": {}, "ema": jax.tree.map(lambda x, s=scale: jax.numpy.asarray(s * x), params)}
            saved.save(step, state, {"step": step}, record=record, score=score)
    return tmp_path / "run"


def test_the_file_holds_the_best_average_and_the_record_says_how_it_was_made(workdir, params, tmp_path):
    out = tmp_path / "out" / "tiny.safetensors"
    assert export.main([str(workdir), str(out), "--note", "licences=DAVIS: CC BY-NC 4.0 = no sale"]) == 0
    data = out.read_bytes()
    flat, metadata = weights_io.load(data, "")
    assert (metadata["variant"], metadata["step"]) == ("tiny", "10")
    assert json.loads(metadata["model"])["model.alignment"] == "adaptive"
    wanted = traverse_util.flatten_dict(params, sep="/")
    assert flat.keys() == wanted.keys()
    for key, value in wanted.items():
        narrow = key.endswith("kernel") and value.ndim in (2, 4)
        assert flat[key].dtype == (ml_dtypes.bfloat16 if narrow else np.float32), key
        np.testing.assert_array_equal(flat[key], (2 * value).astype(flat[key].dtype))
    record = json.loads(out.with_suffix(".json").read_text())
    assert record["sha256"] == hashlib.sha256(data).hexdigest()
    assert (record["step"], record["commit"], record["command"]) == (10, "abc", "python train.py")
    assert record["licences"] == "DAVIS: CC BY-NC 4.0 = no sale"
    assert record["score"]["J"] == 0.7 and len(record["score"]["sequences"]) == 7
    assert set(record["data"]) == {"static", "davis"} and record["data"]["davis"]["weight"] == 0.6
    assert record["config"]["train.steps"] == 20_000
    assert record["parameters"] == sum(value.size for value in wanted.values())


def test_the_loader_takes_it_and_refuses_a_damaged_one(workdir, params, tmp_path, monkeypatch):
    monkeypatch.setitem(model_config.VARIANTS, "tiny", tiny.VARIANT)
    out = tmp_path / "tiny.safetensors"
    export.export(workdir, out, which="last", dtype="float32")
    variant = tiny.model(variant="tiny")
    loaded = weights.load_params(variant, out)
    jax.tree.map(np.testing.assert_array_equal, loaded, params)
    out.write_bytes(out.read_bytes()[:-4] + b"abcd")
    with pytest.raises(errors.VosError, match="damaged or replaced"):
        weights.load_params(variant, out)


def test_bad_input_is_one_clear_line(workdir, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for arguments, told in (
        ([workdir, tmp_path / "w.bin"], "exported weights are .safetensors"),
        ([tmp_path, tmp_path / "w.safetensors"], "no checkpoint; "),
        ([workdir, tmp_path / "w.safetensors", "--checkpoint", "7"], "there are 10, 20, best and last"),
        ([workdir, tmp_path / "file" / "w.safetensors"], "cannot be written"),
        ([workdir, tmp_path / "w.safetensors", "--note", "licences"], "write --note KEY=TEXT"),
        ([workdir, tmp_path / "w.safetensors", "--note", "step=7"], "the record has this entry already"),
    ):
        assert export.main(list(map(str, arguments))) == 2
        err = capsys.readouterr().err
        assert told in err and err.count("\n") == 1


def test_a_damaged_checkpoint_is_one_line_as_well(workdir, tmp_path):
    """Orbax's coroutines printed tracebacks of what had been told already, when the program ended."""
    for path in (workdir / "checkpoints" / "10" / "state" / "d").iterdir():
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 4
        path.write_bytes(data)
    command = [sys.executable, "-m", "vos_jax.tools.export", str(workdir), str(tmp_path / "w.safetensors")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "checkpoints/10: cannot be read" in done.stderr and "--checkpoint STEP" in done.stderr
    assert subprocess.run([*command, "--checkpoint=20"], cwd=ROOT, capture_output=True).returncode == 0


def test_weights_that_are_no_numbers_are_not_exported(tmp_path):
    with checkpoints.Checkpoints(tmp_path, checkpoints.CheckpointConfig()) as saved:
        state = {"ema": {"a": {"kernel": jax.numpy.full((2, 2), np.nan)}}}
        saved.save(1, state, {"x": 1}, record={"config": configs.flatten(configs.load("train_davis"))})
    with pytest.raises(errors.VosError, match="a/kernel is not finite"):
        export.export(tmp_path, tmp_path / "w.safetensors")
    assert not (tmp_path / "w.safetensors").exists()


@pytest.mark.parametrize("config", [None, {}, {"model": {"variant": "lite0"}, "train": {"sources": [1]}}])
def test_a_run_of_another_version_is_refused_in_words(tmp_path, config):
    """Found by fuzzing: its record was taken to have what it should have."""
    with checkpoints.Checkpoints(tmp_path, checkpoints.CheckpointConfig()) as saved:
        saved.save(1, {"ema": {"a": jax.numpy.ones(3)}}, {"x": 1}, record={"config": config})
    with pytest.raises(errors.VosError, match="checkpoint 1: its config is damaged or of another version"):
        export.export(tmp_path, tmp_path / "w.safetensors")


def test_depthwise_kernels_keep_their_precision(tmp_path):
    kernels = {
        "dense": np.ones((3, 3, 4, 4)),
        "grouped": np.ones((3, 3, 1, 4)),
        "shifted": np.ones((3, 3, 4)),
    }
    with checkpoints.Checkpoints(tmp_path, checkpoints.CheckpointConfig()) as saved:
        state = {"ema": {name: {"kernel": jax.numpy.asarray(x)} for name, x in kernels.items()}}
        saved.save(1, state, {"x": 1}, record={"config": configs.flatten(configs.load("train_davis"))})
    export.export(tmp_path, tmp_path / "w.safetensors")
    flat, _ = weights_io.load((tmp_path / "w.safetensors").read_bytes(), "")
    narrow = {key for key, value in flat.items() if value.dtype == ml_dtypes.bfloat16}
    assert narrow == {"dense/kernel"}
