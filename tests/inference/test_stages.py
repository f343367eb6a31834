"""Masks of the stages before the final one can be written, too."""

import numpy as np
import pytest

import eval as program
from tests import layouts, tiny
from tests.inference import coloured
from vos_jax import errors
from vos_jax.data import mask_files
from vos_jax.data.datasets import rendered
from vos_jax.inference import mask_writer, result_store, segment_video
from vos_jax.models import vos


def test_without_refinement_the_coarse_masks_are_the_final_ones(tmp_path):
    root = rendered.write_davis(tmp_path / "DAVIS", sequences=("ant",), frames=4, size=(50, 70))
    video = layouts.open_as("davis", root)["ant"]
    changes = {"refine": False, "proposals": tiny.NO_NETWORK}
    model = tiny.model(**changes)
    engine = coloured.make_engine(model, tiny.params(**changes), intermediates=vos.INTERMEDIATES)
    with result_store.ResultStore(tmp_path / "out", {}) as store:
        results = store.video(video, intermediates=vos.INTERMEDIATES)
        for _ in segment_video.segment_video(engine, video, video.prompts(), results):
            pass
    for name in video.frame_names:
        final, coarse, propagated = (
            mask_files.read_mask(mask_writer.mask_path(tmp_path / "out" / folder, "ant", name))
            for folder in ("", "intermediates/coarse", "intermediates/propagated")
        )
        np.testing.assert_array_equal(final, coarse)
        assert propagated.shape == final.shape
    np.testing.assert_array_equal(
        video.mask(0), mask_files.read_mask(tmp_path / "out/intermediates/coarse/ant/00000.png")
    )


def test_unknown_stages_and_models_without_stages_are_refused(capsys):
    with pytest.raises(errors.VosError, match="no intermediate 'fine' to show; there are: coarse, prop"):
        coloured.make_engine(tiny.model(), intermediates=("fine",))
    assert (
        program.main(["--config", "demo", "--checkpoint", "none", "--config.eval.intermediates=coarse"]) == 2
    )
    assert "eval.intermediates needs trained weights" in capsys.readouterr().err
