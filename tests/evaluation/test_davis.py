"""J, F and their statistics: degenerate rules by hand, the rest against a slow implementation."""

import math

import numpy as np
import pytest

from vos_jax.evaluation import davis


def mask_of(rows):
    return np.array([[cell == "#" for cell in row] for row in rows])


EMPTY, FULL = np.zeros((9, 12), bool), np.ones((9, 12), bool)
SQUARE = EMPTY.copy()
SQUARE[3:6, 4:7] = True


def test_region_by_hand():
    left, right = mask_of(["##..", "##.."]), mask_of([".##.", ".##."])
    assert davis.region_similarity(left, right) == 2 / 6
    assert davis.region_similarity(left, left) == 1
    assert davis.region_similarity(left, ~left) == 0


def test_region_of_empty_masks():
    assert davis.region_similarity(EMPTY, EMPTY) == 1
    assert davis.region_similarity(EMPTY, SQUARE) == 0
    assert davis.region_similarity(SQUARE, EMPTY) == 0


def test_boundary_by_hand():
    # Right, lower and lower right neighbours: the boundary sits one up and left of the square, inside it
    #  at the lower right; the last row and column compare along themselves only, their corner never.
    np.testing.assert_array_equal(
        davis.boundary(mask_of(["....", ".##.", ".##.", "...."])),
        mask_of(["###.", "#.#.", "###.", "...."]),
    )
    np.testing.assert_array_equal(
        davis.boundary(mask_of(["....", "....", "..##", "..##"])),
        mask_of(["....", ".###", ".#..", ".#.."]),
    )
    np.testing.assert_array_equal(
        davis.boundary(mask_of(["...", "...", "..#"])), mask_of(["...", ".##", ".#."])
    )


def test_boundary_similarity_of_degenerate_masks():
    assert davis.boundary_similarity(EMPTY, EMPTY) == 1
    assert davis.boundary_similarity(SQUARE, EMPTY) == 0
    assert davis.boundary_similarity(EMPTY, SQUARE) == 0
    # A mask that fills the frame has no boundary: equal to an empty one here, though J is 0.
    assert davis.boundary_similarity(FULL, FULL) == 1
    assert davis.boundary_similarity(FULL, EMPTY) == 1
    assert davis.boundary_similarity(FULL, SQUARE) == 0
    assert davis.region_similarity(FULL, EMPTY) == 0


def test_boundary_similarity_tolerates_the_radius_and_no_more():
    # 30x40: diagonal 50, radius ceil(0.4) = 1.
    truth = np.zeros((30, 40), bool)
    truth[:, :20] = True
    for shift, want in ((0, 1), (1, 1), (2, 0)):
        moved = np.zeros_like(truth)
        moved[:, : 20 + shift] = True
        assert davis.boundary_similarity(truth, moved) == want


def test_far_apart_boundaries_score_0():
    truth, far = np.zeros((40, 40), bool), np.zeros((40, 40), bool)
    truth[2:5, 2:5], far[30:33, 30:33] = True, True
    assert davis.boundary_similarity(truth, far) == 0


def test_shapes_must_agree():
    for measure in (davis.region_similarity, davis.boundary_similarity):
        with pytest.raises(ValueError, match="one shape"):
            measure(EMPTY, EMPTY[:-1])


def slow_boundary(mask):
    height, width = mask.shape
    edge = np.zeros((height, width), bool)
    for y in range(height):
        for x in range(width):
            for dy, dx in ((0, 1), (1, 0), (1, 1)):
                if y + dy < height and x + dx < width and mask[y, x] != mask[y + dy, x + dx]:
                    edge[y, x] = True
    return edge


def slow_f(truth, prediction):
    """Every pair of boundary pixels, by distance: no dilation, no crop."""
    radius = math.ceil(0.008 * math.hypot(*truth.shape))
    a, b = (np.argwhere(slow_boundary(mask)) for mask in (truth, prediction))
    if not len(a) or not len(b):
        return 1.0 if len(a) == len(b) else 0.0
    near = ((a[:, None, :] - b[None, :, :]) ** 2).sum(-1) <= radius**2
    precision, recall = near.any(0).mean(), near.any(1).mean()
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def slow_j(truth, prediction):
    pairs = list(zip(truth.ravel().tolist(), prediction.ravel().tolist(), strict=True))
    union = sum(a or b for a, b in pairs)
    return sum(a and b for a, b in pairs) / union if union else 1.0


