"""J on sequences that are held back from training; it selects the best checkpoint."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from vos_jax.data import prompts as prompts_lib
from vos_jax.data import video as video_lib
from vos_jax.evaluation import scoring
from vos_jax.inference import adaptation, propagate
from vos_jax.inference import config as inference_config
from vos_jax.inference import engine as engine_lib
from vos_jax.inference import objects as objects_lib
from vos_jax.models import state as state_lib


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Scores of one round.

    Attributes:
      score: mean J over all objects of all sequences.
      sequences: mean J by sequence.
    """

    score: float
    sequences: Mapping[str, float]


class Evaluator:
    """Segments videos with the current weights, by the same code that users run.

    With several processes each takes every n-th video. All rounds share the compiled programs.

    Args:
      model: as at test time.
      videos: complete and checked (`video.check()`).
      config: sizes and object buckets; frames are seen in one view, and the model does not adapt.
    """

    def __init__(
        self,
        model: state_lib.Model,
        videos: Sequence[video_lib.Video],
        config: inference_config.InferenceConfig,
    ):
        self._videos = tuple(videos)
        plain = adaptation.AdaptationConfig(steps=0)
        config = dataclasses.replace(config, scales=(1.0,), flip=False, direction="forward", adaptation=plain)
        self._engine = engine_lib.Engine(model, {}, config)
        for video in videos:
            objects_lib.check(prompts_lib.as_prompts(video.prompts()), self._engine)

    def __call__(self, params: Any, stop: Callable[[], bool] = lambda: False) -> Evaluation | None:
        """Returns the scores of `params`, arrays of this process; None if `stop` returned true in between."""
        self._engine.params = jax.device_put(params)
        mine = range(jax.process_index(), len(self._videos), jax.process_count())
        sums = np.zeros((len(self._videos), 2))
        for number in mine:
            video, results = self._videos[number], {}
            for result in propagate.propagate(self._engine, video, video.prompts()):
                results[video.frame_names[result.index]] = result.ids
                if stop():
                    return None
            scores = [score.J.mean() for score in scoring.score_sequence(video, results) if score.J.size]
            sums[number] = sum(scores), len(scores)
        if jax.process_count() > 1:
            sums = np.asarray(multihost_utils.process_allgather(sums)).sum(axis=0)
        named = {
            video.name: float(total / count)
            for video, (total, count) in zip(self._videos, sums, strict=True)
            if count
        }
        return Evaluation(float(sums[:, 0].sum() / sums[:, 1].sum()), named)
