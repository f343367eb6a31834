"""Changes of a clip's appearance: colour, blur, light and JPEG (docs/method.md, "Copy-paste")."""

import dataclasses
from collections.abc import Callable

import cv2
import numpy as np

from vos_jax import checks, geometry
from vos_jax.data import transforms
from vos_jax.typing import Float


@dataclasses.dataclass(frozen=True, kw_only=True)
class ColourJitter:
    """Changes brightness, contrast, saturation and hue by one draw per clip, plus a tenth per frame.

    All four are one 3×4 matrix per frame.

    Attributes:
      prob: Probability that a clip is changed.
      brightness, contrast, saturation: Largest relative change.
      hue: Largest rotation in degrees.
    """

    prob: float = 0.0
    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.2
    hue: float = 8.0

    def __post_init__(self):
        checks.probability(self, "prob")
        checks.at_least(self, 0, "brightness", "contrast", "saturation", "hue")

    def __call__(self, clip: transforms.Clip, key: transforms.Key) -> transforms.Clip:
        rng = key.generator()
        if rng.random() >= self.prob:
            return clip
        limits = np.array([self.brightness, self.contrast, self.saturation, self.hue])
        draws = rng.uniform(-1, 1, (1, 4)) + 0.1 * rng.uniform(-1, 1, (len(clip.frames), 4))
        matrices = [colour_matrix(*(draw * limits)) for draw in draws]
        return recolour(clip, lambda time, frame: cv2.transform(frame, matrices[time]))


_LUMA = np.array([0.299, 0.587, 0.114])


def colour_matrix(brightness: float, contrast: float, saturation: float, hue: float) -> np.ndarray:
    """Returns the [3, 4] matrix of a jitter: rotate around the grey axis, mix with grey, scale about 128."""
    angle = np.deg2rad(hue)
    axis = np.ones(3) / np.sqrt(3)
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    turn = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    grey = np.ones((3, 1)) * _LUMA[None, :]
    gain = (1 + contrast) * (1 + brightness)
    matrix = gain * ((1 + saturation) * np.eye(3) - saturation * grey) @ turn
    offset = np.full((3, 1), -128 * contrast * (1 + brightness))
    return np.concatenate([matrix, offset], axis=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class JpegQuality:
    """Compresses all frames of a clip again, at one quality.

    Attributes:
      prob: Probability that a clip is compressed.
      low: Lowest JPEG quality.
      high: Highest JPEG quality.
    """

    prob: float = 0.0
    low: int = 40
    high: int = 95

    def __post_init__(self):
        checks.probability(self, "prob")
        checks.at_least(self, 1, "low")
        checks.increasing(self, "low", "high")

    def __call__(self, clip: transforms.Clip, key: transforms.Key) -> transforms.Clip:
        rng = key.generator()
        if rng.random() >= self.prob:
            return clip
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(self.low, self.high + 1))]

        def again(time: int, frame: np.ndarray) -> np.ndarray:
            # RGB instead of BGR does not matter: the decoder inverts the encoder.
            _, encoded = cv2.imencode(".jpg", frame, quality)
            decoded = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
            assert decoded is not None  # it was encoded above
            return decoded

        return recolour(clip, again)


def recolour(clip: transforms.Clip, change: Callable[[int, np.ndarray], np.ndarray]) -> transforms.Clip:
    """Changes the real part of every frame; padding stays black."""
    height, width = clip.size
    shape = clip.frames[0].shape[:2]
    changed = (change(time, frame[:height, :width]) for time, frame in enumerate(clip.frames))
    return dataclasses.replace(clip, frames=tuple(geometry.pad(x, shape, mode="constant") for x in changed))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Blur:
    """Blurs a clip by defocus or by camera motion; in half of the cases with a strength per frame.

    Attributes:
      prob: Probability that a clip is blurred.
      defocus: Largest standard deviation of the defocus in pixels.
      motion: Longest streak of the motion blur, as a share of the frame's shorter side.
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

        return recolour(clip, blur)


def streak(length: float, angle: float) -> Float[np.ndarray, "k k"]:
    """Returns the kernel of a straight motion over `length` pixels, with sum 1 and odd sides."""
    side = 2 * int(np.ceil(length / 2)) + 1
    middle, along = side // 2, np.linspace(-length / 2, length / 2, 4 * side)
    xs, ys = middle + along * np.cos(angle), middle + along * np.sin(angle)
    kernel = np.zeros((side, side), np.float32)
    np.add.at(kernel, (np.rint(ys).astype(int), np.rint(xs).astype(int)), 1)
    return kernel / kernel.sum()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Drift:
    """Changes the light linearly from frame 0, which is unchanged, to the last frame.

    Attributes:
      prob: Probability that a clip is changed.
      brightness, contrast, saturation: Largest relative change in the last frame.
      hue: Largest rotation in degrees in the last frame.
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
            return cv2.transform(frame, colour_matrix(*(progress * end)))

        return recolour(clip, change)
