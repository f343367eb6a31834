"""segment.py by its contract, in-process, on small videos and a model that follows colours."""

import fractions
import json
import os
import re
import shutil

import av
import numpy as np
import pytest
from PIL import Image
from pycocotools import coco

import segment as program
from tests.data import video_maker
from tests.inference.coloured import iou, make_engine, make_model, make_video
from vos_jax.data import mask_files, media
from vos_jax.inference import engine as engine_lib
from vos_jax.inference import session as session_lib
from vos_jax.inference import state_files
from vos_jax.models import weights
from vos_jax.visualize import exports, video_writer

SIZE = (64, 96)
LENGTH = 8
TIMES = [0, 100, 150, 300, 400, 520, 700, 730]


@pytest.fixture(autouse=True)
def colours(monkeypatch):
    """The model, and one engine for all tests: what is compiled is shared."""
    monkeypatch.setattr(weights, "load_model", lambda *_: (make_model(), {}, "colours"))
    monkeypatch.setattr(engine_lib, "Engine", lambda *_, **__: ENGINE)


ENGINE, SMALL = make_engine(), make_engine(max_size=48)


@pytest.fixture(scope="module")
def clip():
    return make_video(SIZE, LENGTH)


@pytest.fixture
def here(tmp_path, monkeypatch, clip):
    """A folder with a video and its first masks, as the working directory."""
    monkeypatch.chdir(tmp_path)
    frames, ids = clip
    video_maker.write("v.mp4", frames, times=TIMES, sound="aac")
    mask_files.write_mask("first.png", np.where(ids[0] == 3, ids[0], 0).astype(np.uint8))
    mask_files.write_mask("second.png", np.where(ids[2] == 7, ids[2], 0).astype(np.uint8))
    return tmp_path


def run(*arguments, out="out"):
    return program.main([*map(str, arguments), "--out", str(out)])


BOTH = ("--masks", "first.png", "--masks", "2:second.png")


def written(out="out"):
    paths = sorted((program.pathlib.Path(out) / "masks").iterdir())
    return {path.stem: mask_files.read_mask(path) for path in paths}


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools
def test_a_video_gives_masks_overlay_cutout_and_coco(here, clip, capsys):
    frames, ids = clip
    assert run("v.mp4", *BOTH, "--cutout", "webm", "--rle") == 0
    found = written()
    assert list(found) == [f"{i:06d}" for i in range(LENGTH)]
    for t, mask in enumerate(found.values()):
        for i in (3, 7)[: 1 + (t >= 2)]:
            assert iou(mask == i, ids[t] == i) > 0.7, (t, i)
    with Image.open("out/masks/000003.png") as image:
        assert image.mode == "P" and image.getpalette()[9:12] == [128, 128, 0]

    # Its own times, though they are uneven, and its sound to the byte.
    wanted = [t / 1200 for t in TIMES]
    np.testing.assert_allclose([float(t) for t, _ in video_maker.packets("out/overlay.mp4", "video")], wanted)
    sounds = [video_maker.packets(path, "audio") for path in ("v.mp4", "out/overlay.mp4")]
    assert sounds[0] == sounds[1] and len(sounds[0]) > 5
    with av.open("out/overlay.mp4") as container:
        shown = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    changed = np.abs(shown[5].astype(int) - frames[5]).mean(axis=-1)
    assert changed[ids[5] == 3].mean() > 30 and changed[ids[5] == 0].mean() < 6, "objects are tinted"

    truth = coco.COCO("out/masks.json")
    for image in truth.dataset["images"]:
        back = np.zeros(SIZE, np.uint8)
        for annotation in truth.imgToAnns[image["id"]]:
            back[truth.annToMask(annotation) > 0] = annotation["category_id"]
        np.testing.assert_array_equal(back, found[image["file_name"]])
    assert [c["id"] for c in truth.dataset["categories"]] == [3, 7]
    assert [image["time"] for image in truth.dataset["images"]] == pytest.approx(wanted, abs=1e-6)

    # FFmpeg's own VP9 decoder drops alpha, libvpx's keeps it.
    with av.open("out/cutout.webm") as container:
        decoder = av.CodecContext.create("libvpx-vp9", "r")
        pictures = [f for p in container.demux(video=0) for f in decoder.decode(p)]
    assert len(pictures) == LENGTH and pictures[4].format.name == "yuva420p"
    alpha = pictures[4].to_ndarray(format="rgba")[..., 3]
    assert iou(alpha > 127, found["000004"] > 0) > 0.9
    printed = capsys.readouterr().out
    assert "96x64, 8 frames, 2 object(s)" in printed and "look at: out/overlay.mp4" in printed
    assert not [name for name in os.listdir("out") if name.startswith(".")]


