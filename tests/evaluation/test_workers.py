"""Spreading over devices: longest first, everything once, errors and stopping, the same bits."""

import os
import pathlib
import subprocess
import sys
import threading

import jax
import pytest

from vos_jax.evaluation import workers

ROOT = pathlib.Path(__file__).resolve().parents[2]


def test_longest_first_and_everything_once():
    device, started, lock = jax.local_devices()[0], [], threading.Lock()
    together = threading.Barrier(3, timeout=30)

    def work(item, worker, stop):
        with lock:
            started.append(item)
        if item >= 7:
            together.wait()  # three devices are at work at once
        return item * item, worker

    found = dict(workers.spread(work, list(range(10)), ["a", "b", "c"], [device] * 3, cost=float))
    assert {item: result[0] for item, result in found.items()} == {n: n * n for n in range(10)}
    assert set(started[:3]) == {9, 8, 7}
    assert {found[n][1] for n in (7, 8, 9)} == {"a", "b", "c"}


def test_one_device_keeps_the_order_and_the_callers_thread():
    def work(item, worker, stop):
        stop()
        return threading.current_thread()

    found = list(workers.spread(work, [1, 3, 2], ["a"], jax.local_devices()[:1], cost=float))
    assert found == [(item, threading.current_thread()) for item in (1, 3, 2)]


@pytest.mark.parametrize("kind", ["error", "given up"])
def test_all_devices_stop_when_one_fails_or_the_caller_gives_up(kind):
    stopped = threading.Event()

    def work(item, worker, stop):
        if item == 1:
            if kind == "error":
                raise KeyError("broken")
            return item
        try:
            while True:
                stop()
        except workers.Stopped:
            stopped.set()
            raise

    jobs = workers.spread(work, [2, 1], ["a", "b"], jax.local_devices()[:1] * 2, cost=float)
    if kind == "error":
        with pytest.raises(KeyError, match="broken"):
            next(jobs)
    else:
        assert next(jobs) == (1, 1)
        jobs.close()
    assert stopped.is_set()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("vos-device")]


@pytest.mark.slow
def test_one_and_four_simulated_devices_give_the_same_bits():
    flags = "--xla_force_host_platform_device_count=4"
    environment = {
        **os.environ,
        "XLA_FLAGS": flags,
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", "tests.evaluation.many_devices"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "the same bits\n"
