"""Compiling the training step for TPUs that are not here: what it needs of each chip, and what it sends."""

import collections
import dataclasses
import functools
import os
import re
import time
from unittest import mock

import jax
import jax.numpy as jnp
from jax.experimental import topologies

from vos_jax import errors
from vos_jax.data import config as data_config
from vos_jax.data import origins
from vos_jax.models import config as model_config
from vos_jax.models import vos
from vos_jax.train import clip_loss, optim, parallel, setup, state
from vos_jax.train import config as config_lib
from vos_jax.typing import Device

_COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_CALL = re.compile(rf" = (.*?) ({'|'.join(_COLLECTIVES)})(-start)?\(")
_SHAPE = re.compile(r"\b([a-z]+)(\d+)?\w*\[([\d,]*)\]")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Collective:
    """How often one kind of message occurs in the program, and how many bytes its results have."""

    count: int
    bytes: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """What the compiler says of one step.

    Attributes:
      topology: as asked for; chip: what its chips call themselves; chips: how many.
      batch: clips of a step, over all chips.
      parameters: of the model.
      state_bytes: per chip, of parameters, their average and the optimiser, with the batch: arguments.
      temporary_bytes: per chip, of what the step needs besides.
      gigaflops: per chip and step, by XLA's count: the body of a loop counts once (`--compile_only` cannot
        know how often it runs), so this is a lower bound.
      collectives: by kind.
      seconds: spent compiling.
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
      train: the run; its batch is over all chips.
      topology: a name such as "v5e:16x16".

    Raises:
      VosError: libtpu is not installed, an unknown topology, a batch that does not divide, or a step that
        does not fit into a chip.
    """
    # Else JAX looks for chips in this machine, and libtpu for the cloud around it.
    jax.config.update("jax_platforms", "cpu")
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    devices = _devices(topology)
    setup.check_model(config)
    model = vos.VOS(config=config)
    init = functools.partial(model.init, datasets=setup.datasets_of(config, train))
    params = jax.eval_shape(init, jax.random.key(0))
    tx = optim.make_tx(train.optim, params, train.steps)
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
    # What asks for the platform while it is traced shall hear the one that it is traced for.
    with mock.patch.object(jax, "default_backend", return_value="tpu"):
        lowered = trainer.lower(state_shapes, batch_shapes(train.data))
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        line = " ".join(str(error).split())[:300]
        raise errors.VosError(
            f"{topology}: the step does not compile ({line}); where memory runs out, lower train.data.batch, "
            "or set train.loss.remat, train.parallel.accumulate or train.parallel.fsdp"
        ) from error
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis() or {}
    program = compiled.as_text()
    assert memory is not None and program is not None  # the TPU's compiler tells both
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
    """Shapes of the global batch that the pipeline makes of a config (`clips.ClipArrays`)."""
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
    """The messages between chips in a compiled program's text, by kind; those in a loop count once."""
    found: dict[str, list[int]] = collections.defaultdict(list)
    for result, kind, _ in _CALL.findall(program):
        found[kind].append(sum(map(_bytes, _SHAPE.findall(result))))
    return {kind: Collective(count=len(sizes), bytes=sum(sizes)) for kind, sizes in sorted(found.items())}


def describe(report: Report) -> str:
    """A few lines about a report."""
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
        # Hosts of these have four chips unless told otherwise.
        options["chips_per_host_bounds"] = (1, 1, 1)
    try:
        return list(topologies.get_topology_desc(topology, "tpu", **options).devices)
    except Exception as error:
        line = " ".join(str(error).split())[:200]
        raise errors.VosError(
            f"no TPU topology {topology!r} ({line}); names are like v5e:1x1, v5e:2x4, v5e:16x16, and the "
            "compiler comes with `pip install 'jax[tpu]'`, which works on any Linux machine"
        ) from error


def _bytes(shape: tuple[str, str, str]) -> int:
    kind, bits, dimensions = shape
    size = 1 if kind == "pred" else int(bits or 8) // 8
    for n in dimensions.split(","):
        size *= int(n or 1)
    return size
