"""A strict session: warnings are errors (pyproject.toml), ranks never promote silently."""

import os
import pathlib
import resource
import shutil
import tempfile

# Workers, and programs that tests start, share what one of them compiled. A program runs a few times, so
# optimising costs more than it saves. JAX_COMPILATION_CACHE_DIR=.cache/tests keeps the programs.
OWN_CACHE = "JAX_COMPILATION_CACHE_DIR" not in os.environ
SETTINGS = {
    "jax_compilation_cache_dir": os.environ.get("JAX_COMPILATION_CACHE_DIR")
    or tempfile.mkdtemp(prefix="vos_jax-tests-"),
    "jax_persistent_cache_min_compile_time_secs": 0,
    "jax_disable_most_optimizations": True,
}
os.environ |= {name.upper(): str(int(value) if value is True else value) for name, value in SETTINGS.items()}

import jax  # noqa: E402
import pytest  # noqa: E402

from tests import shapes  # noqa: E402

shapes.check()
for name, value in SETTINGS.items():
    jax.config.update(name, value)  # a plugin may have imported JAX
jax.config.update("jax_numpy_rank_promotion", "raise")


# A file is one worker's: the longest ones first, so that none of them is left when the other worker is done.
LONGEST = [
    "train/test_train.py",
    "train/test_clip_loss.py",
    "models/test_vos.py",
    "models/test_read.py",
    "inference/test_adaptation.py",
    "torture/test_torture.py",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Moves the longest files to the front."""
    names = [str(pathlib.Path(__file__).parent / name) for name in LONGEST]
    items.sort(key=lambda item: names.index(path) if (path := str(item.path)) in names else len(names))


def pytest_unconfigure() -> None:
    """Deletes the programs of this session."""
    if OWN_CACHE:
        shutil.rmtree(os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)


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
