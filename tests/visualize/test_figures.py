"""The paper's figures: what they show is what the model did."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import eval as program
from tests import layouts, tiny
from tests.inference.coloured import make_engine, make_model
from vos_jax import errors
from vos_jax.data.datasets import rendered
from vos_jax.evaluation import scoring
from vos_jax.models import memory as memory_lib
from vos_jax.models import read as read_lib
from vos_jax.models import weights
from vos_jax.visualize import figure_alignment, figure_failures, figure_memory, figures, layout


def random_memory(seed=0, grid=(3, 4), slots=3, objects=2):
    rng = np.random.default_rng(seed)
    config = memory_lib.MemoryConfig(capacity=slots)
    spec = memory_lib.MemorySpec(config=config, stride=1, key_size=5, embed_size=2, value_size=2)
    empty = memory_lib.init(spec, objects, grid)
    return empty.replace(
        key=jnp.asarray(rng.normal(size=empty.key.shape), jnp.float32),
        prob=jnp.asarray(rng.random(empty.prob.shape), jnp.float32),
        pixel_valid=jnp.ones(empty.pixel_valid.shape, bool),
        object_in_slot=jnp.asarray([[True, True, False], [False, True, False]]),
        slot_valid=jnp.asarray([True, True, False]),
        slot_frame=jnp.asarray([0, 1, -1]),
    ), jnp.asarray(rng.normal(size=(*grid, 5)), jnp.float32)


def test_relevance_is_the_softmax_of_the_read():
    memory_, query = random_memory()
    weights = np.zeros((2, 3, 4), np.float32)
    weights[:, 1, 1:3] = 1
    relevance = jax.jit(figure_memory.relevance, static_argnums=2)
    heat = np.asarray(
        relevance(query, memory_, read_lib.ReadConfig(affinity="dot", search_radius=0.0), weights)
    )
    logits = np.einsum("qc,mc->qm", query.reshape(12, 5), memory_.key[:2].reshape(24, 5)) / 5**0.5
    bias = np.log(np.asarray(memory_.prob[0, :2]).reshape(24) + read_lib.EPSILON)
    share = np.asarray(jax.nn.softmax(logits + bias, axis=-1))[weights[0].ravel() > 0].sum(axis=0)
    np.testing.assert_allclose(heat[0, :2].ravel(), share, rtol=1e-4, atol=1e-6)
    assert not heat[0, 2].any() and not heat[1, 0].any(), "empty slots and older ones say nothing"
    for switches in ({"topk": 10}, {"kernel_sigma": 7.0}):
        config = read_lib.ReadConfig(weight="none", affinity="dot", search_radius=0.0, **switches)
        heat = relevance(query, memory_, config, weights)
        np.testing.assert_allclose(heat.sum(axis=(1, 2, 3)), 2.0, rtol=1e-4, err_msg=str(switches))


def test_heat_lies_where_it_is_hot_and_padding_is_cut_off():
    heat = np.zeros((4, 6), np.float32)
    heat[1, 2] = 1
    picture = figure_memory.lay_heat(np.full((50, 90, 3), 128, np.uint8), heat, (64, 96))
    assert picture.shape == (50, 90, 3)
    red, blue = picture[..., 0].astype(int), picture[..., 2].astype(int)
    assert red[24, 40] > 120 > blue[24, 40] and blue[5, 80] > red[5, 80]


def test_crops_are_what_a_box_holds():
    frame = np.arange(40 * 60, dtype=np.int64).reshape(40, 60) % 251
    frame = np.dstack([frame] * 3).astype(np.uint8)
    np.testing.assert_array_equal(
        figure_alignment.crop(frame, np.array([4, 10, 24, 30]), 20), frame[4:24, 10:30]
    )
    assert figure_alignment.crop(frame, np.array([-8, 0, 8, 16]), 16).shape == (16, 16, 3)


def test_checkpoints_lie_apart_inside_the_object_and_arrows_end_where_they_should():
    weights = np.zeros(196)
    inside = np.zeros((14, 14), bool)
    inside[2:10, 3:12] = True
    weights[inside.ravel()] = 0.8
    points = figure_alignment.checkpoints(weights, 4)
    assert len(set(points.tolist())) == 4 and inside.ravel()[points].all()
    rows, columns = np.divmod(points, 14)
    assert np.hypot(*np.subtract.outer(np.c_[rows, columns], np.c_[rows, columns])[:, 0].T[:2]).max() > 5
    assert len(figure_alignment.checkpoints(np.zeros(196), 4)) == 4, "an object that is nowhere has its grid"
    grey = np.full((figure_alignment.PROPOSAL,) * 2 + (3,), 90, np.uint8)
    template = np.full((figure_alignment.TEMPLATE,) * 2 + (3,), 90, np.uint8)
    targets = [np.array([0]), np.array([195])]
    picture = figure_alignment.panel(template, [grey, grey], np.array([105]), targets, [0.5, 0.25], 196)
    right = layout.panel_width(2) - figure_alignment.PROPOSAL - 90
    half, step = figure_alignment.PROPOSAL / 28, figure_alignment.PROPOSAL + layout.GAP
    ends = [
        (half, right + half),
        (step + figure_alignment.PROPOSAL - half, right + figure_alignment.PROPOSAL - half),
    ]
    for (y, x), colour in zip(ends, figure_alignment.COLOURS, strict=False):
        near = picture[round(y) - 4 : round(y) + 5, round(x) - 4 : round(x) + 5].reshape(-1, 3)
        assert (np.abs(near.astype(int) - colour).sum(axis=-1) < 60).any()


def test_the_same_place_is_shown_once():
    boxes = np.array([[0, 0, 20, 20], [1, 0, 21, 20], [40, 40, 60, 60], [0, 0, 9, 9], [5, 50, 9, 60]], float)
    similarity = np.array([0.7, 0.9, 0.2, 0.95, 0.1])
    valid = np.array([True, True, True, False, True])
    assert figure_alignment.distinct(similarity, boxes, valid) == [1, 2, 4]


def test_failures_show_the_worst_objects_where_they_are_worst():
    video = rendered.make_video(size=(32, 48), frames=6, objects=2)
    values = {1: [0.9, 0.8, 0.9, 0.9], 2: [0.7, 0.6, 0.1, 0.7]}
    scores = [
        scoring.ObjectScore(sequence="rendered", object_id=i, J=np.array(v), F=np.array(v))
        for i, v in values.items()
    ]
    assert figure_failures.worst_frame(scores[1], video) == (3, 0.1)
    asked = []

    def mask_path(sequence, name):
        asked.append(name)
        return name

    def read(path, size):
        return video.mask(int(path))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figure_failures.mask_files, "read_mask", read)
        picture = figure_failures.draw(scores, {"rendered": video}, mask_path, count=1)
    assert asked == ["00003"] and picture.shape[1] <= layout.WIDTH
    assert figure_failures.draw([], {}, mask_path) is None


def test_the_worst_frame_is_one_of_those_that_the_data_set_lists(tmp_path):
    """The rule of DAVIS named another frame, or raised IndexError."""
    root = layouts.youtube_vos(tmp_path, truth=True)
    dataset = layouts.open_as("youtube_vos", root, split="valid", all_frames=str(root / "valid_all_frames"))
    video = dataset["cow"]
    wrong = {name: video.mask(index) for index, name in enumerate(video.frame_names) if index % 5 == 0}
    wrong["00025"] = layouts.only(wrong["00025"], 7)
    first, second = scoring.score_sequence(video, wrong)
    assert len(first.J) == 5 and figure_failures.worst_frame(first, video) == (25, 0.0)
    wrong["00015"] = layouts.only(wrong["00015"], 3)
    first, second = scoring.score_sequence(video, wrong)
    assert len(second.J) == 3 and figure_failures.worst_frame(second, video) == (15, 0.0)


def draw_by_eval(tmp_path, monkeypatch, capsys, model, params, kinds):
    """Runs eval.py --visualize and returns the names of what it drew, each looked at."""
    root = rendered.write_davis(tmp_path / "DAVIS", sequences=("ant",), frames=5, size=(64, 96), objects=2)
    monkeypatch.setattr(weights, "load_model", lambda *_: (model, params, "tiny"))
    arguments = ["--config", "davis17", "--data", str(root), "--out", str(tmp_path / "out")]
    assert program.main([*arguments, "--visualize", ",".join(kinds), "--frame", "3"]) == 0
    found = sorted(path.name for path in (tmp_path / "out/figures").iterdir())
    for name in found:
        with Image.open(tmp_path / "out/figures" / name) as image:
            pixels = np.asarray(image)
        assert 1500 < pixels.shape[1] <= layout.WIDTH and pixels.std() > 20, name
    assert capsys.readouterr().out.count("look at:") == len(found)
    return found


@pytest.mark.slow
def test_eval_draws_the_figures_of_the_training_free_model(tmp_path, monkeypatch, capsys):
    kinds = ("masks", "memory", "failures")
    assert draw_by_eval(tmp_path, monkeypatch, capsys, make_model(), {}, kinds) == [
        "ant_00003_masks.png",
        "ant_00003_memory_object1.png",
        "ant_00003_memory_object2.png",
        "failures.png",
    ]


@pytest.mark.slow
def test_eval_draws_every_figure_of_the_full_model(tmp_path, monkeypatch, capsys):
    # Any parameters do, and a model without what the figures do not show compiles quickly.
    model, rng = tiny.model(refine=False, matching="greedy"), np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    params = jax.tree.map(lambda x: rng.normal(0, 0.2, x.shape).astype(np.float32), shapes)
    assert draw_by_eval(tmp_path, monkeypatch, capsys, model, params, figures.KINDS) == [
        "ant_00003_alignment_object1.png",
        "ant_00003_alignment_object2.png",
        "ant_00003_masks.png",
        "ant_00003_memory_object1.png",
        "ant_00003_memory_object2.png",
        "failures.png",
    ]


def test_what_cannot_be_drawn_is_refused_before_work_starts(tmp_path, monkeypatch, capsys):
    root = rendered.write_davis(tmp_path / "DAVIS", sequences=("ant",), frames=4, size=(32, 48), objects=1)
    monkeypatch.setattr(weights, "load_model", lambda *_: (make_model(), {}, "colours"))
    arguments = ["--config", "davis17", "--data", str(root), "--out", str(tmp_path / "out")]
    for more, match in (
        (["--visualize", "masks,dreams"], "there are masks, memory, alignment, failures"),
        (["--visualize", "alignment"], "training-free model aligns nothing"),
        (["--visualize", "masks", "--frame", "4"], "'ant': a picture can be made of frames 1 to 3, not 4"),
    ):
        assert program.main([*arguments, *more]) == 2
        assert match in capsys.readouterr().err and not (tmp_path / "out").exists()
    with pytest.raises(errors.VosError, match="frames 1 to 3, not 0"):
        video = layouts.open_as("davis", root)["ant"]
        figures.inspect(make_engine(), video, 0)
