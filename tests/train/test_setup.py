"""Recipes, and the settings that decide what is learned."""

import dataclasses
import json

import pytest

from vos_jax import config as configs
from vos_jax import errors
from vos_jax.train import losses, optim, setup

RECIPES = ("train_static", "train_davis", "train_davis_ytvos", "train_small", "train_lite0", "paper")


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_whole_and_hold_back_what_is_evaluated(name):
    train = configs.load(name).train
    train.data.check(setup.datasets_of(configs.load(name).model, train))
    optim.schedule(train.optim, train.steps)
    held = set(train.held_out.sequences)
    assert len(held) == 7
    assert all(held <= set(source.exclude) for name, source in train.data.drawn().items() if name == "davis")


def test_data_folders_go_to_the_sources_that_are_drawn_from():
    train = configs.load("train_davis").train
    train = setup.apply_data(train, ["static=one", "davis=two", "evaluation=three", "youtube_vos=four"])
    sources = train.data.sources
    assert (sources["static"].root, sources["davis"].root) == ("one", "two")
    assert (train.held_out.root, sources["youtube_vos"].root) == ("three", "four")
    alone = setup.apply_data(configs.load("train_static").train, ["five", "evaluation=a=b"])
    assert (alone.data.sources["static"].root, alone.held_out.root) == ("five", "a=b")


def test_a_packed_folder_is_read_as_such(tmp_path):
    """Patterns of sequences that were left out while packing match nothing."""
    index = {"static": False, "sequences": [{"name": "flamingo"}, {"name": "cow"}]}
    (tmp_path / "metadata.json").write_text(json.dumps(index))
    train = configs.load("train_davis").train
    found = setup.apply_data(train, [f"davis={tmp_path}"]).data.sources["davis"]
    assert found.kind == "auto", "no dataset_info.json: not packed"
    (tmp_path / "dataset_info.json").write_text("{}")
    found = setup.apply_data(train, [f"davis={tmp_path}"]).data.sources["davis"]
    assert found.kind == "array_record" and found.exclude == ("flamingo",)


def test_only_what_is_learned_from_counts_as_a_change():
    def flat(*overrides):
        return configs.flatten(configs.load("train_davis", overrides))

    before = flat()
    same = (
        "train.data.workers=4",
        "train.data.sources.davis.root=x",
        "eval.out=y",
        "train.data.sources.youtube_vos.year=2016",
    )
    assert setup.changed(before, flat(*same)) == []
    # A run begun before there was this key goes on.
    old = {key: value for key, value in before.items() if key != "model.proposals.folder"}
    assert setup.changed(old, before) == []
    assert setup.changed(
        before, flat("train.optim.lr_scales.backbone=0.2", "train.data.sources.davis.weight=2")
    ) == [
        "train.data.sources.davis.weight: 0.6, now 2.0",
        "train.optim.lr_scales.backbone: 0.1, now 0.2",
    ]


def test_a_key_that_an_old_run_lacks_has_its_default():
    """Checkpoints of before a key resume; another value of the key counts as a change."""
    defaults = configs.flatten(configs.default())
    now = configs.flatten(configs.load("train_davis"))
    old = {key: value for key, value in now.items() if key != "train.loss.burn_in"}
    assert setup.changed(old, now, defaults) == []
    burned = now | {"train.loss.burn_in": 1}
    assert setup.changed(old, burned, defaults) == ["train.loss.burn_in: 0, now 1"]


def test_a_loss_term_counts_as_a_change_and_none_does_not():
    defaults = configs.flatten(configs.default())
    config = configs.load("train_davis")
    before = configs.flatten(config)
    assert not any(key.startswith("train.loss.terms") for key in before), "old configs lack it, too"
    terms = {"mine": losses.Term(function=losses.refined_iou_loss, weight=0.5)}
    now = configs.flatten(configs.replace(config, {"train.loss.terms": terms}))
    assert setup.changed(before, now, defaults) == [
        "train.loss.terms.mine.function: None, now vos_jax.train.losses:refined_iou_loss",
        "train.loss.terms.mine.weight: None, now 0.5",
    ]


def test_a_warm_up_without_a_step_behind_it_is_refused():
    short = dataclasses.replace(configs.load("train_davis").train.optim, warmup_steps=5)
    with pytest.raises(errors.VosError, match="train.optim.warmup_steps is 5 of train.steps 5"):
        optim.schedule(short, 5)
