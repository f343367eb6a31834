"""Loads models: shipped or exported weights, ImageNet backbones, and initial parameters for training."""

import functools
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from vos_jax import errors, files, weights_io
from vos_jax.models import backbones, training_free, vos
from vos_jax.models import config as model_config
from vos_jax.models import state as state_lib
from vos_jax.models.backbones import pretrained
from vos_jax.typing import PRNGKeyArray

LAMBDAS = "matcher/lambda_logit/"
"""Path of the data sets' lambdas in the parameters."""

STARTS = ("imagenet", "random")
"""Starts of training that are no file."""


def find(name: str, variant: str) -> str:
    """Returns "none", or the path of weights; their file need not be there.

    Args:
      name: "none"; "auto" for the variant's shipped weights, or none if it has none; the name of shipped
        weights, such as "lite0"; or a path.
      variant: of the model.
    """
    if name == "auto":
        return shipped(variant) or "none"
    if os.path.exists(name):
        return name
    return shipped(name) or name


def shipped(name: str) -> str | None:
    """Returns the path of the trained weights that ship under a name, None if there are none."""
    path = pretrained.WEIGHTS / f"{name}.safetensors"
    return str(path) if name in model_config.VARIANTS and path.is_file() else None


def load_model(config: model_config.ModelConfig, checkpoint: str) -> tuple[state_lib.Model, Any, str]:
    """Returns the model, its parameters and their source: "none" or a file's path.

    Args:
      config: the model.
      checkpoint: "none" for the training-free model; a path of exported weights, or "auto" or the name of
        shipped ones (`find`).

    Raises:
      VosError: no such file, a damaged one, weights of another model, or a data set without a lambda.
    """
    checkpoint = find(checkpoint, config.variant)
    if checkpoint == "none":
        return training_free.TrainingFree(config=config), _imagenet(config), "none"
    model = vos.VOS(config=config)
    params = load_params(model, pathlib.Path(checkpoint))
    if config.dataset not in (known := datasets_of(params)):
        raise errors.VosError(
            f"model.dataset is {config.dataset!r}; {checkpoint} has a lambda for: {', '.join(known)}"
        )
    return model, params, checkpoint


def _imagenet(config: model_config.ModelConfig) -> Any:
    if not isinstance(config.backbone, str):
        raise errors.VosError(
            "there are no ImageNet weights for a backbone of your own; name a file by --checkpoint, or train "
            "with --init random"
        )
    return backbones.load_pretrained(config.backbone)


def num_proposals(config: model_config.ModelConfig, model: state_lib.Model) -> int:
    """Returns the capacity for a frame's proposals from files; 0 if they do not come from files.

    Raises:
      VosError: proposals from files for a model that uses none, or without a folder.
    """
    settings = config.proposals
    if settings.source != "file":
        return 0
    if not isinstance(model, vos.VOS):
        raise errors.VosError(
            "model.proposals.source is file, but the training-free model matches no proposals: name trained "
            "weights by --checkpoint PATH"
        )
    if not settings.folder:
        raise errors.VosError(
            "model.proposals.source is file: name the folder with one <sequence>.json per video by "
            "--config.model.proposals.folder=DIR (docs/proposals.md)"
        )
    return settings.capacity


def datasets_of(params: Any) -> tuple[str, ...]:
    """Returns the names of the data sets that have a lambda of their own, sorted."""
    return tuple(sorted(params["matcher"]["lambda_logit"]))


def load_params(model: vos.VOS, file: pathlib.Path) -> Any:
    """Reads exported weights and checks each tensor's name and shape against the model.

    Raises:
      VosError: no such file, a damaged one, or weights of another model; the first difference is named.
    """
    variant = model.config.variant
    check_file(file)
    data = pretrained.read_weights(file)
    pretrained.check_record(file, data, required=False)
    flat, metadata = weights_io.load(data, str(file))
    found = metadata.get("variant")
    if found != variant:
        kind = f"the variant {found}" if found else f"{metadata.get('backbone', 'something else')} alone"
        raise errors.VosError(
            f"{file}: holds weights of {kind}; the config asks for a trained {variant} (model.variant)"
        )
    if "lambda_logit" in flat:
        raise errors.VosError(
            f"{file}: was exported before version 0.2 in another layout; repack it by "
            f"`python -m benchmarks.layout_0_1 {file} NEW.safetensors`"
        )
    datasets = tuple(key.removeprefix(LAMBDAS) for key in flat if key.startswith(LAMBDAS))
    init = functools.partial(model.init, jax.random.key(0), datasets or ("default",))
    wanted = traverse_util.flatten_dict(jax.eval_shape(init), sep="/")
    check_params(flat, wanted, file)
    return traverse_util.unflatten_dict({key: np.asarray(flat[key], np.float32) for key in wanted}, sep="/")


