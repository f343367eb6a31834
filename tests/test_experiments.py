"""The examples of docs/experiments.md: cut out of the page, and run by the programs on a tiny model."""

import json
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import traverse_util

import eval as eval_program
import train as train_program
from tests import tiny
from tests.data import tiny_training
from tests.models import test_read
from vos_jax import config as configs
from vos_jax import errors, processes
from vos_jax.data.datasets import rendered
from vos_jax.models import alignment
from vos_jax.models import config as model_config
from vos_jax.models import read as read_lib
from vos_jax.ops import attention
from vos_jax.train import losses

PAGE = pathlib.Path(__file__).resolve().parents[1] / "docs" / "experiments.md"

FAST = ("model.variant=tiny", "model.proposals.source=none", "model.matching=greedy")
"""The tiny model without the two stages that take longest to compile."""


def example(name: str) -> str:
    """Returns the block of the page whose first line is `# NAME`."""
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    (found,) = [block for block in blocks if block.startswith(f"# {name}\n")]
    return found


def written(folder: pathlib.Path, name: str) -> pathlib.Path:
    path = folder / name
    path.write_text(example(name))
    return path


def variables(name: str) -> dict:
    found = {}
    exec(example(name), found)
    return found


@pytest.fixture
def tiny_variant(monkeypatch):
    """Makes the tiny model a variant, which `--config.model.variant=tiny` chooses."""
    monkeypatch.setitem(model_config.VARIANTS, "tiny", tiny.VARIANT)


# ---------------------------------------------------------------- eval.py
@pytest.fixture(scope="module")
def place(tmp_path_factory) -> pathlib.Path:
    """A folder with two rendered frames and weights of the tiny model."""
    folder = tmp_path_factory.mktemp("experiments")
    rendered.write_davis(folder / "DAVIS", sequences=("ant",), frames=2, size=(64, 80))
    params = tiny.model(proposals=tiny.NO_NETWORK).init(jax.random.key(0), ("davis", "default"))
    # RefineNet starts at zero, by which it would hide all that goes into it.
    logit = params["refine"]["logit"]
    logit["kernel"] = 10.0 * jax.random.normal(jax.random.key(1), logit["kernel"].shape)
    params = traverse_util.flatten_dict(jax.device_get(params), sep="/")
    weights = {name: np.asarray(value) for name, value in params.items()}
    safetensors.numpy.save_file(weights, folder / "tiny.safetensors", metadata={"variant": "tiny"})
    return folder


def evaluated(place, out, config, *more) -> np.ndarray:
    """Returns the probabilities of the last frame after a run of eval.py, and asserts that it worked."""
    overrides = (*FAST, "inference.min_size=0", "eval.save_probabilities=true")
    arguments = ["--config", config, "--data", place / "DAVIS", "--adapt", "0", "--out", out]
    arguments += ["--checkpoint", place / "tiny.safetensors", *(f"--config.{x}" for x in overrides), *more]
    assert eval_program.main([str(argument) for argument in arguments]) == 0
    (file,) = out.glob("**/00001.npz")
    with np.load(file) as arrays:
        return np.concatenate([arrays[name].ravel() for name in sorted(arrays.files)]).astype(np.float32)


def check_settings(results: pathlib.Path, path: pathlib.Path, *keys: str) -> None:
    """Asserts that results name the function of a file, and that it differs from its baseline in `keys`."""
    flat = json.loads((results / "results.json").read_text())["config"]
    assert flat[keys[0]].startswith(f"vos_jax_config_{path.stem}:{path.stem}@")
    found, others = configs.flatten(configs.load(path)), configs.flatten(configs.load("davis17"))
    assert {key for key in found if found[key] != others[key]} == set(keys)


def test_eval_runs_the_alignment(tiny_variant, place, tmp_path, monkeypatch):
    """A hard assignment hides small changes of similarity, so that the call is noted."""
    path, used, resolve = written(tmp_path, "mutual.py"), [], alignment.resolve
    monkeypatch.setattr(alignment, "resolve", lambda choice: used.append(choice) or resolve(choice))
    evaluated(place, tmp_path / "results", path)
    assert {choice.__name__ for choice in used} == {"mutual"}
    check_settings(tmp_path / "results", path, "model.alignment")


def test_eval_runs_the_read_and_masks_differ(tiny_variant, place, tmp_path):
    path = written(tmp_path, "cosine.py")
    masks = [
        evaluated(place, tmp_path / f"results_{index}", config)
        for index, config in enumerate(("davis17", path))
    ]
    assert np.abs(masks[0] - masks[1]).max() > 0
    check_settings(tmp_path / "results_1", path, "model.read.affinity", "model.read.scale")


