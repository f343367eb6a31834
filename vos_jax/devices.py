"""What the programs compute on: the user's choice, checked before any work."""

import ctypes
import platform
from typing import Any

import jax

from vos_jax import program_cache
from vos_jax.errors import VosError
from vos_jax.typing import Device

NAMES = ("cpu", "gpu", "tpu")


def prefer(name: str | None) -> None:
    """Asks JAX for `name` ("cpu", "gpu", "tpu"; None = the best there is) and touches no device yet.

    For what has to come between: `train.distributed.initialise`, after which it is too late to ask.
    """
    if name is not None:
        # Left to itself JAX prefers an accelerator; naming one would fail with JAX's own traceback.
        jax.config.update("jax_platforms", "cpu" if name == "cpu" else "")


def choose(name: str | None) -> str:
    """Makes JAX use `name` ("cpu", "gpu", "tpu"; None = the best there is) and returns its description.

    Call it before anything computes: JAX settles on its devices at first use. What is compiled from then on
    is kept for the next run (`program_cache`).

    Raises:
        VosError: JAX sees no such device, or settled on another one before.
    """
    prefer(name)
    program_cache.keep()
    try:
        found = jax.default_backend()
        device = jax.devices()[0]
    except RuntimeError as error:
        raise VosError(f"JAX cannot start its devices: {str(error).splitlines()[0]}") from error
    if found == "cpu":
        keep_freed_memory()
    if name is not None and found != name:
        raise VosError(f"--device {name}: JAX sees only {found} here; install JAX for {name} (see README.md)")
    return found if device.device_kind == found else f"{found} ({device.device_kind})"


def local() -> list[Device]:
    """The devices of this process that work is spread over."""
    return jax.local_devices()


def peak_memory_mb() -> float:
    """Most memory in MB that one device has held so far; on CPU, which does not count it, this process."""
    peaks: list[Any] = [(device.memory_stats() or {}).get("peak_bytes_in_use") for device in local()]
    if None in peaks:
        import resource  # not everywhere there

        # Kilobytes, but bytes on macOS.
        unit = 1 if platform.system() == "Darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
    return max(peaks) / 1e6


def keep_freed_memory() -> None:
    """Lets this process keep what it frees, where the C library is glibc; elsewhere does nothing.

    glibc maps every block above 32 MB anew and hands it back when freed, so each frame would pay the page
    faults of all its large temporaries again.
    """
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    m_mmap_max, m_trim_threshold = -4, -1  # malloc.h
    libc.mallopt(m_mmap_max, 0)
    libc.mallopt(m_trim_threshold, 2**31 - 1)
