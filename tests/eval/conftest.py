"""What the tests of eval.py start from: a small DAVIS, and `runs.CopyTracker` in place of the model."""

import shutil

import pytest

import eval as program
from tests.eval import runs
from tests.inference.coloured import make_model
from vos_jax.data.datasets import rendered
from vos_jax.inference import tracker


@pytest.fixture
def copy_model(monkeypatch):
    """Swaps the model for `runs.CopyTracker`; gives the list of how many frames each track had."""
    monkeypatch.setattr(
        program.weights, "load_model", lambda config, checkpoint: (make_model(), None, "copy")
    )
    monkeypatch.setattr(tracker, "Tracker", runs.CopyTracker)
    monkeypatch.setattr(runs.CopyTracker, "followed", [])
    monkeypatch.setattr(runs.CopyTracker, "interrupt_after", None)
    return runs.CopyTracker


@pytest.fixture(scope="session")
def pristine(tmp_path_factory):
    return rendered.write_davis(
        tmp_path_factory.mktemp("data") / "DAVIS",
        sequences=("ant", "bee"),
        frames=runs.FRAMES,
        size=runs.SIZE,
    )


@pytest.fixture
def davis(pristine, tmp_path):
    """A small DAVIS that a test may break."""
    return shutil.copytree(pristine, tmp_path / "DAVIS")
