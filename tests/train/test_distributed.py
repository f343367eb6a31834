"""Joining other processes: when to, when not to, how failures read. They really meet in test_parallel.py."""

import multiprocessing

import jax
import pytest

from vos_jax import errors
from vos_jax.train import distributed


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
    failing(monkeypatch, RuntimeError("must be called before any JAX calls\nthat use devices"))
    with pytest.raises(errors.VosError, match=r"must be called before any JAX calls$"):
        distributed.initialise()
    failing(monkeypatch, ValueError("Number of processes must be defined."))
    with pytest.raises(errors.VosError, match="Number of processes"):
        distributed.initialise()
