"""eval.py with proposals from files, on the tiny model with random weights that match by overlap alone."""

import dataclasses
import functools
import json
import shutil

import jax
import numpy as np
import pytest
import safetensors.numpy
from flax import traverse_util

import eval as program
from tests import tiny
from tests.eval import runs
from tests.inference import coloured
from vos_jax import errors
from vos_jax.data import mask_files, proposal_files
from vos_jax.inference import engine as engine_lib
from vos_jax.inference import session as session_lib
from vos_jax.train import setup

CONFIG = str(runs.ROOT / "tests" / "train" / "tiny_train.py")
# The result is the proposals that matching chose.
PLAIN = (
    "--config.model.refine=false",
    "--config.model.dataset=davis",
    "--config.model.read.affinity=dot",
    f"--config.model.proposals.capacity={tiny.CONFIG.proposals.capacity}",
    "--device",
    "cpu",
)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Weights whose lambda is 1 for davis (the overlap with the previous mask decides) and else 0."""
    model = tiny.model(proposals=tiny.NO_NETWORK, refine=False)
    init = functools.partial(model.init, datasets=("default", "davis"))
    shapes = jax.eval_shape(init, jax.random.key(0))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.normal(0, 0.2, x.shape).astype(np.float32), shapes)
    # Keys sharp enough that the memory propagates something.
    params["key_head"]["kernel"] *= 30
    params["matcher"]["lambda_logit"] = {
        "default": np.array(-30, np.float32),
        "davis": np.array(30, np.float32),
    }
    params["matcher"]["null_cost"] = np.array(9, np.float32)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    flat = traverse_util.flatten_dict(params, sep="/")
    safetensors.numpy.save_file(flat, path, metadata={"variant": "tiny"})
    return path


@pytest.fixture(scope="module")
def proposals(pristine, tmp_path_factory):
    """The truth as proposals of both videos; frame 3 of "bee" is not listed."""
    folder = tmp_path_factory.mktemp("proposals")
    for video in ("ant", "bee"):
        frames = {}
        for path in sorted((pristine / "Annotations/480p" / video).iterdir()):
            ids = mask_files.read_mask(path)
            frames[path.stem] = [
                proposal_files.encode_proposal(ids == i, 0.9) for i in range(1, ids.max() + 1)
            ]
        if video == "bee":
            del frames["00003"]
        found = proposal_files.VideoProposals(video, runs.SIZE, frames)
        proposal_files.write(proposal_files.path_of(folder, video), found)
    return folder


@pytest.fixture(scope="module")
def steps():
    """Compiled steps, by the capacity for proposals, shared by the runs of this module."""
    return {}


@pytest.fixture
def engines(monkeypatch, steps):
    """The engines that a run makes."""
    made = []

    class SharedEngine(engine_lib.Engine):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self._steps = steps.setdefault((self.num_proposals, self.model.config.dataset), {})
            made.append(self)

    monkeypatch.setattr(engine_lib, "Engine", SharedEngine)
    return made


def run(davis, out, weights, folder=None, *more):
    source = ("none",) if folder is None else ("file", f"--config.model.proposals.folder={folder}")
    arguments = (
        f"--config.model.proposals.source={source[0]}",
        *source[1:],
        "--checkpoint",
        weights,
        *PLAIN,
        *more,
    )
    return runs.run(davis, out, *arguments, config=CONFIG)


def written(out):
    return np.stack([mask_files.read_mask(path) for path in sorted(out.glob("*/*.png"))])


def test_proposals_of_files_are_matched_and_compile_once(
    pristine, proposals, weights, engines, tmp_path, capsys
):
    assert run(pristine, tmp_path / "none", weights) == 0
    assert run(pristine, tmp_path / "file", weights, proposals) == 0
    none, file = (runs.results_of(tmp_path / name)["J"]["mean"] for name in ("none", "file"))
    assert file > none + 0.2, (none, file)
    assert np.mean([o["J"] for o in runs.results_of(tmp_path / "file")["objects"][:3]]) > 0.8, "of ant"
    # Two videos of one size, frames with proposals, with none and with given masks: one program.
    assert [t.compilations for t in engines] == [1, 1]
    assert [t.num_proposals for t in engines] == [0, tiny.CONFIG.proposals.capacity]
    # The data set's lambda was once not passed on.
    assert run(pristine, tmp_path / "other", weights, proposals, "--config.model.dataset=default") == 0
    assert runs.results_of(tmp_path / "other")["J"]["mean"] < file
    assert [t.model.config.dataset for t in engines] == ["davis", "davis", "default"]
    # Without any proposal only what the memory propagates is left.
    empty = tmp_path / "empty"
    empty.mkdir()
    for video in ("ant", "bee"):
        nothing = proposal_files.VideoProposals(video, runs.SIZE, {})
        proposal_files.write(proposal_files.path_of(empty, video), nothing)
    assert run(pristine, tmp_path / "nothing", weights, empty) == 0
    left = written(tmp_path / "none")
    assert (
        left[[*range(1, 5), *range(6, 10)]].any() and np.mean(written(tmp_path / "nothing") == left) > 0.999
    )
    assert engines[-1].compilations == 1

    # Proposals are known by what they say, not by where they lie.
    capsys.readouterr()
    moved = shutil.copytree(proposals, tmp_path / "moved")
    before = runs.times(tmp_path / "file")
    assert run(pristine, tmp_path / "file", weights, moved) == 0
    assert runs.times(tmp_path / "file") == before
    shutil.copy(empty / "bee.json", moved / "bee.json")
    capsys.readouterr()
    assert run(pristine, tmp_path / "file", weights, moved) == 2
    runs.check_message(capsys, "bee was made with other settings (proposals_read")


def _missing(path, data):
    path.unlink()
    return "no proposals for sequence 'bee'"


def _cut_off(path, data):
    path.write_text(path.read_text()[:-9])
    return "not a JSON file"


def _another_video(path, data):
    path.write_text(json.dumps(data | {"video": "ant"}))
    return "of video 'ant', not 'bee'"


def _another_size(path, data):
    path.write_text(json.dumps(data | {"size": [24, 35], "frames": {}}))
    return "35x24 pixels, the frames of 'bee' have 70x48"


def _unknown_frame(path, data):
    path.write_text(json.dumps(data | {"frames": {"7": []}}))
    return "frame '7' is not in the video; its frames are named '00000' to '00004'"


def _damaged_mask(path, data):
    data["frames"]["00002"][1]["segmentation"]["counts"] = "11"
    path.write_text(json.dumps(data))
    return "frame '00002', proposal 1: damaged"


@pytest.mark.parametrize(
    "breakage",
    [_missing, _cut_off, _another_video, _another_size, _unknown_frame, _damaged_mask],
    ids=lambda breakage: breakage.__name__,
)
def test_broken_proposals_are_named_before_anything_is_written(
    pristine, proposals, weights, tmp_path, capsys, breakage
):
    folder = shutil.copytree(proposals, tmp_path / "proposals")
    path = folder / "bee.json"
    named = breakage(path, json.loads(path.read_text()))
    assert run(pristine, tmp_path / "out", weights, folder) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {path}: ") and named in error and error.count("\n") == 1, error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "arguments, named",
    [
        (("--config.model.proposals.folder=",), "--config.model.proposals.folder=DIR"),
        (("--checkpoint", "none", "--config.model.variant=lite0"), "training-free model"),
        (("--config.model.dataset=imagenet",), "has a lambda for: davis, default"),
    ],
)
def test_settings_that_proposals_do_not_go_with_are_named(
    pristine, proposals, weights, tmp_path, capsys, arguments, named
):
    assert run(pristine, tmp_path / "out", weights, proposals, *arguments) == 2
    runs.check_message(capsys, named)
    assert not (tmp_path / "out").exists()


def test_training_and_models_with_proposals_of_their_own_take_none_from_files(pristine):
    config = program.configs.load(CONFIG, ["model.proposals.source=file"])
    with pytest.raises(errors.VosError, match="train with network"):
        setup.check_model(config.model)
    frame = np.zeros((*runs.SIZE, 3), np.uint8)
    found = proposal_files.arrays(
        proposal_files.VideoProposals("v", runs.SIZE, {}),
        "0",
        frame_size=runs.SIZE,
        padded_size=(64, 96),
        capacity=4,
    )
    file = dataclasses.replace(tiny.CONFIG.proposals, source="file", folder="x", capacity=6)
    for model, named in (
        (tiny.model(), "model.proposals.source to file"),
        (tiny.model(proposals=file), r"frame 0 .*\(4, 16, 24\).*\(6, 16, 24\)"),
    ):
        session = session_lib.Session(coloured.make_engine(model))
        with pytest.raises(errors.VosError, match=named):
            session.step(frame, proposals=found)
