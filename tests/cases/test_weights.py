"""Cases C02, C04 and C18: weights and the settings that they are run with."""

import json
import logging

import jax
import numpy as np
import pytest
import safetensors.numpy
from flax import traverse_util

import eval as eval_program
import vos_jax
from tests import tiny
from tests.train import tiny_train
from vos_jax import api, errors
from vos_jax import config as configs
from vos_jax.models import weights
from vos_jax.tools import export

TINY = ["model.variant=tiny", "model.proposals.source=none", "model.matching=greedy"]


@pytest.fixture(scope="module")
def params():
    assert tiny_train  # which makes the tiny model a variant
    return tiny.model(proposals=tiny.NO_NETWORK, matching="greedy").init(jax.random.key(0))


def exported(params, path, **changes):
    """Weights that were trained with `changes`, as `export` writes them."""
    keys = {"model.proposals.source": "none", "model.matching": "greedy"}
    changes = {key.replace("__", "."): value for key, value in changes.items()}
    config = configs.replace(configs.default("tiny"), {**keys, **changes})
    noted = {"step": 3, "score": None, "config": configs.flatten(config)}
    export.save(jax.device_get(params), path, noted=noted, dtype="float32")
    return path


def resolved(path, *overrides):
    config = configs.load("default", ["model.variant=tiny", *overrides])
    return api.resolve(configs.replace(config, {"checkpoint": str(path)}), overrides)


# ---------------------------------------------------------------- C02
OTHER = {"model__read__affinity": "l2", "model__template": "mean", "model__alignment": "topk"}


def test_c02_weights_are_run_as_they_were_trained(params, tmp_path, caplog):
    path = exported(params, tmp_path / "x.safetensors", **OTHER)
    config = resolved(path)
    assert (config.model.read.affinity, config.model.template, config.model.alignment) == (
        "l2",
        "mean",
        "topk",
    )
    assert "is run as it was trained" in caplog.text and "--config.model.template=mean" in caplog.text
    assert weights.load_model(config.model, config.checkpoint)[0].config == config.model


def test_c02_the_proposal_network_is_left_out_as_in_training(params, tmp_path):
    config = resolved(exported(params, tmp_path / "x.safetensors"))
    assert config.model.proposals.source == "none" and config.model.matching == "greedy"
    weights.load_model(config.model, config.checkpoint)


@pytest.mark.parametrize("lost", ["record", "name", "both"])
def test_c02_weights_know_their_settings_without_the_record(params, tmp_path, lost):
    path = exported(params, tmp_path / "x.safetensors", **OTHER)
    if lost != "name":
        path.with_suffix(".json").unlink()
    if lost != "record":
        path = path.rename(tmp_path / "renamed.safetensors")
    assert resolved(path).model.template == "mean"


def test_c02_weights_of_an_older_version_have_a_record(params, tmp_path):
    path = exported(params, tmp_path / "x.safetensors", **OTHER)
    tensors = safetensors.numpy.load_file(path)
    safetensors.numpy.save_file(tensors, path, metadata={"variant": "tiny", "step": "3"})
    assert resolved(path).model.template == "mean"
    path.with_suffix(".json").write_text(json.dumps({"config": {"model": {"template": "first"}}}))
    assert resolved(path).model.template == "dynamic", "before version 0.2 it was nested"
    for text in ("{", "[]", '{"config": 3}', ""):
        path.with_suffix(".json").write_text(text)
        assert resolved(path).model.template == "dynamic"


def test_c02_what_the_user_says_is_kept_and_named(params, tmp_path, caplog):
    path = exported(params, tmp_path / "x.safetensors", **OTHER)
    config = resolved(path, "model.template=first", "model.alignment=adaptive")
    assert (config.model.template, config.model.alignment, config.model.read.affinity) == (
        "first",
        "adaptive",  # the default, but said
        "l2",
    )
    assert "trained with model.alignment=topk, now adaptive; model.template=mean, now first" in caplog.text


