"""Fixtures for the tests of eval.py: a small DAVIS, and `runs.CopyEngine` in place of the model."""

import shutil

import pytest

from tests.eval import runs
from tests.inference.coloured import make_model
from vos_jax.data.datasets import rendered
from vos_jax.inference import engine, session
from vos_jax.models import weights


@pytest.fixture
def copy_model(monkeypatch):
    """Swaps the model for `runs.CopyEngine`, which lists how many frames each session had."""
    monkeypatch.setattr(weights, "load_model", lambda config, checkpoint: (make_model(), None, "copy"))
    monkeypatch.setattr(engine, "Engine", runs.CopyEngine)
    monkeypatch.setattr(session, "Session", runs.CopySession)
    monkeypatch.setattr(runs.CopyEngine, "segmented", [])
    monkeypatch.setattr(runs.CopyEngine, "interrupt_after", None)
    return runs.CopyEngine


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
