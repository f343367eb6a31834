"""Checkpoints: which are kept, torn ones, full disks, other numbers of devices."""

import contextlib
import gc
import logging
import os
import pathlib
import resource
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.data import tiny_training
from vos_jax import checksums, errors
from vos_jax.data import config as data_config
from vos_jax.data import datasets, pipeline
from vos_jax.train import checkpoints

# Orbax's threads and coroutines report what went wrong besides raising it, some when they are collected.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
ROOT = pathlib.Path(__file__).resolve().parents[2]
DATA = {"step": 7}


@pytest.fixture(autouse=True)
def collect():
    """Failures of one test are not reported in another."""
    yield
    gc.collect()


def state(value: float, size: int = 50_000) -> dict:
    """Arrays that do not compress."""
    noise = np.random.default_rng(int(value)).normal(size=size).astype(np.float32)
    return {"ema": {"a": jnp.asarray(noise)}, "key": jax.random.key(int(value)), "step": jnp.int32(value)}


def opened(folder, **options) -> checkpoints.Checkpoints:
    return checkpoints.Checkpoints(folder, checkpoints.CheckpointConfig(**options))


def save(saved: checkpoints.Checkpoints, step: int, data=None, **options) -> None:
    saved.save(step, state(step), DATA if data is None else data, record={"config": {"a": [1, 2]}}, **options)
    saved.wait()


def same(found, wanted) -> None:
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        if jnp.issubdtype(b.dtype, jax.dtypes.prng_key):
            assert a.dtype == b.dtype
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_array_equal(a, b)


def test_the_best_and_the_last_are_kept_also_across_runs(tmp_path):
    with opened(tmp_path, keep_last=2, keep_best=1) as saved:
        for step, score in ((1, 0.1), (2, 0.9), (3, 0.5), (4, None)):
            save(saved, step, score=score)
        assert saved.steps() == [2, 3, 4]
    with opened(tmp_path, keep_last=2, keep_best=1) as saved:
        save(saved, 5, score=0.3)
        save(saved, 6)
        assert saved.steps() == [2, 5, 6]
        restored = saved.restore(state(0), dict(DATA))
    assert restored.step == 6
    assert restored.record == {"config": {"a": [1, 2]}, "step": 6, "score": None}
    same(restored.state, state(6))
    assert [checkpoints.find(tmp_path, which)[0] for which in ("best", "last", "5")] == [2, 6, 5]
    same(checkpoints.load_ema(tmp_path, 2), state(2)["ema"])
    with pytest.raises(errors.VosError, match="there are 2, 5, 6, best and last"):
        checkpoints.find(tmp_path, "4")


def test_a_state_may_be_donated_as_soon_as_save_returns(tmp_path):
    grow = jax.jit(lambda x: x + 1.0, donate_argnums=0)
    with opened(tmp_path, keep_last=9) as saved:
        x = grow(jnp.zeros(1_000_000))
        for step in range(1, 4):
            saved.save(step, {"ema": x}, DATA, record={})
            x = grow(grow(x))
        saved.wait()
    for step in (1, 2, 3):
        found = checkpoints.load_ema(tmp_path, step)
        np.testing.assert_array_equal(found, np.full(x.shape, 2 * step - 1, np.float32))


