"""Checks the shapes that the model's annotations say, at every call; jaxtyping and beartype do the work."""

import re

import flax
import jax
import jaxtyping
import numpy as np

import vos_jax.typing as names

# Tests hand in NumPy arrays as well.
ARRAY = jax.Array | np.ndarray


class Said:
    """Stands for jaxtyping's `Float` and the like: `H/4` and `P+1` are sizes by these names.

    jaxtyping works such sums out, which needs H before H/4 in the order of arguments; here all that is said
    alike must be alike.
    """

    def __init__(self, kind):
        self._kind = kind

    def __getitem__(self, item):
        array, shape = item
        return self._kind[ARRAY if array is jax.Array else array, named(shape)]


def named(shape: str) -> str:
    """The shape with sums as names: "N H/4" is "N of_H_4"."""
    sizes = [
        "of_" + re.sub(r"\W", "_", size) if re.search(r"\w[-+*/]\w", size) else size for size in shape.split()
    ]
    return " ".join(sizes)


def check() -> None:
    """Makes every later import of a module of the model check its shapes."""
    for name in ("Bool", "Float", "Int", "Shaped", "UInt8"):
        setattr(names, name, Said(getattr(jaxtyping, name)))
    names.Array = ARRAY
    # Not the shapes of pytrees: JAX puts axes, tracers and None into them.
    flax.struct.PyTreeNode.__no_type_check__ = True
    jaxtyping.install_import_hook("vos_jax.models", "beartype.beartype")
