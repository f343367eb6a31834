"""Training is the same however it is spread: over devices, processes, slices of parameters, parts."""

import os
import pathlib
import socket
import subprocess
import sys

import jax
import numpy as np
import optax
import pytest

from vos_jax import errors
from vos_jax.train import parallel

ROOT = pathlib.Path(__file__).resolve().parents[2]
WORKER = "tests/train/parallel_worker.py"
SEED = "one"  # the variant that the others must equal
WAYS = ("one", "eight", "pmap", "fsdp", "accumulated", "everything")


def start(devices, *arguments):
    """Starts the worker in a JAX of its own with so many simulated devices."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    flags += " --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    # Nothing of a cluster that these tests themselves may run on.
    foreign = ("SLURM_", "OMPI_", "KUBERNETES_", "TPU_", "MEGASCALE_", "JAX_", "XLA_")
    env = {name: x for name, x in os.environ.items() if not name.startswith(foreign)}
    env |= {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, WORKER, *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(*processes):
    for process in processes:
        output, _ = process.communicate(timeout=3000)
        assert process.returncode == 0, output[-4000:]


def read(path):
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


def in_two_processes(folder, model):
    """Runs "eight" on two processes of four devices that talk over loopback; what each of them wrote."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    paths = [folder / f"process{index}.npz" for index in range(2)]
    finish(*[start(4, path, model, "eight", index, 2, port) for index, path in enumerate(paths)])
    return [read(path) for path in paths]


def assert_same(found, expected, way):
    """Losses, gradients, parameters after three steps and their average, to 1e-5 of the whole's norm."""
    for name in ("losses", "norms"):
        np.testing.assert_allclose(
            found[f"{way}/{name}"], expected[f"{SEED}/{name}"], rtol=1e-5, err_msg=name
        )
    for name in ("gradient", "params", "ema"):
        truth = expected[f"{SEED}/{name}"]
        difference = np.linalg.norm(found[f"{way}/{name}"] - truth)
        assert difference <= 1e-5 * np.linalg.norm(truth), (way, name, difference / np.linalg.norm(truth))


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    path = tmp_path_factory.mktemp("parallel") / "toy.npz"
    finish(start(8, path, "toy", ",".join(WAYS)))
    return read(path)


@pytest.mark.parametrize("way", WAYS[1:])
def test_every_way_takes_the_same_steps(toy, way):
    assert_same(toy, toy, way)
    assert toy[f"{way}/step"] == 3
    assert toy[f"{way}/lowered"] > 1000


def test_the_problem_tells_ways_apart(toy):
    """Gradients are clipped by their norm, parameters move, and no two clips or steps are alike."""
    assert (toy[f"{SEED}/norms"] > 0.1).all()
    np.testing.assert_allclose(np.linalg.norm(toy[f"{SEED}/gradient"]), 0.05, rtol=1e-4)
    assert len(set(toy[f"{SEED}/losses"])) == 3
    moved = np.linalg.norm(toy[f"{SEED}/params"] - toy[f"{SEED}/ema"])
    assert moved > 1e-3 * np.linalg.norm(toy[f"{SEED}/params"])


def test_sliced_parameters_lie_in_slices(toy):
    assert toy["eight/held"] == 1.0
    assert 0.25 <= toy["fsdp/held"] < 0.3
    assert 0.5 <= toy["everything/held"] < 0.55


def test_two_processes_train_like_one(toy, tmp_path):
    both = in_two_processes(tmp_path, "toy")
    for found in both:
        assert_same(found, toy, "eight")
    # Each read its own half of the clips.
    clips = [set(found["eight/read"].tolist()) for found in both]
    assert all(len(numbers) == 4 for numbers in clips) and not clips[0] & clips[1]
    assert clips[0] | clips[1] == set(toy[f"{SEED}/read"].tolist())


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_whole_method_in_every_way(tmp_path):
    """Six programs of the tiny model, and two more of two processes: four minutes on two idle cores.

    That its loss is a mean over clips, each on its own, is tested in test_step.py in less.
    """
    path = tmp_path / "vos.npz"
    finish(start(8, path, "vos", ",".join(WAYS)))
    results = read(path)
    for way in WAYS[1:]:
        assert_same(results, results, way)
    for found in in_two_processes(tmp_path, "vos"):
        assert_same(found, results, "eight")


def make(**settings):
    def loss_fn(params, batch, key, step):
        raise AssertionError("never traced")

    return parallel.Trainer(loss_fn, optax.sgd(0.1), parallel.ParallelConfig(**settings), jax.devices()[:1])


def test_what_cannot_be_divided_is_refused():
    with pytest.raises(
        errors.VosError, match="batch of 3 clips .* 1 devices times 2 parts; .* multiple of 2"
    ):
        make(accumulate=2).put_batch({"frames": np.zeros((3, 2, 4, 4, 3), np.uint8)})
    with pytest.raises(errors.VosError, match="fsdp is 2; it must divide the 1 devices"):
        make(fsdp=2)
    for bad in ({"kind": "xmap"}, {"fsdp": 0}, {"accumulate": 0}, {"kind": "pmap", "fsdp": 2}):
        with pytest.raises(errors.VosError, match=next(iter(bad))):
            parallel.ParallelConfig(**bad)


def test_clips_are_numbered_over_the_whole_batch():
    batch = make().put_batch({"frames": np.zeros((4, 2, 4, 4, 3), np.uint8)})
    np.testing.assert_array_equal(batch["clip"], [0, 1, 2, 3])
