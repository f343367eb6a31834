"""Engines from settings: by a model's name in Python, from the command line's config in programs."""

import logging
import os
import pathlib
from collections.abc import Collection, Sequence

from vos_jax import config as configs
from vos_jax import devices, errors, setting_values, weights_io
from vos_jax.inference import engine as engine_lib
from vos_jax.models import config as model_config
from vos_jax.models import weights
from vos_jax.models.backbones import pretrained

log = logging.getLogger(__name__)

TRAINING_FREE = "training_free"
UNUSED = configs.Unused(
    "load()",
    sections=("checkpoint", "data.", "eval.", "train."),
    keys=("inference.direction", "model.proposals.source=file"),
)


OF_TRAINED = (
    "model.alignment",
    "model.embed_size",
    "model.iou_with",
    "model.key_size",
    "model.match_size",
    "model.matching",
    "model.matching_options.",
    "model.proposals.",
    "model.read.",
    "model.refine",
    "model.template",
    "model.value_size",
)
"""Keys, or their prefixes, that the training-free model does not have."""

AT_TEST_TIME = (
    "model.dataset",
    "model.dtype",
    "model.memory.",
    "model.proposals.candidates",
    "model.proposals.capacity",
    "model.proposals.folder",
    "model.proposals.min_size",
    "model.proposals.nms",
    "model.proposals.score_threshold",
    "model.read.search_radius",
    "model.training_free.",
    "model.variant",
)
"""Keys of the model, or their prefixes, that may differ from those of the training."""


@devices.in_float32
def load(
    name: str = "lite0", *, checkpoint: str | os.PathLike | None = None, overrides: Sequence[str] = ()
) -> engine_lib.Engine:
    """Returns an editable engine with trained weights.

    Compiled programs are cached as by the programs (`VOS_JAX_CACHE=off` turns that off), and compilations are
    logged.

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
    config = resolve(configs.replace(config, {"checkpoint": source}), overrides)
    devices.cache_programs()
    _show_log()
    return make_engine(config, editable=True)


def _show_log() -> None:
    """Prints what this package logs, such as compilations, on stderr where the caller set up no logging."""
    package = logging.getLogger("vos_jax")
    if not package.hasHandlers():
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("vos_jax: %(message)s"))
        package.addHandler(handler)
        if package.level == logging.NOTSET:
            package.setLevel(logging.INFO)


def resolve(config: configs.Config, overrides: Sequence[str] = ()) -> configs.Config:
    """Returns the settings that `config.checkpoint` is run with; log lines say where they are others.

    Weights are run as they were trained (`weights_io.trained_model`): a key of the model that still has its
    default gets the training's value. Keys in `overrides` and values that are no defaults stay.

    Args:
      config: the settings.
      overrides: those of the command line, which `config` has already.

    Raises:
      VosError: settings that the training-free model does not have, or weights of a function that the config
        does not give.
    """
    said = {override.removeprefix("--config.").partition("=")[0] for override in overrides}
    checkpoint = weights.find(config.checkpoint, config.model.variant)
    if checkpoint == "none":
        _check_training_free(config, said)
        return config
    now, default = (
        configs.flatten(x) for x in (config, configs.replace(configs.default(), _variant_of(config)))
    )
    trained = weights_io.trained_model(pathlib.Path(checkpoint))
    if trained.get("model.variant") != config.model.variant:
        return config
    adopted, other = {}, []
    for key in sorted(trained.keys() & now.keys()):
        before, found = trained[key], now[key]
        if before == found or key.startswith(AT_TEST_TIME):
            continue
        if key in said or found != default[key] or _same_function(before, found):
            other.append(f"{key}={setting_values.show(before)}, now {setting_values.show(found)}")
        elif _is_function(before):
            raise errors.VosError(
                f"{checkpoint}: was trained with the function {key}={before}; give its config file by "
                f"--config, or choose what to run by --config.{key}={setting_values.show(found)}"
            )
        else:
            adopted[key] = before
    if other:
        log.warning("%s: was trained with %s", checkpoint, "; ".join(other))
    if not adopted:
        return config
    shown = " ".join(f"--config.{key}={setting_values.show(value)}" for key, value in adopted.items())
    log.warning("%s: is run as it was trained: %s", checkpoint, shown)
    try:
        return configs.replace(config, adopted)
    except errors.VosError as error:
        raise errors.VosError(f"{checkpoint}: was trained with {shown}, but {error}") from error


def _variant_of(config: configs.Config) -> dict[str, str]:
    return {"model.variant": config.model.variant}


def _is_function(value: object) -> bool:
    return isinstance(value, str) and ":" in value


def _same_function(before: object, now: object) -> bool:
    """Tells whether two names of functions differ in the version of the code only."""
    pair = [str(value).partition("@")[0] for value in (before, now)]
    return _is_function(before) and pair[0] == pair[1]


def _check_training_free(config: configs.Config, said: Collection[str] = ()) -> None:
    """Raises VosError for settings of trained models that the training-free model does not have."""
    now = configs.flatten(config)
    default = configs.flatten(configs.replace(configs.default(), _variant_of(config)))
    changed = [key for key in now if key.startswith(OF_TRAINED) and now[key] != default[key]]
    # A file of proposals has an error of its own, and a recipe may name the data set.
    unused = [key for key in changed if key not in ("model.proposals.source", "model.proposals.folder")]
    if unused := sorted({*unused, *({"model.dataset"} & set(said))}):
        names = " and ".join((", ".join(unused[:-1]), unused[-1])) if len(unused) > 1 else unused[0]
        why = "" if config.checkpoint == "none" else f", and no weights ship for {config.model.variant}"
        raise errors.VosError(
            f"the training-free model (--checkpoint none) does not use {names}{why}; leave "
            f"{'them' if len(unused) > 1 else 'it'} away, or name trained weights by --checkpoint PATH"
        )


@devices.in_float32
def make_engine(
    config: configs.Config, *, editable: bool = False, intermediates: Sequence[str] = ()
) -> engine_lib.Engine:
    """Returns the engine of a config, on JAX's default device.

    Args:
      config: `checkpoint`, `model`, `inference` and `seed` count; `resolve` makes them fit the weights.
      editable, intermediates: as `Engine` takes them.

    Raises:
      VosError: a wrong checkpoint, or settings that do not go together.
    """
    if weights.find(config.checkpoint, config.model.variant) == "none":
        _check_training_free(config)
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
    if (path := weights.shipped(name)) is not None:
        return pathlib.Path(path)
    backbone = model_config.change_variant(model_config.ModelConfig(), name).backbone
    convert = ""
    if not (pretrained.WEIGHTS / f"{backbone}.safetensors").is_file():
        convert = f"`python -m vos_jax.tools.convert {backbone} FILE.pth` for the backbone, "
    raise errors.VosError(
        f"no trained weights for {name!r} come with this version; train them ({convert}`python train.py "
        f"--config train_davis --config.model.variant={name} --workdir RUN`, `python -m vos_jax.tools.export "
        f"RUN {name}.safetensors`) and say checkpoint={name + '.safetensors'!r}, or take {TRAINING_FREE!r}"
    )
