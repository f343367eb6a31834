"""Trees of a training state and of a checkpoint, compared and merged by the paths of their leaves."""

from typing import Any

import jax
import jax.numpy as jnp
from orbax.checkpoint import v1 as ocp


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _by_path(tree: Any) -> dict[str, Any]:
    return {_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def lacking(saved: Any, abstract: Any) -> list[str]:
    """Returns the paths of a state that a checkpoint does not have in this shape.

    Args:
      saved: metadata of the checkpoint's arrays.
      abstract: the state's shapes.
    """
    shapes = {name: tuple(leaf.shape) for name, leaf in _by_path(saved).items()}
    return [
        name
        for name, leaf in _by_path(abstract).items()
        # Saved random keys have an axis more.
        if name not in shapes
        or not (shapes[name] == leaf.shape or jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key))
    ]


def same(saved: Any, abstract: Any) -> bool:
    """Returns whether a checkpoint has exactly the arrays of a state; arguments as `lacking`."""
    return _by_path(saved).keys() == _by_path(abstract).keys() and not lacking(saved, abstract)


def as_saved(saved: Any, abstract: Any) -> Any:
    """Returns a checkpoint's tree for orbax to load: `abstract`'s leaves, and placeholders for all others."""
    wanted, lacks = _by_path(abstract), set(lacking(saved, abstract))

    def leaf(path: Any, _: Any) -> Any:
        name = _name(path)
        return wanted[name] if name in wanted and name not in lacks else ocp.PLACEHOLDER

    return jax.tree_util.tree_map_with_path(leaf, saved)


def merged(loaded: Any, fresh: Any) -> Any:
    """Returns a state with the arrays that were loaded by `as_saved`, all others as in `fresh`."""
    known = {name: leaf for name, leaf in _by_path(loaded).items() if leaf is not ocp.PLACEHOLDER}
    return jax.tree_util.tree_map_with_path(lambda path, leaf: known.get(_name(path), leaf), fresh)
