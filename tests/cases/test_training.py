"""Cases C06, C08, C16, C19 and C28: what train.py and check_data say before and when a run goes on."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import train as train_program
from vos_jax import config as configs
from vos_jax import errors, processes
from vos_jax.data import datasets, mask_files, transforms
from vos_jax.tools import check_data, export
from vos_jax.train import checkpoints, optim, setup, state


# ---------------------------------------------------------------- C06: --init of a run that has begun
def refuse(folder, began, now, *, allow=False):
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    flat = configs.flatten(configs.default())
    noted = {} if began is None else {"train.init": began}
    record = {"config": {**{k: v for k, v in flat.items() if k != "train.init"}, **noted}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints, "last_record", lambda _: record)
        train_program._refuse_changes(folder, {**flat, "train.init": now}, allow=allow)


@pytest.mark.parametrize(
    ("began", "now"),
    [("random", "a.safetensors"), ("a.safetensors", "b.safetensors"), ("random", "imagenet")],
)
def test_c06_another_init_is_refused(tmp_path, began, now):
    message = f"has begun from {began}, and --init {now} has no effect on it"
    with pytest.raises(errors.VosError, match=message):
        refuse(tmp_path, began, now)
    refuse(tmp_path, began, now, allow=True)


def test_c06_the_same_command_goes_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.safetensors").write_bytes(b"")
    (tmp_path / "b").mkdir()
    (tmp_path / "b/a.safetensors").write_bytes(b"")
    for began, now in (
        ("random", "random"),
        ("a.safetensors", "./a.safetensors"),
        ("a.safetensors", str(tmp_path / "a.safetensors")),
        ("/elsewhere/a.safetensors", "a.safetensors"),  # moved to another machine
        (None, "imagenet"),  # noted by an older version
    ):
        refuse(tmp_path, began, now)
    with pytest.raises(errors.VosError, match="has begun from"):
        refuse(tmp_path, "a.safetensors", "b/a.safetensors")


# ---------------------------------------------------------------- C08: other parameters learn
PARAMS = {"backbone": {"k": jnp.ones((3, 3)), "b": jnp.ones(3)}, "head": {"k": jnp.ones((2, 2))}}


def make_state(frozen, params=PARAMS, value=0.0):
    tx = optim.make_tx(optim.OptimConfig(frozen=frozen, lr_scales={}, warmup_steps=1), params, 10)
    made = state.init_train_state(params, key=jax.random.key(0), tx=tx)
    filled = jax.tree.map(lambda x: x + value if jnp.issubdtype(x.dtype, jnp.floating) else x, made)
    return filled, tx


@pytest.mark.parametrize(
    ("before", "now"),
    [
        (("backbone",), ()),
        ((), ("backbone",)),
        (("backbone",), ("head",)),
        (("backbone/b",), ("backbone/k",)),
    ],
)
def test_c08_what_begins_to_learn_has_fresh_moments(tmp_path, caplog, before, now):
    config = checkpoints.CheckpointConfig()
    with checkpoints.Checkpoints(tmp_path, config) as saved:
        saved.save(2, make_state(before, value=0.5)[0], {"step": 2}, record={"config": {}})
    fresh, tx = make_state(now)
    with checkpoints.Checkpoints(tmp_path, config) as saved:
        restored = saved.restore(fresh)
    assert "the optimiser begins anew" in caplog.text and restored is not None and restored.step == 2
    found = restored.state
    np.testing.assert_array_equal(found.params["head"]["k"], PARAMS["head"]["k"] + 0.5)
    adam = found.opt_state.inner_states["learns"].inner_state[1]
    for part, name in (("backbone", "k"), ("backbone", "b"), ("head", "k")):
        learnt, learns = (not {part, f"{part}/{name}"} & set(frozen) for frozen in (before, now))
        if learns:
            assert float(adam.mu[part][name].ravel()[0]) == (0.5 if learnt else 0.0)
    # It goes on.
    gradient = jax.tree.map(jnp.ones_like, found.params)
    updates, _ = tx.update(gradient, found.opt_state, found.params)
    assert jax.tree.all(jax.tree.map(lambda x: bool(jnp.isfinite(x).all()), updates))
    assert not (tmp_path / "checkpoints/torn-2").exists()


def test_c08_another_model_is_one_line(tmp_path):
    with checkpoints.Checkpoints(tmp_path, checkpoints.CheckpointConfig()) as saved:
        saved.save(2, make_state(())[0], {"step": 2}, record={"config": {}})
        for other in ({**PARAMS, "refine": {"k": jnp.ones(2)}}, {**PARAMS, "head": {"k": jnp.ones((4, 2))}}):
            with pytest.raises(
                errors.VosError, match="another model, and has no (ema|params)/.* of this one's"
            ):
                saved.restore(make_state((), other)[0])
        assert saved.steps() == [2]


# ---------------------------------------------------------------- own videos
def write_videos(root, *, names=("ant", "bee", "cow"), frames=5, side=20, begin=0, masks=None, size=(64, 96)):
    for name in names:
        (root / name / "masks").mkdir(parents=True, exist_ok=True)
        for t in range(frames):
            ids = np.zeros(size, np.uint8)
            if t >= begin:
                ids[8 : 8 + side, 8 + t : 8 + t + side] = 1
            Image.fromarray(np.stack([ids * 200] * 3, -1)).save(root / name / f"{t:05d}.jpg")
            if masks is None or t in masks:
                mask_files.write_mask(root / name / f"masks/{t:05d}.png", ids)
    return root


# ---------------------------------------------------------------- C16: names of the recipe
def test_c16_a_name_of_the_recipe_is_said_to_be_one(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(processes, "join", lambda *_, **__: processes.ProcessGroup())
    root = write_videos(tmp_path / "my_videos")
    arguments = ["--config", "train_davis", "--data", f"davis={root}", "--workdir", str(tmp_path / "run")]
    arguments += ["--config.train.data.sources.static.weight=0", "--init", "random"]
    # Each line says what to add; with all of it, the data are fine.
    for option in ("--config.train.data.sources.davis.exclude=", "--config.train.held_out.every=0"):
        assert train_program.main(arguments) == 2
        told = capsys.readouterr().err
        assert option.partition("=")[0].rpartition(".")[0] in told and told.count("\n") == 1, told
        arguments.append(option)
    config = configs.load("train_davis", [a for a in arguments if a.startswith("--config.")])
    train = setup.apply_data(config.train, [f"davis={root}"])
    assert setup.evaluation_videos(train) == []
    assert len(datasets.open_training_videos(train.data.drawn()["davis"])) == 3


@pytest.mark.parametrize(
    ("changes", "option"),
    [
        ({"exclude": ("x",)}, "--config.train.data.sources.mine.exclude"),
        ({"sequences": ("x*",)}, "--config.train.data.sources.mine.sequences"),
        ({"partial": ("x",)}, "--config.train.data.sources.mine.partial"),
    ],
)
def test_c16_every_key_with_names_is_named(tmp_path, changes, option):
    root = write_videos(tmp_path / "my_videos")
    source = datasets.SourceConfig(root=str(root), name="mine", **changes)
    with pytest.raises(errors.VosError, match=f"no sequence matches 'x.*It has ant, bee, cow.*{option}"):
        datasets.open_training_videos(source)
    with pytest.raises(errors.VosError, match="--config.data.exclude"):
        datasets.open_dataset(datasets.EvalDatasetConfig(kind="folders", root=str(root), exclude=("x",)))


def test_c16_held_out_sequences_are_named(tmp_path):
    root = write_videos(tmp_path / "my_videos")
    train = configs.replace(
        configs.default().train, {"held_out.root": str(root), "held_out.sequences": ("x",)}
    )
    with pytest.raises(errors.VosError, match=r"name is from --config.train.held_out.sequences"):
        setup.evaluation_videos(train)


# ---------------------------------------------------------------- C19: check_data and training agree
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ({"side": 3}, "no object has 32 pixels where a clip can begin, the largest has 9"),
        ({"begin": 4}, "no annotated frame before the last one shows an object"),
        ({"begin": 5}, "no mask of 'ant' shows an object"),
        ({"side": 5}, "the largest has 25"),
        ({"masks": (0, 4), "begin": 1}, "no annotated frame before the last one shows an object"),
    ],
)
def test_c19_a_folder_that_cannot_be_trained_on_is_not_ready(tmp_path, capsys, kind, message):
    root = write_videos(tmp_path / "v", names=("ant",), **kind)
    assert check_data.main([str(root)]) == 2
    printed = capsys.readouterr()
    assert message in printed.out and "ready" not in printed.out and "1 problem" in printed.err


def test_c19_the_key_that_helps_is_named_and_helps(tmp_path):
    ids = np.zeros((64, 64), np.uint8)
    ids[:3, :3] = 1
    clip = transforms.Clip(frames=(np.zeros((64, 64, 3), np.uint8),), ids=(ids,), size=(64, 64))
    with pytest.raises(errors.VosError, match="train.data.augmentation.objects.min_pixels"):
        transforms.SelectObjects()(clip, transforms.Key((0,)))
    config = configs.load("default", ["train.data.augmentation.objects.min_pixels=9"])
    assert config.train.data.augmentation.objects(clip, transforms.Key((0,)))[1] == 1


def test_c19_small_objects_among_large_ones_are_counted(tmp_path, capsys):
    root = write_videos(tmp_path / "v", names=("ant",))
    for path in (root / "ant/masks").glob("*.png"):
        ids = mask_files.read_mask(path)
        ids[60:63, :3] = 2
        mask_files.write_mask(path, ids)
    assert check_data.main([str(root)]) == 0
    assert "1 of these objects never have 32 pixels and are background" in capsys.readouterr().out


def test_check_data_names_sequences_with_masks_only(tmp_path, capsys):
    root = write_videos(tmp_path / "v")
    for path in (root / "bee").glob("*.jpg"):
        path.unlink()
    assert check_data.main([str(root)]) == 2
    printed = capsys.readouterr()
    assert "sequence 'bee' has no images" in printed.err and "ready" not in printed.out
    paired = tmp_path / "paired"
    for name in ("ant", "cow"):
        shutil.copytree(root / name, paired / "JPEGImages" / name, ignore=shutil.ignore_patterns("masks"))
        shutil.copytree(root / name / "masks", paired / "Annotations" / name)
    assert check_data.main([str(paired)]) == 0
    shutil.rmtree(paired / "JPEGImages/cow")
    assert check_data.main([str(paired)]) == 2
    assert "sequence 'cow' has no images (no such folder" in capsys.readouterr().err


# ---------------------------------------------------------------- C28: nothing to score
@pytest.mark.parametrize(
    ("kind", "frames"),
    [
        ({"masks": (0, 4)}, 0),
        ({"frames": 2}, 0),
        ({"begin": 4}, 0),
        ({"frames": 5}, 2),
        ({"masks": (3, 4)}, 0),
    ],
)
def test_c28_a_held_back_sequence_without_a_scored_frame_is_refused(tmp_path, kind, frames):
    root = write_videos(tmp_path / "v", **kind)
    changes = {"held_out.root": str(root), "held_out.sequences": ("cow",), "held_out.frames": frames}
    train = configs.replace(configs.default().train, changes)
    with pytest.raises(
        errors.VosError, match="nothing of 'cow' can be scored.*mask a frame between"
    ) as found:
        setup.evaluation_videos(train)
    assert ("held_out.frames is 2" in str(found.value)) == bool(frames)


def test_c28_as_told_it_is_scored(tmp_path):
    root = write_videos(tmp_path / "v", masks=(0, 2, 4))
    changes = {"held_out.root": str(root), "held_out.sequences": ("cow",)}
    (video,) = setup.evaluation_videos(configs.replace(configs.default().train, changes))
    assert video.scored_frames(1) == (2,)


@pytest.mark.parametrize(
    ("scores", "best"), [((float("nan"), 0.5, float("nan")), 2), ((float("nan"),) * 3, 3)]
)
def test_c28_a_score_that_is_no_number_is_not_the_best(tmp_path, monkeypatch, scores, best):
    for step in (1, 2, 3):
        (tmp_path / f"checkpoints/{step}").mkdir(parents=True)
    monkeypatch.setattr(
        checkpoints, "_record", lambda _, step: ({"score": scores[step - 1], "step": step}, {})
    )
    assert checkpoints.find(tmp_path, "best")[0] == best


# ---------------------------------------------------------------- export of a run that learned nothing
@pytest.mark.parametrize(
    ("step", "init", "told"), [(0, "random", "random weights"), (0, "lite0", "(lite0), before")]
)
def test_export_of_step_0_says_untrained(tmp_path, monkeypatch, capsys, step, init, told):
    record = {"parameters": 3, "variant": "tiny", "step": step, "score": None, "config": {"train.init": init}}
    monkeypatch.setattr(export, "export", lambda *_, **__: record)
    assert export.main([str(tmp_path), str(tmp_path / "x.safetensors")]) == 0
    error = capsys.readouterr().err
    assert error.startswith("untrained: step 0") and told in error and error.count("\n") == 1
    record["step"] = 1
    assert export.main([str(tmp_path), str(tmp_path / "x.safetensors")]) == 0
    assert not capsys.readouterr().err


def test_runs_of_older_versions_go_on():
    """The settings of a training have the keys and values that they had."""
    flat = configs.flatten(configs.load("train_davis"))
    assert flat["train.init"] == "imagenet" and flat["train.data.sources.davis.split"] == "train"
    assert not [key for key in flat if key.startswith("train.data.sources.") and key.endswith(".name")]
    assert json.loads(json.dumps(flat)) == flat
