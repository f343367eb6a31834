"""The settings of inference and of eval.py."""

import dataclasses

from vos_jax import checks, errors
from vos_jax.inference import adaptation as adaptation_lib
from vos_jax.models import vos

DIRECTIONS = ("forward", "backward", "both")


@dataclasses.dataclass(frozen=True, kw_only=True)
class InferenceConfig:
    """Settings of a video's segmentation.

    Attributes:
      min_size: Frames with a shorter short side are enlarged to so many pixels inside, threefold at most:
        memory sees in cells of 16 pixels. Masks come out at the frames' size; 0 = none are.
      max_size: Frames with a longer short side are shrunk to so many pixels inside. Masks come out at the
        frames' size; 0 = none are; --max-size.
      scales: Sizes of the views that are merged on probabilities; --scales.
      flip: Whether each view is segmented mirrored, too; --flip.
      direction: From the annotated frames on: "forward", "backward" or "both"; --direction.
      object_buckets: Object counts are padded to the next of these, so that few programs are compiled.
      adaptation: How the model adapts to each video.

    Raises:
      VosError: a value out of range.
    """

    min_size: int = 480
    max_size: int = 480
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    direction: str = "forward"
    object_buckets: tuple[int, ...] = (1, 2, 3, 5, 8, 13, 21, 34, 64)
    adaptation: adaptation_lib.AdaptationConfig = adaptation_lib.AdaptationConfig()

    def __post_init__(self):
        checks.at_least(self, 0, "min_size", "max_size")
        checks.not_empty(self, "scales", "object_buckets")
        checks.at_least(self, 1, "object_buckets")
        checks.one_of(self, "direction", DIRECTIONS)
        if not all(0.1 <= scale <= 10 for scale in self.scales):
            raise errors.VosError(f"scales is {self.scales}; a scale is between 0.1 and 10")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """Settings of eval.py's outputs.

    Attributes:
      out: Where masks and results.json go; --out.
      workers: Threads that score.
      overlay: Whether overlays are drawn: mp4 and contact sheet; --overlay.
      overwrite: Whether what is finished is segmented anew; --overwrite.
      intermediates: Masks before the final ones, written to OUT/intermediates/NAME (--score-only scores
        them): "coarse", the matched proposals; "propagated", the memory's own masks. Trained weights only.
      save_probabilities: Whether soft masks are written for vos_jax.tools.merge; --save-probabilities.
      batch_videos: Videos of one size that each device segments together; for accelerators; --batch-videos.

    Raises:
      VosError: a value out of range.
    """

    out: str = "results"
    workers: int = 2
    overlay: bool = False
    overwrite: bool = False
    intermediates: tuple[str, ...] = ()
    save_probabilities: bool = False
    batch_videos: int = 1

    def __post_init__(self):
        checks.at_least(self, 1, "workers", "batch_videos")
        checks.one_of(self, "intermediates", vos.INTERMEDIATES)
