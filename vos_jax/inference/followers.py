"""From a config to what follows objects: a tracker, or one in several views."""

from typing import Any

from ml_collections import config_dict

from vos_jax import errors
from vos_jax.inference import direction, loading, tracker, views
from vos_jax.models import state as state_lib
from vos_jax.models import training_free, vos
from vos_jax.train import adaptation


def make_follower(
    config: config_dict.ConfigDict, model: state_lib.Model, params: Any, num_proposals: int
) -> direction.Follower:
    """Returns a tracker, in several views where the config asks for them.

    Args:
      num_proposals: places of a frame for proposals from files; 0: they do not come from files.

    Raises:
      VosError: what is asked for does not go together.
    """
    merged = views.needed(config.inference)
    soft = merged or config.eval.save_probabilities
    if config.eval.stages and (merged or isinstance(model, training_free.TrainingFree)):
        raise errors.VosError("eval.stages needs trained weights (--checkpoint), and one view of each frame")
    if num_proposals and merged:
        raise errors.VosError("proposals from files fit one view only: no --scales and --flip")
    follower = tracker.Tracker(
        model,
        params,
        buckets=config.objects.buckets,
        with_prob=soft,
        stages=config.eval.stages,
        dataset=loading.dataset_index(config),
        num_proposals=num_proposals,
        min_size=config.inference.min_size,
        max_size=config.inference.max_size,
        adapter=make_adapter(config, model),
    )
    return views.ViewsTracker.of_config(follower, config.inference) if merged else follower


def make_plain(config: config_dict.ConfigDict, model: state_lib.Model, params: Any) -> tracker.Tracker:
    """Returns a tracker with one view and the model's own proposals."""
    return tracker.Tracker(
        model,
        params,
        buckets=config.objects.buckets,
        dataset=loading.dataset_index(config),
        min_size=config.inference.min_size,
        max_size=config.inference.max_size,
        adapter=make_adapter(config, model),
    )


def adapts(config: config_dict.ConfigDict, model: state_lib.Model) -> bool:
    """Whether the config asks for adaptation to each video, and the model has the RefineNet that adapts."""
    return config.inference.adaptation.steps > 0 and isinstance(model, vos.VOS) and model.config.use_refine


def make_adapter(config: config_dict.ConfigDict, model: state_lib.Model) -> adaptation.Adapter | None:
    """Returns what learns from the frames whose masks are given, or None where nothing `adapts`.

    Raises:
      VosError: a setting out of range.
    """
    if not adapts(config, model):
        return None
    assert isinstance(model, vos.VOS)  # else it does not adapt
    settings = adaptation.AdaptationConfig(**config.inference.adaptation, seed=config.seed)
    return adaptation.Adapter(model, settings, loading.dataset_index(config))


def configure(config: config_dict.ConfigDict, adapt: int | None) -> None:
    """Writes the command line's --adapt into the config; VosError for a wrong number."""
    if adapt is None:
        return
    if adapt < 0:
        raise errors.VosError(f"--adapt {adapt}: takes a number of steps, 0 for none")
    config.inference.adaptation.steps = adapt


def check(config: config_dict.ConfigDict, model: state_lib.Model, adapt: int | None) -> None:
    """Raises VosError where the command line asks a model to adapt that cannot."""
    if adapt and not adapts(config, model):
        raise errors.VosError(
            f"--adapt {adapt}: what learns is the RefineNet of trained weights; this model has none "
            "(--checkpoint none, or model.refine=false)"
        )