def check_file(file: pathlib.Path) -> None:
    """Raises VosError, which says how to get weights, if there is no such file."""
    if file.is_file():
        return
    ships = ", ".join(name for name in model_config.VARIANTS if shipped(name)) or "none"
    run = next((folder for folder in (file, *file.parents) if (folder / "checkpoints").is_dir()), None)
    if run is not None and file.exists():
        raise errors.VosError(
            f"{file}: holds the checkpoints of a run, not exported weights; write them by "
            f"`python -m vos_jax.tools.export {run} OUT.safetensors` and name OUT.safetensors"
        )
    if file.is_dir():
        found = sorted(path.name for path in file.glob("*.safetensors"))
        holds = f"it holds {', '.join(found[:3])}" if found else "it holds no .safetensors"
        raise errors.VosError(f"{file}: is a folder, and weights are a .safetensors file; {holds}")
    beside = [path.name for path in file.parent.glob("*.safetensors")]
    near = f" (did you mean {files.closest_names(file.name, beside)[0]}?)" if beside else ""
    raise errors.VosError(
        f"no checkpoint at {file}{near}; name a file that `python -m vos_jax.tools.export` wrote, or weights "
        f"that ship: {ships}"
    )


def datasets_at(model: vos.VOS, start: str, datasets: Sequence[str]) -> tuple[str, ...]:
    """Returns the sorted names of the lambdas that `init_params` makes, without drawing parameters.

    Arguments and errors are those of `init_params`.
    """
    known = () if start in STARTS else datasets_of(load_params(model, start_file(start, model)))
    return tuple(sorted({*datasets, *known}))


def start_file(start: str, model: vos.VOS) -> pathlib.Path:
    """Returns the file of `train.init`, a path or the name of shipped weights.

    Raises:
      VosError: no such file, or a word that only --checkpoint takes.
    """
    found = find(start, model.config.variant)
    if start in ("auto", "none") and not os.path.exists(start):
        ships = f"; auto would be {model.config.variant}" if found != "none" and start == "auto" else ""
        raise errors.VosError(
            f"--init {start}: training begins with imagenet, random, the name of weights that ship "
            f"({', '.join(name for name in model_config.VARIANTS if shipped(name)) or 'none'}), or an "
            f"exported file{ships}"
        )
    try:
        check_file(pathlib.Path(found))
    except errors.VosError as error:
        raise errors.VosError(f"--init {error}; imagenet and random need no file") from error
    return pathlib.Path(found)


def init_params(model: vos.VOS, start: str, key: PRNGKeyArray, datasets: Sequence[str]) -> Any:
    """Returns initial parameters for training.

    Args:
      model: the model.
      start: "imagenet" (other networks random), "random", the name of shipped weights, or an exported file.
      key: of the random parameters.
      datasets: data sets that get a lambda of their own. A new one starts as the file's "default".

    Raises:
      VosError: the file is missing, damaged or of another model; no ImageNet weights for this backbone.
    """
    if start not in STARTS:
        params = load_params(model, start_file(start, model))
        lambdas = params["matcher"]["lambda_logit"]
        default = lambdas.get("default", np.zeros((), np.float32))
        lambdas = {name: default for name in datasets} | lambdas
        return {**params, "matcher": {**params["matcher"], "lambda_logit": lambdas}}
    params = model.init(key, datasets)
    if start == "random":
        return params
    loaded = _imagenet(model.config)
    check_params(
        traverse_util.flatten_dict(loaded, sep="/"),
        traverse_util.flatten_dict(params["backbone"], sep="/"),
        pathlib.Path(f"{model.config.backbone}.safetensors"),
    )
    return {**params, "backbone": jax.tree.map(jnp.asarray, loaded)}


def check_params(flat: Mapping[str, Any], expected: Mapping[str, Any], file: pathlib.Path) -> None:
    """Raises VosError naming the first tensor that is missing or has another shape.

    Additional tensors are no error: a model may run without a stage that it was trained with.
    """
    for key, value in expected.items():
        if key not in flat:
            raise errors.VosError(f"{file}: lacks {key}, which this model needs; it is of another model")
        if tuple(flat[key].shape) != tuple(value.shape):
            raise errors.VosError(
                f"{file}: {key} has shape {tuple(flat[key].shape)}, this model needs {tuple(value.shape)}; "
                "it is of another model"
            )
