"""The data-parallel training step, optionally with sharded parameters.

    clips of a device -> loss and gradient (accumulated over parts of it) -> mean over devices -> update

`shard_map` (default) and the older `pmap` give the same numbers. With `fsdp` > 1 the mesh has a second axis:
parameters, their average and the optimiser state are sharded over it, gathered only for the gradient, and
the gradient is scattered.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from vos_jax import checks
from vos_jax.errors import VosError
from vos_jax.train import optim
from vos_jax.train import state as state_lib
from vos_jax.typing import Array, Device

DATA, FSDP = "data", "fsdp"
AXES = (DATA, FSDP)
KINDS = ("shard_map", "pmap")

LossFn = Callable[..., tuple[Array, dict[str, Array]]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParallelConfig:
    """Settings of the distribution over devices.

    Attributes:
      kind: JAX transformation: "shard_map", or "pmap" (one process only); same results.
      fsdp: Devices over which parameters and optimiser state are sharded; 1 = every device holds all.
      fsdp_min_size: Arrays with fewer elements are not sharded.
      accumulate: Number of parts of a device's clips, processed one after the other: less memory, more time.

    Raises:
      VosError: a value out of range.
    """

    kind: str = "shard_map"
    fsdp: int = 1
    fsdp_min_size: int = 4096
    accumulate: int = 1

    def __post_init__(self):
        checks.one_of(self, "kind", KINDS)
        checks.at_least(self, 1, "fsdp", "fsdp_min_size", "accumulate")
        if self.kind == "pmap" and self.fsdp > 1:
            raise VosError("kind is pmap, which cannot shard parameters; use kind=shard_map with fsdp > 1")


class Trainer:
    """Takes steps on all devices; states and batches are global arrays in its shardings.

    Args:
      loss_fn: `(params, batch, key, step) -> (loss, metrics)`, a mean over the batch's clips.
      tx: the optimiser.
      config: see `ParallelConfig`.
      devices: default: all of all processes. May be those of a topology, for compilation only.
      ema_decay: of the averaged weights.

    Attributes:
      mesh: the devices, axes "data" and "fsdp".

    Raises:
      VosError: a number of devices that does not fit `config`.
    """

    def __init__(
        self,
        loss_fn: LossFn,
        tx: optax.GradientTransformation,
        config: ParallelConfig,
        devices: Sequence[Device] | None = None,
        *,
        ema_decay: float = 0.999,
    ):
        devices = list(jax.devices() if devices is None else devices)
        if len(devices) % config.fsdp:
            raise VosError(f"train.parallel.fsdp is {config.fsdp}; it must divide the {len(devices)} devices")
        processes = {device.process_index for device in devices}
        if config.kind == "pmap" and len(processes) > 1:
            raise VosError("train.parallel.kind=pmap works within one process; use shard_map across machines")
        self._loss_fn, self._tx, self._config, self._ema_decay = loss_fn, tx, config, ema_decay
        self._num_processes = len(processes)
        grid = np.array(devices).reshape(-1, config.fsdp)
        self.mesh = Mesh(grid, AXES, axis_types=(AxisType.Auto, AxisType.Auto))
        self._batch_sharding = NamedSharding(self.mesh, P(AXES))
        if config.kind == "pmap":
            self._step = jax.pmap(
                self._pmap_step,
                axis_name=DATA,
                in_axes=(None, 0),
                out_axes=None,
                devices=devices,
                donate_argnums=0,
            )
        else:
            self._step = jax.jit(self._shard_map_step, donate_argnums=0)

    def place(self, state: state_lib.TrainState) -> state_lib.TrainState:
        """Returns a copy of a state, which is the same in every process, sharded over the devices.

        A copy, because steps donate their state, and `device_put` to the same device would alias.
        """

        def put(x: Any) -> Array:
            if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
                return jax.random.wrap_key_data(put(jax.random.key_data(x)), impl=jax.random.key_impl(x))
            host = np.array(x)
            return jax.make_array_from_callback(host.shape, self._sharding(host), lambda index: host[index])

        return jax.tree.map(put, state)

    def shardings(self, state: state_lib.TrainState) -> state_lib.TrainState:
        """Returns the sharding of each array of a state (or of its shapes), to restore a checkpoint."""
        return jax.tree.map(self._sharding, state)

    def put_batch(self, batch: Mapping[str, np.ndarray]) -> dict[str, Array]:
        """Returns the clips of all processes as global arrays, and each clip's number, "clip".

        Args:
          batch: numpy arrays with a leading axis of this process's clips, from the pipeline.

        Raises:
          VosError: a batch that is not a multiple of devices times parts.
        """
        local = next(iter(batch.values())).shape[0]
        size = local * self._num_processes
        self._check_batch(size)
        first = local * jax.process_index() if self._num_processes > 1 else 0
        batch = {**batch, "clip": first + np.arange(local, dtype=np.int32)}
        if self._config.kind == "pmap":
            batch = {name: x.reshape(*self._pmap_shape(size), *x.shape[1:]) for name, x in batch.items()}
        return {
            name: jax.make_array_from_process_local_data(self._batch_sharding, np.asarray(x))
            for name, x in batch.items()
        }

    def step(
        self, state: state_lib.TrainState, batch: Mapping[str, Array]
    ) -> tuple[state_lib.TrainState, dict[str, Array]]:
        """Takes one step and donates the old state, which cannot be used afterwards.

        Args:
          state: from `place`, or of the previous step.
          batch: from `put_batch`.

        Returns:
          the new state; the metrics of the loss and "grad_norm" before clipping, means over all clips.
        """
        # Forbids implicit copies between host and device, which would stall every step.
        with jax.transfer_guard("disallow"):
            return self._step(state, dict(batch))

    def lower(
        self, state_shapes: state_lib.TrainState, batch_shapes: Mapping[str, Any]
    ) -> jax.stages.Lowered:
        """Lowers the step for given shapes; `.compile()` does not need the devices.

        Args:
          state_shapes: `jax.eval_shape` of `init_train_state`.
          batch_shapes: shape and dtype of each array of the GLOBAL batch, without "clip".
        """
        size = next(iter(batch_shapes.values())).shape[0]
        self._check_batch(size)
        shapes = {**batch_shapes, "clip": jax.ShapeDtypeStruct((size,), jnp.int32)}
        lead = self._pmap_shape(size) if self._config.kind == "pmap" else (size,)
        batch = {
            name: jax.ShapeDtypeStruct((*lead, *x.shape[1:]), x.dtype, sharding=self._batch_sharding)
            for name, x in shapes.items()
        }
        state = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self._sharding(x)), state_shapes
        )
        return self._step.lower(state, batch)

    def _pmap_shape(self, size: int) -> tuple[int, int]:
        return self.mesh.size, size // self.mesh.size

    def _check_batch(self, size: int) -> None:
        parts = self.mesh.size * self._config.accumulate
        if size % parts:
            raise VosError(
                f"a batch of {size} clips does not divide among {self.mesh.size} devices times "
                f"{self._config.accumulate} parts; make it a multiple of {parts}"
            )

    def _sharded_axis(self, x: Any) -> int | None:
        """Returns the axis along which an array is sharded, the longest divisible one, or None."""
        if self._config.fsdp == 1 or x.size < self._config.fsdp_min_size:
            return None
        axes = [axis for axis, n in enumerate(x.shape) if n % self._config.fsdp == 0]
        return max(axes, key=lambda axis: x.shape[axis], default=None)

    def _spec(self, x: Any) -> P:
        axis = self._sharded_axis(x)
        return P() if axis is None else P(*[None] * axis, FSDP)

    def _sharding(self, x: Any) -> NamedSharding:
        return NamedSharding(self.mesh, self._spec(x))

    def _gradients(self, params: Any, batch: Any, key: Array, step: Array) -> tuple[Any, dict[str, Array]]:
        """Returns the mean gradient and metrics of one device's clips, accumulated over parts."""
        accumulate = self._config.accumulate
        differentiate = jax.grad(self._loss_fn, has_aux=True)
        if accumulate == 1:
            return differentiate(params, batch, key, step)

        def add(total: Any, part: Any) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, differentiate(params, part, key, step)), None

        parts = jax.tree.map(lambda x: x.reshape(accumulate, -1, *x.shape[1:]), batch)
        first = jax.tree.map(lambda x: x[0], parts)
        shapes = jax.eval_shape(differentiate, params, first, key, step)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        # Gradients of convolutions in a loop are slow on CPU (see `clip_loss.ClipLossConfig.unroll`).
        unroll = self.mesh.devices.flat[0].platform == "cpu"
        total, _ = jax.lax.scan(add, zeros, parts, unroll=unroll)
        return jax.tree.map(lambda x: x / accumulate, total)

    def _update(self, state: state_lib.TrainState, gradients: Any) -> state_lib.TrainState:
        updates, opt_state = self._tx.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return state.replace(
            params=params,
            ema=optim.update_ema(state.ema, params, state.step, self._ema_decay),
            opt_state=opt_state,
            step=state.step + 1,
        )

    def _pmap_step(self, state: state_lib.TrainState, batch: Any) -> tuple[state_lib.TrainState, dict]:
        results = self._gradients(state.params, batch, state.key, state.step)
        gradients, metrics = jax.lax.pmean(results, DATA)
        return self._update(state, gradients), {**metrics, "grad_norm": optim.global_norm(gradients)}

    def _shard_map_step(self, state: state_lib.TrainState, batch: Any) -> tuple[state_lib.TrainState, dict]:
        whole = jax.eval_shape(lambda: state.params)
        specs = jax.tree.map(self._spec, whole)

        def gather(x: Array, like: jax.ShapeDtypeStruct) -> Array:
            axis = self._sharded_axis(like)
            return x if axis is None else jax.lax.all_gather(x, FSDP, axis=axis, tiled=True)

        def scatter(x: Array) -> Array:
            axis = self._sharded_axis(x)
            if axis is None:
                return jax.lax.pmean(x, FSDP)
            return jax.lax.psum_scatter(x, FSDP, scatter_dimension=axis, tiled=True) / self._config.fsdp

        def on_device(params: Any, batch: Any, key: Array, step: Array) -> tuple[Any, dict[str, Array]]:
            if self._config.fsdp > 1:
                params = jax.tree.map(gather, params, whole)
            gradients, metrics = self._gradients(params, batch, key, step)
            if self._config.fsdp > 1:
                gradients, metrics = jax.tree.map(scatter, gradients), jax.lax.pmean(metrics, FSDP)
            return jax.lax.pmean((gradients, metrics), DATA)

        # Without varying-axes checks, because each device differentiates its own loss before the reduction.
        gradients, metrics = jax.shard_map(
            on_device,
            mesh=self.mesh,
            in_specs=(specs, P(AXES), P(), P()),
            out_specs=(specs, P()),
            check_vma=False,
        )(state.params, batch, state.key, state.step)
        # Outside of shard_map, arrays are global again, so the norm is over the whole tree.
        norm = optim.global_norm(gradients, sharded=self._config.fsdp > 1)
        state = self._update(state, gradients)
        state = jax.lax.with_sharding_constraint(state, self.shardings(state))
        return state, {**metrics, "grad_norm": norm}


def to_host(tree: Any) -> Any:
    """Returns global arrays as numpy, gathered from all devices and processes."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)
