"""Smooth motion of the layers of a clip: an affine part and a warp, both growing with time.

Maps are computed and composed on a coarse lattice of the crop and interpolated between its points.
"""

import dataclasses
from collections.abc import Callable

import cv2
import numpy as np

from vos_jax import checks, errors
from vos_jax.typing import Float

STRIDE = 16
"""Pixels between two points of the lattice on which maps are computed."""

MARGIN = 2
"""Additional lattice points at each side of the crop, for interpolation at its border."""


# --- smooth warps: a basis over the lattice, linear in its control points' displacements --------------------


def thin_plate(
    points: Float[np.ndarray, "G 2"], controls: Float[np.ndarray, "K 2"]
) -> Float[np.ndarray, "G K"]:
    """Returns the basis of a thin-plate spline, the smoothest warp of the control points (U = r² log r).

    Args:
      points: points to evaluate.
      controls: control points in the same units.

    Returns:
      weights; `basis @ displacements [K, 2]` are the displacements of the points.
    """

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        squared = ((a[:, None] - b[None]) ** 2).sum(-1)
        return 0.5 * squared * np.log(np.maximum(squared, 1e-12))

    def affine(a: np.ndarray) -> np.ndarray:
        return np.concatenate([np.ones((len(a), 1)), a], axis=1)

    size = len(controls)
    system = np.zeros((size + 3, size + 3))
    system[:size, :size] = kernel(controls, controls)
    system[:size, size:] = affine(controls)
    system[size:, :size] = affine(controls).T
    solution = np.linalg.inv(system)[:, :size]
    return np.concatenate([kernel(points, controls), affine(points)], axis=1) @ solution


def elastic(points: Float[np.ndarray, "G 2"], controls: Float[np.ndarray, "K 2"]) -> Float[np.ndarray, "G K"]:
    """Returns the basis of an elastic warp: Gaussian weights of the near control points; see `thin_plate`."""
    squared = ((points[:, None] - controls[None]) ** 2).sum(-1)
    spacing = np.sqrt(np.prod(controls.max(0) - controls.min(0)) / len(controls))
    logits = -squared / (2 * (0.6 * spacing) ** 2)
    weights = np.exp(logits - logits.max(1, keepdims=True))
    return weights / weights.sum(1, keepdims=True)


WARPS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "thin_plate": thin_plate,
    "elastic": elastic,
}


