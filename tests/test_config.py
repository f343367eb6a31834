"""Configs by name and path, overrides, and what a typo gets to hear."""

import json
import pathlib

import pytest

from vos_jax import config
from vos_jax.errors import VosError

CONFIGS = pathlib.Path(__file__).resolve().parents[1] / "configs"


@pytest.mark.parametrize("name", config.names())
def test_every_config_loads_locked_with_a_record(name):
    loaded = config.load(name)
    assert loaded.is_locked
    with pytest.raises(KeyError):
        loaded.memory["evry"] = 3
    docstring = (CONFIGS / f"{name}.py").read_text().split('"""')[1]
    assert "Command:" in docstring


def test_deltas_differ_from_the_default_only_where_they_say():
    default, davis16 = config.load("default"), config.load("davis16")
    assert davis16.data.year == 2016 and davis16.data.merge_objects
    assert default.data.year == 2017 and not default.data.merge_objects
    assert davis16.memory == default.memory and davis16.training_free == default.training_free
    assert (default.model.dataset, davis16.model.dataset) == ("default", "davis")
    assert config.load("demo").data.source == "rendered"


def test_every_key_of_the_default_is_commented():
    lines = (CONFIGS / "default.py").read_text().splitlines()
    for previous, line in zip(lines, lines[1:], strict=False):
        if " = " in line and line.startswith("    ") and "#" not in line and "ConfigDict()" not in line:
            assert previous.strip().startswith("#"), f"no comment above: {line.strip()}"


@pytest.mark.parametrize(
    "override, key, value",
    [
        ("memory.every=3", ("memory", "every"), 3),
        ("--config.memory.every=3", ("memory", "every"), 3),
        ("training_free.temperature=1e-2", ("training_free", "temperature"), 0.01),
        ("training_free.features=c3,c4", ("training_free", "features"), ("c3", "c4")),
        ("objects.buckets=1, 4", ("objects", "buckets"), (1, 4)),
        ("data.sequences=dog", ("data", "sequences"), ("dog",)),
        ("data.sequences=", ("data", "sequences"), ()),
        ("data.root=a=b,c", ("data", "root"), "a=b,c"),
        ("model.refine=False", ("model", "refine"), False),
        ("model.alignment=none", ("model", "alignment"), "none"),
    ],
)
def test_override_changes_exactly_one_key(override, key, value):
    section, leaf = key
    changed, default = config.load("default", [override]), config.load("default")
    assert changed[section][leaf] == value and type(changed[section][leaf]) is type(value)
    changed.unlock()
    changed[section][leaf] = default[section][leaf]
    assert config.as_dict(changed) == config.as_dict(default)


def test_the_last_override_wins():
    assert config.load("default", ["seed=1", "seed=2"]).seed == 2


@pytest.mark.parametrize(
    "override, named",
    [
        ("memory.evry=3", "memory.every"),
        ("memory.capacty=3", "memory.capacity"),
        ("every=3", "memory.every"),
        ("model.algnment=none", "model.alignment"),
        ("memory=3", "memory.every"),
        ("seeed=3", "seed"),
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
        "memory.every=three",
        "memory.every=1.5",
        "memory.every",
        "model.refine=perhaps",
        "training_free.temperature=nan",
        "objects.buckets=1,x",
    ],
)
def test_value_of_another_type_is_refused_by_name(override):
    with pytest.raises(VosError) as error:
        config.load("default", [override])
    assert override.split("=")[0] in str(error.value)


@pytest.mark.parametrize(
    "override, named",
    [
        ("dtype=float8", "bfloat16"),
        ("memory.eviction=lru", "fifo"),
        ("memory.capacity=2", "at least 3"),
        ("training_free.features=c4,c9", "c9"),
        ("training_free.temperature=0", "at least"),
        ("objects.buckets=", "empty"),
        ("objects.buckets=0,1", "at least 1"),
        ("eval.workers=0", "at least 1"),
    ],
)
def test_value_out_of_range_is_refused_by_name(override, named):
    with pytest.raises(VosError) as error:
        config.load("default", [override])
    assert override.split("=")[0] in str(error.value) and named in str(error.value)


def test_unknown_config_lists_the_names(tmp_path):
    with pytest.raises(VosError, match="davis16, davis17, davis17_testdev, default, demo"):
        config.load("davis18")
    with pytest.raises(VosError, match="no config file"):
        config.load(tmp_path / "mine.py")


def test_a_config_file_of_ones_own(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from vos_jax import config as configs\n"
        "def get_config():\n    config = configs.default()\n    config.memory.every = 7\n    return config\n"
    )
    assert config.load(path).memory.every == 7
    assert config.load(str(path), ["memory.every=9"]).memory.every == 9


@pytest.mark.parametrize(
    "text, message",
    [
        ("x = 1\n", "get_config"),
        ("def get_config(:\n", "line 1"),
        ("def get_config():\n    return {}\n", "ConfigDict"),
    ],
)
def test_a_broken_config_file_is_named(tmp_path, text, message):
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(VosError, match=message) as error:
        config.load(path)
    assert str(path) in str(error.value)


def test_a_variant_may_be_a_callable():
    loaded = config.load("default")

    def mine(template, weights, proposal):
        return weights.sum(), proposal, None

    for key in ("template", "alignment", "matching", "read"):
        loaded.model[key] = mine
        assert loaded.model[key] is mine
    plain = config.as_dict(loaded)
    assert plain["model"]["alignment"].endswith("mine")
    assert json.loads(json.dumps(plain)) == plain


def test_command_line_is_parted():
    rest, overrides = config.split_arguments(["--config", "demo", "--config.seed=1", "--out", "x"])
    assert rest == ["--config", "demo", "--out", "x"] and overrides == ["--config.seed=1"]
