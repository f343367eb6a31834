"""A strict session: warnings are errors (pyproject.toml), ranks never promote silently."""

import os
import pathlib
import resource

import jax
import pytest

from tests import shapes

shapes.check()
jax.config.update("jax_numpy_rank_promotion", "raise")
# What a test compiles it runs a few times: optimising costs more than it saves.
jax.config.update("jax_disable_most_optimizations", True)
# Tests compile what they test, in the programs that they start as well.
os.environ["VOS_JAX_CACHE"] = "off"

SHARED_DATA = pathlib.Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> pathlib.Path:
    """The real data beside the project; tests that need it skip, naming why, where it is not there."""
    if not (SHARED_DATA / "DAVIS").is_dir():
        pytest.skip(f"needs real data in {SHARED_DATA}, which is not on this machine")
    return SHARED_DATA


@pytest.fixture
def little_memory():
    """Whoever asks for a gigabyte more than there is now gets a MemoryError."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)