def test_large_frames_are_segmented_smaller_and_a_line_says_so(here, clip, capsys, monkeypatch):
    monkeypatch.setattr(
        engine_lib, "Engine", lambda _, __, config, **___: {0: ENGINE, 48: SMALL}[config.max_size]
    )
    assert run("v.mp4", *BOTH, "--no-overlay", "--max-size", "48", out="small") == 0
    assert "segmented at 72x48, the masks at 96x64" in capsys.readouterr().out
    found, (_, ids) = written("small"), clip
    for t, mask in enumerate(found.values()):
        assert mask.shape == SIZE and iou(mask == 3, ids[t] == 3) > 0.5, t
    assert run("v.mp4", *BOTH, "--no-overlay", "--max-size", "0", out="own") == 0
    assert "segmented at" not in capsys.readouterr().out


def test_rotation_metadata_is_respected(here, clip):
    """A telephone held upright: stored lying, shown standing; masks are painted on what is shown."""
    frames, ids = clip
    stored = np.rot90(frames, 1, axes=(1, 2))
    video_maker.turn(video_maker.write(here / "lying.mp4", stored, aspect=fractions.Fraction(4, 3)))
    assert run("lying.mp4", "--masks", "first.png") == 0
    for t, mask in enumerate(written().values()):
        assert mask.shape == SIZE and iou(mask == 3, ids[t] == 3) > 0.7
    with av.open("out/overlay.mp4") as container:
        stream = container.streams.video[0]
        assert (stream.height, stream.width) == SIZE and next(container.decode(stream)).rotation == 0
        assert stream.sample_aspect_ratio == fractions.Fraction(3, 4), "pixels are turned, too"


@pytest.mark.parametrize(
    "name, codec, pixels, sound",
    [
        ("v.mov", "libx264", "yuv420p", "pcm_s16le"),
        ("v.webm", "libvpx-vp9", "yuv420p", "libopus"),
        ("v.avi", "mpeg4", "yuv420p", "mp3"),
        ("v.gif", "gif", "rgb8", None),
    ],
)
def test_containers(here, clip, name, codec, pixels, sound):
    frames, ids = clip
    video_maker.write(name, frames[:4], codec=codec, pixels=pixels, sound=sound, base=12, times=[0, 1, 2, 3])
    assert run(name, "--masks", "first.png") == 0
    found = written()
    assert len(found) == 4 and iou(found["000003"] == 3, ids[3] == 3) > 0.7
    with av.open("out/overlay.mp4") as container:
        assert len(list(container.decode(video=0))) == 4
        assert len(container.streams.audio) == bool(sound)
    if sound:
        with av.open("out/overlay.mp4") as container:
            assert sum(piece.samples for piece in container.decode(audio=0)) > 12_000
    times = [float(time) for time, _ in video_maker.packets("out/overlay.mp4", "video")]
    with media.open_media(name).open() as reader:
        shown = [float(item.time) for item in reader if isinstance(item, media.Frame)]
    assert times == pytest.approx(shown, abs=0.02)


def test_a_folder_of_images_keeps_their_names(here, clip):
    frames, ids = clip
    os.mkdir("shots")
    for t in (0, 1, 2, 10):
        Image.fromarray(frames[min(t, 3)]).save(f"shots/{t}.png")
    os.rename("first.png", "shots/first.png")  # a mask beside the frames is no frame
    assert run("shots", "--masks", "shots/first.png", "--fps", 10, "--cutout", "png", "--no-overlay") == 0
    assert set(written()) == {"0", "1", "2", "10"} and not os.path.exists("out/overlay.mp4")
    with Image.open("out/cutout/10.png") as image:
        rgba = np.asarray(image)
    np.testing.assert_array_equal(rgba[..., 3] > 0, written()["10"] > 0)
    np.testing.assert_array_equal(rgba[rgba[..., 3] > 0][:, :3], frames[3][rgba[..., 3] > 0])


def everything(out):
    root = program.pathlib.Path(out)
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def shown(path):
    with av.open(path) as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)]).astype(int)


