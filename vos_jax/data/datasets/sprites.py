"""Objects of the rendered videos: an image with a shape and a pattern, and a path through the video."""

import dataclasses

import cv2
import numpy as np

from vos_jax.typing import Float

FRAMES_PER_CYCLE = 96  # A motion repeats after four seconds at 24 frames per second.
SUPERSAMPLING = 2
SLIDE = 24  # Frames that an object takes to leave, and to come back.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sprite:
    """An object's image (colour times alpha, alpha; side x side x 4) and its path.

    In frames `start` to `end` - 1 of each (start, end) in `away` it is outside the frame.
    """

    object_id: int
    image: np.ndarray
    frame_size: tuple[int, int]
    centre: tuple[float, float]
    swing: tuple[float, float]
    phase: float
    cycles: int
    scale: float
    angle: float
    spin: float
    away: tuple[tuple[int, int], ...] = ()

    @classmethod
    def make(
        cls,
        object_id: int,
        objects: int,
        size: tuple[int, int],
        turn: float,
        rng: np.random.Generator,
        *,
        hue: float = 0.0,
    ):
        """Draws object `object_id` of `objects`, with its hue turned by `hue`, on a path that crosses the
        others'."""
        height, width = size
        # Objects start on an ellipse and swing through the middle, where they meet.
        start = turn + 2 * np.pi * (object_id - 1) / objects
        crowd = min(1.0, np.sqrt(3 / objects))
        return cls(
            object_id=object_id,
            image=_draw(object_id, max(32, round(0.75 * min(size) * SUPERSAMPLING)), rng, hue),
            frame_size=size,
            centre=(height * (0.5 + 0.06 * np.sin(start)), width * (0.5 + 0.08 * np.cos(start))),
            swing=(height * 0.22 * np.sin(start), width * 0.28 * np.cos(start)),
            phase=rng.uniform(-0.15, 0.15),
            cycles=1 + object_id % 2,
            scale=crowd * rng.uniform(0.5, 0.66),
            angle=rng.uniform(0, 2 * np.pi),
            spin=rng.choice([-1, 1]) * rng.uniform(0.6, 1.2),
        )

    def outside(self, index: int) -> float:
        """Returns the object's progress on its way out of the frame, from 0 to 1."""
        ways = [min(index - start + SLIDE, end - 1 + SLIDE - index) / SLIDE for start, end in self.away]
        return min(max([0.0, *ways]), 1.0)

    def placed(self, index: int, picture: np.ndarray) -> np.ndarray:
        """Moves `picture`, as large as `image`, to the object's position in frame `index`, supersampled."""
        time = 2 * np.pi * index / FRAMES_PER_CYCLE
        along = np.cos(self.cycles * time + self.phase)
        across = 0.35 * np.sin(2 * time + 3 * self.phase)
        y = self.centre[0] + self.swing[0] * along + self.swing[1] * across * 0.35
        x = self.centre[1] + self.swing[1] * along - self.swing[0] * across
        # Moves the object to the side until it is completely outside the frame.
        height, width = self.frame_size
        x += (1 if self.object_id % 2 else -1) * self.outside(index) * (width + 0.4 * min(height, width))
        scale = self.scale * (1 + 0.22 * np.sin(time + 5 * self.phase))
        angle = self.angle + self.spin * time
        side = picture.shape[0]
        cosine, sine = scale * np.cos(angle), scale * np.sin(angle)
        middle = (side - 1) / 2
        # Pixel centres: u_fine = s (u + 1/2) - 1/2.
        target_x, target_y = SUPERSAMPLING * (x + 0.5) - 0.5, SUPERSAMPLING * (y + 0.5) - 0.5
        matrix = np.array(
            [
                [cosine, -sine, target_x - cosine * middle + sine * middle],
                [sine, cosine, target_y - sine * middle - cosine * middle],
            ],
            np.float64,
        )
        return cv2.warpAffine(
            picture, matrix, (SUPERSAMPLING * width, SUPERSAMPLING * height), flags=cv2.INTER_LINEAR
        )


