"""Configs by name and path, overrides, and what a typo gets to hear."""

import dataclasses
import json
import pathlib

import pytest

import app
import eval  # noqa: A004
import segment
import train
from vos_jax import api, config
from vos_jax.errors import VosError
from vos_jax.tools import stablehlo

CONFIGS = pathlib.Path(__file__).resolve().parents[1] / "configs"


@pytest.mark.parametrize("name", config.names())
def test_every_config_loads_frozen_with_a_record(name):
    loaded = config.load(name)
    with pytest.raises(dataclasses.FrozenInstanceError):
        loaded.model.memory.every = 3
    if name != "default":
        docstring = (CONFIGS / f"{name}.py").read_text().split('"""')[1]
        assert "Command:" in docstring


def test_deltas_differ_from_the_default_only_where_they_say():
    default, davis16 = config.load("default"), config.load("davis16")
    assert davis16.data.year == 2016 and davis16.data.merge_objects
    assert default.data.year == 2017 and not default.data.merge_objects
    assert dataclasses.replace(davis16.model, dataset="default") == default.model
    assert (default.model.dataset, davis16.model.dataset) == ("default", "davis")
    assert config.load("demo").data.kind == "rendered"


def test_every_key_is_documented():
    undocumented = [key for key, text in config.describe(config.default()).items() if len(text) < 8]
    assert not undocumented


def test_the_page_of_all_settings_is_current(capsys):
    assert config.main(["--markdown"]) == 0
    page = pathlib.Path(__file__).resolve().parents[1] / "docs" / "configuration.md"
    assert page.read_text() == capsys.readouterr().out, "python -m vos_jax.config --markdown prints the page"


@pytest.mark.parametrize(
    "override, key, value",
    [
        ("model.memory.every=3", "model.memory.every", 3),
        ("--config.model.memory.every=3", "model.memory.every", 3),
        ("model.training_free.temperature=1e-2", "model.training_free.temperature", 0.01),
        ("model.training_free.features=c3,c4", "model.training_free.features", ("c3", "c4")),
        ("inference.object_buckets=1, 4", "inference.object_buckets", (1, 4)),
        ("data.sequences=dog", "data.sequences", ("dog",)),
        ("data.sequences=", "data.sequences", ()),
        ("data.root=a=b,c", "data.root", "a=b,c"),
        ("model.refine=False", "model.refine", False),
        ("model.alignment=none", "model.alignment", "none"),
        ("model.read.scale=0.5", "model.read.scale", 0.5),
        ("model.read.scale=none", "model.read.scale", None),
        ("train.data.sources.davis.weight=1", "train.data.sources.davis.weight", 1.0),
        ("train.data.paste.objects=2,4", "train.data.paste.objects", (2, 4)),
        ("train.optim.lr_scales.backbone=1", "train.optim.lr_scales.backbone", 1.0),
        ("train.optim.lr_scales.refine=0.5", "train.optim.lr_scales.refine", 0.5),
    ],
)
def test_override_changes_exactly_one_key(override, key, value):
    changed, default = config.load("default", [override]), config.load("default")
    before, after = config.flatten(default), config.flatten(changed)
    expected = list(value) if isinstance(value, tuple) else value
    assert after[key] == expected and type(after[key]) is type(expected)
    assert {name for name in before if before[name] != after[name]} <= {key}


def test_a_variant_changes_what_nothing_else_has_changed():
    file = config.replace(config.default(), {"model.key_size": 32, "model.proposals.capacity": 12})
    changed = config.replace(file, {"model.variant": "resnet50"}).model
    assert (changed.backbone, changed.value_size, changed.proposals.channels) == ("resnet50", 512, 128)
    assert (changed.key_size, changed.proposals.capacity) == (32, 12)
    assert config.replace(config.default("resnet50"), {"model.variant": "lite0"}) == config.default()
    with pytest.raises(VosError, match="model.variant is 'vit'; there are lite0, resnet50"):
        config.load("default", ["model.variant=vit"])


