"""A strict session: warnings are errors (pyproject.toml), ranks never promote silently."""

import pathlib

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")

SHARED_DATA = pathlib.Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> pathlib.Path:
    """The real data beside the project; tests that need it skip, naming why, where it is not there."""
    if not (SHARED_DATA / "DAVIS").is_dir():
        pytest.skip(f"needs real data in {SHARED_DATA}, which is not on this machine")
    return SHARED_DATA
