"""The paper's Figure 3: matches of template checkpoints in proposals, with and without alignment.

The template is the object's first annotation, as in the paper.
"""

import dataclasses
from collections.abc import Iterator

import cv2
import numpy as np

from vos_jax.data import video as video_lib
from vos_jax.inference import inspection
from vos_jax.models import vos
from vos_jax.typing import Bool, Float, Int, UInt8
from vos_jax.visualize import layout

CHECKPOINTS = 4
PROPOSALS = 3
COLOURS = ((255, 150, 0), (0, 200, 255), (255, 60, 220))
TEMPLATE, PROPOSAL = 300, 230  # pixels of a picture's side
DUPLICATE = 0.6  # IoU above which two proposals look the same


def draw(
    video: video_lib.Video, inspected: inspection.Inspection
) -> Iterator[tuple[int, UInt8[np.ndarray, "H2 W2 3"]]]:
    """Yields (the user's object id, its figure) for every object that was annotated before the frame.

    Arrows lead from each checkpoint to the proposal location with the largest weight; without alignment, to
    the spatially corresponding location.
    """
    assert isinstance(inspected.model, vos.VOS)  # `figures.check` rejects others
    config = dataclasses.replace(inspected.model.config, template="first")
    adaptive = inspected.rerun(vos.VOS(config=dataclasses.replace(config, alignment="adaptive"))).out
    none = inspected.rerun(vos.VOS(config=dataclasses.replace(config, alignment="none"))).out
    frame = inspected.see(video.frame(inspected.index))
    proposals = adaptive.proposals
    first_slot, slot_frame = np.asarray(inspected.memory.first_slot), np.asarray(inspected.memory.slot_frame)
    for user_id, index in inspected.objects.slots.items():
        if first_slot[index] < 0:
            continue
        number = int(slot_frame[first_slot[index]])
        weights = np.asarray(adaptive.templates.weights[index])
        points = checkpoints(weights, CHECKPOINTS)
        similarity = np.asarray(adaptive.match.similarity[index])
        chosen = distinct(similarity, np.asarray(proposals.boxes), np.asarray(proposals.valid))
        template = crop(
            inspected.see(video.frame(number)), np.asarray(adaptive.templates.box[index]), TEMPLATE
        )
        regions = [crop(frame, np.asarray(proposals.boxes[j]), PROPOSAL) for j in chosen]
        attention = np.asarray(adaptive.match.attention[index])
        panels = []
        for text, targets, scores in (
            ("with alignment", [attention[j, points].argmax(axis=-1) for j in chosen], similarity),
            ("without alignment", [points for _ in chosen], np.asarray(none.match.similarity[index])),
        ):
            shown = [float(scores[j]) for j in chosen]
            picture = panel(template, regions, points, targets, shown, weights.size)
            panels.append(layout.caption(picture, f"{text}: proposals and their matching scores"))
        where = f"template of frame {number}, proposals of frame {inspected.index}"
        title = f"{video.name}, object {user_id}: {where}"
        yield user_id, layout.grid(panels, columns=2, title=title)


def checkpoints(weights: Float[np.ndarray, " S"], count: int) -> Int[np.ndarray, " K"]:
    """Returns up to `count` template locations inside the object, far from each other."""
    side = round(weights.size**0.5)
    inside = np.flatnonzero(weights > min(0.5, weights.max() / 2))
    if inside.size == 0:
        inside = np.arange(weights.size)
    places = np.stack(np.divmod(inside, side), axis=-1).astype(float)
    chosen = [int(np.argmin(np.linalg.norm(places - places.mean(axis=0), axis=-1)))]
    while len(chosen) < min(count, inside.size):
        distances = np.linalg.norm(places[:, None] - places[chosen][None], axis=-1).min(axis=1)
        chosen.append(int(distances.argmax()))
    return inside[chosen]


def distinct(
    similarity: Float[np.ndarray, " P"], boxes: Float[np.ndarray, "P 4"], valid: Bool[np.ndarray, " P"]
) -> list[int]:
    """Returns the most similar valid proposals without duplicates."""
    chosen: list[int] = []
    for j in np.argsort(-np.where(valid, similarity, -np.inf)):
        if not valid[j] or len(chosen) == PROPOSALS:
            break
        if all(_overlap(boxes[j], boxes[i]) < DUPLICATE for i in chosen):
            chosen.append(int(j))
    return chosen


def crop(
    frame: UInt8[np.ndarray, "H W 3"], box: Float[np.ndarray, "4"], side: int
) -> UInt8[np.ndarray, "side side 3"]:
    """Crops a box (y0, x0, y1, x1) and stretches it to a square, as RoIAlign does."""
    y0, x0, y1, x1 = box
    matrix = np.array([[max(x1 - x0, 1) / side, 0, x0], [0, max(y1 - y0, 1) / side, y0]], np.float64)
    # Pixel centres are at + 1/2.
    matrix[:, 2] += matrix[:, :2].sum(axis=1) / 2 - 0.5
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(frame, matrix, (side, side), flags=flags, borderMode=cv2.BORDER_REPLICATE)


def panel(
    template: np.ndarray,
    regions: list[np.ndarray],
    points: Int[np.ndarray, " K"],
    targets: list[Int[np.ndarray, " K"]],
    scores: list[float],
    locations: int,
) -> UInt8[np.ndarray, "H2 W2 3"]:
    """Draws the template on the left, proposals on the right, and arrows between them."""
    side = round(locations**0.5)
    step = PROPOSAL + layout.GAP
    height, width = PROPOSALS * step - layout.GAP, layout.panel_width(2)
    canvas = np.full((height, width, 3), 255, np.uint8)
    top = (height - TEMPLATE) // 2
    canvas[top : top + TEMPLATE, :TEMPLATE] = template
    right = width - PROPOSAL - 90

    def place(point: int, corner: tuple[int, int], size: int) -> tuple[int, int]:
        row, column = divmod(int(point), side)
        return (
            round(corner[1] + (column + 0.5) * size / side),
            round(corner[0] + (row + 0.5) * size / side),
        )

    for index, region in enumerate(regions):
        y = index * step
        canvas[y : y + PROPOSAL, right : right + PROPOSAL] = region
        cv2.rectangle(canvas, (right, y), (right + PROPOSAL - 1, y + PROPOSAL - 1), COLOURS[index], 4)
    for index in range(len(regions)):
        for point, target in zip(points, targets[index], strict=True):
            start = place(point, (top, 0), TEMPLATE)
            end = place(target, (index * step, right), PROPOSAL)
            length = max(float(np.hypot(end[0] - start[0], end[1] - start[1])), 1.0)
            cv2.arrowedLine(canvas, start, end, (0, 0, 0), 5, cv2.LINE_AA, tipLength=14 / length)
            cv2.arrowedLine(canvas, start, end, COLOURS[index], 3, cv2.LINE_AA, tipLength=14 / length)
    for point in points:
        cv2.circle(canvas, place(point, (top, 0), TEMPLATE), 9, (0, 0, 0), -1, cv2.LINE_AA)
        cv2.circle(canvas, place(point, (top, 0), TEMPLATE), 7, (255, 255, 255), -1, cv2.LINE_AA)
    for index, score in enumerate(scores):
        position = (index * step + PROPOSAL // 2 - layout.TEXT // 2, right + PROPOSAL + layout.GAP)
        canvas = layout.write(canvas, position, f"{score:.2f}", (0, 0, 0))
    return layout.write(canvas, (top + TEMPLATE + 6, 0), "template", (0, 0, 0))


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    shared = np.prod(np.maximum(high - low, 0))
    union = np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - shared
    return float(shared / max(union, 1e-6))