def tear(folder: pathlib.Path, which: str = "largest") -> None:
    """Cuts files off, as a machine that lost power leaves them."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    if which == "largest":
        files = [max(files, key=lambda path: path.stat().st_size)]
    elif which != "all":
        files = [path for path in files if path.name == which]
    assert files
    for path in files:
        path.write_bytes(path.read_bytes()[:100] if which == "largest" else b"")


# Without `_sharding` training could go on, but nothing could be exported.
@pytest.mark.parametrize(
    "which", ["largest", "all", "_CHECKPOINT_METADATA", "_sharding", "process_0-of-1.json"]
)
def test_a_torn_newest_checkpoint_is_skipped_for_the_one_before(tmp_path, caplog, which):
    root = tiny_training.write_davis(tmp_path / "data", sequences=1, frames=2)
    source = datasets.SourceConfig(root=str(root))
    config = data_config.ClipDataConfig(sources=tiny_training.drawn(source), batch=2)
    data = pipeline.make_pipeline(config, dataset_names=("default",))

    def go_to(step: int) -> None:
        data.set_state({"step": step, "drawn": step, "unreadable": 0, "unusable": 0})

    with opened(tmp_path, keep_last=3) as saved:
        for step in (1, 2, 3):
            go_to(step)
            save(saved, step, data)
    tear(tmp_path / "checkpoints" / "3", which)
    assert checkpoints.last_record(tmp_path)["step"] in (2, 3)
    with opened(tmp_path, keep_last=3) as saved, caplog.at_level(logging.WARNING):
        restored = saved.restore(state(0), data)
        assert restored.step == 2 and data.get_state()["step"] == 2
        same(restored.state, state(2))
        (warning,) = [r.getMessage() for r in caplog.records if r.name == checkpoints.__name__]
        assert "checkpoints/3 cannot be read" in warning and "the previous one" in warning
        assert (tmp_path / "checkpoints" / "torn-3").is_dir() and saved.steps() == [1, 2]
        go_to(3)
        save(saved, 3, data)
        go_to(0)
        same(saved.restore(state(0), data).state, state(3))
        assert data.get_state()["step"] == 3


def test_an_altered_checkpoint_is_skipped_for_the_one_before(tmp_path, caplog):
    """Arrays have no checksums on disk: a byte that a disk altered gave other weights without a word."""
    rng = np.random.default_rng(0)
    with opened(tmp_path, keep_last=3) as saved:
        for step in (1, 2):
            save(saved, step)
    folder = tmp_path / "checkpoints" / "2"
    largest = max(
        (path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size
    )
    whole = largest.read_bytes()
    for _ in range(10):
        altered = bytearray(whole)
        altered[rng.integers(1000, len(altered) - 1000)] ^= 1 << int(rng.integers(8))
        largest.write_bytes(altered)
        with pytest.raises(errors.VosError, match="'ema' was changed after it was saved|cannot be read"):
            checkpoints.load_ema(tmp_path, 2)
    with opened(tmp_path, keep_last=3) as saved, caplog.at_level(logging.WARNING):
        restored = saved.restore(state(0), dict(DATA))
    assert restored.step == 1 and "checkpoints/2 cannot be read" in caplog.text
    same(restored.state, state(1))
    noted = tmp_path / "checkpoints" / "1" / "_CHECKPOINT_METADATA"
    noted.write_text(noted.read_text().replace('"a": [1, 2]', '"a": [1, 3]'))
    with pytest.raises(errors.VosError, match="its record was changed after it was saved"):
        checkpoints.find(tmp_path, "1")


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.int32, jnp.uint8, jnp.bool_])
def test_any_element_that_changes_changes_the_checksum(dtype):
    values = np.random.default_rng(0).integers(0, 2, (3, 4, 5)).astype(dtype)

    def of(x: np.ndarray) -> dict[str, int]:
        return checksums.of_tree({"a": {"x": jnp.asarray(x)}, "b": jnp.asarray(x)})

    assert of(values) == of(values) and of(values)["a"] != of(values)["b"]
    seen = {of(values)["b"], of(values.swapaxes(0, 1))["b"]}
    for place in np.ndindex(values.shape):
        altered = values.copy()
        altered[place] = not altered[place]
        seen.add(of(altered)["b"])
    assert len(seen) == 62


def test_a_checkpoint_without_checksums_is_taken_as_it_is(tmp_path, monkeypatch):
    """Those of former versions."""
    monkeypatch.setattr(checkpoints, "SUMS", "other")
    with opened(tmp_path) as saved:
        save(saved, 1)
    monkeypatch.undo()
    with opened(tmp_path) as saved:
        same(saved.restore(state(0), dict(DATA)).state, state(1))


def test_where_no_checkpoint_can_be_read_nothing_is_moved(tmp_path):
    with opened(tmp_path) as saved:
        save(saved, 1)
        tear(tmp_path / "checkpoints" / "1")
        with pytest.raises(errors.VosError, match="none of the 1 checkpoint"):
            saved.restore(state(0), dict(DATA))
        assert saved.steps() == [1] and (tmp_path / "checkpoints" / "1").is_dir()
        with pytest.raises(errors.VosError, match="cannot be read"):
            checkpoints.load_ema(tmp_path, 1)
    with opened(tmp_path / "empty") as saved:
        assert saved.restore(state(0)) is None


@contextlib.contextmanager
def no_file_above(size: int):
    """Writes beyond `size` bytes fail, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_a_clear_error_and_the_last_checkpoint_is_intact(tmp_path):
    with opened(tmp_path) as saved:
        save(saved, 1)
        with no_file_above(20_000), pytest.raises(errors.VosError, match="last complete one is 1") as found:
            save(saved, 2)
        assert "File too large" in str(found.value) and "\n" not in str(found.value)
    with opened(tmp_path) as saved:
        assert saved.steps() == [1]
        same(saved.restore(state(0), dict(DATA)).state, state(1))
        save(saved, 2)
        assert saved.steps() == [1, 2]


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", pathlib.Path("/proc/vos_jax")):
        with pytest.raises(errors.VosError, match="cannot write to .*checkpoints"):
            opened(folder)


