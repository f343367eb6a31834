"""Compiles the training step for a TPU topology without TPUs and reports memory, FLOPs and collectives."""

import collections
import dataclasses
import functools
import os
import re
import time

import jax
import jax.numpy as jnp
from jax.experimental import topologies

from vos_jax import errors
from vos_jax.data import config as data_config
from vos_jax.data import origins
from vos_jax.models import config as model_config
from vos_jax.models import vos
from vos_jax.ops import target
from vos_jax.train import clip_loss, optim, parallel, setup, state
from vos_jax.train import config as config_lib
from vos_jax.typing import Device

_COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_CALL = re.compile(rf" = (.*?) ({'|'.join(_COLLECTIVES)})(-start)?\(")
_SHAPE = re.compile(r"\b([a-z]+)(\d+)?\w*\[([\d,]*)\]")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Collective:
    """The number of collectives of one kind in a program, and the bytes of their results."""

    count: int
    bytes: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """The compiler's figures of one step.

    Attributes:
      topology: name of the topology; chip: kind of its chips; chips: number of chips.
      batch: clips of a step, over all chips.
      parameters: number of the model's parameters.
      state_bytes: per chip, of the step's arguments: parameters, their average, optimiser state and batch.
      temporary_bytes: per chip, of temporaries.
      gigaflops: per chip and step, by XLA's count, a lower bound: the body of a loop is counted once.
      collectives: by kind.
      seconds: time of tracing and compilation.
    """

    topology: str
    chip: str
    chips: int
    batch: int
    parameters: int
    state_bytes: int
    temporary_bytes: int
    gigaflops: float
    collectives: dict[str, Collective]
    seconds: float


def compile_step(config: model_config.ModelConfig, train: config_lib.TrainConfig, topology: str) -> Report:
    """Compiles the step of a config for a TPU topology; allocates nothing and needs no TPU.

    Args:
      config: the model.
      train: the run; its batch is that of all chips.
      topology: a name such as "v5e:16x16".

    Raises:
      VosError: libtpu is not installed, an unknown topology, a batch that is not a multiple of the chips, or
        a step that does not fit into a chip's memory.
    """
    # Prevents JAX from looking for chips in this machine, and libtpu from querying a cloud server.
    jax.config.update("jax_platforms", "cpu")
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    devices = _devices(topology)
    setup.check_model(config)
    model = vos.VOS(config=config)
    init = functools.partial(model.init, datasets=setup.datasets_of(config, train))
    params = jax.eval_shape(init, jax.random.key(0))
    tx = optim.make_tx(train.optim, params, train.steps, sharded=train.parallel.fsdp > 1)
    trainer = parallel.Trainer(
        clip_loss.make_loss_fn(model, train.loss, train.optim.frozen),
        tx,
        train.parallel,
        devices=devices,
        ema_decay=train.optim.ema_decay,
    )
    state_shapes = jax.eval_shape(
        functools.partial(state.init_train_state, tx=tx), params, key=jax.random.key(0)
    )
    before = time.perf_counter()
    with target.compile_for("tpu"):
        lowered = trainer.lower(state_shapes, batch_shapes(train.data))
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        line = " ".join(str(error).split())[:300]
        raise errors.VosError(
            f"{topology}: the step does not compile ({line}); if it needs too much memory, lower "
            "train.data.batch, or set train.loss.remat, train.parallel.accumulate or train.parallel.fsdp"
        ) from error
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis() or {}
    program = compiled.as_text()
    assert memory is not None and program is not None  # the TPU compiler returns both
    return Report(
        topology=topology,
        chip=devices[0].device_kind,
        chips=len(devices),
        batch=train.data.batch,
        parameters=sum(leaf.size for leaf in jax.tree.leaves(params)),
        state_bytes=memory.argument_size_in_bytes,
        temporary_bytes=memory.temp_size_in_bytes,
        gigaflops=cost.get("flops", 0.0) / 1e9,
        collectives=count_collectives(program),
        seconds=time.perf_counter() - before,
    )


def batch_shapes(data: data_config.ClipDataConfig) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes of the global batch of a config (`clips.ClipArrays`)."""
    clips = (data.batch, data.clip_length)
    of = jax.ShapeDtypeStruct
    return {
        "frames": of((*clips, data.crop, data.crop, 3), jnp.uint8),
        "ids": of((*clips, data.crop, data.crop), jnp.uint8),
        "object_valid": of((data.batch, data.max_objects), jnp.bool_),
        "frame_valid": of(clips, jnp.bool_),
        "truth_valid": of(clips, jnp.bool_),
        "frame_size": of((data.batch, 2), jnp.int32),
        "dataset": of((data.batch,), jnp.int32),
        "instances": of((*clips, data.crop, data.crop), jnp.uint8),
        "instance_valid": of((data.batch, data.max_instances), jnp.bool_),
        "exhaustive": of((data.batch,), jnp.bool_),
        "origins": of((*clips, *origins.grid((data.crop, data.crop)), 3), jnp.float32),
    }


def count_collectives(program: str) -> dict[str, Collective]:
    """Counts the collectives in a compiled program's text, by kind; those in a loop count once."""
    found: dict[str, list[int]] = collections.defaultdict(list)
    for result, kind, _ in _CALL.findall(program):
        found[kind].append(sum(map(_bytes, _SHAPE.findall(result))))
    return {kind: Collective(count=len(sizes), bytes=sum(sizes)) for kind, sizes in sorted(found.items())}


def describe(report: Report) -> str:
    """Formats a report as a few lines of text."""
    total = report.state_bytes + report.temporary_bytes
    sent = ", ".join(
        f"{c.count} {kind} ({c.bytes / 2**20:.1f} MiB)" for kind, c in report.collectives.items()
    )
    return "\n".join(
        (
            f"{report.topology}: {report.chips} x {report.chip}, {report.batch / report.chips:g} clips each",
            f"{report.parameters:,} parameters",
            f"per chip: {total / 2**30:.2f} GiB = {report.state_bytes / 2**30:.2f} GiB state and batch + "
            f"{report.temporary_bytes / 2**30:.2f} GiB temporary",
            f"per chip and step: {report.gigaflops:.1f} GFLOP (bodies of loops counted once)",
            f"collectives: {sent or 'none'}",
            f"traced and compiled in {report.seconds:.0f} s",
        )
    )


def _devices(topology: str) -> list[Device]:
    options = {}
    if re.fullmatch(r"[^:]+:1x1(x1)?", topology):
        # The default is four chips per host.
        options["chips_per_host_bounds"] = (1, 1, 1)
    try:
        return list(topologies.get_topology_desc(topology, "tpu", **options).devices)
    except Exception as error:
        line = " ".join(str(error).split())[:200]
        raise errors.VosError(
            f"no TPU topology {topology!r} ({line}); valid names are like v5e:1x1, v5e:2x4, v5e:16x16; "
            "install the compiler by `pip install 'jax[tpu]'` (on any Linux machine)"
        ) from error


def _bytes(shape: tuple[str, str, str]) -> int:
    kind, bits, dimensions = shape
    size = 1 if kind == "pred" else int(bits or 8) // 8
    for n in dimensions.split(","):
        size *= int(n or 1)
    return size
