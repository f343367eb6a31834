"""Joining other processes: when to, when not to, how failures read. They really meet in test_parallel.py."""

import multiprocessing
import os
import pathlib
import subprocess
import sys

import jax
import pytest

from vos_jax import errors
from vos_jax.train import distributed

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture
def calls(monkeypatch):
    """Records what JAX is asked for instead of asking it."""
    made = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda **arguments: made.append(arguments))
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: False)
    return made


def failing(monkeypatch, error):
    def initialize(**arguments):
        raise error

    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: False)
    monkeypatch.setattr(jax.distributed, "initialize", initialize)


def test_explicit_arguments_reach_jax(calls):
    distributed.initialise("host:1234", 4, 2, timeout_seconds=7)
    assert calls == [
        {
            "coordinator_address": "host:1234",
            "num_processes": 4,
            "process_id": 2,
            "initialization_timeout": 7,
        }
    ]


def test_one_process_and_data_workers_join_nobody(calls, monkeypatch):
    assert not distributed.initialise("host:1234", 1, 0)
    assert not distributed.initialise(num_processes=1)
    monkeypatch.setattr(multiprocessing, "parent_process", lambda: object())
    assert not distributed.initialise("host:1234", 4, 2)
    assert not distributed.initialise()
    assert not calls


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("host:1", None, 0), "missing: num_processes"),
        ((None, 2, None), "missing: coordinator_address, process_id"),
        (("host:1", 2, 2), "process_id is 2 of 2"),
        (("host", 2, 0), "machine:port"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(calls, arguments, message):
    with pytest.raises(errors.VosError, match=message):
        distributed.initialise(*arguments)
    assert not calls


def test_failures_are_one_line(monkeypatch):
    failing(monkeypatch, ValueError("coordinator_address should be defined."))
    assert not distributed.initialise()  # no cluster here
    failing(monkeypatch, RuntimeError("connection refused\nby the coordinator"))
    with pytest.raises(errors.VosError, match=r"other processes: connection refused$"):
        distributed.initialise()
    failing(monkeypatch, ValueError("Number of processes must be defined."))
    with pytest.raises(errors.VosError, match="Number of processes"):
        distributed.initialise()


def test_devices_that_are_in_use_already_were_refused_in_words_of_jax():
    jax.devices()
    for arguments in ((), ("localhost:1", 2, 0)):
        with pytest.raises(errors.VosError, match="uses this program's devices already.*--num_processes 1"):
            distributed.initialise(*arguments)
    assert not distributed.initialise(num_processes=1)


def test_train_touched_devices_before_it_joined_and_the_device_asked_for_came_too_late(tmp_path):
    """Other processes can only be joined, and devices chosen, while JAX has settled on none."""
    program = f"""
import jax, train
from jax._src import xla_bridge

def initialise(*_):
    assert not xla_bridge.backends_are_initialized(), "touched a device"
    assert jax.config.jax_platforms == "cpu", jax.config.jax_platforms
    raise train.errors.VosError("got here")

train.distributed.initialise = initialise
train.main(["--config", "train_davis", "--workdir", {str(tmp_path)!r}, "--device", "cpu"])
"""
    environment = {name: value for name, value in os.environ.items() if name != "JAX_PLATFORMS"}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.stderr.endswith("error: got here\n") and "Traceback" not in done.stderr, done.stderr
