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
        # Large frames are decoded at the size that crops need.
        "youtube_vos": datasets.SourceConfig(
            root="data/YouTubeVOS", dataset_name="youtube_vos", short_side=480
        ),
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipDataConfig:
    """Settings of the clips of a training run.

    Attributes:
      sources: Sources of the clips, mixed by weight.
      clip_length: Frames of a clip.
      crop: Side of the square that clips are cropped to, a multiple of 32 (the paper's: 352).
      batch: Clips per step, over all devices and processes.
      max_objects: Maximum number of objects of a clip; fewer are padded.
      max_instances: Maximum number of labelled instances of a clip that the proposal network learns from,
        including those that are no objects of the clip; it ignores further ones.
      gap: Frames skipped within a clip, by step.
      augmentation: Augmentation of clips.
      pseudo: Pseudo-clips, which are made from photos.
      paste: Objects of other videos and photos that are pasted over clips.
      workers: Worker processes that decode and augment; 0 = threads of this process.
      threads: Threads per worker, or of this process.
      prefetch: Batches prefetched per worker.
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
        """Returns the sources with a weight above 0, sorted by name."""
        return {
            name: dataclasses.replace(source, name=name)
            for name, source in sorted(self.sources.items())
            if source.weight > 0
        }

    def check(self, dataset_names: Sequence[str]) -> None:
        """Raises VosError if no source has a weight, or one trains the lambda of an unknown data set."""
        if not self.drawn():
            raise errors.VosError(
                "nothing to train on: every weight in train.data.sources is 0; use a training config "
                "(--config train_static, train_davis) or set --config.train.data.sources.davis.weight=1"
            )
        for name, source in self.drawn().items():
            if source.dataset_name not in dataset_names:
                raise errors.VosError(
                    f"train.data.sources.{name}.dataset_name is '{source.dataset_name}'; there are "
                    f"{', '.join(dataset_names)}"
                )
