"""Joining other processes and sharing work; processes meet in tests/train/test_parallel.py and tests/eval."""

import multiprocessing
import os
import pathlib
import subprocess
import sys

import jax
import pytest

from vos_jax import errors, processes, rendezvous

ROOT = pathlib.Path(__file__).resolve().parents[1]


ALONE = processes.ProcessGroup(index=0, count=1)


@pytest.fixture
def calls(monkeypatch):
    """Records what JAX is asked for instead of asking it."""
    made = []
    monkeypatch.setattr(rendezvous, "meet", lambda *_: None)
    monkeypatch.setattr(processes.xla_bridge, "backends_are_initialized", lambda: False)
    monkeypatch.setattr(jax.distributed, "initialize", lambda **arguments: made.append(arguments))
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: False)
    return made


def failing(monkeypatch, error):
    def initialize(**arguments):
        raise error

    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: False)
    monkeypatch.setattr(jax.distributed, "initialize", initialize)


def test_explicit_arguments_reach_jax(calls):
    processes.join("host:1234", 4, 2, timeout_seconds=7)
    assert calls == [
        {
            "coordinator_address": "host:1234",
            "num_processes": 4,
            "process_id": 2,
            "initialization_timeout": 7,
        }
    ]


def test_one_process_and_data_workers_join_nobody(calls, monkeypatch):
    assert processes.join("host:1234", 1, 0) == ALONE
    assert processes.join(None, 1, None, detect=True) == ALONE
    monkeypatch.setattr(multiprocessing, "parent_process", lambda: object())
    assert processes.join("host:1234", 4, 2) == ALONE
    assert processes.join(detect=True) == ALONE
    assert not calls


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("host:1", None, 0), "missing: num_processes"),
        ((None, 2, None), "missing: coordinator_address, process_id"),
        (("host:1", 2, 2), "process_id is 2 of 2"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(calls, arguments, message):
    with pytest.raises(errors.VosError, match=message):
        processes.join(*arguments, detect=True)
    assert not calls


def test_failures_are_one_line(monkeypatch):
    failing(monkeypatch, ValueError("coordinator_address should be defined."))
    assert processes.join(detect=True) == ALONE  # no cluster here
    failing(monkeypatch, RuntimeError("connection refused\nby the coordinator"))
    with pytest.raises(errors.VosError, match=r"other processes: connection refused$"):
        processes.join(detect=True)
    failing(monkeypatch, ValueError("Number of processes must be defined."))
    with pytest.raises(errors.VosError, match="Number of processes"):
        processes.join(detect=True)


def test_devices_that_are_in_use_already_were_refused_in_words_of_jax():
    jax.devices()
    for arguments in ((), ("localhost:1", 2, 0)):
        with pytest.raises(errors.VosError, match="already uses this program's devices.*--num-processes 1"):
            processes.join(*arguments, detect=True)
    assert processes.join(None, 1, None, detect=True) == ALONE


def test_train_touched_devices_before_it_joined_and_the_device_asked_for_came_too_late(tmp_path):
    """Other processes can only be joined, and devices chosen, while JAX has settled on none."""
    program = f"""
import jax, train
from jax._src import xla_bridge

def join(*_, **__):
    assert not xla_bridge.backends_are_initialized(), "touched a device"
    assert jax.config.jax_platforms == "cpu", jax.config.jax_platforms
    raise train.errors.VosError("got here")

train.processes.join = join
train.main(["--config", "train_davis", "--workdir", {str(tmp_path)!r}, "--device", "cpu"])
"""
    environment = {name: value for name, value in os.environ.items() if name != "JAX_PLATFORMS"}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.stderr.endswith("error: got here\n") and "Traceback" not in done.stderr, done.stderr


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_processes_part_the_work_without_talking(count):
    items = [("a", 3), ("b", 9), ("c", 3), ("d", 4), ("e", 8)]
    groups = [processes.ProcessGroup(index, count) for index in range(count)]
    parts = [group.partition(items, lambda item: item[1]) for group in groups]
    assert len(parts) == count and sorted(sum(parts, [])) == items, "everything once"
    assert all(part == [item for item in items if item in part] for part in parts), "in the order given"
    expected = {1: ["abcde"], 2: ["abc", "de"], 3: ["b", "e", "acd"], 5: ["b", "e", "d", "a", "c"]}
    assert ["".join(name for name, _ in part) for part in parts] == expected[count]


def test_processes_that_are_not_all_described_are_refused():
    with pytest.raises(errors.VosError, match="missing: num_processes, process_id"):
        processes.join("localhost:1", None, None)
    assert processes.join() == processes.join(None, None, None) == processes.join(None, 1, None) == ALONE


def test_what_another_process_left_undone_is_named():
    processes.check_finished([])
    with pytest.raises(errors.VosError, match="did not finish cow, eel"):
        processes.check_finished(["cow", "eel"])
