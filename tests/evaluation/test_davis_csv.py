"""The official toolkit's files, to the letter."""

from vos_jax.evaluation import davis_csv


def test_files_are_the_official_toolkits(tmp_path):
    results = {
        "J": {"mean": 0.7, "recall": 0.8, "decay": 0.1},
        "F": {"mean": 0.8, "recall": 0.9, "decay": -0.00011},
        "objects": [
            {"sequence": "bike-packing", "object": 1, "J": 0.51249, "F": 1.0},
            {"sequence": "bike-packing", "object": 2, "J": 0.0, "F": 0.9996},
        ],
    }
    paths = davis_csv.write(tmp_path, "val", results)
    assert [path.name for path in paths] == ["global_results-val.csv", "per-sequence_results-val.csv"]
    assert paths[0].read_text() == (
        "J&F-Mean,J-Mean,J-Recall,J-Decay,F-Mean,F-Recall,F-Decay\n0.750,0.700,0.800,0.100,0.800,0.900,-0.000\n"
    )
    assert paths[1].read_text() == (
        "Sequence,J-Mean,F-Mean\nbike-packing_1,0.512,1.000\nbike-packing_2,0.000,1.000\n"
    )
    assert davis_csv.write(tmp_path / "none", "val", {"objects": []}) == []
