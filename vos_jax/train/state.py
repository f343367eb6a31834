"""The state of training; a checkpoint holds it and the position in the data."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from vos_jax.typing import Array, Int, PRNGKeyArray


class TrainState(flax.struct.PyTreeNode):
    """Parameters, their average, the optimiser's state, the step, and the run's random key."""

    params: Any
    ema: Any  # averaged weights, which are evaluated and exported
    opt_state: Any
    step: Int[Array, ""]  # steps taken
    key: PRNGKeyArray  # constant; each step folds its number into it


def init_train_state(params: Any, tx: optax.GradientTransformation, key: PRNGKeyArray) -> TrainState:
    """Returns the state before the first step; may run under `jit` and `eval_shape`.

    Args:
      params: initial parameters; they are copied, so that donating the state does not delete them.
      tx: the optimiser.
      key: the run's random key.
    """

    def copy(tree: Any) -> Any:
        return jax.tree.map(lambda x: jnp.array(x, copy=True), tree)

    return TrainState(
        params=copy(params),
        ema=copy(params),
        opt_state=tx.init(params),
        step=jnp.zeros((), jnp.int32),
        key=jax.random.clone(key),
    )
