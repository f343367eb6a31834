"""Cases A01 to A12 and A34: users' files that eval.py and segment.py removed or replaced. All stay now."""

import json
import os
import pathlib
import shutil

import numpy as np
import pytest
from PIL import Image

import eval as eval_program
import segment as program
from tests import test_segment
from tests.cases.user_files import LENGTH, MINE, SIZE, check_refused, tree, write, write_frames
from tests.data import video_maker
from tests.eval import runs
from tests.eval.conftest import copy_model, davis, pristine  # noqa: F401 - fixtures
from tests.inference.coloured import make_model, make_video
from vos_jax import files, output_folder
from vos_jax.data import mask_files
from vos_jax.inference import engine as engine_lib
from vos_jax.models import weights


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a film, its first mask and a model that follows colours, as the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(weights, "load_model", lambda *_: (make_model(), {}, "colours"))
    monkeypatch.setattr(engine_lib, "Engine", lambda *_, **__: test_segment.ENGINE)
    frames, ids = make_video(SIZE, LENGTH)
    video_maker.write("film.mp4", frames)
    mask_files.write_mask("first.png", ids[0])
    return tmp_path


def segment(*arguments, video="film.mp4", mask="first.png", out="out", overlay=False):
    more = [] if overlay else ["--no-overlay"]
    return program.main([video, "--masks", mask, "--out", out, *more, *arguments])


# ---------------------------------------------------------------- segment.py
OWN = ("overlay.mp4", "cutout.webm", "masks.json", "cutout/poster.png", "notes.txt")


def test_a01_products_of_the_users_stay(here):
    for name in OWN:
        write(f"out/{name}")
    assert segment() == 0 and segment("--overwrite") == 0
    assert all(pathlib.Path("out", name).read_bytes() == MINE for name in OWN)
    assert len(list(pathlib.Path("out/masks").iterdir())) == LENGTH


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("overlay.mp4", ()),
        ("masks.json", ("--rle", "--no-overlay")),
        ("cutout.webm", ("--cutout", "webm", "--no-overlay")),
        ("cutout/000003.png", ("--cutout", "png", "--no-overlay")),
        ("run.json", ("--no-overlay",)),
        ("files.jsonl", ("--no-overlay",)),
    ],
)
def test_a01_a_product_of_the_users_that_is_in_the_way_is_refused_before_work(here, capsys, name, arguments):
    write(f"out/{name}")
    for more in ((), ("--overwrite",)):
        assert segment(*arguments, *more, overlay=True) == 2
        check_refused(capsys, name, "--out")
        assert pathlib.Path("out", name).read_bytes() == MINE and not os.path.exists("out/masks")


def test_a01_own_products_are_replaced_until_the_user_changes_one(here, capsys):
    assert segment("--rle", overlay=True) == 0
    assert segment("--rle", "--overwrite", overlay=True) == 0
    with open("out/masks.json", "ab") as file:
        file.write(b" ")
    changed = pathlib.Path("out/masks.json").read_bytes()
    assert segment("--rle", "--overwrite", overlay=True) == 2
    check_refused(capsys, "masks.json", "move it away")
    assert segment("--overwrite", overlay=True) == 0
    assert pathlib.Path("out/masks.json").read_bytes() == changed


@pytest.mark.parametrize("name", ["overlay.mp4", "cutout.webm", "000000.avi"])
def test_a02_an_out_that_holds_the_film_is_refused(here, capsys, name):
    os.mkdir("clip")
    shutil.move("film.mp4", f"clip/{name}")
    before = tree()
    for more in ((), ("--overwrite",)):
        assert segment(*more, video=f"clip/{name}", out="clip") == 2
        check_refused(capsys, "--out clip: holds the input", name)
    assert tree() == before


@pytest.mark.parametrize(
    ("frames", "suffix", "out", "said"),
    [
        ("clip/cutout", ".png", "clip", "holds"),  # A03
        ("clip/masks", ".jpg", "clip", "holds"),  # A04
        ("clip", ".png", "clip", "is"),
        ("clip", ".png", "clip/new/out", "lies in"),
        ("clip", ".png", "clip/../clip", "is"),
        ("clip", ".png", "linked", "is"),
        ("linked", ".png", "clip", "is"),
        ("linked", ".png", "clip/out", "lies in"),
    ],
)
def test_a03_a04_an_out_that_is_or_holds_or_lies_in_the_frames_is_refused(
    here, capsys, frames, suffix, out, said
):
    write_frames("clip" if frames == "linked" else frames, suffix)
    os.symlink("clip", "linked")
    before = tree()
    for more in ((), ("--overwrite",)):
        assert segment(*more, video=frames, out=out) == 2
        check_refused(capsys, f"--out {out}: {said} the input {frames}")
    assert tree() == before


