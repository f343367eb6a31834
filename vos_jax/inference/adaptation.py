"""Adaptation to a video: fine-tuning of RefineNet on each frame with prompts.

The frame and its masks become pseudo-clips, in which the objects move, bend and occlude one another, as in
training on photos. RefineNet takes some optimiser steps on them. After OSVOS (Caelles et al. 2017), which
learns from the first frame, and Lucid Data Dreaming (Khoreva et al. 2017), which makes a video of it; not in
the paper.
"""

import dataclasses
import itertools
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vos_jax import checks, geometry
from vos_jax.data import appearance, augmentation, clips, prefetch, pseudo_clips, transforms
from vos_jax.errors import VosError
from vos_jax.models import vos, weights
from vos_jax.train import clip_loss, optim
from vos_jax.typing import Array, Float, PRNGKeyArray, UInt8

Adapted = dict[str, Any]
"""The adapted parameters of a video: subtrees of the model's parameters, by name."""

NETWORKS = ("refine",)
"""Networks that are adapted. Keys and values are not, so the memory of earlier frames stays valid."""

AUGMENTATION = augmentation.Augmentation(
    scale=transforms.Scale(low=0.75, high=1.125),
    objects=transforms.SelectObjects(drop=0.3),
    colour=appearance.ColourJitter(prob=0.8),
)
"""Augmentation of the clips. Their scale is close to the video's, unlike in training. Their colours change
often, because one frame does not show the light of all frames."""

