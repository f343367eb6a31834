"""Blur and changing light over a clip: appearance changes of which frame 0 says nothing (docs/method.md)."""

import dataclasses

import cv2
import numpy as np

from vos_jax import checks
from vos_jax.data import transforms
from vos_jax.typing import Float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Blur:
    """Blurs a clip by defocus or by motion of the camera, in half of the cases each frame differently.

    Attributes:
      prob: Share of the clips that are blurred.
      defocus: Largest standard deviation of a defocused frame in pixels.
      motion: Longest streak of a shaken frame, share of its shorter side.
    """

    prob: float = 0.0
    defocus: float = 2.0
    motion: float = 0.06

    def __post_init__(self):
        checks.probability(self, "prob")
        checks.at_least(self, 0, "defocus", "motion")

    def __call__(self, clip: transforms.Clip, key: transforms.Key) -> transforms.Clip:
        rng = key.generator()
        if rng.random() >= self.prob:
            return clip
        shaken, uneven = rng.random(2) < 0.5
        strength = np.full(len(clip.frames), rng.uniform(0.3, 1))
        if uneven:
            strength *= rng.uniform(0, 1, len(clip.frames))
        angle = rng.uniform(0, np.pi)

        def blur(time: int, frame: np.ndarray) -> np.ndarray:
            if not shaken:
                sigma = float(max(0.1, strength[time] * self.defocus))
                return cv2.GaussianBlur(frame, (0, 0), sigma)
            return cv2.filter2D(frame, -1, streak(strength[time] * self.motion * min(clip.size), angle))

        return transforms.recolour(clip, blur)


def streak(length: float, angle: float) -> Float[np.ndarray, "k k"]:
    """Returns the kernel of a straight movement over `length` pixels, with sum 1 and odd sides."""
    side = 2 * int(np.ceil(length / 2)) + 1
    middle, along = side // 2, np.linspace(-length / 2, length / 2, 4 * side)
    xs, ys = middle + along * np.cos(angle), middle + along * np.sin(angle)
    kernel = np.zeros((side, side), np.float32)
    np.add.at(kernel, (np.rint(ys).astype(int), np.rint(xs).astype(int)), 1)
    return kernel / kernel.sum()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Drift:
    """Changes the light from frame 0, which stays as it is, steadily to the last frame.

    Attributes:
      prob: Share of the clips.
      brightness, contrast, saturation: Largest relative change at the end.
      hue: Largest turn in degrees at the end.
    """

    prob: float = 0.0
    brightness: float = 0.35
    contrast: float = 0.25
    saturation: float = 0.25
    hue: float = 6.0

    def __post_init__(self):
        checks.probability(self, "prob")
        checks.at_least(self, 0, "brightness", "contrast", "saturation", "hue")

    def __call__(self, clip: transforms.Clip, key: transforms.Key) -> transforms.Clip:
        rng = key.generator()
        if rng.random() >= self.prob:
            return clip
        end = rng.uniform(-1, 1, 4) * (self.brightness, self.contrast, self.saturation, self.hue)

        def change(time: int, frame: np.ndarray) -> np.ndarray:
            progress = time / max(1, len(clip.frames) - 1)
            return cv2.transform(frame, transforms.colour_matrix(*(progress * end)))

        return transforms.recolour(clip, change)