def test_a05_masks_that_the_user_added_or_corrected_stay(here, capsys):
    """The corrected mask is kept in the run that makes a missing one anew; --overwrite refuses instead."""
    assert segment() == 0
    whole = tree("out/masks")
    for name in ("000003_better", "sheet", "000002"):
        shutil.copy("first.png", f"out/masks/{name}.png")
    with Image.open("first.png") as image:
        image.transpose(Image.Transpose.FLIP_TOP_BOTTOM).save("out/masks/000002.png")
    mine = {
        name: pathlib.Path("out/masks", name).read_bytes()
        for name in ("000002.png", "000003_better.png", "sheet.png")
    }
    os.remove("out/masks/000005.png")
    assert segment() == 0
    assert "000002.png is not as this program wrote it, and was kept" in capsys.readouterr().out
    assert tree("out/masks") == whole | mine
    assert segment("--overwrite") == 2
    check_refused(capsys, "out/masks/000002.png")
    assert tree("out/masks") == whole | mine


def test_a39_products_of_a_corrected_mask_are_made_anew(here):
    arguments = ("--cutout", "png", "--rle")
    assert segment(*arguments) == 0
    before = tree("out")
    ids = np.zeros(SIZE, np.uint8)
    ids[20:40, 30:60] = 3
    Image.fromarray(ids).save("out/masks/000003.png")
    assert segment(*arguments) == 0
    changed = {name for name, content in tree("out").items() if before[name] != content}
    assert changed == {"masks/000003.png", "cutout/000003.png", "masks.json", "files.jsonl"}


def test_a06_a_given_mask_in_out_is_refused_as_out(here, capsys):
    assert segment() == 0
    shutil.move("first.png", "out/masks/better.png")
    before = tree()
    for more in ((), ("--overwrite",)):
        assert segment(*more, mask="out/masks/better.png") == 2
        check_refused(capsys, "holds the input out/masks/better.png")
    assert tree() == before


def test_a17_somebodys_partial_files_stay_and_own_ones_go(here):
    others = (".interview.2024-11.part.mp4", ".000001.123-456.part.png", f".a.{'0' * 12}-7.part.png")
    for folder in ("out/raw", "out", "out/masks"):
        for name in others:
            write(f"{folder}/{name}")
    left = files.temporary_name(here / "out/masks/000001.png")
    write(left)
    assert segment() == 0
    found = sorted(str(path.relative_to("out")) for path in pathlib.Path("out").rglob(".*"))
    assert found == sorted([*others, *(f"{folder}/{name}" for folder in ("raw", "masks") for name in others)])


@pytest.mark.parametrize("arguments", [(), ("--cutout", "png"), ("--overwrite",)])
@pytest.mark.parametrize("link", ["cutout", "masks", ".states"])
def test_a18_nothing_is_removed_or_written_through_a_link(here, capsys, link, arguments):
    for name in ("birthday", "000000"):
        write(f"photos/{name}.png")
    os.mkdir("out")
    os.symlink("../photos", f"out/{link}")
    before = tree("photos")
    done = segment(*arguments)
    if done:
        check_refused(capsys, f"out/{link}")
    assert done == 2 or link != "masks" and not (link == "cutout" and "png" in arguments)
    assert tree("photos") == before and os.path.islink(f"out/{link}")


@pytest.mark.parametrize("name", ["run.json", "files.jsonl", "overlay.mp4", "masks/000002.png"])
def test_a18_a_link_in_the_place_of_a_result_stays_with_what_it_leads_to(here, capsys, name):
    write("elsewhere")
    os.makedirs("out/masks")
    os.symlink(os.path.relpath("elsewhere", os.path.dirname(f"out/{name}")), f"out/{name}")
    assert segment(overlay=True) == 2
    check_refused(capsys, name)
    assert os.path.islink(f"out/{name}") and pathlib.Path("elsewhere").read_bytes() == MINE


# ---------------------------------------------------------------- eval.py
@pytest.fixture
def lvos(tmp_path):
    """A folder of folders: SEQUENCE/*.jpg with SEQUENCE/masks/*.png."""
    frames, ids = make_video(SIZE, LENGTH)
    for index in range(LENGTH):
        os.makedirs(tmp_path / "set/ant/masks", exist_ok=True)
        Image.fromarray(frames[index]).save(tmp_path / f"set/ant/{index:05d}.jpg")
        mask_files.write_mask(tmp_path / f"set/ant/masks/{index:05d}.png", ids[index])
    return tmp_path / "set"


@pytest.mark.parametrize(
    ("out", "said"), [("set", "is"), ("set/ant/masks", "lies in"), ("set/results", "lies in"), (".", "holds")]
)
def test_a07_an_out_that_is_the_data_set_is_refused(lvos, copy_model, capsys, out, said):  # noqa: F811
    before = tree(lvos)
    for more in ((), ("--overwrite",)):
        assert runs.run(lvos, lvos.parent / out, *more, config="lvos") == 2
        check_refused(capsys, f"{said} the input")
    assert tree(lvos.parent) == {f"set/{name}": content for name, content in before.items()}


@pytest.mark.parametrize(
    "out", ["Annotations/480p", "JPEGImages/480p", "JPEGImages", "ImageSets/2017", "new/results"]
)
def test_a09_a10_an_out_in_davis_is_refused(davis, copy_model, capsys, out):  # noqa: F811
    before = tree(davis)
    for more in ((), ("--overwrite",)):
        assert runs.run(davis, davis / out, *more) == 2
        check_refused(capsys, "lies in the input")
    assert tree(davis) == before and not (davis / "new").exists()


