"""Cases C05, C10, C13, C14 and C15: layouts, splits, empty masks, and which results are needed and scored."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

import eval as eval_program
from tests.cases.user_files import check_refused
from vos_jax import errors
from vos_jax.data import datasets, mask_files
from vos_jax.evaluation import scoring
from vos_jax.tools import check_data

SIZE = (48, 64)


def ids_at(t, side=20):
    ids = np.zeros(SIZE, np.uint8)
    ids[10 : 10 + side, 5 + 2 * t : 5 + side + 2 * t] = 1
    return ids


def write(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".png":
        mask_files.write_mask(path, array)
    else:
        Image.fromarray(array).save(path)


def write_set(root, names=("a",), frames=6, begin=0, resolution="", masks=None, numbered=0):
    for name in names:
        for t in range(frames):
            ids, stem = ids_at(t) * (t >= begin), f"{t + numbered:05d}"
            write(root / "JPEGImages" / resolution / name / f"{stem}.jpg", np.stack([ids * 200] * 3, -1))
            if masks is None or t in masks:
                write(root / "Annotations" / resolution / name / f"{stem}.png", ids)
    return root


def write_results(folder, name="a", frames=range(6)):
    for t in frames:
        write(folder / name / f"{t:05d}.png", ids_at(t))
    return folder


def opened(root, **options):
    return datasets.open_dataset(datasets.EvalDatasetConfig(kind="folders", root=str(root), **options))


def score(root, results, *more, config="lvos"):
    out = root.parent / "scores"
    arguments = ["--config", config, "--data", root, "--score-only", results, "--out", out, *more]
    code = eval_program.main([str(argument) for argument in arguments])
    return json.loads((out / "results.json").read_text()) if code == 0 else code


# ---------------------------------------------------------------- C05: frame ranges of LVOS
def write_lvos(root, ranges, frames=31):
    for t in range(frames):
        ids, name = np.zeros(SIZE, np.uint8), f"{t + 1:08d}"
        ids[28:40, 30:42] = 2
        if t < 16:
            ids[5:19, 5 + t : 19 + t] = 1
        write(root / f"set/JPEGImages/v/{name}.jpg", np.stack([ids * 90] * 3, -1))
        if t % 5 == 0:
            write(root / f"set/Annotations/v/{name}.png", ids)
        if t >= 16:
            ids[40:46, 2:8] = 1  # a false positive after its range
        write(root / f"results/v/{name}.png", ids)
    objects = {str(i): {"frame_range": found} for i, found in ranges.items()}
    (root / "set/meta.json").write_text(json.dumps({"videos": {"v": {"objects": objects}}}))
    return root / "set", root / "results"


RANGES = {
    1: {"start": "1", "end": "16", "frame_nums": "3"},
    2: {"start": "1", "end": "31", "frame_nums": "6"},
}


def test_c05_lvos_is_scored_by_its_frame_ranges(tmp_path):
    root, results = write_lvos(tmp_path, RANGES)
    (video,) = opened(root)
    assert [video.frame_names[i][-2:] for i in video.scored_frames(1)] == ["01", "06", "11"]
    assert [video.frame_names[i][-2:] for i in video.scored_frames(2)] == ["01", "06", "11", "16", "21", "26"]
    found = score(root, results)
    assert found["J"]["mean"] == found["F"]["mean"] == 1.0 and len(found["objects"]) == 2


@pytest.mark.parametrize(
    ("ranges", "scored"),
    [
        ({1: {"start": 6, "end": 12}}, {1: 2, 2: 0}),  # numbers for texts; object 2 is not in the list
        ({1: {"start": 1, "end": 2}, 2: {"start": 1, "end": 100000000}}, {1: 1, 2: 7}),
        ({1: {"start": 1, "end": 1}}, {1: 0, 2: 0}),
        ({1: None, 2: {"start": 1, "end": 31}}, {1: 0, 2: 6}),
        ({2: {"start": 2, "end": 31}}, {1: 0, 2: 0}),  # the toolkit counts from the start, in fives
        ({}, {1: 5, 2: 5}),  # no ranges: all annotated frames after the first but the last
    ],
)
def test_c05_other_ranges(tmp_path, ranges, scored):
    root, _ = write_lvos(tmp_path, ranges)
    (video,) = opened(root)
    assert {o: len(video.scored_frames(o)) for o in video.first_frames} == scored


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"videos": {"v": {"objects": {"1": {"frame_range": {"start": 1}}}}}}']
)
def test_c05_a_damaged_meta_json_is_one_line(tmp_path, capsys, text):
    root, results = write_lvos(tmp_path, RANGES)
    (root / "meta.json").write_text(text)
    assert score(root, results) == 2
    check_refused(capsys, "meta.json: cannot be read", "move it away")


def test_c05_the_meta_json_of_another_set_changes_nothing(tmp_path):
    root, _ = write_lvos(tmp_path, RANGES)
    objects = {"1": {"category": "cat", "frames": ["00000001"]}}
    (root / "meta.json").write_text(json.dumps({"videos": {"v": {"objects": objects}}}))
    (video,) = opened(root)
    assert len(video.scored_frames(1)) == 5


# ---------------------------------------------------------------- C10: empty masks before the object comes
@pytest.mark.parametrize("begin", [1, 2, 5])
def test_c10_an_object_that_comes_later_is_followed_from_there(tmp_path, begin):
    root = write_set(tmp_path / "set", names=("a",), begin=0)
    write_set(root, names=("b",), begin=begin)
    first, second = opened(root)
    for video in (first, second):
        video.check()
    assert first.first_frames == {1: 0} and second.first_frames == {1: begin}
    assert list(second.prompts()) == [begin]
    assert second.scored_frames(1) == tuple(range(begin + 1, 5))
    with_gaps = opened(write_set(tmp_path / "gaps", begin=begin, masks=range(begin, 6)))["a"]
    assert (
        with_gaps.scored_frames(1) == second.scored_frames(1)
        and with_gaps.first_frames == second.first_frames
    )


def test_c10_every_prompt_rule(tmp_path):
    root = write_set(tmp_path / "set", begin=2)
    for rule in ("auto", "first", "all"):
        assert opened(root, prompts=rule)["a"].first_frames == {1: 2}


def test_c10_a_sequence_without_any_object_is_one_line(tmp_path, capsys):
    root = write_set(tmp_path / "set", begin=9)
    assert eval_program.main(["--config", "lvos", "--data", str(root), "--checkpoint", "none"]) == 2
    check_refused(
        capsys, "00000.png: none of the 6 masks of sequence 'a' holds an object", "leave the sequence out"
    )
    with pytest.raises(errors.VosError, match="the first mask of sequence 'a' holds no object"):
        opened(write_set(tmp_path / "davis", begin=2), prompts="first_frame")["a"].check()


def test_c10_training_and_the_check_take_the_same_folder(tmp_path, capsys):
    root = write_set(tmp_path / "set", names=("a", "b"), begin=2)
    assert check_data.main([str(root)]) == 0 and "ready to train on" in capsys.readouterr().out
    assert len(datasets.open_training_videos(datasets.SourceConfig(root=str(root)))) == 2


# ---------------------------------------------------------------- C13: results that are never scored
@pytest.mark.parametrize("frames", [range(5), range(1, 6), range(1, 5)])
def test_c13_frames_that_are_not_scored_need_no_result(tmp_path, frames):
    assert (
        score(write_set(tmp_path / "set"), write_results(tmp_path / "results", frames=frames))["J"]["mean"]
        == 1.0
    )


def test_c13_only_annotated_frames_need_results(tmp_path):
    root = write_set(tmp_path / "set", masks=(0, 2, 4))
    assert score(root, write_results(tmp_path / "results", frames=(2, 4)))["J"]["mean"] == 1.0


def test_c13_a_scored_frame_is_missed(tmp_path, capsys):
    assert score(write_set(tmp_path / "set"), write_results(tmp_path / "results", frames=(1, 2, 4))) == 2
    check_refused(capsys, "00003.png: missing; 1 of the 4 scored frames of 'a' have no result")


def test_c13_what_is_not_scored_is_not_read(tmp_path):
    root, results = write_set(tmp_path / "set"), write_results(tmp_path / "results")
    (results / "a/00005.png").write_bytes(b"broken")
    write(results / "a/00000.png", np.full((9, 9), 7, np.uint8))
    assert score(root, results)["J"]["mean"] == 1.0
    (results / "a/00002.png").write_bytes(b"broken")
    assert score(root, results) == 2


def test_c13_a_sequence_without_results_is_missed_all_the_same(tmp_path, capsys):
    root = write_set(tmp_path / "set", names=("a", "b"))
    assert score(root, write_results(tmp_path / "results")) == 2
    check_refused(capsys, "no results for sequence 'b'")


def test_c13_masks_in_memory(tmp_path):
    (video,) = opened(write_set(tmp_path / "set"))
    (found,) = scoring.score_sequence(video, {f"{t:05d}": ids_at(t) for t in range(1, 5)})
    assert found.J.tolist() == [1.0] * 4


# ---------------------------------------------------------------- C14: lists of splits
@pytest.fixture
def vost(tmp_path):
    root = write_set(tmp_path / "set", names=("tr", "va"))
    for name in ("train", "val"):
        (root / "ImageSets").mkdir(exist_ok=True)
        (root / f"ImageSets/{name}.txt").write_text(f"{name[:2]}\n\n")
    return root


@pytest.mark.parametrize(
    ("split", "names"), [("val", ("va",)), ("train", ("tr",)), ("all", ("tr", "va")), ("", ("tr", "va"))]
)
def test_c14_a_split_is_the_list_of_its_name(vost, split, names):
    assert opened(vost, split=split).names == names


def test_c14_eval_scores_the_list(vost, tmp_path):
    results = write_results(tmp_path / "results", name="va")
    found = score(vost, results, "--config.data.split=val")
    assert [entry["sequence"] for entry in found["objects"]] == ["va"] and found["split"] == "val"


def test_c14_a_split_without_a_list_is_one_line(vost, tmp_path, capsys):
    assert score(vost, vost, "--config.data.split=vall") == 2
    check_refused(capsys, "vall.txt: no such split; there are train, val and all", "--config.data.split=val)")
    plain = write_set(tmp_path / "plain")
    assert score(plain, plain, "--config.data.split=anything") == 2
    check_refused(
        capsys, "has no split 'anything'", "ImageSets/anything.txt", "leave --config.data.split away"
    )
    assert opened(plain).names == ("a",)


def test_c14_lists_in_a_folder_of_a_year_and_with_a_byte_order_mark(vost):
    (vost / "ImageSets/2017").mkdir()
    (vost / "ImageSets/2017/test.txt").write_bytes(b"\xef\xbb\xbfva\r\ntr\r\n")
    assert opened(vost, split="test").names == ("va", "tr")


def test_c14_a_name_of_the_list_without_frames_and_an_empty_list(vost):
    (vost / "ImageSets/val.txt").write_text("va\nzebra\n")
    with pytest.raises(errors.VosError, match="sequence 'zebra' has no images"):
        list(opened(vost, split="val"))
    (vost / "ImageSets/val.txt").write_text("\n")
    with pytest.raises(errors.VosError, match="val.txt: lists no sequence"):
        opened(vost, split="val")


def test_c14_training_takes_the_list_too(vost):
    (video,) = datasets.open_training_videos(datasets.SourceConfig(root=str(vost)))
    assert video.name == "tr"


# ---------------------------------------------------------------- C15: DAVIS's folders without its lists
def write_plain(root):
    return write_set(root, names=("0", "1"), resolution="480p")


def write_listed(root):
    write_set(root, names=("0", "1"))
    (root / "ImageSets/2017").mkdir(parents=True)
    (root / "ImageSets/2017/train.txt").write_text("0\n1\n")
    return root


@pytest.mark.parametrize("make", [write_plain, write_listed])
@pytest.mark.parametrize("kind", ["auto", "folders"])
def test_c15_training_reads_folders_like_those_of_davis(tmp_path, capsys, make, kind):
    root = make(tmp_path / "set")
    videos = datasets.open_training_videos(datasets.SourceConfig(root=str(root), kind=kind))
    assert [video.name for video in videos] == ["0", "1"]
    assert check_data.main([str(root)]) == 0 and "ready" in capsys.readouterr().out


def test_c15_davis_itself_is_davis(tmp_path):
    root = write_plain(tmp_path / "set")
    (root / "ImageSets/2017").mkdir(parents=True)
    (root / "ImageSets/2017/train.txt").write_text("0\n")
    assert datasets.detect(root) == "davis"
    shutil.rmtree(root / "JPEGImages")
    assert datasets.detect(root) == "davis", "its error says what is missing"


def test_c15_hints_name_the_options_of_the_program(tmp_path, capsys):
    root = write_set(tmp_path / "set", names=("0",), resolution="1080p")
    with pytest.raises(errors.VosError, match="--config.train.data.sources.mine.resolution=1080p"):
        datasets.open_training_videos(datasets.SourceConfig(root=str(root), name="mine"))
    with pytest.raises(errors.VosError, match="--config.data.resolution=1080p"):
        opened(root)
    assert opened(root, resolution="1080p").names == ("0",), "as told"
    assert check_data.main([str(root)]) == 2
    check_refused(capsys, "--resolution=1080p")
    assert check_data.main([str(root), "--resolution=1080p"]) == 0, "as told"
    plain = write_plain(tmp_path / "plain")
    source = datasets.SourceConfig(root=str(plain), kind="davis", name="mine")
    with pytest.raises(errors.VosError, match="train.data.sources.mine.kind=folders") as found:
        datasets.open_training_videos(source)
    assert "\n" not in str(found.value) and "eval.py" not in str(found.value)
    assert datasets.open_training_videos(datasets.SourceConfig(root=str(plain), kind="folders", name="mine"))
