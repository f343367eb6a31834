"""benchmarks.drift: the truth takes the place that a row names, and nothing else."""

import jax
import numpy as np
import pytest

from benchmarks import drift
from tests import tiny
from tests.inference import coloured
from vos_jax.data.datasets import rendered

VIDEO = rendered.make_video(size=(64, 96), frames=6, objects=2)


@pytest.fixture(scope="module")
def measured():
    """`measured(row)`: the object-frames of a rendered video, by an untrained model."""
    model, params = tiny.model(), tiny.params()
    # RefineNet starts at zero, by which it would hide the previous mask.
    kernel = params["refine"]["logit"]["kernel"]
    params["refine"]["logit"]["kernel"] = jax.random.normal(jax.random.key(1), kernel.shape)
    engine = coloured.make_engine(model, params, object_buckets=(2,))
    run = drift.make_run(model)
    video = VIDEO
    shown = [{str(i): (int((video.mask(t) == i).sum()), 4000) for i in (1, 2)} for t in range(6)]
    return lambda row: drift.measure(engine, run, video, shown, row)


@pytest.mark.slow
def test_rows_hold_what_their_names_say(measured):
    rows = {name: measured(name) for name in drift.ROWS}
    for name, found in rows.items():
        assert [(r["frame"], r["object"]) for r in found] == [(t, i) for t in range(1, 5) for i in (1, 2)], (
            name
        )
        assert all(np.isfinite(list(r.values())[0]) and 0 <= r["iou_final"] <= 1 for r in found)
    # In frame 1 every row has seen the given masks of frame 0, up to their aggregation.
    firsts = [[r["evidence"] for r in found[:2]] for found in rows.values()]
    assert all(first == pytest.approx(firsts[0], abs=1e-3) for first in firsts)
    # Later the memory and the previous masks differ, and so does what is found.
    assert rows["own/own"] != rows["own/true"]
    # The tiny model keeps frames 2 and 4: what is written there is read behind them.
    evidence = {name: [r["evidence"] for r in found[4:]] for name, found in rows.items()}
    assert evidence["true/own"] != evidence["own/own"] != evidence["first/own"]


def test_the_summary_parts_by_visible_share_and_counts_ghosts():
    row = {"iou_coarse": 0.5, "iou_propagated": 0.25, "proposal_rank": 1.0, "proposal_iou": 0.0}
    rows = [
        {**row, "iou_final": 0.9, "seen": 95, "share": 0.95, "area": 90, "proposal_iou": 0.75},
        {**row, "iou_final": 0.5, "seen": 50, "share": 0.5, "area": 50},
        {**row, "iou_final": 0.0, "seen": 0, "share": 0.0, "area": 101},
        {**row, "iou_final": 1.0, "seen": 0, "share": 0.0, "area": 100},
    ]
    found = drift.summary(rows)
    assert found["J"] == pytest.approx(0.6) and found["coarse"] == 0.5
    assert (found["seen > 90 %"], found["30 to 60 %"]) == (0.9, 0.5) and np.isnan(found["60 to 90 %"])
    assert (found["ghosts"], found["absent"]) == (1, 2)
    assert (found["proposal IoU"], found["recall .5"], found["rank"]) == (0.375, 0.5, 1.0)