def test_settings_out_of_range_are_refused():
    with pytest.raises(errors.VosError, match="keep_last is 0"):
        checkpoints.CheckpointConfig(keep_last=0)


ELSEWHERE = """
import sys
import jax, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from vos_jax.train import checkpoints

folder, step, process, processes, port = sys.argv[1], *map(int, sys.argv[2:])
if processes > 1:
    jax.distributed.initialize(f"localhost:{port}", processes, process)
mesh = jax.make_mesh((jax.device_count(),), ("fsdp",), axis_types=(AxisType.Auto,))

def state(step):
    shardings = NamedSharding(mesh, P("fsdp")), NamedSharding(mesh, P())
    make = lambda: {"ema": jax.numpy.arange(64.0) * step, "key": jax.random.key(step)}
    return jax.jit(make, out_shardings=dict(zip(("ema", "key"), shardings)))()

with checkpoints.Checkpoints(folder, checkpoints.CheckpointConfig()) as saved:
    restored = saved.restore(state(step), {"x": 0})
    if restored is not None:
        found, wanted = restored.state, state(step - 1)
        assert found["ema"].sharding == wanted["ema"].sharding and restored.step == step - 1
        for shard in found["ema"].addressable_shards:
            np.testing.assert_array_equal(shard.data, np.arange(64.0)[shard.index] * (step - 1))
        assert jax.jit(lambda a, b: (jax.random.key_data(a) == jax.random.key_data(b)).all())(
            found["key"], wanted["key"])
    saved.save(step, state(step), {"x": step}, record={})
"""


def test_restores_on_another_number_of_devices_and_processes(tmp_path):
    for step, devices, processes in ((1, 8, 1), (2, 2, 1), (3, 2, 2), (4, 4, 1)):
        environment = os.environ | {"JAX_NUM_CPU_DEVICES": str(devices), "PYTHONPATH": str(ROOT)}
        with socket.socket() as probe:
            probe.bind(("localhost", 0))
            port = probe.getsockname()[1]
        started = [
            subprocess.Popen(
                [sys.executable, "-c", ELSEWHERE, *map(str, (tmp_path, step, process, processes, port))],
                env=environment | {"JAX_PLATFORMS": "cpu"},
            )
            for process in range(processes)
        ]
        assert [process.wait() for process in started] == [0] * processes
    assert checkpoints.steps(tmp_path) == [3, 4]
