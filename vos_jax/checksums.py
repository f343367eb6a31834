"""Checksums of a checkpoint's contents: they detect disk errors, not deliberate changes."""

import json
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

_ODD = np.uint32(0x9E3779B1)


def of_json(value: Any) -> int:
    """Returns the checksum of a JSON value, which does not change when it is written and read."""
    return zlib.crc32(json.dumps(value, sort_keys=True).encode())


def of_tree(tree: Any) -> dict[str, int]:
    """Returns a checksum per branch of a pytree of arrays, independent of their sharding.

    An array's checksum is the sum of its elements' bits, each times an odd number that depends on its
    position. So shards can be summed where they are, and a change of any element changes the sum (modulo
    2^32). All processes must call this together.
    """
    names: list[str] = []
    sums: list[np.uint32] = []
    with np.errstate(over="ignore"):
        for (branch, *path), leaf in jax.tree_util.tree_leaves_with_path(tree):
            place = zlib.crc32(jax.tree_util.keystr(tuple(path)).encode()) | 1
            names.append(jax.tree_util.keystr((branch,), simple=True))
            sums.append(np.uint32(place) * _of_array(leaf))
    found = np.array(sums, np.uint32)
    if jax.process_count() > 1:
        found = np.asarray(multihost_utils.process_allgather(found)).sum(axis=0, dtype=np.uint32)
    total = dict.fromkeys(names, 0)
    for name, number in zip(names, [int(number) for number in found], strict=True):
        total[name] = (total[name] + number) % (1 << 32)
    return total


def _of_array(leaf: Any) -> np.uint32:
    """Returns the checksum of the array's shards on this process, without replicas."""
    leaf = jnp.asarray(leaf)
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    total = np.uint32(0)
    for shard in leaf.addressable_shards:
        if shard.replica_id == 0:
            total += _of_part(np.asarray(shard.data), _places(leaf.shape, shard.index))
    return total


def _places(shape: tuple[int, ...], index: tuple[slice, ...]) -> np.ndarray:
    """Returns the positions (modulo 2^32) of a part's elements in the whole array, broadcastable to it."""
    places = np.zeros((), np.uint32)
    step = 1
    for axis in reversed(range(len(shape))):
        along = np.arange(*index[axis].indices(shape[axis]), dtype=np.uint32) * np.uint32(step % (1 << 32))
        places = places + along.reshape((-1,) + (1,) * (len(shape) - 1 - axis))
        step *= shape[axis]
    return places


def _of_part(part: np.ndarray, places: np.ndarray) -> np.uint32:
    bits = np.ascontiguousarray(part).view(f"u{part.itemsize}")
    if part.itemsize == 8:
        bits = bits ^ (bits >> np.uint64(32))
    weights = (places * np.uint32(2) + np.uint32(1)) * _ODD
    return np.sum(bits.astype(np.uint32) * weights, dtype=np.uint32)
