"""Programs are kept from run to run, privately."""

import os
import pathlib
import subprocess
import sys

import pytest

from vos_jax import devices

ROOT = pathlib.Path(__file__).resolve().parents[1]
CODE = """
import logging, sys
import jax, jax.numpy as jnp
from vos_jax import devices
hits = []
jax.monitoring.register_event_listener(lambda name, **_: hits.append(name))
devices.choose("cpu")
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.jit(lambda x: jnp.sin(x) @ x)(jnp.ones((64, 64)))
print(hits.count("/jax/compilation_cache/cache_hits"), jax.config.jax_compilation_cache_dir)
"""


def run(**environment) -> tuple[int, str]:
    """Returns the number of programs from the cache, and its folder."""
    kept = (devices.CACHE_VARIABLE, "XDG_CACHE_HOME", "JAX_COMPILATION_CACHE_DIR")
    known = {k: v for k, v in os.environ.items() if k not in kept}
    known |= {"PYTHONPATH": str(ROOT), **{k: str(v) for k, v in environment.items()}}
    done = subprocess.run([sys.executable, "-c", CODE], env=known, capture_output=True, text=True, check=True)
    hits, place = done.stdout.split(maxsplit=1)
    return int(hits), place.strip()


def test_the_second_run_compiles_nothing_anew(tmp_path):
    hits, place = run(XDG_CACHE_HOME=tmp_path)
    assert hits == 0 and place.startswith(str(tmp_path / "vos_jax" / "programs-"))
    assert os.stat(place).st_mode & 0o777 == 0o700 and os.listdir(place)
    assert run(XDG_CACHE_HOME=tmp_path)[0] > 0
    # Another place, none, and JAX's own setting.
    assert run(VOS_JAX_CACHE=tmp_path / "other")[1].startswith(str(tmp_path / "other"))
    assert run(VOS_JAX_CACHE="off")[1] == "None"
    assert run(JAX_COMPILATION_CACHE_DIR=tmp_path / "own")[1] == str(tmp_path / "own")


def test_a_folder_that_others_may_write_to_or_that_cannot_be_made_is_not_used(tmp_path):
    """Whoever can put a program there could run anything here."""
    _, place = run(VOS_JAX_CACHE=tmp_path)
    os.chmod(place, 0o770)
    assert run(VOS_JAX_CACHE=tmp_path)[1] == "None"
    (tmp_path / "file").write_text("")
    assert run(VOS_JAX_CACHE=tmp_path / "file")[1] == "None"


def test_the_oldest_programs_make_room(tmp_path, monkeypatch):
    for age, name in enumerate(("new", "old", "oldest")):
        (tmp_path / name).write_bytes(bytes(100))
        os.utime(tmp_path / name, (1000 - age, 1000 - age))
    monkeypatch.setattr(devices, "MAX_CACHE_BYTES", 250)
    devices._make_room(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["new", "old"]


@pytest.mark.parametrize("torn", [b"", b"torn", None])
def test_a_torn_program_is_compiled_again(tmp_path, torn):
    """As a kill -9 in mid-write leaves it."""
    _, place = run(VOS_JAX_CACHE=tmp_path)
    for path in pathlib.Path(place).glob("*-cache"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if torn is None else torn)
    assert run(VOS_JAX_CACHE=tmp_path)[0] == 0