def test_a10_an_out_where_links_of_the_data_set_lead_is_refused(davis, copy_model, tmp_path, capsys):  # noqa: F811
    shutil.move(davis / "JPEGImages/480p", tmp_path / "frames")
    (davis / "JPEGImages/480p").symlink_to(tmp_path / "frames")
    before = tree(tmp_path / "frames")
    for out in ("frames/ant", "frames/ant/out"):
        assert runs.run(davis, tmp_path / out) == 2
        check_refused(capsys, "the input")
    assert tree(tmp_path / "frames") == before


FOREIGN = (*runs.CSV, "submission.zip")


def test_a11_score_only_keeps_files_of_others(davis, tmp_path, capsys):  # noqa: F811
    theirs = shutil.copytree(davis / "Annotations/480p", tmp_path / "theirs")
    for name in FOREIGN:
        write(theirs / name)
    before = tree(theirs)
    arguments = ["--config", "davis17", "--data", str(davis), "--score-only", str(theirs), "--zip"]
    assert eval_program.main(arguments) == 0
    printed = capsys.readouterr().out
    assert all(f"{theirs / name} is kept as it is; --out DIR" in printed for name in FOREIGN)
    assert tree(theirs) == before
    assert eval_program.main([*arguments, "--out", str(tmp_path / "out")]) == 0
    assert tree(theirs) == before and (tmp_path / "out/submission.zip").exists()
    assert eval_program.main([*arguments, "--out", str(tmp_path / "out")]) == 0, "its own it replaces"
    assert eval_program.main([*arguments, "--out", str(theirs)]) == 2
    check_refused(capsys, "is the input")


def test_a11_score_only_writes_nothing_into_the_data_set(davis, copy_model, capsys):  # noqa: F811
    before = tree(davis)
    truth = davis / "Annotations/480p"
    assert eval_program.main(["--config", "davis17", "--data", str(davis), "--score-only", str(truth)]) == 2
    check_refused(capsys, "lies in the input", "--out")
    assert tree(davis) == before


@pytest.mark.parametrize(
    "name", ["results.json", *FOREIGN, "overlays/ant.png", "overlays/bee.mp4", "run.json", "files.jsonl"]
)
def test_a12_files_of_the_users_in_out_are_refused(davis, tmp_path, copy_model, capsys, name):  # noqa: F811
    write(tmp_path / "out" / name)
    for more in ((), ("--overwrite",)):
        assert runs.run(davis, tmp_path / "out", "--zip", "--overlay", *more) == 2
        check_refused(capsys, name)
    assert (tmp_path / "out" / name).read_bytes() == MINE and not (tmp_path / "out/ant").exists()


def test_a12_masks_of_another_program_are_refused_with_overwrite_too(davis, tmp_path, copy_model, capsys):  # noqa: F811
    out = shutil.copytree(davis / "Annotations/480p", tmp_path / "out")
    before = tree(out)
    for more in ((), ("--overwrite",)):
        assert runs.run(davis, out, *more) == 2
        check_refused(capsys, "did not write")
    assert tree(out) == before


def test_a12_a_second_run_with_the_same_files_replaces_its_own(davis, tmp_path, copy_model):  # noqa: F811
    out = tmp_path / "out"
    for more in ((), (), ("--overwrite",)):
        assert runs.run(davis, out, "--zip", "--overlay", *more) == 0
    listed = {json.loads(line).get("file") for line in (out / "files.jsonl").read_text().splitlines()}
    assert listed - {None} == set(tree(out)) - {"files.jsonl"}
    output = output_folder.OutputFolder(out)
    assert all(output.owns(out / name) for name in tree(out) if name != "files.jsonl")
    output.close()


def test_a12_copies_of_records_stay(davis, tmp_path, copy_model):  # noqa: F811
    """A copy of run.json called run.2.json was taken for another process's record, and removed."""
    out = tmp_path / "out"
    assert runs.run(davis, out) == 0
    names = ("run.2.json", "run.json.old", "files.2.jsonl", ".states/run-2.json", ".states/x.safetensors")
    for name in names:
        write(out / name)
    assert runs.run(davis, out, "--overwrite") == 0
    assert all((out / name).read_bytes() == MINE for name in names)


def test_a34_masks_of_a_corrected_first_mask_are_not_kept(davis, tmp_path, copy_model, capsys):  # noqa: F811
    out = tmp_path / "out"
    assert runs.run(davis, out, "--sequences", "ant") == 0
    path = davis / "Annotations/480p/ant/00000.png"
    mask_files.write_mask(path, np.roll(mask_files.read_mask(path), 3, axis=1))
    assert runs.run(davis, out, "--sequences", "ant") == 2
    check_refused(capsys, "made with other settings (prompts.0")
    assert runs.run(davis, out, "--sequences", "ant", "--overwrite") == 0
