"""The soak run sees what grows, and does what a user does."""

import pytest

from benchmarks import soak
from tests.inference import coloured

FLAT = {"frames": 0, "ms": 5.0, "resident MB": 500.0, "objects": 1000}
FLAT |= {"threads": 3, "files": 9, "compiled": 1}


def test_what_grows_is_seen():
    rows = [FLAT | {"resident MB": 400.0}] + [FLAT] * 3
    assert soak.grown(rows) == []
    assert soak.grown([*rows[:-1], FLAT | {"resident MB": 511.0}]) == ["resident MB by 2.2 %"]
    assert soak.grown([*rows[:-1], FLAT | {"threads": 4, "compiled": 2}]) == ["threads", "compiled"]


@pytest.mark.slow
def test_a_short_soak_does_everything_and_compiles_once(capsys):
    """Objects come and go within one room for three objects, saving and loading included."""
    engine = coloured.make_engine(coloured.make_model(6), editable=True, object_buckets=(3,))
    rows = soak.soak(engine, 60, (64, 96))
    assert [row["frames"] for row in rows] == [60] and rows[0]["compiled"] == 1
    assert "| 60 |" in capsys.readouterr().out
