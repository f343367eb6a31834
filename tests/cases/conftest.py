"""The fixture that several case files share."""

import numpy as np
import pytest

from tests import test_segment
from tests.cases import films
from tests.inference.coloured import make_model
from vos_jax.data import mask_files
from vos_jax.inference import engine as engine_lib
from vos_jax.models import weights


@pytest.fixture
def coloured_folder(tmp_path, monkeypatch):
    """The working directory, with a mask, and a model that follows colours."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(weights, "load_model", lambda *_: (make_model(), {}, "colours"))
    monkeypatch.setattr(engine_lib, "Engine", lambda *_, **__: test_segment.ENGINE)
    mask_files.write_mask("first.png", (films.first_mask() > 0).astype(np.uint8))