@pytest.mark.parametrize("trouble", ["ctrl-c", "disk full"])
def test_an_interrupted_run_goes_on_to_the_identical_result(here, monkeypatch, capsys, trouble):
    assert run("v.mp4", *BOTH, "--rle", out="through") == 0
    monkeypatch.setattr(state_files, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(state_files, "SAVE_SHARE", 1e9)
    dispatch, write, steps = session_lib.Session.dispatch, mask_files.write_mask, []

    def dispatched(self, *args, **kwargs):
        if trouble == "ctrl-c" and len(steps) == 5:
            raise KeyboardInterrupt
        steps.append(self.index)
        return dispatch(self, *args, **kwargs)

    def full(path, ids):
        if trouble == "disk full" and "000005" in path.name:
            raise OSError(28, "No space left on device")
        write(path, ids)

    with monkeypatch.context() as broken:
        broken.setattr(session_lib.Session, "dispatch", dispatched)
        broken.setattr(mask_files, "write_mask", full)
        assert run("v.mp4", *BOTH, "--rle") == (130 if trouble == "ctrl-c" else 2)
        errors = capsys.readouterr().err.strip()
        if trouble == "disk full":
            assert "000005.png: cannot write: No space left" in errors and "\n" not in errors
        assert list(written()) == [f"{i:06d}" for i in range(5)] and not os.path.exists("out/overlay.mp4")
        steps.clear()
        broken.setattr(mask_files, "write_mask", write)
        trouble = None
        assert run("v.mp4", *BOTH, "--rle") == 0
    assert steps[0] == 5 and steps[-1] == LENGTH - 1, "went on where it was interrupted"
    assert "going on at frame 5" in capsys.readouterr().out
    shutil.rmtree("out/.states")  # they stay for corrections
    resumed, through = everything("out"), everything("through")
    # On a busy machine the film is a byte longer once in a while; why is not known yet.
    films = [shown(f"{out}/overlay.mp4") for out in ("out", "through")]
    assert resumed.pop("overlay.mp4") and through.pop("overlay.mp4") and films[0].shape == films[1].shape
    assert np.abs(films[0] - films[1]).mean() < 0.5
    for found in (resumed, through):
        found["run.json"] = re.sub(rb'"seconds": {[^}]*}', b"", found["run.json"])
        found["files.jsonl"] = re.findall(rb'"file": "[^."][^"]*"', found["files.jsonl"])
    assert resumed == through


def test_a_finished_run_is_not_done_again_and_another_one_is_not_mixed_in(here, monkeypatch, capsys):
    assert run("v.mp4", "--masks", "first.png", "--no-overlay") == 0
    before = everything("out")
    with monkeypatch.context() as broken:
        broken.setattr(session_lib.Session, "dispatch", lambda *_: pytest.fail("segmented again"))
        assert run("v.mp4", "--masks", "first.png") == 0
    assert set(everything("out")) == {*before, "overlay.mp4"}
    assert run("v.mp4", *BOTH, "--config.model.memory.every=3") == 2
    assert "made with other settings (masks.2" in capsys.readouterr().err
    assert run("v.mp4", *BOTH, "--overwrite") == 0
    assert 7 in np.unique(written()["000004"])
    os.mkdir("mine")
    os.mkdir("mine/masks")
    mask_files.write_mask("mine/masks/painted.png", np.ones(SIZE, np.uint8))
    assert run("v.mp4", *BOTH, "--overwrite", out="mine") == 2
    assert "this program did not write" in capsys.readouterr().err and os.listdir("mine/masks") == [
        "painted.png"
    ]


def test_a_disk_full_while_drawing_keeps_the_masks(here, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device")

    for target, name in ((video_writer.VideoWriter, "write"), (exports.RunLengths, "_finish")):
        with monkeypatch.context() as broken:
            broken.setattr(target, name, full)
            assert run("v.mp4", *BOTH, "--rle") == 2
        error = capsys.readouterr().err.strip()
        assert "cannot write: No space left on device; the masks are kept" in error and "\n" not in error
        there = {"overlay.mp4", "masks.json"} & set(os.listdir("out"))
        assert len(written()) == LENGTH and len(there) == 1 and there.pop() not in error
        assert not [n for n in os.listdir("out") if ".part" in n]
        for name in ("overlay.mp4", "masks.json"):
            program.pathlib.Path("out", name).unlink(missing_ok=True)
    with monkeypatch.context() as broken:
        broken.setattr(session_lib.Session, "dispatch", lambda *_: pytest.fail("segmented again"))
        assert run("v.mp4", *BOTH, "--rle") == 0
    json.loads(program.pathlib.Path("out/masks.json").read_text())


def test_wrong_input_is_one_clear_line_before_work_starts(here, clip, capsys, monkeypatch):
    frames, ids = clip
    program.pathlib.Path("text.mp4").write_text("this is no video")
    program.pathlib.Path("empty.mp4").write_bytes(b"")
    whole = program.pathlib.Path("v.mp4").read_bytes()
    program.pathlib.Path("half.mp4").write_bytes(whole[: len(whole) // 2])
    os.mkdir("nothing")
    with av.open("sound.m4a", "w", format="mp4") as container:
        sound = container.add_stream("aac", rate=44100, layout="mono")
        tone = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.int16), format="s16", layout="mono")
        tone.sample_rate = 44100
        container.mux(sound.encode(tone))
        container.mux(sound.encode())
    with av.open("zero.avi", "w") as container:
        container.add_stream("mpeg4", rate=12).pix_fmt = "yuv420p"
        container.start_encoding()
    mask_files.write_mask("small.png", np.eye(32, 48, dtype=np.uint8))
    mask_files.write_mask("turned.png", np.eye(96, 64, dtype=np.uint8))
    mask_files.write_mask("black.png", np.zeros(SIZE, np.uint8))
    Image.fromarray(np.uint8(255 * (ids[0] > 0))).save("white.png")
    Image.fromarray(np.full((*SIZE, 3), 77, np.uint8)).save("colour.png")
    Image.fromarray(frames[0]).save("photo.jpg")
    first = ("--masks", "first.png")
    cases = [
        (("none.mp4", *first), "none.mp4: no such file"),
        (("text.mp4", *first), "text.mp4: cannot be opened as a video .not a video"),
        (("empty.mp4", *first), "empty.mp4: cannot be opened as a video"),
        (("half.mp4", *first), "half.mp4: "),
        (("zero.avi", *first), "zero.avi: "),
        (("sound.m4a", *first), "sound.m4a: holds no video, only audio"),
        (("nothing", *first), "nothing: holds no images"),
        (("v.mp4",), "--masks"),
        (("v.mp4", "--masks", "no.png"), "--masks no.png: no such file: no.png"),
        (("v.mp4", "--masks", "photo.jpg"), "photo.jpg: not a PNG"),
        (("v.mp4", "--masks", "colour.png"), r"colour.png: grey mask with the values 77"),
        (("v.mp4", "--masks", "black.png"), "--masks 0:black.png: holds no object"),
        (("v.mp4", "--masks", "small.png"), "the mask is 48x32, the video 96x64 .* --resize-masks fits it"),
        (("v.mp4", "--masks", "turned.png", "--resize-masks"), "the shape differs"),
        (("v.mp4", *first, "--masks", "0:first.png"), "object 3 of frame 0 is in first.png, too.*@1"),
        (
            ("v.mp4", *BOTH, "--masks", "4:white.png"),
            "which of the objects 3, 7 does it correct.*white.png@8",
        ),
        (("v.mp4", "--masks", "white.png@300"), "ids are 1 to 254"),
        (("v.mp4", *first, "--fps", "0"), "--fps 0.0"),
        (("v.mp4", *first, "--config.memory.evry=3"), "no config key"),
        (("v.mp4", *first, "--masks", "99:second.png"), "there is no frame 99, the video has 8: 0 to 7"),
    ]
    for arguments, match in cases:
        assert run(*arguments) == 2, arguments
        error = capsys.readouterr().err.strip()
        assert "\n" not in error and re.search(match, error), (arguments, error)
        assert not os.path.exists("out"), arguments
    monkeypatch.setattr(video_writer, "_CODECS", {".mp4": ("libnothing", "yuv420p", {})})
    assert run("v.mp4", *first) == 2
    assert "no encoder libnothing" in capsys.readouterr().err and not os.path.exists("out")
    assert run("v.mp4", *first, "--no-overlay", "--masks", "8:second.png") == 2
    assert "there is no frame 8, the video has 8" in capsys.readouterr().err and not os.path.exists("out")


def test_a_mask_behind_the_end_of_a_very_short_video_is_refused(here, clip, capsys):
    # Matroska counts no frames, and 10 ms at 12 frames per second are less than half of one.
    video_maker.write("flash.mkv", clip[0][:1], codec="mpeg4", lasts=12)
    assert media.open_media("flash.mkv").num_frames == 1
    assert run("flash.mkv", "--masks", "first.png", "--masks", "99:second.png") == 2
    assert "there is no frame 99, the video has 1: 0 to 0" in capsys.readouterr().err


def test_masks_are_fitted_shared_and_renamed_when_asked(here, clip):
    frames, ids = clip
    small = np.kron(ids[0], np.ones((2, 2), np.uint8))
    mask_files.write_mask("large.png", small)
    Image.fromarray(np.uint8(255 * (ids[2] == 7))).save("white.png")
    arguments = ("--masks", "large.png", "--masks", "2:white.png@9", "--resize-masks", "--no-overlay")
    assert run("v.mp4", *arguments) == 0
    found = written()
    np.testing.assert_array_equal(found["000000"], ids[0])
    assert iou(found["000004"] == 9, ids[4] == 7) > 0.7


def test_an_object_that_is_lost_is_named(here, capsys):
    """Found by a new user: the masks were empty from some frame on, and nothing said so."""
    assert run("v.mp4", *BOTH, "--no-overlay") == 0
    assert "last seen" not in capsys.readouterr().out
    for index in range(5, LENGTH):
        path = program.pathlib.Path(f"out/masks/{index:06d}.png")
        ids = mask_files.read_mask(path)
        mask_files.write_mask(path, np.where(ids == 7, 0, ids).astype(np.uint8))
    assert run("v.mp4", *BOTH, "--no-overlay") == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "object 7 was last seen in frame 4;" in out and "FRAME:FILE.png@7" in out and "object 3" not in out
