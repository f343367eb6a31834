"""The optimiser: AdamW, learning rates by parameter path, frozen parameters, averaged weights."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from vos_jax import checks
from vos_jax.errors import VosError
from vos_jax.ops import target
from vos_jax.typing import Array, Float


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Settings of the optimiser.

    Attributes:
      learning_rate: Peak learning rate, at the end of the warm-up; then it falls as (1 - progress)^power to
        final_rate times the peak.
      warmup_steps: Steps in which the learning rate rises from 0.
      power: Power of the polynomial decay; 1 = linear.
      final_rate: Final learning rate, as a share of the peak.
      lr_scales: Factors on the learning rate by prefix of a parameter's path; the longest prefix is used. An
        override may add one: `--config.train.optim.lr_scales.refine=0.5`.
      frozen: Prefixes of parameters that are not trained: "backbone" saves most of the memory and half of the
        time.
      weight_decay: AdamW's decay, on matrices and convolutions only.
      clip_norm: Largest global norm of the gradient; 0 = not clipped.
      b1: AdamW's decay of the first moment.
      b2: AdamW's decay of the second moment.
      eps: AdamW's epsilon.
      ema_decay: Decay of the averaged weights, which are evaluated and exported.

    Raises:
      VosError: a value out of range.
    """

    learning_rate: float = 5e-4
    warmup_steps: int = 200
    power: float = 0.9
    final_rate: float = 0.0
    lr_scales: dict[str, float] = dataclasses.field(default_factory=lambda: {"backbone": 0.1})
    frozen: tuple[str, ...] = ()
    weight_decay: float = 1e-2
    clip_norm: float = 1.0
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    ema_decay: float = 0.999

    def __post_init__(self):
        checks.above(self, 0, "learning_rate", "power")
        checks.at_least(self, 0, "warmup_steps", "final_rate", "weight_decay", "clip_norm")
        if not 0 <= self.ema_decay < 1:
            raise VosError(f"ema_decay is {self.ema_decay}; it must be in [0, 1)")


def schedule(config: OptimConfig, steps: int) -> Callable[[Array | int], Float[Array, ""]]:
    """Returns step -> learning rate: linear warm-up, then polynomial decay.

    During the warm-up the rate is `(step + 1) / (warmup_steps + 1)` of the peak, so step 0 trains, too.

    Args:
      config: see `OptimConfig`.
      steps: the step from which on the rate is `config.final_rate` times the peak.

    Raises:
      VosError: no step is left after the warm-up.
    """
    if steps <= config.warmup_steps:
        raise VosError(
            f"train.optim.warmup_steps is {config.warmup_steps} of train.steps {steps}; add "
            "--config.train.optim.warmup_steps=0, or more steps"
        )
    peak = config.learning_rate
    decay = optax.polynomial_schedule(
        init_value=peak,
        end_value=peak * config.final_rate,
        power=config.power,
        transition_steps=steps - config.warmup_steps,
    )
    first = peak / (config.warmup_steps + 1)
    warmup = optax.linear_schedule(first, peak, max(config.warmup_steps, 1))
    return optax.join_schedules([warmup, decay], [config.warmup_steps])


def make_tx(
    config: OptimConfig, params: Any, steps: int, *, sharded: bool = False
) -> optax.GradientTransformation:
    """Returns the optimiser of a parameter tree.

    The gradient of all trained parameters is clipped by its global norm and scaled by Adam. Decay is added to
    arrays of at least two axes (no biases, scalars or norms). Each parameter's rate is the schedule's times
    its own factor. Frozen parameters have no optimiser state.

    Args:
      config: see `OptimConfig`.
      params: the parameters, or their shapes.
      steps: as in `schedule`.
      sharded: as in `global_norm`.

    Raises:
      VosError: a prefix in `lr_scales` or `frozen` that no parameter's path starts with.
    """
    scales = config.lr_scales
    for prefix in (*scales, *config.frozen):
        check_prefix(prefix, params)

    def scale_of(path: str) -> float:
        matching = [prefix for prefix in scales if has_prefix(path, prefix)]
        return scales[max(matching, key=len)] if matching else 1.0

    factors = _by_path(scale_of, params)
    learns = _by_path(lambda path: not any(has_prefix(path, p) for p in config.frozen), params)
    parts = [
        _clip(config.clip_norm, sharded) if config.clip_norm else optax.identity(),
        optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.eps),
        optax.add_decayed_weights(config.weight_decay, mask=lambda tree: jax.tree.map(_is_matrix, tree)),
        _scale_by(factors),
        optax.scale_by_learning_rate(schedule(config, steps)),
    ]
    labels = jax.tree.map(lambda x: "learns" if x else "frozen", learns)
    return optax.partition({"learns": optax.chain(*parts), "frozen": optax.set_to_zero()}, labels)