_TRIALS = 20
"""Number of successive clips without a visible object after which the frame is not learned from."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdaptationConfig:
    """Settings of the adaptation to a video.

    Attributes:
      steps: Optimiser steps of RefineNet on each frame with prompted masks; 0 = none. Models without a
        RefineNet do not adapt; --adapt.
      learning_rate: Highest learning rate of Adam; it falls to 0.
      batch: Clips per step, made from the frame.
      length: Frames per clip.
      crop: Height and width of a clip in pixels.
      max_objects: Most objects of a clip; a clip of a frame with more objects shows some of them.
      share: Share of the change that is kept, in (0, 1]; a smaller share keeps more of the trained weights
        (Wortsman et al. 2022).

    Raises:
      VosError: a value out of range.
    """

    steps: int = 0
    learning_rate: float = 5e-4
    batch: int = 4
    length: int = 3
    crop: int = 256
    max_objects: int = 2
    share: float = 0.7

    def __post_init__(self):
        for name, least in (("steps", 0), ("batch", 1), ("length", 2), ("crop", 64), ("max_objects", 1)):
            checks.at_least(self, least, name)
        checks.above(self, 0, "learning_rate")
        if not 0 < self.share <= 1:
            raise VosError(f"share is {self.share}; it must be above 0 and at most 1")
        if self.crop % geometry.SIZE_MULTIPLE:
            raise VosError(f"crop is {self.crop}; it must be a multiple of {geometry.SIZE_MULTIPLE}")


class Adapter:
    """Adapts parameters to a video; one compiled step serves all frame sizes and numbers of objects.

    Args:
      model: with a RefineNet.
      config: the settings.
      seed: of the random clips.

    Attributes:
      compile_seconds: wall time of compilation.
      compilations: number of compilations.
    """

    def __init__(self, model: vos.VOS, config: AdaptationConfig, seed: int = 0):
        no_network = dataclasses.replace(model.config.proposals, source="none")
        learner = vos.VOS(config=dataclasses.replace(model.config, proposals=no_network))
        self._config, self._dataset, self._seed = config, model.config.dataset, seed
        rate = optim.OptimConfig(learning_rate=config.learning_rate, warmup_steps=min(5, config.steps - 1))
        self._tx = optax.chain(
            optax.clip_by_global_norm(rate.clip_norm),
            optax.adam(optim.schedule(rate, config.steps), b1=rate.b1, b2=rate.b2),
        )
        # The settings of the end of training: previous masks are predictions, and the hardest pixels count.
        self._loss = clip_loss.make_loss_fn(
            learner,
            clip_loss.ClipLossConfig(hard_begin=0, hard_end=1, sampling_begin=0, sampling_prob=1.0),
        )
        self._compiled: Any = None
        self.compile_seconds = 0.0
        self.compilations = 0

    def __call__(
        self, params: Any, adapted: Adapted, frame: UInt8[np.ndarray, "H W 3"], ids: UInt8[np.ndarray, "H W"]
    ) -> Adapted:
        """Adapts parameters to one frame.

        Args:
          params: the model's parameters.
          adapted: those adapted to earlier frames of the video; {}: there are none.
          frame: RGB, of the working size.
          ids: its masks; 0 is background.

        Returns:
          Parameters that replace those of the same names. `adapted` if the frame's objects are too small for
          a clip, or if a step overflows.
        """
        config = self._config
        before = adapted or {name: params[name] for name in NETWORKS}
        now, opt_state = before, self._tx.init(before)
        key = jax.random.key(self._seed)
        dataset = weights.datasets_of(params).index(self._dataset)
        batches = itertools.islice(self._batches(frame, ids, dataset), config.steps)
        for number, batch in enumerate(prefetch.prefetch(batches)):
            inputs = now, opt_state, params, batch, key, np.int32(number)
            if self._compiled is None:
                start = time.perf_counter()
                plain = jax.config.jax_disable_jit  # pyright: ignore[reportAttributeAccessIssue]
                self._compiled = self._update if plain else jax.jit(self._update).lower(*inputs).compile()
                self.compilations += 1
                self.compile_seconds += time.perf_counter() - start
            now, opt_state = self._compiled(*inputs)
        finite = all(bool(jnp.all(jnp.isfinite(x))) for x in jax.tree.leaves(now))
        if now is before or not finite:
            return adapted
        return jax.tree.map(lambda old, new: old + config.share * (new - old), before, now)

    def _update(
        self,
        adapted: Adapted,
        opt_state: optax.OptState,
        params: Any,
        batch: clip_loss.Batch,
        key: PRNGKeyArray,
        number: Array,
    ) -> tuple[Adapted, optax.OptState]:
        def loss(adapted: Adapted) -> Float[Array, ""]:
            # From step 1 on, the loss is that of the end of training (hard_end=1).
            return self._loss({**params, **adapted}, batch, key, number + 1)[0]

        updates, opt_state = self._tx.update(jax.grad(loss)(adapted), opt_state, adapted)
        changed: Any = optax.apply_updates(adapted, updates)
        return changed, opt_state

    def _batches(self, frame: np.ndarray, ids: np.ndarray, dataset: int) -> Iterator[dict[str, np.ndarray]]:
        one_by_one = self._examples(frame, ids, dataset)
        for examples in zip(*[one_by_one] * self._config.batch, strict=False):
            yield {name: np.stack([example[name] for example in examples]) for name in examples[0]}

    def _examples(self, frame: np.ndarray, ids: np.ndarray, dataset: int) -> Iterator[clips.ClipArrays]:
        """Yields clips without end; none if the frame's objects are too small."""
        config = self._config
        photo = transforms.make_view((frame,), (ids,))
        change = dataclasses.replace(
            AUGMENTATION,
            crop=dataclasses.replace(AUGMENTATION.crop, size=(config.crop, config.crop)),
            objects=dataclasses.replace(AUGMENTATION.objects, max_objects=config.max_objects),
        )
        pseudo = pseudo_clips.PseudoClip(max_objects=config.max_objects)
        failures = 0
        for number in itertools.count():
            key = transforms.Key((self._seed, number))
            others = (photo,) * pseudo.num_pasted(photo, key)
            try:
                clip = pseudo_clips.of_photo(photo, others, pseudo, change, length=config.length, key=key)
                clip, num_objects = change.finish(clip, key)
            except transforms.UnusableClip:
                failures += 1
                if failures == _TRIALS:
                    return
                continue
            failures = 0
            yield clips.to_arrays(
                clip,
                num_objects=num_objects,
                length=config.length,
                max_objects=config.max_objects,
                dataset=dataset,
            )
