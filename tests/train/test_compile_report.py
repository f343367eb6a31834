"""Compiling for TPUs that are not here: shapes, the reading of a program's text, and clear errors."""

import importlib.util
import os
import pathlib
import subprocess
import sys

import pytest

from tests.data import tiny_training
from vos_jax import config as configs
from vos_jax import errors
from vos_jax.data import pipeline
from vos_jax.train import compile_report, setup

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONFIG = str(ROOT / "tests" / "train" / "tiny_train.py")

PROGRAM = """
  %x = f32[8,4]{1,0:T(8,128)} all-reduce(f32[8,4]{1,0} %p), replica_groups={{0,1}}
  %y = (bf16[2,3]{1,0}, s32[]) all-reduce-start(bf16[2,3]{1,0} %p, s32[] %q), channel_id=1
  %z = (bf16[2,3]{1,0}, s32[]) all-reduce-done(%y)
  ROOT %g = pred[5]{0} all-gather(pred[1]{0} %r), dimensions={0}
  %f = f32[8]{0} fusion(f32[8]{0} %x), calls=%all-reduce.clone
"""


def test_messages_are_counted_with_their_bytes():
    assert compile_report.count_collectives(PROGRAM) == {
        "all-gather": compile_report.Collective(count=1, bytes=5),
        "all-reduce": compile_report.Collective(count=2, bytes=8 * 4 * 4 + 2 * 3 * 2 + 4),
    }


def test_batch_shapes_are_those_of_the_pipeline(tmp_path):
    train = configs.load(CONFIG, ["train.data.sources.davis.exclude="]).train
    root = tiny_training.write_davis(tmp_path, sequences=1, frames=4, size=(64, 80))
    train = setup.apply_data(train, [str(root)])
    data = pipeline.make_pipeline(train.data, dataset_names=("default", "davis"))
    batch = next(data)
    data.close()
    shapes = compile_report.batch_shapes(train.data)
    assert {name: (x.shape, x.dtype) for name, x in batch.items()} == {
        name: (x.shape, x.dtype) for name, x in shapes.items()
    }


def test_without_the_compiler_or_with_a_wrong_name_the_error_is_clear():
    config = configs.load(CONFIG)
    with pytest.raises(errors.VosError, match=r"no TPU topology 'v99:7x7' .*pip install 'jax\[tpu\]'"):
        compile_report.compile_step(config.model, config.train, "v99:7x7")


@pytest.mark.slow
def test_the_step_compiles_for_eight_chips():
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("needs the TPU compiler: pip install 'jax[tpu]'")
    command = [
        sys.executable,
        ROOT / "train.py",
        "--config",
        CONFIG,
        "--compile-only",
        "--topology",
        "v5e:2x4",
    ]
    done = subprocess.run(
        [*map(str, command), "--config.train.data.batch=8"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=True,
        capture_output=True,
        text=True,
    )
    assert "8 x TPU v5 lite, 1 clips each" in done.stdout and "all-reduce" in done.stdout