def test_c02_settings_of_the_test_time_are_not_taken_over(params, tmp_path, caplog):
    changes = {"model__memory__every": 9, "model__read__search_radius": 0.3, "model__dtype": "bfloat16"}
    config = resolved(exported(params, tmp_path / "x.safetensors", **changes), *TINY[1:])
    assert config.model.memory.every == 2 and config.model.dtype == "float32" and not caplog.text


def test_c02_weights_of_a_function_ask_for_its_config_file(params, tmp_path, caplog):
    def mine(template, weights, proposal):
        return weights.sum(), proposal, None

    path = exported(params, tmp_path / "x.safetensors", model__alignment=mine)
    with pytest.raises(errors.VosError, match="trained with the function model.alignment=.*mine.*--config"):
        resolved(path, *TINY[1:])
    assert resolved(path, *TINY[1:], "model.alignment=adaptive").model.alignment == "adaptive", "as told"
    assert "mine" in caplog.text
    config = configs.replace(configs.default("tiny"), {"model.alignment": mine, "checkpoint": str(path)})
    assert api.resolve(config).model.alignment is mine


def test_c02_the_python_api_does_the_same(params, tmp_path, caplog):
    path = exported(params, tmp_path / "x.safetensors", **OTHER)
    with caplog.at_level(logging.WARNING):
        engine = vos_jax.load("tiny", checkpoint=path)
    assert engine.model.config.template == "mean" and "is run as it was trained" in caplog.text


def test_c02_results_note_what_was_run(params, tmp_path, monkeypatch, capsys):
    from tests.eval import runs
    from vos_jax.data.datasets import rendered

    path = exported(params, tmp_path / "x.safetensors", **OTHER)
    data = rendered.write_davis(tmp_path / "DAVIS", sequences=("ant",), frames=2, size=(64, 80))
    more = ("--config.model.variant=tiny", "--config.inference.min_size=0", "--checkpoint", path, "--adapt=0")
    assert runs.run(data, tmp_path / "out", *more, "--config.model.dataset=default") == 0
    noted = runs.results_of(tmp_path / "out")["config"]
    assert noted["model.template"] == "mean" and noted["model.read.affinity"] == "l2"


