"""The platform that a program is traced for.

Some operations have a form for CPUs, whose caches are small and whose branches are cheap, and one for
accelerators, where a launch costs more than the work of most kernels. They choose while the program is
traced, so the other form costs no compilation.
"""

import contextlib
import contextvars
from collections.abc import Iterator

import jax

_PLATFORM: contextvars.ContextVar[str | None] = contextvars.ContextVar("platform", default=None)


def is_cpu() -> bool:
    """Returns whether programs are traced for a CPU: JAX's default backend, or `compile_for`."""
    return (_PLATFORM.get() or jax.default_backend()) == "cpu"


@contextlib.contextmanager
def compile_for(platform: str) -> Iterator[None]:
    """Traces programs for another platform, "cpu", "cuda" or "tpu", in this context.

    JAX does not know of it: a function that it has traced before is not traced again.
    """
    token = _PLATFORM.set(platform)
    try:
        yield
    finally:
        _PLATFORM.reset(token)