def global_norm(tree: Any, *, sharded: bool = False) -> Float[Array, ""]:
    """Returns the norm of all arrays of a tree together.

    On an accelerator it is that of one vector: a reduction of each array would be a launch of its own.

    Args:
      tree: arrays.
      sharded: arrays may be split over devices (`ParallelConfig.fsdp`); one vector would gather them.
    """
    leaves = jax.tree.leaves(tree)
    if target.is_cpu() or sharded or not leaves:
        return optax.tree.norm(tree)
    return jnp.linalg.norm(jnp.concatenate([leaf.reshape(-1) for leaf in leaves]))


def _clip(largest: float, sharded: bool) -> optax.GradientTransformation:
    """Does as `optax.clip_by_global_norm`, with this file's norm."""

    def clip(updates: Any, params: Any = None) -> Any:
        del params
        norm = global_norm(updates, sharded=sharded)
        return jax.tree.map(
            lambda x: jnp.where(norm < largest, x, x / norm.astype(x.dtype) * largest), updates
        )

    return optax.stateless(clip)


def _is_matrix(x: Any) -> bool:
    return getattr(x, "ndim", 0) >= 2


def _scale_by(factors: Any) -> optax.GradientTransformation:
    """Multiplies each update by its own constant."""

    def scale(updates: Any, params: Any = None) -> Any:
        del params

        # Parameters of another group are `MaskedNode`s here, without leaves.
        def one(update: Any, factor: float) -> Any:
            return update if isinstance(update, optax.MaskedNode) else update * factor

        return jax.tree.map(one, updates, factors, is_leaf=lambda x: isinstance(x, optax.MaskedNode))

    return optax.stateless(scale)


def update_ema(ema: Any, params: Any, step: Array, decay: float) -> Any:
    """Returns the averaged weights after one more step.

    `ema + (1 - d) (params - ema)` with `d = min(decay, (1 + step) / (10 + step))`, so that the average
    follows the fast changes at the start.
    """
    weight = 1.0 - jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda old, new: old + (weight * (new - old)).astype(old.dtype), ema, params)


def freeze(params: Any, prefixes: tuple[str, ...]) -> Any:
    """Stops the gradient to the parameters under `prefixes`.

    Activations that depend on frozen parameters alone are then not stored for the gradient.

    Raises:
      VosError: a prefix that no parameter's path starts with.
    """
    for prefix in prefixes:
        check_prefix(prefix, params)
    frozen = _by_path(lambda path: any(has_prefix(path, prefix) for prefix in prefixes), params)
    return jax.tree.map(lambda x, stop: jax.lax.stop_gradient(x) if stop else x, params, frozen)


def has_prefix(path: str, prefix: str) -> bool:
    """Returns whether a path such as "backbone/stage1/kernel" is `prefix` or is under it."""
    return path == prefix or path.startswith(prefix + "/")


def check_prefix(prefix: str, params: Any) -> None:
    """Raises VosError, with the known prefixes, if no parameter's path starts with `prefix`."""
    paths = jax.tree.leaves(_by_path(lambda path: path, params))
    if not any(has_prefix(path, prefix) for path in paths):
        depth = prefix.count("/") + 1
        known = sorted({"/".join(path.split("/")[:depth]) for path in paths})
        raise VosError(f"no parameter is under {prefix!r}; there are: {', '.join(known)}")


def _by_path(fn: Callable[[str], Any], params: Any) -> Any:
    """Returns a tree of `fn(path)`, with paths joined by slashes."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: fn(jax.tree_util.keystr(path, simple=True, separator="/")), params
    )