# ---------------------------------------------------------------- C04
@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("model.alignment=topk", "model.alignment"),
        ("model.read.affinity=dot", "model.read.affinity"),
        ("model.template=mean", "model.template"),
        ("model.matching=hungarian", "model.matching"),
        ("model.matching_options.null=false", "model.matching_options.null"),
        ("model.proposals.capacity=3", "model.proposals.capacity"),
        ("model.refine=false", "model.refine"),
        ("model.key_size=32", "model.key_size"),
        ("model.dataset=davis", "model.dataset"),
    ],
)
def test_c04_the_training_free_model_refuses_what_it_does_not_have(tmp_path, capsys, override, key):
    arguments = ["--config", "demo", "--checkpoint", "none", "--out", str(tmp_path / "o")]
    assert eval_program.main([*arguments, f"--config.{override}"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and f"does not use {key}" in error and "--checkpoint PATH" in error
    assert not (tmp_path / "o").exists()


def test_c04_an_unknown_variant_is_an_error_with_any_model(capsys):
    arguments = ["--config", "demo", "--checkpoint", "none", "--config.model.alignment=nonsense"]
    assert eval_program.main(arguments) == 2
    assert "model.alignment is 'nonsense'; there are adaptive" in capsys.readouterr().err


def test_c04_several_are_named_at_once_and_a_config_file_counts(tmp_path):
    config = configs.replace(
        configs.default(), {"model.alignment": min, "model.template": "mean", "checkpoint": "none"}
    )
    for call in (api.resolve, api.make_engine):
        with pytest.raises(
            errors.VosError, match="does not use model.alignment and model.template; leave them"
        ):
            call(config)


def test_c04_a_variant_without_shipped_weights_says_so(monkeypatch, tmp_path):
    overrides = ["model.variant=resnet50", "model.alignment=topk"]
    with pytest.raises(errors.VosError, match="model.alignment, and no weights ship for resnet50"):
        api.resolve(configs.load("default", overrides), overrides)


@pytest.mark.parametrize(
    "override", ["model.memory.every=2", "model.training_free.topk=3", "model.dtype=bfloat16"]
)
def test_c04_what_it_has_is_taken(override):
    config = configs.load("davis17", [override, "checkpoint=none"])  # a recipe names its data set
    assert api.resolve(config, [override]) == config


def test_c04_the_python_api_refuses_too():
    with pytest.raises(errors.VosError, match="does not use model.template"):
        vos_jax.load("training_free", overrides=["model.template=mean"])


# ---------------------------------------------------------------- C18
def test_c18_shipped_weights_go_by_their_name():
    model = weights.vos.VOS(config=configs.default().model)
    assert weights.start_file("lite0", model) == api.shipped_weights("lite0")
    assert (
        weights.find("lite0", "resnet50")
        == weights.find("auto", "lite0")
        == str(api.shipped_weights("lite0"))
    )
    assert weights.find("none", "lite0") == weights.find("auto", "resnet50") == "none"
    assert weights.find("no/such.safetensors", "lite0") == "no/such.safetensors"


def test_c18_a_file_of_the_users_wins_over_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lite0").write_bytes(b"")
    assert weights.find("lite0", "lite0") == "lite0"


@pytest.mark.parametrize(
    "word", ["auto", "none", "nowhere", "old", "folder", "near.safetensors", "old/checkpoints"]
)
def test_c18_what_init_does_not_take_is_one_line_that_helps(tmp_path, monkeypatch, word):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old/checkpoints/3").mkdir(parents=True)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/x.safetensors").write_bytes(b"")
    (tmp_path / "nearer.safetensors").write_bytes(b"")
    model = weights.vos.VOS(config=configs.default().model)
    with pytest.raises(errors.VosError) as found:
        weights.datasets_at(model, word, ())
    told = str(found.value)
    assert "--checkpoint" not in told and told.startswith("--init ") and "imagenet" in told
    hints = {
        "old": "python -m vos_jax.tools.export old OUT.safetensors",
        "old/checkpoints": "python -m vos_jax.tools.export old OUT.safetensors",
        "folder": "it holds x.safetensors",
        "near.safetensors": "did you mean nearer.safetensors",
    }
    assert hints.get(word, "lite0") in told


def test_c18_a_run_as_a_checkpoint_is_told_the_same(tmp_path, capsys):
    (tmp_path / "run/checkpoints/3").mkdir(parents=True)
    arguments = ["--config", "demo", "--checkpoint", str(tmp_path / "run"), "--out", str(tmp_path / "o")]
    assert eval_program.main(arguments) == 2
    told = capsys.readouterr().err
    assert (
        f"`python -m vos_jax.tools.export {tmp_path / 'run'} OUT.safetensors`" in told
        and told.count("\n") == 1
    )


def test_c18_training_begins_with_shipped_weights(params, tmp_path, monkeypatch):
    """`--init tiny`, where the weights that ship are the tiny model's."""
    monkeypatch.setattr(weights.pretrained, "WEIGHTS", tmp_path)
    exported(params, tmp_path / "tiny.safetensors")
    model = tiny.model(proposals=tiny.NO_NETWORK, matching="greedy")
    model = weights.vos.VOS(config=configs.replace(model.config, {"variant": "tiny"}))
    found = weights.init_params(model, "tiny", jax.random.key(1), ("davis",))
    assert sorted(found["matcher"]["lambda_logit"]) == ["davis", "default"]
    flat, expected = (traverse_util.flatten_dict(jax.device_get(x)) for x in (found, params))
    assert all(np.array_equal(flat[key], value) for key, value in expected.items())
