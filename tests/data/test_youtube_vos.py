"""YouTube-VOS: late objects, required frames among all frames, and what is missing by name."""

import json
import shutil

import numpy as np
import pytest

from tests import layouts
from vos_jax import errors
from vos_jax.data import datasets

SPACED = ("00000", "00005", "00010", "00015", "00020", "00025")


def message_of(call):
    with pytest.raises(errors.VosError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def youtube_vos(root, **options) -> datasets.VideoDataset:
    return layouts.open_as("youtube_vos", root, **({"split": "valid", "year": 2019} | options))


def edit_meta(root, change):
    path = root / "valid" / "meta.json"
    meta = json.loads(path.read_text())
    change(meta["videos"])
    path.write_text(json.dumps(meta))


@pytest.mark.parametrize("below", ["", "valid"])
def test_objects_are_given_where_they_first_appear(tmp_path, below):
    source = youtube_vos(layouts.youtube_vos(tmp_path) / below, year=2018)
    assert (source.name, source.split, source.names) == ("ytvos2018", "valid", ("cow", "duck"))
    video = source["duck"]
    video.check()
    assert video.first_frames == {3: 0, 7: 2}, "ids are neither contiguous nor below their number"
    given = video.prompts()
    assert {i: set(np.unique(ids)) - {0} for i, ids in given.items()} == {0: {3}, 2: {7}}
    assert video.frame_names == video.required_names == SPACED
    assert source.seen == {("cow", 3): True, ("cow", 7): False, ("duck", 3): False, ("duck", 7): False}


def test_all_frames_are_seen_and_the_required_ones_written(tmp_path):
    root = layouts.youtube_vos(tmp_path)
    for folder in ("valid_all_frames", "valid_all_frames/JPEGImages"):
        video = youtube_vos(root, all_frames=str(root / folder))["cow"]
        video.check()
        assert len(video) == 26 and video.required_names == SPACED
        assert video.first_frames == {3: 0, 7: 10} and sorted(video.prompts()) == [0, 10]
        assert video.listed_of == {3: frozenset(range(0, 26, 5)), 7: frozenset(range(10, 26, 5))}


def test_masks_that_are_all_given_are_no_truth(tmp_path):
    """The second official mask holds the new object alone: by it the first one would count as lost."""
    video = youtube_vos(layouts.youtube_vos(tmp_path))["cow"]
    assert not any(map(video.scored_frames, (3, 7)))
    dense = youtube_vos(layouts.youtube_vos(tmp_path / "dense", truth=True))["cow"]
    assert [dense.scored_frames(o) for o in (3, 7)] == [(1, 2, 3, 4, 5), (3, 4, 5)]


def test_gaps_in_what_is_required(tmp_path):
    root = layouts.youtube_vos(tmp_path)
    edit_meta(
        root,
        lambda videos: videos.update(
            cow={"objects": {"3": {"frames": ["00000", "00020"]}, "7": {"frames": ["00010"]}}},
            duck={"objects": {"3": {}}},
        ),
    )
    source = youtube_vos(root, all_frames=str(root / "valid_all_frames"))
    assert source["cow"].required_names == ("00000", "00010", "00020")
    assert source["duck"].required_names == SPACED, "nothing required: what lies beside meta.json"
    assert source.seen is None, "categories are not told"


def test_truth_may_begin_with_an_empty_mask(tmp_path):
    root = layouts.youtube_vos(tmp_path, truth=True)
    layouts.write_masks(root / "valid/Annotations/cow", {"00000": np.zeros((50, 70), np.uint8)})
    video = youtube_vos(root)["cow"]
    video.check()
    assert video.first_frames == {3: 1, 7: 2} and sorted(video.prompts()) == [1, 2]


def test_categories_may_be_named(tmp_path):
    root = layouts.youtube_vos(tmp_path)
    shutil.rmtree(root / "train")
    assert youtube_vos(root).seen is None
    assert youtube_vos(root, seen=("duck",)).seen[("cow", 3)] is False


def test_what_is_missing_is_named(tmp_path):
    root = layouts.youtube_vos(tmp_path)
    source = youtube_vos
    assert "meta.json" in message_of(lambda: source(tmp_path / "none"))
    assert "valid_all" in message_of(lambda: source(root, all_frames=str(root / "valid_all")))
    assert "did you mean cow?" in message_of(lambda: source(root, sequences=("cw",)))
    (root / "valid/JPEGImages/cow/00020.png").unlink()
    message = message_of(lambda: source(root)["cow"])
    assert "cow/00020.jpg: missing" in message and "meta.json" in message
    shutil.rmtree(root / "valid_all_frames/JPEGImages/duck")
    message = message_of(lambda: source(root, all_frames=str(root / "valid_all_frames"))["duck"])
    assert "no such folder" in message
    edit_meta(root, lambda videos: videos.update({"../out": videos["cow"]}))
    assert "plain name" in message_of(lambda: source(root))
