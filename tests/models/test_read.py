"""Memory reads against a dense numpy softmax."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vos_jax.errors import VosError
from vos_jax.models import memory as memory_lib
from vos_jax.models import read as read_lib
from vos_jax.models import search_region
from vos_jax.ops import attention

GRID, SLOTS, OBJECTS = (4, 6), 3, 2
read = jax.jit(read_lib.read, static_argnames="config")


def filled_memory(seed=0, dtype=np.float32, grid=GRID):
    """Returns a memory with two full slots, one of them pinned, and an empty one.

    Object 1 is only in slot 1.
    """
    rng = np.random.default_rng(seed)
    config = memory_lib.MemoryConfig(capacity=SLOTS)
    spec = memory_lib.MemorySpec(config=config, stride=1, key_size=8, embed_size=5, value_size=7)
    memory = memory_lib.init(spec, OBJECTS, grid)
    pixel_valid = np.ones((SLOTS, *grid), bool)
    pixel_valid[:, -1, :] = False
    return memory.replace(
        key=jnp.asarray(rng.normal(size=memory.key.shape).astype(dtype)),
        embed=jnp.asarray(rng.normal(size=memory.embed.shape).astype(dtype)),
        value=jnp.asarray(rng.normal(size=memory.value.shape).astype(dtype)),
        prob=jnp.asarray(rng.uniform(size=memory.prob.shape).astype(np.float32)),
        pixel_valid=jnp.asarray(pixel_valid),
        object_in_slot=jnp.asarray([[True, True, False], [False, True, False]]),
        slot_valid=jnp.asarray([True, True, False]),
        slot_pinned=jnp.asarray([True, False, False]),
        slot_frame=jnp.asarray([0, 1, -1], jnp.int32),
    )


def dense(query, memory, config):
    """The read written out over the whole memory, one softmax per object."""
    h, w, channels = query.shape
    q = np.asarray(query, np.float64).reshape(h * w, channels)
    m = jax.tree.map(lambda x: np.asarray(x, np.float64 if x.dtype == np.float32 else x.dtype), memory)
    keys = m.key.reshape(SLOTS, h * w, channels)
    scale = channels**-0.5 if config.scale is None else config.scale
    logits = np.einsum("qc,mkc->qmk", q, keys)
    if config.affinity == "l2":
        logits = -np.sum((q[:, None, None] - keys[None]) ** 2, axis=-1)
    logits = logits * scale
    y, x = np.divmod(np.arange(h * w), w)
    visible = (
        np.broadcast_to(m.pixel_valid.reshape(1, SLOTS, h * w), logits.shape) & m.slot_valid[None, :, None]
    )
    if config.kernel_sigma:
        best = np.argmax(np.where(visible, logits, -np.inf), axis=0)
        logits = logits - ((y[:, None, None] - y[best]) ** 2 + (x[:, None, None] - x[best]) ** 2) / (
            2 * config.kernel_sigma**2
        )
    if config.window:
        near = (abs(y[:, None] - y[None]) <= config.window) & (abs(x[:, None] - x[None]) <= config.window)
        visible = visible & (near[:, None, :] | m.slot_pinned[None, :, None])
    if config.topk:
        flat = np.where(visible, logits, -np.inf).reshape(h * w, -1)
        kth = np.sort(flat, axis=-1)[:, -config.topk]
        visible = visible & (logits >= kth[:, None, None])
    out = {"value": [], "embed": [], "prob": []}
    for o in range(OBJECTS):
        seen = visible & m.object_in_slot[o][None, :, None]
        prob = m.prob[o].reshape(SLOTS, h * w)
        plain = np.where(seen, np.exp(logits), 0.0)
        bias = prob + 1e-4 if config.weight == "mask" else np.ones_like(prob)
        weights = plain * bias[None]
        weights /= np.maximum(weights.sum((1, 2), keepdims=True), 1e-30)
        out["value"].append(np.einsum("qmk,mkc->qc", weights, m.value[o].reshape(SLOTS, h * w, -1)))
        out["embed"].append(np.einsum("qmk,mkc->qc", weights, m.embed.reshape(SLOTS, h * w, -1)))
        plain /= np.maximum(plain.sum((1, 2), keepdims=True), 1e-30)
        out["prob"].append(np.einsum("qmk,mk->q", plain, prob))
    return {k: np.stack(v).reshape(OBJECTS, h, w, *np.shape(v[0])[1:]) for k, v in out.items()}


EVERYWHERE = read_lib.ReadConfig(affinity="dot", search_radius=0.0)
SWITCHES = (
    {},
    {"weight": "none"},
    {"weight": "none", "affinity": "l2"},
    {"weight": "none", "topk": 5},
    {"weight": "none", "kernel_sigma": 2.0},
    {"kernel_sigma": 2.0},
)
# One of each kind; the others compile two programs apiece.
SOME_SWITCHES = [
    pytest.param(switches, id=str(switches), marks=() if index in (0, 3, 5) else pytest.mark.slow)
    for index, switches in enumerate(SWITCHES)
]


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
@pytest.mark.parametrize("window", [0, 1])
@pytest.mark.parametrize("most", [0, 10_000], ids=["streamed", "dense"])
def test_read_equals_a_softmax_written_out(monkeypatch, switches, window, most):
    monkeypatch.setattr(read_lib, "DENSE", most)
    monkeypatch.setattr(attention, "QUERY_BLOCK", 7)
    memory = filled_memory()
    query = jnp.asarray(np.random.default_rng(1).normal(size=(*GRID, 8)).astype(np.float32)) * 3
    config = read_lib.ReadConfig(**{"affinity": "dot", **switches}, window=window, search_radius=0.0)
    # A function of its own: JAX would take the program of another `most` from its cache.
    result = jax.jit(lambda *inputs: read_lib.read(*inputs, config))(query, memory)
    for name, expected in dense(query, memory, config).items():
        np.testing.assert_allclose(getattr(result, name), expected, atol=3e-5, err_msg=name)
    np.testing.assert_allclose(np.sum(result.slot_attention, axis=-1), 1.0, atol=1e-5)
    assert float(result.slot_attention[1, 0]) == 0.0, "object 1 is not in slot 0"


@pytest.mark.parametrize("switches", SOME_SWITCHES)
def test_streamed_and_dense_have_one_gradient(monkeypatch, switches):
    memory = filled_memory()
    query = jnp.asarray(np.random.default_rng(1).normal(size=(*GRID, 8)).astype(np.float32))
    config = read_lib.ReadConfig(**{"affinity": "dot", **switches}, search_radius=0.0)

    def gradients(most):
        monkeypatch.setattr(read_lib, "DENSE", most)
        monkeypatch.setattr(attention, "QUERY_BLOCK", 7)

        def loss(query, key, value, prob):
            found = read_lib.read(query, memory.replace(key=key, value=value, prob=prob), config)
            return jnp.sum(found.value**2) + jnp.sum(found.prob) + jnp.sum(jnp.cos(found.embed))

        compute = jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3)))
        return compute(query, memory.key, memory.value, memory.prob)

    for a, b in zip(gradients(0), gradients(10_000), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_switches_that_do_not_go_together_are_refused():
    for switches in ({"topk": 5}, {"topk": 5, "weight": "none", "kernel_sigma": 1.0}):
        with pytest.raises(VosError, match="topk is 5; it needs weight none and kernel_sigma 0"):
            read_lib.ReadConfig(**switches)


def test_an_empty_memory_reads_zeros_and_large_logits_stay_finite():
    memory = filled_memory()
    query = jnp.full((*GRID, 8), 1e4)
    empty = memory.replace(slot_valid=jnp.zeros(SLOTS, bool))
    found = read(query, empty, EVERYWHERE)
    assert not np.any(found.prob) and not np.any(found.value) and not np.any(found.slot_attention)
    loud = read(query, memory.replace(key=memory.key * 1e4), EVERYWHERE)
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(loud))


def test_late_object_whose_best_match_is_hidden_still_reads():
    """The maximum is per object: a far higher affinity in an older slot must not underflow."""
    memory = filled_memory()
    memory = memory.replace(key=memory.key.at[0].multiply(1000.0))
    query = jnp.ones((*GRID, 8))
    assert np.all(np.asarray(read(query, memory, EVERYWHERE).prob)[1] > 1e-3)


def test_gradients_are_finite_and_reach_key_value_and_mask():
    memory = filled_memory()
    query = jnp.asarray(np.random.default_rng(1).normal(size=(*GRID, 8)).astype(np.float32))

    def loss(query, key, value, prob):
        found = read(query, memory.replace(key=key, value=value, prob=prob), EVERYWHERE)
        return jnp.sum(found.value**2) + jnp.sum(found.prob)

    grads = jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3)))(query, memory.key, memory.value, memory.prob)
    for grad in grads:
        assert np.all(np.isfinite(grad)) and np.any(grad)


def test_an_object_that_no_slot_knows_gives_no_nan_gradient():
    memory = filled_memory()
    memory = memory.replace(object_in_slot=jnp.asarray([[True, True, False], [False] * 3]))
    query = jnp.asarray(np.random.default_rng(1).normal(size=(*GRID, 8)).astype(np.float32))

    def loss(key):
        found = read(query, memory.replace(key=key), EVERYWHERE)
        return jnp.sum(found.value**2) + jnp.sum(jnp.sqrt(found.prob + 1e-6))

    assert np.all(np.isfinite(jax.jit(jax.grad(loss))(memory.key)))


def test_padding_objects_do_not_change_the_read():
    memory = filled_memory()
    query = jnp.asarray(np.random.default_rng(1).normal(size=(*GRID, 8)).astype(np.float32))
    small = read(query, memory, EVERYWHERE)
    large = read(query, memory_lib.grow(memory, 4), EVERYWHERE)
    for field in dataclasses.fields(small):
        np.testing.assert_allclose(
            getattr(small, field.name), getattr(large, field.name)[:OBJECTS], atol=1e-6
        )
        assert not np.any(getattr(large, field.name)[OBJECTS:])


WIDE = (16, 24)


def with_small_objects(seed=0):
    """Returns a query, a memory on a wide grid of objects a few pixels large, and their previous masks."""
    memory = filled_memory(seed, grid=WIDE)
    prob = np.full(memory.prob.shape, 1e-3, np.float32)
    prob[:, :, 3:5, 4:6] = 0.9
    prev = np.zeros((OBJECTS, 4 * WIDE[0], 4 * WIDE[1]), np.float32)
    prev[0, 16:24, 20:28] = 1.0
    prev[1, 16:24, 28:32] = 1.0
    query = jnp.asarray(np.random.default_rng(1).normal(size=(*WIDE, 8)).astype(np.float32))
    return query, memory.replace(prob=jnp.asarray(prob)), jnp.asarray(prev)


NEAR = read_lib.ReadConfig(search_radius=0.1, affinity="dot")  # two cells


def read_near(query, memory, config, prev):
    region = search_region.search_region(prev, memory, config.search_radius)
    return read(query, memory, config, region)


def test_near_pixels_read_what_all_would_and_others_nothing():
    query, memory, prev = with_small_objects()
    # All cells far from the objects hold the same value, so that their mean is that value.
    far = ~search_region.around(memory.prob[:, 0], WIDE, 0.1, read_lib.COVERED)
    memory = memory.replace(
        value=jnp.where(far[:, None, :, :, None], 0.3, memory.value),
        embed=jnp.where(far[0, None, :, :, None], -0.7, memory.embed),
    )
    everywhere = read(query, memory, NEAR)
    found = read_near(query, memory, NEAR, prev)
    assert found.region.sum() == 6 * 6 + 6 * 5
    for name in ("value", "embed", "prob"):
        expected, got = (np.asarray(getattr(x, name)) for x in (everywhere, found))
        near = np.asarray(found.region)
        np.testing.assert_allclose(got[near], expected[near], atol=1e-5, err_msg=name)
        last = memory.value[:, np.argmax(memory.slot_frame)]
        np.testing.assert_array_equal(got[~near], np.asarray(last)[~near] if name == "value" else 0.0)


def test_a_shrunken_object_is_looked_for_everywhere_and_reads_every_pixel():
    query, memory, prev = with_small_objects()
    # Half a cell of the four that the memory holds; the other object is as large as it was.
    prev = prev.at[1].set(0.0).at[1, 16:18, 28:32].set(1.0)
    everywhere, found = read(query, memory, NEAR), read_near(query, memory, NEAR, prev)
    assert found.region[1].all() and not found.region[0].all()
    for name in ("value", "embed", "prob"):
        expected, got = (np.asarray(getattr(x, name))[1] for x in (everywhere, found))
        np.testing.assert_allclose(got, expected, atol=1e-5, err_msg=name)


def test_far_memory_is_merged_and_its_weight_stays():
    query, memory, prev = with_small_objects()
    everywhere, found = read(query, memory, NEAR), read_near(query, memory, NEAR, prev)
    near = np.asarray(found.region)
    np.testing.assert_allclose(found.prob[near], everywhere.prob[near], atol=1e-6)
    error = np.abs(np.asarray(found.value - everywhere.value))[near]
    assert 1e-6 < error.max() < 1.0
    # The padded row is in no mean.
    padded = memory.replace(value=memory.value.at[:, :, -1].set(1e3), embed=memory.embed.at[:, -1].set(1e3))
    same = read_near(query, padded, NEAR, prev)
    for name in ("value", "embed", "prob"):
        np.testing.assert_array_equal(getattr(same, name)[near], getattr(found, name)[near], err_msg=name)


@pytest.mark.parametrize("switches", SOME_SWITCHES)
def test_every_read_of_near_pixels_is_as_that_of_all(switches):
    query, memory, prev = with_small_objects()
    config = dataclasses.replace(NEAR, **switches, window=2)
    everywhere, found = read(query, memory, config), read_near(query, memory, config, prev)
    near = np.asarray(found.region)
    np.testing.assert_allclose(found.prob[near], everywhere.prob[near], atol=1e-6)


@pytest.mark.parametrize("switches", SOME_SWITCHES)
def test_another_object_changes_nothing_of_what_one_reads(switches):
    query, memory, prev = with_small_objects()
    config = dataclasses.replace(NEAR, **switches)
    alone = read_near(query, memory, config, prev.at[1, 16:24, 28:32].set(0.0).at[1, :4, :4].set(1.0))
    beside = read_near(query, memory, config, prev)
    for name in ("value", "prob", "slot_attention"):
        np.testing.assert_allclose(getattr(alone, name)[0], getattr(beside, name)[0], atol=1e-6)


def test_a_large_object_does_not_change_how_finely_another_is_read():
    query, memory, prev = with_small_objects()
    # The second object lies all over the memory: its pixels are padded to the whole frame.
    memory = memory.replace(prob=memory.prob.at[1].set(0.9))
    beside = read_near(query, memory, NEAR, prev)
    gone = memory.replace(object_in_slot=memory.object_in_slot.at[1].set(False))
    alone = read_near(query, gone, NEAR, prev)
    everywhere = read(query, memory, NEAR)
    near = np.asarray(alone.region[0])
    for name in ("value", "embed", "prob", "slot_attention"):
        a, b = (np.asarray(getattr(x, name)[0]) for x in (alone, beside))
        np.testing.assert_allclose(a, b, atol=1e-6, err_msg=name)
    assert np.abs(np.asarray(beside.value - everywhere.value)[0][near]).max() > 1e-6, "far pixels are merged"


def test_an_object_that_no_slot_knows_is_looked_for_nowhere():
    query, memory, prev = with_small_objects()
    memory = memory.replace(object_in_slot=memory.object_in_slot.at[1].set(False))
    near = read_near(query, memory, NEAR, prev.at[1].set(0.0)).region
    assert near[0].sum() == 6 * 6 and not near[1].any(), "padding must not cost a read of the whole frame"


def test_an_object_that_was_nowhere_is_looked_for_everywhere():
    query, memory, prev = with_small_objects()
    found = read_near(query, memory, NEAR, jnp.zeros_like(prev))
    everywhere = read(query, memory, NEAR)
    assert found.region.all()
    np.testing.assert_allclose(found.prob, everywhere.prob, atol=1e-6)


@functools.partial(jax.jit, static_argnames="config")
def read_in_small_blocks(query, memory, config, region):
    """Reads where QUERY_BLOCK is small, apart from `read`, whose programs have it large."""
    return read_lib.read(query, memory, config, region)


@pytest.mark.parametrize("number", [0, 1, 127, 128, 129, 192, 200, 384])
def test_queries_in_a_region_all_come_through_whatever_their_number(monkeypatch, number):
    monkeypatch.setattr(attention, "QUERY_BLOCK", 64)
    query, memory, _ = with_small_objects()
    marked = np.zeros((OBJECTS, *WIDE), bool)
    marked[0].reshape(-1)[np.random.default_rng(0).permutation(384)[:number]] = True
    config = dataclasses.replace(NEAR, weight="none")
    found = read_in_small_blocks(query, memory, config, jnp.asarray(marked))
    everywhere = read(query, memory, config)
    np.testing.assert_allclose(found.value[0][marked[0]], everywhere.value[0][marked[0]], atol=1e-5)
    assert not found.prob[0][~marked[0]].any() and not found.prob[1].any()