def random_mask(rng, size):
    """Blobs, noise, stripes to the frame's border, nothing, everything."""
    height, width = size
    kind = rng.integers(6)
    if kind == 0:
        return rng.random(size) < rng.choice([0.02, 0.5, 0.98])
    if kind == 1:
        return np.full(size, bool(rng.integers(2)))
    y, x = np.ogrid[:height, :width]
    cy, cx, r = rng.uniform(0, height), rng.uniform(0, width), rng.uniform(1, height)
    blob = (y - cy) ** 2 + (x - cx) ** 2 < r**2
    return blob ^ (rng.random(size) < 0.02) if kind == 2 else blob


@pytest.mark.parametrize(("size", "pairs"), [((13, 17), 120), ((24, 31), 60), ((70, 110), 20)])
def test_agrees_with_a_slow_reading_of_the_design(size, pairs):
    # Radii 1, 1 and 2; 200 pairs in all.
    rng = np.random.default_rng(size[0])
    similar = 0
    for _ in range(pairs):
        truth = random_mask(rng, size)
        prediction = (
            np.roll(truth, rng.integers(-2, 3, 2), (0, 1)) if rng.random() < 0.6 else random_mask(rng, size)
        )
        f = davis.boundary_similarity(truth, prediction)
        assert abs(davis.region_similarity(truth, prediction) - slow_j(truth, prediction)) < 1e-9
        assert abs(f - slow_f(truth, prediction)) < 1e-9
        similar += 0 < f < 1
    assert similar > pairs / 4


def test_disk_at_480p_has_radius_8_and_is_round():
    disk = davis._disk(math.ceil(0.008 * math.hypot(480, 854)))
    assert disk.shape == (17, 17)
    y, x = np.ogrid[-8:9, -8:9]
    np.testing.assert_array_equal(disk, np.hypot(y, x) <= 8)


def test_statistics_by_hand():
    values = np.array([1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2])
    # Bin ends of 9 values: 0, 2, 4, 6, 8, shared: the first bin is values 0..2, the last 6..8.
    want = {"mean": 0.6, "recall": 5 / 9, "decay": 0.9 - 0.3}
    assert davis.statistics(values) == pytest.approx(want, abs=1e-12)


@pytest.mark.parametrize(
    ("values", "decay"),
    [([0.5], 0.0), ([0.9, 0.1], 0.8), ([0.9, 0.5, 0.1], 0.6), ([0.9, 0.8, 0.3, 0.1], 0.65)],
)
def test_decay_of_short_videos_by_hand(values, decay):
    # Ends: 1 value 0,0,0,0,0; 2 values 0,0,1,1,1 (1.5 rounds up by the official 1e-10); 3 values
    # 0,1,1,2,2 (1.5 and 2.5 round up); 4 values 0,1,2,2,3.
    assert davis.statistics(np.array(values))["decay"] == pytest.approx(decay, abs=1e-12)


def test_recall_is_strictly_above_one_half():
    assert davis.statistics(np.array([0.5, 0.5, 0.51]))["recall"] == pytest.approx(1 / 3)


def test_decay_beyond_256_frames():
    # The toolkit's uint8 indices would wrap here.
    values = np.linspace(1, 0, 1001)
    assert davis.statistics(values)["decay"] == pytest.approx(0.75, abs=1e-9)


def test_statistics_of_nothing_are_refused():
    with pytest.raises(ValueError, match="non-empty"):
        davis.statistics(np.array([]))


def degenerate_masks(size):
    """Nothing, everything, one pixel, lines along and at the border, all but one pixel, a chequerboard."""
    height, width = size
    empty = np.zeros(size, bool)
    row, column, corner, last, middle = (empty.copy() for _ in range(5))
    row[0], column[:, -1], corner[0, 0], last[-1, -1], middle[height // 2, width // 2] = (True,) * 5
    board = np.indices(size).sum(0) % 2 == 0
    return [empty, ~empty, row, column, corner, last, middle, ~middle, ~corner, row | column, board]


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (2, 2), (7, 11)])
def test_every_pair_of_degenerate_masks_agrees_with_the_slow_reading(size):
    for truth in degenerate_masks(size):
        for prediction in degenerate_masks(size):
            assert abs(davis.region_similarity(truth, prediction) - slow_j(truth, prediction)) < 1e-9
            assert abs(davis.boundary_similarity(truth, prediction) - slow_f(truth, prediction)) < 1e-9
