"""Engines from settings: by a model's name in Python, from the command line's config in programs."""

import os
import pathlib
from collections.abc import Sequence

from vos_jax import config as configs
from vos_jax import errors
from vos_jax.inference import engine as engine_lib
from vos_jax.models import config as model_config
from vos_jax.models import weights
from vos_jax.models.backbones import pretrained

TRAINING_FREE = "training_free"
UNUSED = configs.Unused(
    "load()",
    sections=("checkpoint", "data.", "eval.", "train."),
    keys=("inference.direction", "model.proposals.source=file"),
)


def load(
    name: str = "lite0", *, checkpoint: str | os.PathLike | None = None, overrides: Sequence[str] = ()
) -> engine_lib.Engine:
    """Returns an editable engine with trained weights.

    Args:
      name: "lite0" or "resnet50"; "training_free" needs no trained weights and always works.
      checkpoint: exported weights (`python -m vos_jax.tools.export`); None takes those that ship.
      overrides: keys of docs/configuration.md to change, as "model.dtype=bfloat16".

    Raises:
      VosError: an unknown name; no weights ship under it (says how to get them); a wrong checkpoint.
    """
    if name != TRAINING_FREE and name not in model_config.VARIANTS:
        known = ", ".join((*sorted(model_config.VARIANTS), TRAINING_FREE))
        raise errors.VosError(f"no model {name!r}; there are {known}")
    if name == TRAINING_FREE and checkpoint is not None:
        raise errors.VosError(f"{TRAINING_FREE} takes no checkpoint; name the model {checkpoint} is of")
    # The overrides last: they have the last word on what the variant says, too.
    variant = "lite0" if name == TRAINING_FREE else name
    config = configs.load("default", [f"model.variant={variant}", *overrides])
    UNUSED.check(config, overrides)
    source = "none"
    if name != TRAINING_FREE:
        source = str(shipped_weights(name) if checkpoint is None else checkpoint)
    return make_engine(configs.replace(config, {"checkpoint": source}), editable=True)


def make_engine(
    config: configs.Config, *, editable: bool = False, intermediates: Sequence[str] = ()
) -> engine_lib.Engine:
    """Returns the engine of a config, on JAX's default device.

    Args:
      config: `checkpoint`, `model`, `inference` and `seed` count.
      editable, intermediates: as `Engine` takes them.

    Raises:
      VosError: a wrong checkpoint, or settings that do not go together.
    """
    model, params, source = weights.load_model(config.model, config.checkpoint)
    return engine_lib.Engine(
        model,
        params,
        config.inference,
        seed=config.seed,
        source=source,
        editable=editable,
        intermediates=intermediates,
    )


def check_adapt(engine: engine_lib.Engine, steps: int | None) -> None:
    """Raises VosError where --adapt asks a model to adapt that has no RefineNet."""
    if steps and not engine.adapts:
        raise errors.VosError(
            f"--adapt {steps}: the RefineNet of trained weights adapts; this model has none "
            "(--checkpoint none, or model.refine=false)"
        )


def shipped_weights(name: str) -> pathlib.Path:
    """Returns the trained weights that ship under a name.

    Raises:
      VosError: there are none; says how to make them.
    """
    path = pretrained.WEIGHTS / f"{name}.safetensors"
    if path.is_file():
        return path
    backbone = model_config.change_variant(model_config.ModelConfig(), name).backbone
    convert = ""
    if not (pretrained.WEIGHTS / f"{backbone}.safetensors").is_file():
        convert = f"`python -m vos_jax.tools.convert {backbone} FILE.pth` for the backbone, "
    raise errors.VosError(
        f"no trained weights for {name!r} come with this version; train them ({convert}`python train.py "
        f"--config train_davis --config.model.variant={name} --workdir RUN`, `python -m vos_jax.tools.export "
        f"RUN {name}.safetensors`) and say checkpoint={name + '.safetensors'!r}, or take {TRAINING_FREE!r}"
    )