def down(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Averages supersampled pixels to the frame's."""
    return cv2.resize(picture, (size[1], size[0]), interpolation=cv2.INTER_AREA)


def noise(rng: np.random.Generator, size: tuple[int, int], cells: int, octaves: int) -> np.ndarray:
    """Returns smooth noise in [0, 1], [H, W] float32: octaves of bicubic-resized random grids."""
    height, width = size
    total = np.zeros(size, np.float32)
    for octave in range(octaves):
        rows = cells * 2**octave
        grid = rng.random((rows, max(2, round(rows * width / height))), dtype=np.float32)
        total += 0.5**octave * cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
    low, high = total.min(), total.max()
    return (total - low) / (high - low)


def _draw(
    object_id: int, side: int, rng: np.random.Generator, turned: float
) -> Float[np.ndarray, "side side 4"]:
    """Draws an object: a shape, a pattern of two or three colours, light from the upper left."""
    axis = np.linspace(-1, 1, side, dtype=np.float32)
    y, x = axis[:, None], axis[None, :]
    radius, angle = np.hypot(y, x), np.arctan2(y, x) + np.zeros_like(y * x)
    shape, pattern = _SHAPES[(object_id - 1) % len(_SHAPES)], _PATTERNS[(object_id - 1) % len(_PATTERNS)]
    edge = 0.92 * shape(angle, rng)
    alpha = np.clip((edge - radius) * side / 4 + 0.5, 0, 1)
    hue = (0.02 + 0.381966 * 1.55 * (object_id - 1) + rng.uniform(-0.02, 0.02) + turned) % 1.0
    main, second, third = _hsv(hue, 0.82, 0.92), _hsv(hue + 0.12, 0.25, 0.98), _hsv(hue + 0.05, 0.9, 0.35)
    select = pattern(y, x, radius, angle, rng)[..., None]
    colour = np.where(select == 0, main, np.where(select == 1, second, third)).astype(np.float32)
    grain = noise(rng, (side, side), 24, 3)[..., None]
    inward = np.clip(1 - radius / np.maximum(edge, 1e-3), 0, 1)
    light = 0.62 + 0.5 * np.sqrt(inward) - 0.12 * (y + x)
    highlight = np.exp(-((y + 0.35) ** 2 + (x + 0.35) ** 2) / 0.03)
    colour = colour * (light[..., None] * (0.82 + 0.3 * grain)) + 0.35 * highlight[..., None]
    return np.concatenate([np.clip(colour, 0, 1) * alpha[..., None], alpha[..., None]], axis=-1)


def _hsv(hue: float, saturation: float, value: float) -> np.ndarray:
    pixel = np.array([[[360 * (hue % 1.0), saturation, value]]], np.float32)
    return cv2.cvtColor(pixel, cv2.COLOR_HSV2RGB)[0, 0]


def _round_shape(angle, rng):
    return np.full_like(angle, 0.95)


def _star_shape(angle, rng):
    return 0.76 + 0.2 * np.cos(5 * angle)


def _pebble_shape(angle, rng):
    lobes = sum(rng.uniform(0.02, 0.07) * np.cos(n * angle + rng.uniform(0, 6)) for n in (2, 3, 4))
    return 0.84 + lobes


def _leaf_shape(angle, rng):
    return 0.5 + 0.45 * np.cos(angle) ** 2


_SHAPES = (_round_shape, _star_shape, _pebble_shape, _leaf_shape)


def _wedges(y, x, radius, angle, rng):
    wedges = (np.floor((angle + np.pi) / (2 * np.pi) * 8).astype(int) % 2).astype(int)
    return np.where(radius < 0.16, 2, wedges)


def _rings(y, x, radius, angle, rng):
    return np.where(radius < 0.2, 2, (np.floor(radius * 6.5).astype(int) % 2))


def _dots(y, x, radius, angle, rng):
    select = np.zeros_like(radius, dtype=int)
    for index in range(9):
        reach, turn = (0.0, 0.0) if index == 0 else (0.5, index * np.pi / 4)
        near = np.hypot(y - reach * np.sin(turn), x - reach * np.cos(turn))
        select = np.where(near < 0.14, 2, np.where(near < 0.18, 1, select))
    return select


def _stripes(y, x, radius, angle, rng):
    return np.floor((x + 0.08 * np.sin(9 * y)) * 5).astype(int) % 3


_PATTERNS = (_wedges, _rings, _dots, _stripes)
