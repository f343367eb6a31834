"""Item 7: options with hyphens and with underscores, in every program."""

import argparse

import pytest

import app
import eval as eval_program
import segment
import train as train_program
from vos_jax import option_parser
from vos_jax.tools import pack_data


@pytest.mark.parametrize("spelt", ["--max-size=480", "--max_size=480"])
def test_max_size_of_eval(spelt):
    options, _ = eval_program.parse(
        ["--config", "demo", spelt, "--save-probabilities", "--score-only", "x_y-z"]
    )
    assert options.max_size == 480 and options.save_probabilities and options.score_only == "x_y-z"


def test_other_programs():
    options, overrides = train_program.parse(
        ["--config", "train_davis", "--compile-only", "--num-processes", "2", "--config.train.log_every=3"]
    )
    assert options.compile_only and options.num_processes == 2 and overrides == ["--config.train.log_every=3"]
    options, _ = segment.parse(
        ["v.mp4", "--masks", "a_b-c.png", "--out", "o", "--resize_masks", "--no_overlay"]
    )
    assert options.resize_masks and not options.overlay and options.masks == ["a_b-c.png"]
    assert app.parse(["--max-mb", "7"])[0].max_mb == app.parse(["--max_mb", "7"])[0].max_mb == 7
    assert (
        pack_data.parse(["--root", "r", "--out", "o", "--short-side=9", "--jpeg-quality", "80"]).short_side
        == 9
    )


@pytest.mark.parametrize("spelt", ["--max-size", "--max_size"])
def test_every_program_that_segments_takes_max_size(spelt):
    assert eval_program.parse(["--config", "demo", spelt, "240"])[0].max_size == 240
    assert segment.parse(["v.mp4", "--masks", "m.png", "--out", "o", spelt, "240"])[0].max_size == 240
    assert app.parse([spelt, "240"])[0].max_size == 240


def test_values_and_what_follows_two_hyphens_stay_as_they_are(monkeypatch):
    parser = option_parser.OptionParser()
    parser.add_argument("--a_b")
    parser.add_argument("rest", nargs="*")
    assert parser.parse_args(["--a-b=--a-b", "--", "--a-b"]) == argparse.Namespace(
        a_b="--a-b", rest=["--a-b"]
    )
    monkeypatch.setattr("sys.argv", ["program", "--a-b", "c"])
    assert parser.parse_args().a_b == "c"


def test_an_unknown_option_is_still_one(capsys):
    assert eval_program.main(["--config", "demo", "--max-sice", "3"]) == 2
    assert "--max-sice" in capsys.readouterr().err