@pytest.mark.parametrize("key", ["train.data.augmentation.crop.size", "train.data.pseudo.max_objects"])
def test_a_value_that_follows_another_is_no_key(key):
    with pytest.raises(VosError, match="it follows train.data"):
        config.load("default", [f"{key}=3,3"])


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("model.memory.every", "3", "takes a whole number"),
        ("model.memory.every", True, "takes a whole number"),
        ("model.refine_channels", (1, 2), "takes 3 values"),
        ("data.sequences", ("a", 1), "takes str"),
        ("model", {}, "takes ModelConfig"),
        ("model.memory.evry", 3, "nearest: model.memory.every"),
        ("model.memory.capacity", 2, "model.memory.capacity is 2; it must be at least 3"),
    ],
)
def test_a_wrong_value_in_a_config_file_is_refused_by_name(key, value, message):
    with pytest.raises(VosError, match=message) as error:
        config.replace(config.default(), {key: value})
    assert key in str(error.value)


def test_the_last_override_wins():
    assert config.load("default", ["seed=1", "seed=2"]).seed == 2


@pytest.mark.parametrize(
    "override, named",
    [
        ("memory.evry=3", "model.memory.every"),
        ("memory.capacty=3", "model.memory.capacity"),
        ("every=3", "model.memory.every"),
        ("model.algnment=none", "model.alignment"),
        ("memory=3", "model.memory.every"),
        ("seeed=3", "seed"),
        ("train.optim.lr_scales.refine.refine=1", "train.optim.lr_scales.backbone"),
    ],
)
def test_unknown_key_names_its_nearest_neighbours(override, named):
    with pytest.raises(VosError, match="no config key") as error:
        config.load("default", [override])
    assert named in str(error.value)
    assert override.split("=")[0] in str(error.value)


@pytest.mark.parametrize(
    "override",
    [
        "model.memory.every=three",
        "model.memory.every=1.5",
        "model.memory.every",
        "model.refine=perhaps",
        "model.training_free.temperature=nan",
        "inference.object_buckets=1,x",
    ],
)
def test_value_of_another_type_is_refused_by_name(override):
    with pytest.raises(VosError) as error:
        config.load("default", [override])
    assert override.split("=")[0] in str(error.value)


@pytest.mark.parametrize(
    "override, named",
    [
        ("model.dtype=float8", "bfloat16"),
        ("model.memory.eviction=lru", "fifo"),
        ("model.memory.capacity=2", "at least 3"),
        ("model.training_free.features=c4,c9", "c9"),
        ("model.training_free.temperature=0", "at least"),
        ("inference.object_buckets=", "empty"),
        ("inference.object_buckets=0,1", "at least 1"),
        ("eval.workers=0", "at least 1"),
    ],
)
def test_value_out_of_range_is_refused_by_name(override, named):
    with pytest.raises(VosError) as error:
        config.load("default", [override])
    assert override.split("=")[0] in str(error.value) and named in str(error.value)


@pytest.mark.parametrize(
    "override",
    [
        "model.backbone=foo",
        "model.template=foo",
        "model.matching=foo",
        "model.read.weight=foo",
        "model.read.affinity=foo",
        "model.proposals.nms=foo",
        "model.refine_channels=0,8,8",
        "train.data.sources.davis.weight=-1",
        "train.data.augmentation.jpeg.low=99",
        "train.data.pseudo.camera.warps=foo",
        "train.data.gap.start=-5",
        "seed=-1",
    ],
)
def test_what_no_program_could_use_is_refused_while_the_config_is_read(override):
    with pytest.raises(VosError) as error:
        config.load("default", [override])
    assert override.split("=")[0] in str(error.value)


