"""configs/default.py and the dataclasses that it is turned into say the same."""

import dataclasses
import json

import pytest

from vos_jax import config as configs
from vos_jax import errors
from vos_jax.data import clips, sequences
from vos_jax.models import vos
from vos_jax.train import checkpoints, corruption, losses, optim, parallel, setup, step

RECIPES = ("train_static", "train_davis", "train_davis_ytvos", "train_small", "paper")


@pytest.mark.parametrize(
    ("section", "kind", "elsewhere"),
    [
        ("losses", losses.LossConfig, set()),
        ("step", step.StepConfig, {"losses", "frozen", "corruption"}),
        ("corruption", corruption.CorruptionConfig, set()),
        ("optim", optim.OptimConfig, {"steps", "lr_scales"}),
        ("parallel", parallel.ParallelConfig, set()),
        ("checkpoint", checkpoints.CheckpointConfig, set()),
        ("gap", clips.GapSchedule, set()),
    ],
)
def test_every_setting_has_its_key_with_the_same_default(section, kind, elsewhere):
    fields = {field.name: field.default for field in dataclasses.fields(kind) if field.name not in elsewhere}
    keys = dict(configs.load("default").train[section])
    assert {key: value for key, value in keys.items() if key not in elsewhere} == fields


def test_every_field_of_a_source_has_its_key():
    known = {field.name for field in dataclasses.fields(sequences.SourceConfig)} - {"pseudo"}
    for source in configs.load("default").train.sources.values():
        assert set(source) == known


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_whole_and_hold_back_what_is_evaluated(name):
    config = configs.load(name)
    drawn = setup.pipeline_config(config, vos.LITE0.datasets)
    drawn.check()
    setup.step_config(config), setup.optim_config(config), setup.parallel_config(config)
    held = set(config.train.evaluation.sequences)
    assert len(held) == 7
    assert all(held <= set(source.exclude) for source in drawn.sources if source.kind == "davis_folder")


def test_data_folders_go_to_the_sources_that_are_drawn_from():
    config = configs.load("train_davis")
    setup.apply_data(config, ["static=one", "davis=two", "evaluation=three", "youtube_vos=four"])
    train = config.train
    assert (train.sources.static.root, train.sources.davis.root) == ("one", "two")
    assert (train.evaluation.root, train.sources.youtube_vos.root) == ("three", "four")
    alone = configs.load("train_static")
    setup.apply_data(alone, ["five", "evaluation=a=b"])
    assert (alone.train.sources.static.root, alone.train.evaluation.root) == ("five", "a=b")


def test_a_packed_folder_is_read_as_such(tmp_path):
    """What a recipe holds back may have been left out while packing, and then matches nothing."""
    index = {"static": False, "sequences": [{"name": "flamingo"}, {"name": "cow"}]}
    (tmp_path / "metadata.json").write_text(json.dumps(index))
    config = configs.load("train_davis")
    setup.apply_data(config, [f"davis={tmp_path}"])
    assert config.train.sources.davis.kind == "davis_folder", "no dataset_info.json: not packed"
    (tmp_path / "dataset_info.json").write_text("{}")
    setup.apply_data(config, [f"davis={tmp_path}"])
    assert config.train.sources.davis.kind == "array_record"
    assert config.train.sources.davis.exclude == ("flamingo",)


def test_only_what_is_learned_from_counts_as_a_change():
    before = configs.as_dict(configs.load("train_davis"))
    same = [
        "train.workers=4",
        "train.sources.davis.root=x",
        "eval.out=y",
        "train.sources.youtube_vos.year=2016",
    ]
    assert setup.changed(before, configs.as_dict(configs.load("train_davis", same))) == []
    # A run begun before there was this key goes on.
    old = configs.as_dict(configs.load("train_davis"))
    del old["model"]["proposals_dir"]
    assert setup.changed(old, before) == []
    other = ["train.optim.lr_scales.backbone=0.2", "train.sources.davis.weight=2"]
    assert setup.changed(before, configs.as_dict(configs.load("train_davis", other))) == [
        "train.optim.lr_scales.backbone: 0.1, now 0.2",
        "train.sources.davis.weight: 0.6, now 2.0",
    ]


def test_values_out_of_range_are_named():
    with pytest.raises(errors.VosError, match="train.optim.learning_rate is -1"):
        setup.optim_config(configs.load("train_davis", ["train.optim.learning_rate=-1"]))
