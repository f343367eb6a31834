"""From settings to what follows objects: a tracker, or one in several views."""

from typing import Any

from vos_jax import config as configs
from vos_jax import errors
from vos_jax.inference import direction, tracker, views
from vos_jax.models import state as state_lib
from vos_jax.models import training_free, vos
from vos_jax.train import adaptation


def make_follower(
    config: configs.Config, model: state_lib.Model, params: Any, num_proposals: int
) -> direction.Follower:
    """Returns a tracker, in several views where the config asks for them.

    Args:
      num_proposals: places of a frame for proposals from files; 0: they do not come from files.

    Raises:
      VosError: what is asked for does not go together.
    """
    merged = views.needed(config.inference)
    soft = merged or config.eval.save_probabilities
    if config.eval.intermediates and (merged or isinstance(model, training_free.TrainingFree)):
        raise errors.VosError(
            "eval.intermediates needs trained weights (--checkpoint), and one view of each frame"
        )
    if num_proposals and merged:
        raise errors.VosError("proposals from files fit one view only: no --scales and --flip")
    follower = tracker.Tracker(
        model,
        params,
        buckets=config.inference.object_buckets,
        with_prob=soft,
        stages=config.eval.intermediates,
        num_proposals=num_proposals,
        min_size=config.inference.min_size,
        max_size=config.inference.max_size,
        adapter=make_adapter(config, model),
    )
    return views.ViewsTracker.of_config(follower, config.inference) if merged else follower


def make_plain(config: configs.Config, model: state_lib.Model, params: Any) -> tracker.Tracker:
    """Returns a tracker with one view and the model's own proposals."""
    return tracker.Tracker(
        model,
        params,
        buckets=config.inference.object_buckets,
        min_size=config.inference.min_size,
        max_size=config.inference.max_size,
        adapter=make_adapter(config, model),
    )


def adapts(config: configs.Config, model: state_lib.Model) -> bool:
    """Whether the config asks for adaptation to each video, and the model has the RefineNet that adapts."""
    return config.inference.adaptation.steps > 0 and isinstance(model, vos.VOS) and model.config.refine


def make_adapter(config: configs.Config, model: state_lib.Model) -> adaptation.Adapter | None:
    """Returns what learns from the frames whose masks are given, or None where nothing `adapts`.

    Raises:
      VosError: a setting out of range.
    """
    if not adapts(config, model):
        return None
    assert isinstance(model, vos.VOS)  # else it does not adapt
    return adaptation.Adapter(model, config.inference.adaptation, config.seed)


def check(config: configs.Config, model: state_lib.Model, adapt: int | None) -> None:
    """Raises VosError where the command line asks a model to adapt that cannot."""
    if adapt and not adapts(config, model):
        raise errors.VosError(
            f"--adapt {adapt}: what learns is the RefineNet of trained weights; this model has none "
            "(--checkpoint none, or model.refine=false)"
        )