@pytest.mark.parametrize(
    "body, message",
    [
        ("config.memory.every = 3", "settings are frozen: return configs.replace"),
        ("config.seed = 3", "settings are frozen: return configs.replace"),
        ("config = dataclasses.replace(config, checkpoint=3)", "checkpoint takes str"),
        ("config = dataclasses.replace(config, inference=None)", "inference takes InferenceConfig"),
        ("config = configs.replace(config, {'train.optim.lr_scales': {'a.b': 1}})", "a name without dots"),
        (
            "config = configs.replace(config, {'model.read.scale': 10**400})",
            "takes a number",
        ),
    ],
)
def test_mistakes_in_a_config_file_are_one_line(tmp_path, body, message):
    path = tmp_path / "mine.py"
    path.write_text(
        "import dataclasses\nfrom vos_jax import config as configs\n"
        f"def get_config():\n    config = configs.default()\n    {body}\n    return config\n"
    )
    with pytest.raises(VosError, match=message) as error:
        config.load(path)
    assert str(path) in str(error.value)


def test_unknown_config_lists_the_names(tmp_path):
    with pytest.raises(VosError, match="davis16, davis17, davis17_testdev, default, demo"):
        config.load("davis18")
    with pytest.raises(VosError, match="no config file"):
        config.load(tmp_path / "mine.py")


def test_a_config_file_of_ones_own(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from vos_jax import config as configs\n"
        "def get_config():\n    return configs.replace(configs.default(), {'model.memory.every': 7})\n"
    )
    assert config.load(path).model.memory.every == 7
    assert config.load(str(path), ["model.memory.every=9"]).model.memory.every == 9


@pytest.mark.parametrize(
    "text, message",
    [
        ("x = 1\n", "get_config"),
        ("def get_config(:\n", "line 1"),
        ("def get_config():\n    return {}\n", "Config"),
    ],
)
def test_a_broken_config_file_is_named(tmp_path, text, message):
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(VosError, match=message) as error:
        config.load(path)
    assert str(path) in str(error.value)


def test_a_variant_may_be_a_callable():
    def mine(template, weights, proposal):
        return weights.sum(), proposal, None

    keys = ("model.template", "model.alignment", "model.matching", "model.read.weight")
    loaded = config.replace(config.default(), dict.fromkeys(keys, mine))
    assert loaded.model.alignment is mine and loaded.model.read.weight is mine
    plain = config.flatten(loaded)
    assert ".mine@" in plain["model.alignment"]
    assert json.loads(json.dumps(plain)) == plain


@pytest.mark.parametrize(
    "unused, override, message",
    [
        (segment.UNUSED, "eval.overlay=true", "segment.py does not use eval.overlay"),
        (
            segment.UNUSED,
            "inference.direction=both",
            "cannot follow inference.direction=both; set it to forward",
        ),
        (segment.UNUSED, "model.proposals.source=file", "cannot follow model.proposals.source=file"),
        (app.UNUSED, "inference.direction=both", "app.py cannot follow inference.direction=both"),
        (train.UNUSED, "data.year=2016", "train.py does not use data.year"),
        (train.UNUSED, "inference.flip=true", "train.py does not use inference.flip"),
        (eval.UNUSED, "train.steps=3", "eval.py does not use train.steps"),
        (api.UNUSED, "inference.direction=both", "load.. cannot follow inference.direction"),
        (stablehlo.UNUSED, "inference.min_size=0", "export --stablehlo does not use inference.min_size"),
    ],
)
def test_a_setting_that_a_program_does_not_follow_is_refused(unused, override, message):
    with pytest.raises(VosError, match=message):
        unused.check(config.load("default", [override]), ["--config." + override])


def test_a_config_file_may_set_what_is_for_other_programs():
    segment.UNUSED.check(config.load("davis16"), ["--config.model.proposals.source=none"])


def test_command_line_is_parted():
    rest, overrides = config.split_arguments(["--config", "demo", "--config.seed=1", "--out", "x"])
    assert rest == ["--config", "demo", "--out", "x"] and overrides == ["--config.seed=1"]