# --- motion ------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Motion:
    """Limits of a layer's motion from the first to the last frame of a clip; each draw is uniform.

    Attributes:
      turn: Rotation in degrees.
      scale: Relative change of size.
      shear: Tangent of the shear angle.
      shift: Translation, as a share of the crop's side.
      warp: Largest displacement of a control point, as a share of the crop's side.
      jitter: Random offset of each frame in time, in steps between two frames.
      sway: Random deviation of each frame from the path, as a share of the limits. The path is smooth, as
        long clips need, with `jitter` and `sway` 0.
      warps: Names of `WARPS` to draw from, or callables of the same signature.
      controls: Control points per side.
    """

    turn: float = 12.0
    scale: float = 0.15
    shear: float = 0.08
    shift: float = 0.1
    warp: float = 0.04
    jitter: float = 0.3
    sway: float = 0.15
    warps: tuple[str | Callable[[np.ndarray, np.ndarray], np.ndarray], ...] = ("thin_plate", "elastic")
    controls: int = 4

    def __post_init__(self):
        checks.at_least(self, 0, "turn", "scale", "shear", "shift", "warp", "jitter", "sway")
        checks.at_least(self, 2, "controls")
        checks.not_empty(self, "warps")
        for warp in self.warps:
            if not callable(warp) and warp not in WARPS:
                raise errors.VosError(f"warps has {warp!r}; there are {', '.join(WARPS)}, or any callable")

    def times(self, factor: float) -> "Motion":
        """Returns the motion with all limits times `factor`, except the warp, which could fold."""
        return dataclasses.replace(
            self,
            turn=self.turn * factor,
            scale=self.scale * factor,
            shear=self.shear * factor,
            shift=self.shift * factor,
        )

    def path(
        self,
        length: int,
        size: tuple[int, int],
        points: Float[np.ndarray, "G 2"],
        rng: np.random.Generator,
        *,
        places: Float[np.ndarray, "T 2"] | None = None,
    ) -> Float[np.ndarray, "T G 2"]:
        """Returns the position in frame 0 of each point of each frame, in pixels (x, y) of the crop.

        Frame 0 is unchanged. Later frames follow one path, and each has a warp that is partly its own, so
        that no frame is an interpolation of others.

        Args:
          length: number of frames.
          size: height and width of the crop.
          points: points to evaluate.
          rng: source of all draws.
          places: the layer's centre of rotation and scaling in each frame; None draws a centre and a
            translation within `shift`.
        """
        height, width = size
        progress = np.arange(length) / max(1, length - 1)
        progress[1:] += rng.uniform(-1, 1, length - 1) * self.jitter / max(1, length - 1)
        limits = np.array([np.deg2rad(self.turn), self.scale, self.shear, self.shift, self.shift])
        end = rng.uniform(-1, 1, 5) * limits
        own = rng.uniform(-self.sway, self.sway, (length, 5)) * limits
        centre = rng.uniform(0.25, 0.75, 2) * (width, height) if places is None else places[0]

        warp = self.warps[int(rng.integers(len(self.warps)))]
        rows = (np.arange(self.controls) + 0.5) / self.controls
        grid = np.stack(np.meshgrid(rows, rows), -1).reshape(-1, 2)
        grid += rng.uniform(-0.3, 0.3, grid.shape) / self.controls
        basis = (WARPS[warp] if isinstance(warp, str) else warp)(points / (width, height), grid)
        bend = rng.uniform(-1, 1, (1, len(grid), 2)) + 2 * self.sway * rng.uniform(
            -1, 1, (length, len(grid), 2)
        )
        amplitude = self.warp * min(height, width)

        origins = np.empty((length, *points.shape))
        for time in range(length):
            moved = points + basis @ bend[time] * (amplitude * progress[time])
            turn, scale, shear, *shift = end * progress[time] + own[time] * (time > 0)
            cos, sin = np.cos(turn), np.sin(turn)
            matrix = np.array([[cos, -sin], [sin, cos]]) @ np.array([[1, shear], [0, 1]]) / (1 + scale)
            moved_by = np.array(shift) * (width, height) if places is None else places[time] - centre
            origins[time] = (moved - centre - moved_by) @ matrix.T + centre
        return origins


def lattice(size: tuple[int, int]) -> tuple[Float[np.ndarray, "G 2"], tuple[int, int]]:
    """Returns a crop's lattice points (x, y), with margins, in row-major order, and the lattice's shape."""
    rows, columns = (-(-side // STRIDE) + 2 * MARGIN for side in size)
    ys, xs = ((np.arange(n) - MARGIN + 0.5) * STRIDE for n in (rows, columns))
    return np.stack(np.meshgrid(xs, ys), -1).reshape(-1, 2), (rows, columns)


def dense(
    coarse: Float[np.ndarray, "G 2"],
    shape: tuple[int, int],
    size: tuple[int, int],
    box: tuple[slice, slice] | None = None,
) -> Float[np.ndarray, "h w 2"]:
    """Interpolates a lattice of coordinates at the pixel centres of a crop; exact for affine maps.

    Args:
      coarse: coordinates at the lattice's points.
      shape: rows and columns of the lattice.
      size: height and width of the crop.
      box: the part of the crop to compute, which starts at multiples of STRIDE; None for all.
    """
    box = box or (slice(0, size[0]), slice(0, size[1]))
    first = [b.start // STRIDE for b in box]
    last = [-(-b.stop // STRIDE) + 2 * MARGIN for b in box]
    field = coarse.reshape(*shape, 2)[first[0] : last[0], first[1] : last[1]].astype(np.float32)
    full = cv2.resize(
        field, (field.shape[1] * STRIDE, field.shape[0] * STRIDE), interpolation=cv2.INTER_LINEAR
    )
    start = MARGIN * STRIDE
    return full[start : start + box[0].stop - box[0].start, start : start + box[1].stop - box[1].start]
