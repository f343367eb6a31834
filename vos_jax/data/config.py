"""The settings of the training data."""

import dataclasses
from collections.abc import Sequence

from vos_jax import checks, errors
from vos_jax.data import augmentation as augmentation_lib
from vos_jax.data import clips, datasets, pseudo_clips
from vos_jax.data import paste as paste_lib
from vos_jax.data.datasets import davis


def _sources() -> dict[str, datasets.SourceConfig]:
    return {
        "static": datasets.SourceConfig(root="data/static"),
        "davis": datasets.SourceConfig(root="data/DAVIS", dataset_name="davis", exclude=davis.HELD_BACK),
        # Its large frames are read no larger than crops need.
        "youtube_vos": datasets.SourceConfig(
            root="data/YouTubeVOS", dataset_name="youtube_vos", short_side=480
        ),
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipDataConfig:
    """Everything that decides which clips a training run sees.

    Attributes:
      sources: Where clips are drawn from, mixed by weight.
      clip_length: Frames of a clip.
      crop: Side of the square that clips are cropped to, a multiple of 32 (the paper's: 352).
      batch: Clips per step, over all devices and processes.
      max_objects: Most objects of a clip; fewer are padded.
      max_instances: Most labelled instances of a clip, followed or not, that the proposal network learns
        from; further ones count neither as objects nor as background.
      gap: Frames skipped within a clip, by step.
      augmentation: Changes of a clip.
      pseudo: How clips are made from photos.
      paste: How objects of other videos and photos are laid over clips.
      workers: Worker processes that decode and augment; 0 = threads of this process.
      threads: Threads per worker, or of this process.
      prefetch: Batches made ahead, per worker.
      max_unreadable: Share of unreadable items above which a run stops.

    Raises:
      VosError: a value out of range.
    """

    sources: dict[str, datasets.SourceConfig] = dataclasses.field(default_factory=_sources)
    clip_length: int = 3
    crop: int = 352
    batch: int = 8
    max_objects: int = 4
    max_instances: int = 8
    gap: clips.GapSchedule = clips.GapSchedule()
    augmentation: augmentation_lib.Augmentation = augmentation_lib.Augmentation()
    pseudo: pseudo_clips.PseudoClip = pseudo_clips.PseudoClip()
    paste: paste_lib.Paste = paste_lib.Paste()
    workers: int = 0
    threads: int = 2
    prefetch: int = 2
    max_unreadable: float = 0.01

    def __post_init__(self):
        checks.at_least(self, 2, "clip_length")
        checks.at_least(self, 1, "crop", "batch", "max_objects", "max_instances", "threads", "prefetch")
        checks.at_least(self, 0, "workers", "max_unreadable")

    def drawn(self) -> dict[str, datasets.SourceConfig]:
        """Returns the sources that have a weight, by name, so that the order of writing changes nothing."""
        return {name: source for name, source in sorted(self.sources.items()) if source.weight > 0}

    def check(self, dataset_names: Sequence[str]) -> None:
        """Raises VosError where no source has a weight, or one trains the lambda of an unknown data set."""
        if not self.drawn():
            raise errors.VosError(
                "nothing to train on: every weight in train.data.sources is 0; take a recipe (--config "
                "train_static, train_davis) or set --config.train.data.sources.davis.weight=1"
            )
        for name, source in self.drawn().items():
            if source.dataset_name not in dataset_names:
                raise errors.VosError(
                    f"train.data.sources.{name}.dataset_name is '{source.dataset_name}'; there are "
                    f"{', '.join(dataset_names)}"
                )
