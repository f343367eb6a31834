"""Proposal files: what is written is read, what is read becomes arrays, and what is broken is named."""

import json

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from vos_jax import errors
from vos_jax.data import proposal_files
from vos_jax.tools import convert_proposals

SIZE = (24, 40)


def rectangle(y0, x0, y1, x1, size=SIZE):
    mask = np.zeros(size, bool)
    mask[y0:y1, x0:x1] = True
    return mask


MASKS = [rectangle(4, 8, 20, 24), rectangle(0, 30, 10, 40), rectangle(4, 8, 20, 23), rectangle(0, 0, 0, 0)]
SCORES = [0.6, 0.9, 0.5, 0.95]


@pytest.fixture
def video():
    records = tuple(proposal_files.encode_proposal(m, s) for m, s in zip(MASKS, SCORES, strict=True))
    return proposal_files.VideoProposals("bike", SIZE, {"00000": records, "00001": ()})


def arrays(video, frame="00000", **options):
    options = {"frame_size": SIZE, "padded_size": (32, 64), "capacity": 4} | options
    return proposal_files.arrays(video, frame, **options)


def test_written_is_read(video, tmp_path):
    proposal_files.write(tmp_path / "bike.json", video)
    again = proposal_files.read(tmp_path / "bike.json")
    assert (again.video, again.size, dict(again.frames)) == (video.video, video.size, video.frames)
    assert [path.name for path in tmp_path.iterdir()] == ["bike.json"]


def test_uncompressed_runs_are_read(tmp_path):
    # Column-major: 24 zeros, then 24 ones, then zeros: the second column.
    entry = {"score": 1, "segmentation": {"size": list(SIZE), "counts": [24, 24, 24 * 38]}}
    data = {"format": proposal_files.FORMAT, "video": "v", "size": list(SIZE), "frames": {"0": [entry]}}
    (tmp_path / "v.json").write_text(json.dumps(data))
    out = arrays(proposal_files.read(tmp_path / "v.json"), "0")
    assert out.boxes[0].tolist() == [0, 1, 24, 2]


def test_arrays_are_sorted_suppressed_and_padded(video):
    out = arrays(video)
    # The empty mask and the near-duplicate are gone; the best is first.
    assert out.valid.tolist() == [True, True, False, False]
    np.testing.assert_allclose(out.scores, [0.9, 0.6, 0, 0])
    np.testing.assert_allclose(out.boxes[:2], [[0, 30, 10, 40], [4, 8, 20, 24]])
    assert out.masks.shape == (4, 8, 16)
    expected = np.zeros((8, 16))
    expected[1:5, 2:6] = 1
    np.testing.assert_allclose(out.masks[1], expected)
    # 10 of 16 rows·columns: half cells are soft.
    assert out.masks[0, 2, 7] == 0.25 and out.masks[0].sum() * 16 == 100
    assert not out.boxes[2:].any() and not out.masks[2:].any()
    assert arrays(video, nms_threshold=1.0).valid.sum() == 3
    assert arrays(video, score_threshold=0.7).valid.sum() == 1
    assert arrays(video, capacity=1).valid.tolist() == [True]


def test_arrays_follow_the_frame_size(video):
    out = arrays(video, frame_size=(48, 80), padded_size=(64, 96))
    np.testing.assert_allclose(out.boxes[1], [8, 16, 40, 48])
    assert out.masks.shape == (4, 16, 24)
    assert out.masks[1].sum() * 16 == pytest.approx(4 * MASKS[0].sum(), rel=0.02)
    half = arrays(video, frame_size=(12, 20), padded_size=(32, 32))
    np.testing.assert_allclose(half.boxes[1], [2, 4, 10, 12])
    assert half.masks[1].sum() * 16 == pytest.approx(MASKS[0].sum() / 4)


def test_frames_without_proposals_are_empty(video):
    for frame in ("00001", "77777"):
        out = arrays(video, frame)
        assert not out.valid.any() and not out.masks.any()


@pytest.mark.parametrize(
    "counts", ["zzzzzzzz", "111111", "PPPPPPP", "", "é", "T6`0", [5], [-40, 1000], [960.0]]
)
def test_damaged_codes_are_named(counts, tmp_path):
    entry = {"score": 0.5, "segmentation": {"size": list(SIZE), "counts": counts}}
    data = {"format": proposal_files.FORMAT, "video": "v", "size": list(SIZE), "frames": {"7": [entry]}}
    (tmp_path / "v.json").write_text(json.dumps(data))
    with pytest.raises(errors.VosError, match="v.json: frame '7', proposal 0: damaged"):
        proposal_files.read(tmp_path / "v.json")


