"""Takes three steps of training in each of several ways and writes what came out; run by test_parallel.py.

    python tests/train/parallel_worker.py OUT.npz MODEL VARIANT,VARIANT... [PROCESS PROCESSES PORT]

MODEL is "toy", a small network that compiles in a moment, or "vos", the tiny model of the whole method. It is
a program of its own because the number of devices is settled when JAX starts.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tests import tiny
from vos_jax import processes
from vos_jax.train import clip_loss, parallel, state

VARIANTS = {
    # name: (devices, settings)
    "one": (1, {}),
    "eight": (8, {}),
    "pmap": (8, {"kind": "pmap"}),
    "fsdp": (8, {"fsdp": 4, "fsdp_min_size": 64}),
    "accumulated": (1, {"accumulate": 2}),
    "everything": (4, {"fsdp": 2, "fsdp_min_size": 64, "accumulate": 2}),
}
BATCH, STEPS, CLIP_NORM = 8, 3, 0.05


def toy_params():
    rng = np.random.default_rng(0)
    shapes = {"first": (5, 5, 3, 8), "second": (3, 3, 8, 16), "third": (16, 4), "bias": (4,), "gain": ()}
    return {name: rng.normal(0, 0.2, shape).astype(np.float32) for name, shape in shapes.items()}


def toy_loss(params, batch, key, number):
    """A network with noise of the clip's own whose loss each clip normalises by its own pixels."""
    step_key = jax.random.fold_in(key, number)

    def convolve(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    def of_clip(frames, ids, truth_valid, clip):
        x = frames.astype(jnp.float32) / 255
        x += 0.1 * jax.random.normal(jax.random.fold_in(step_key, clip), x.shape)
        x = convolve(jnp.tanh(convolve(x, params["first"])), params["second"])
        logits = params["gain"] * (jnp.tanh(x) @ params["third"]) + params["bias"][None, None, None, :]
        entropy = optax.softmax_cross_entropy_with_integer_labels(logits, ids[:, ::4, ::4].astype(jnp.int32))
        counts = truth_valid[:, None, None] & (ids[:, ::4, ::4] > 0)
        return jnp.sum(jnp.where(counts, entropy, 0)) / jnp.maximum(jnp.sum(counts), 1)

    terms = jax.vmap(of_clip)(batch["frames"], batch["ids"], batch["truth_valid"], batch["clip"])
    return jnp.mean(terms), {"loss": jnp.mean(terms)}


def problem(name):
    if name == "toy":
        return toy_loss, toy_params()
    model = tiny.model(proposals=tiny.NO_NETWORK)
    params = model.init(jax.random.key(0))
    kernel = params["refine"]["logit"]["kernel"]
    params["refine"]["logit"]["kernel"] = 0.1 * jax.random.normal(jax.random.key(1), kernel.shape)
    return clip_loss.make_loss_fn(
        model, clip_loss.ClipLossConfig(sampling_begin=0, unroll=False)
    ), jax.device_get(params)


def clips():
    batch = tiny.batch(BATCH)
    batch["truth_valid"][1, 2] = False
    batch["object_valid"][3, 1] = False
    return batch


def flat(tree):
    return np.concatenate([np.ravel(jax.device_get(x)) for x in jax.tree.leaves(tree)])


def whole(x):
    """A global array's numbers, whichever process holds them."""
    return jax.jit(lambda y: y, out_shardings=jax.sharding.NamedSharding(x.sharding.mesh, jax.P()))(x)


def train(loss_fn, params, variant):
    count, settings = VARIANTS[variant]
    tx = optax.chain(optax.clip_by_global_norm(CLIP_NORM), optax.trace(0.9), optax.scale(-0.3))
    config = parallel.ParallelConfig(**settings)
    trainer = parallel.Trainer(loss_fn, tx, config, jax.devices()[:count], ema_decay=0.5)
    initial = state.init_train_state(params, tx, jax.random.key(5))
    now = trainer.place(initial)
    batch = clips()
    local = BATCH // jax.process_count()
    rows = slice(jax.process_index() * local, (jax.process_index() + 1) * local)
    mine = {name: x[rows] for name, x in batch.items()}
    batch = trainer.put_batch(mine)
    out = {"losses": [], "norms": [], "read": mine["frames"].sum(axis=(1, 2, 3, 4), dtype=np.int64)}
    for index in range(STEPS):
        before = now
        now, metrics = trainer.step(now, batch)
        assert all(x.is_deleted() for x in jax.tree.leaves(before.params)), "the old state was not donated"
        out["losses"].append(float(metrics["loss"]))
        out["norms"].append(float(metrics["grad_norm"]))
        if index == 0:
            out["gradient"] = flat(jax.tree.map(whole, now.opt_state[1].trace))
    out["params"], out["ema"] = (flat(jax.tree.map(whole, tree)) for tree in (now.params, now.ema))
    out["step"] = int(now.step)
    # The share of the parameters that one device holds.
    leaves = jax.tree.leaves(now.params)
    held = sum(x.addressable_shards[0].data.size for x in leaves)
    out["held"] = held / sum(x.size for x in leaves)
    if params.keys() == toy_params().keys():  # tracing the whole method once more takes long
        # For shapes alone the same program comes out.
        shapes = jax.eval_shape(lambda: state.init_train_state(params, tx, jax.random.key(5)))
        out["lowered"] = len(trainer.lower(shapes, jax.eval_shape(clips)).as_text())
        assert trainer.shardings(shapes).step.is_fully_replicated
    return out


def main(path, model, variants, *several):
    if several:
        process, count, port = map(int, several)
        address = f"localhost:{port}"
        group = processes.join(address, count, process)
        assert group == processes.ProcessGroup(process, count)
        assert processes.join(detect=True) == group, "a second call must find what the first one made"
    else:
        assert processes.join(detect=True).count == 1, "there is no cluster here"
    loss_fn, params = problem(model)
    results = {}
    for variant in variants.split(","):
        results |= {f"{variant}/{key}": x for key, x in train(loss_fn, params, variant).items()}
    np.savez(path, **results)


if __name__ == "__main__":
    jax.config.update("jax_numpy_rank_promotion", "raise")
    main(*sys.argv[1:])
