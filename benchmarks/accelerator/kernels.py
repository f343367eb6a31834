"""The costliest kernels of a program, by JAX's profiler."""

import collections
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any

import jax

from vos_jax import errors

_STREAMS = ("Stream", "XLA Ops")
"""Prefixes of the profiler's lines of a GPU's streams and of a TPU's core."""

_CONTROL = ("while", "call", "conditional")
"""Operations of CPU programs whose time contains that of other operations."""


def costliest(call: Callable[[], Any], count: int = 20) -> list[dict[str, Any]]:
    """Returns the kernels of `call` by falling total time.

    Each is a dict: "kernel", "calls", "ms" in total, and "share" of the time of all kernels. On a CPU these
    are the compiled program's operations, summed over threads.

    Args:
      call: runs the program and returns its results.
      count: of kernels.

    Raises:
      VosError: the profiler recorded none.
    """
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            jax.block_until_ready(call())
        (path,) = pathlib.Path(folder).rglob("*.xplane.pb")
        profile = jax.profiler.ProfileData.from_file(str(path))
    return rank(profile, count)


def rank(profile: Any, count: int) -> list[dict[str, Any]]:
    """Returns the costliest kernels of a `jax.profiler.ProfileData`; see `costliest`."""
    planes = list(profile.planes)
    devices = [plane for plane in planes if plane.name.startswith("/device:")]
    times, calls = collections.Counter(), collections.Counter()
    for plane in devices or [plane for plane in planes if plane.name == "/host:CPU"]:
        for line in plane.lines:
            if not line.name.startswith(_STREAMS if devices else "tf_XLA"):
                continue
            for event in line.events:
                # On a CPU, functions of the runtime and control operations are skipped.
                if devices or not ("::" in event.name or event.name.startswith(_CONTROL)):
                    times[event.name] += event.duration_ns
                    calls[event.name] += 1
    total = sum(times.values())
    if not total:
        seen = ", ".join(plane.name for plane in planes)
        raise errors.VosError(f"the profiler saw no kernel; it saw {seen or 'nothing'}")
    return [
        {"kernel": name[:120], "calls": calls[name], "ms": time / 1e6, "share": time / total}
        for name, time in times.most_common(count)
    ]