# ---------------------------------------------------------------- what must hold
def test_the_alignment_keeps_what_must_hold():
    """Locations of weight 0 do not count, and gradients are finite where features or weights are zero."""
    align = variables("mutual.py")["mutual"]
    rng = np.random.default_rng(0)
    template, proposal = (jnp.asarray(rng.normal(size=(9, 32)), jnp.float32) for _ in range(2))
    weights = jnp.asarray(rng.random(9) * (np.arange(9) % 2), jnp.float32)

    def score(template, weights, proposal):
        return alignment.resolve(align)(template, weights, proposal, temperature=0.05)[0]

    value, gradients = jax.value_and_grad(score, (0, 1, 2)), (0.0 * template, 0.0 * weights, 0.0 * proposal)
    before = value(template, weights, proposal)[0]
    moved = jnp.where(weights[:, None] > 0, template, 7.0)
    np.testing.assert_allclose(value(moved, weights, proposal)[0], before, atol=1e-6)
    assert score(template, weights, template) > 0.99
    for case in ((gradients[0], weights, proposal), (template, gradients[1], proposal), gradients):
        assert all(np.isfinite(x).all() for x in value(*case)[1])


def test_the_example_of_a_function_alone_runs():
    names = variables("mutual.py")
    exec(example("alone"), names)
    assert names["score"].shape == () and names["attention"].shape == (196, 196)


@pytest.mark.slow
def test_the_example_of_a_function_on_a_frame_gets_what_the_alignment_gets():
    """Puts the engine's own alignment in place of `mutual`: both printed scores are the same."""
    own = []

    def adaptive(template, weights, proposal, *, temperature):
        del temperature
        learned = jnp.exp(names["engine"].params["matcher"]["log_temperature"])
        found = alignment.adaptive(template, weights, proposal, temperature=learned)
        own.append(float(found[0]))
        return found

    names = {"mutual": adaptive}
    exec(example("on a frame"), names)
    np.testing.assert_allclose(own, names["out"].match.similarity[0, :2], atol=1e-5)


def test_the_read_is_the_same_in_blocks(monkeypatch):
    monkeypatch.setattr(attention, "QUERY_BLOCK", 7)
    cosine = variables("cosine.py")["cosine"]
    config = read_lib.ReadConfig(affinity=cosine, scale=20.0, search_radius=0.0)
    memory = test_read.filled_memory()
    query = jnp.asarray(np.random.default_rng(1).normal(size=(*test_read.GRID, 8)), jnp.float32)

    def loss(query, key):
        found = read_lib.read(query, memory.replace(key=key), config)
        return jnp.sum(found.value**2) + jnp.sum(found.prob) + jnp.sum(jnp.cos(found.embed))

    found = []
    for most in (0, 10_000):
        monkeypatch.setattr(read_lib, "DENSE", most)
        compute = jax.jit(jax.value_and_grad(lambda *keys: loss(*keys), argnums=(0, 1)))
        found.append(compute(query, memory.key))
        assert all(np.isfinite(x).all() for x in compute(0 * query, 0 * memory.key)[1])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4), *found)
    assert np.any(found[0][1][0])


@pytest.mark.parametrize(
    ("switches", "message"),
    [
        ({"affinity": lambda query, key: key}, r"returned \[24, 8\] for query .*; it must return \[24, 24\]"),
        ({"affinity": lambda query, key: None}, "affinity: the function returned None"),
        ({"weight": lambda prob: prob[0]}, r"model.read.weight: the function returned \[3, 24\]"),
    ],
)
def test_a_read_of_another_shape_is_one_line(switches, message):
    config = read_lib.ReadConfig(**switches, search_radius=0.0)
    with pytest.raises(errors.VosError, match=message):
        read_lib.read(jnp.ones((*test_read.GRID, 8)), test_read.filled_memory(), config)


def test_the_scale_is_a_factor_on_every_affinity():
    query, key = jnp.ones((2, 4)), jnp.ones((3, 4))
    for affinity in (read_lib.dot, "dot"):
        for scale, expected in ((None, 2.0), (3.0, 12.0)):
            config = read_lib.ReadConfig(affinity=affinity, scale=scale)
            np.testing.assert_allclose(read_lib.scaled_affinity(query, config)(key), expected, rtol=1e-6)