def test_no_sound_code_is_refused(tmp_path):
    rng = np.random.default_rng(0)
    masks = [rng.uniform(size=(70, 50)) < p for p in (0.0, 0.01, 0.5, 0.99, 1.0)]
    masks += [rectangle(3, 4, 60, 41, (70, 50)), rectangle(0, 0, 1, 1, (70, 50))]
    records = tuple(proposal_files.encode_proposal(mask, 0.5) for mask in masks)
    proposal_files.write(tmp_path / "v.json", proposal_files.VideoProposals("v", (70, 50), {"0": records}))
    assert proposal_files.read(tmp_path / "v.json").frames["0"] == records


@pytest.mark.parametrize(
    "change, message",
    [
        ({"format": "other"}, "expected proposals of format"),
        ({"size": [24]}, "'size' must be"),
        ({"frames": []}, "needs 'video'"),
        ({"frames": {"3": 1}}, "frame '3' must hold a list"),
        ({"frames": {"3": [{}]}}, "frame '3', proposal 0: 'score'"),
        ({"frames": {"3": [{"score": 2}]}}, "in \\[0, 1\\], not 2"),
        ({"frames": {"3": [{"score": True}]}}, "not True"),
        ({"frames": {"3": [{"score": 0.5}]}}, "'segmentation' must be"),
        ({"frames": {"3": [{"score": 0.5, "segmentation": {"size": [9, 9], "counts": ""}}]}}, "mask size"),
        (
            {"frames": {"3": [{"score": 0.5, "segmentation": {"size": [24, 40], "counts": 5}}]}},
            "'counts' must",
        ),
    ],
)
def test_malformed_files_are_named(change, message, tmp_path):
    path = tmp_path / "bad.json"
    data = {"format": proposal_files.FORMAT, "video": "v", "size": list(SIZE), "frames": {}} | change
    path.write_text(json.dumps(data))
    with pytest.raises(errors.VosError, match=f"bad.json: .*{message}"):
        proposal_files.read(path)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "3"])
def test_other_json_is_refused(content, tmp_path):
    (tmp_path / "bad.json").write_text(content)
    with pytest.raises(errors.VosError, match="bad.json"):
        proposal_files.read(tmp_path / "bad.json")
    with pytest.raises(errors.VosError, match="none.json: cannot be read"):
        proposal_files.read(tmp_path / "none.json")


def coco_results(images):
    def code(mask):
        encoded = coco_mask.encode(np.asfortranarray(mask, np.uint8))
        return {"size": list(mask.shape), "counts": encoded["counts"].decode()}

    return [
        {
            "image_id": image,
            "category_id": 1,
            "score": score,
            "bbox": [0, 0, 1, 1],
            "segmentation": code(mask),
        }
        for image, score, mask in zip(images, SCORES, MASKS, strict=True)
    ]


def test_coco_results_are_converted(tmp_path, capsys):
    results, images = tmp_path / "results.json", tmp_path / "images.json"
    results.write_text(json.dumps(coco_results([7, 7, 9, 11])))
    files = {7: "JPEGImages/480p/bike/00003.jpg", 9: "bike/00004.jpg", 11: "car/0.jpg"}
    images.write_text(json.dumps({"images": [{"id": i, "file_name": n} for i, n in files.items()]}))
    out = tmp_path / "out"
    assert convert_proposals.main([str(results), "--images", str(images), "--out", str(out)]) == 0
    assert "2 videos" in capsys.readouterr().out
    bike = proposal_files.read(out / "bike.json")
    assert list(bike.frames) == ["00003", "00004"] and len(bike.frames["00003"]) == 2
    np.testing.assert_allclose(arrays(bike, "00003").boxes[:2], [[0, 30, 10, 40], [4, 8, 20, 24]])
    assert proposal_files.read(out / "car.json").video == "car"


def test_image_ids_may_be_the_names(tmp_path):
    (tmp_path / "r.json").write_text(json.dumps(coco_results(["a/0", "a/1", "b/0.png", "b/1"])))
    paths = convert_proposals.convert(tmp_path / "r.json", tmp_path)
    assert [path.name for path in paths] == ["a.json", "b.json"]


@pytest.mark.parametrize(
    "images, message",
    [
        ([3, 3, 3, 3], "names no video"),
        (["a", "a/1", "a/1", "a/1"], "must end in video/frame"),
        (["../x/..", "a/1", "a/1", "a/1"], "frame '.' is not a plain name"),
        (["../0", "a/1", "a/1", "a/1"], "video '..' is not a plain name"),
    ],
)
def test_unusable_images_are_named(images, message, tmp_path):
    (tmp_path / "r.json").write_text(json.dumps(coco_results(images)))
    with pytest.raises(errors.VosError, match=message):
        convert_proposals.convert(tmp_path / "r.json", tmp_path / "out")


def test_unusable_results_are_one_line_and_exit_2(tmp_path, capsys):
    results = coco_results(["a/0"] * 4)
    results[2]["segmentation"] = [[0, 0, 5, 0, 5, 5]]
    (tmp_path / "r.json").write_text(json.dumps(results))
    assert convert_proposals.main([str(tmp_path / "r.json"), "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "entry 2" in error and "polygons" in error