def test_the_loss_term_keeps_what_must_hold():
    """Padding does not count, and the gradient is finite where prediction and truth are certain."""
    boundary = variables("boundary.py")["boundary"]
    truth = jnp.zeros((2, 8, 8)).at[0, 2:6, 2:6].set(1.0)

    def term(prob, object_valid, cell_valid):
        both = jnp.concatenate([1 - jnp.sum(prob, axis=0, keepdims=True), prob])
        return boundary(losses.PredictedFrame(both, truth, object_valid, cell_valid, out=None))

    one, everywhere = jnp.asarray([True, False]), jnp.ones((8, 8), bool)
    value, gradient = jax.value_and_grad(term)(truth, one, everywhere)
    assert 0 <= value < 1e-5 and np.isfinite(gradient).all()
    np.testing.assert_allclose(term(0 * truth + 0.5, one, everywhere), np.log(2), rtol=1e-5)
    assert term(1 - truth, one, everywhere) > 10 > 0 == term(1 - truth, one, ~everywhere)
    moved = truth.at[1].set(0.7).at[0, 0].set(1.0)
    assert term(moved, one, everywhere.at[0].set(False)) == term(truth, one, everywhere.at[0].set(False))


# ---------------------------------------------------------------- train.py
SMALL = {
    "train.steps": 1,
    "train.init": "random",
    "train.log_every": 1,
    "train.picture_every": 0,
    "train.data.sources.static.weight": 0,
    "train.data.sources.davis.exclude": "",
    "train.data.batch": 1,
    "train.data.crop": 64,
    "train.data.max_objects": 2,
    "train.data.threads": 1,
    "train.data.gap.end": 1,
    "train.optim.warmup_steps": 0,
    "train.loss.unroll": "false",
    "train.held_out.every": 0,
}


@pytest.mark.slow
def test_train_learns_from_the_example(tiny_variant, tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "join", lambda *_, **__: processes.ProcessGroup())
    tiny_training.write_davis(tmp_path / "data", sequences=1, frames=3, objects=2, size=(64, 80))
    path = written(tmp_path, "boundary.py")
    overrides = [f"--config.{x}" for x in (*FAST, *(f"{key}={value}" for key, value in SMALL.items()))]
    arguments = ["--config", path, "--workdir", tmp_path / "run", "--data", f"davis={tmp_path / 'data'}"]
    assert train_program.main([*map(str, arguments), *overrides]) == 0
    (row,) = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    config = configs.load(path, overrides).train.loss
    assert row["boundary"] > 0.1
    own = sum(getattr(config, name) * row[name] for name in losses.TERMS if name in row)
    assert row["loss"] == pytest.approx(own + 0.5 * row["boundary"], rel=1e-5)
    flat = json.loads((tmp_path / "run" / "config.json").read_text())["config"]
    assert flat["train.loss.terms.boundary.weight"] == 0.5
    assert flat["train.loss.terms.boundary.function"].startswith("vos_jax_config_boundary:boundary@")


def test_the_baseline_of_the_loss_term_is_its_weight_0(tmp_path):
    key = "train.loss.terms.boundary.weight"
    assert f"--config.{key}=0" in PAGE.read_text()
    path = written(tmp_path, "boundary.py")
    pair = [configs.flatten(configs.load(path, more)) for more in ([], [f"{key}=0"])]
    assert {name for name in pair[0] if pair[0][name] != pair[1][name]} == {key}
    with pytest.raises(errors.VosError, match=f"no config key .*nearest: {key}"):
        configs.load(path, ["train.loss.terms.boundry.weight=0"])
    with pytest.raises(errors.VosError, match="takes a function, which only a config file can give"):
        configs.load(path, ["train.loss.terms.boundary.function=mine"])


# ---------------------------------------------------------------- which function made a result
def test_settings_tell_versions_of_a_function_apart(tmp_path):
    path = written(tmp_path, "mutual.py")

    def flat():
        return configs.flatten(configs.load(path))["model.alignment"]

    before = flat()
    assert flat() == before
    path.write_text(path.read_text().replace("1e-9", "1e-9").replace("1e-12", "1e-10"))
    assert flat() != before


def test_settings_name_what_a_partial_function_binds():
    text = (
        "import functools\nfrom vos_jax.models import alignment\nx = functools.partial(alignment.topk, k=1)"
    )
    plain = []
    for _ in range(2):
        names = {}
        exec(text, names)
        config = configs.replace(configs.default(), {"model.alignment": names["x"]})
        plain.append(configs.flatten(config)["model.alignment"])
    assert plain == ["vos_jax.models.alignment:topk(k=1)"] * 2
