"""The results folder: its videos and their settings."""

import hashlib
import json
import os
import pathlib
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vos_jax import files, output_folder
from vos_jax.data import prompts as prompts_lib
from vos_jax.data import video as video_lib
from vos_jax.errors import VosError
from vos_jax.inference import mask_writer, video_results

NAME = "run.json"

PROMPTS = "masks"
"""The setting that holds the prompts of correctable results (`prompt_settings`); segment.py's."""

MAX_FRAMES = 10**6
"""Frames of longer videos are not corrected but segmented anew: a damaged record may name any frame."""

Entries = dict[str, dict[str, Any]]


class ResultStore:
    """OUT/run.json, OUT/VIDEO/FRAME.png, and the states of videos in OUT/.states; a context.

    run.json is `{"videos": {NAME: {"settings": KEY, "summary": {...} or null}}, "settings": {KEY: {...}}}`;
    a video without a summary is not finished. Several threads may use one store.

    Args:
      folder: OUT; it is created.
      settings: everything that decides what the masks of all videos look like, JSON-able (`run_settings`).
      overwrite: segment every video anew. Even so, only files that this program wrote are replaced.
      inputs: files and folders that are read; OUT may not be, hold or lie in one.
      process: the number of this process of the run. Process 0 merges what others noted and writes run.json.

    Raises:
      VosError: as `output_folder.OutputFolder`; run.json is not a record of this program.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        settings: Mapping[str, Any],
        *,
        overwrite: bool = False,
        inputs: Iterable[str | os.PathLike] = (),
        process: int = 0,
    ):
        self.output = output_folder.OutputFolder(folder, inputs=inputs, process=process)
        self.folder, self.overwrite = self.output.path, overwrite
        self._settings, self._process = dict(settings), process
        self._mutex = threading.Lock()
        try:
            self._entries, self._known = _read(self.folder / NAME)
            self._own: set[str] = set()
            if process == 0:
                self.merge_processes()
            self._writer = mask_writer.MaskWriter(self.folder)
        except BaseException:
            self.output.close()
            raise

    def __enter__(self) -> "ResultStore":
        return self

    def __exit__(self, kind: type | None, *_) -> None:
        try:
            self._writer.close()
        except VosError:
            # An error that is already on its way says more than what followed from it.
            if kind is None:
                raise
        finally:
            self.output.close()

    def merge_processes(self) -> None:
        """Merges the records of other processes, which must have ended, and removes them.

        Raises:
          VosError: a record is broken or cannot be written.
        """
        try:
            self.output.merge_processes()
            parts = [path for path in self.output.recorded(output_folder.STATES) if _is_part(path)]
            for path in parts:
                entries, known = _read(path)
                self._entries |= entries
                self._known |= known
            if parts:
                self._write()
            for path in parts:
                self.output.remove(path)
        except OSError as error:
            raise VosError(f"{self.folder}: cannot write: {error.strerror or error}") from error

    def compact(self) -> None:
        """Rewrites the record of files with those that are still there; the last thing that a run does."""
        self.output.compact()

    def unfinished(self, names: Sequence[str]) -> list[str]:
        """Returns the names of videos that no process has finished."""
        return [name for name in names if self._entries.get(name, {}).get("summary") is None]

    def video(
        self,
        source: video_lib.FrameSource,
        *,
        name: str = "",
        settings: Mapping[str, Any] | None = None,
        correctable: bool = False,
        soft: bool = False,
        intermediates: Sequence[str] = (),
        exports: Sequence[str] = (),
    ) -> video_results.VideoResults:
        """Returns the results of one video.

        Args:
          source: the video; its frames are not read.
          name: of the folder of its masks; default: the video's.
          settings: what decides the look of this video's masks alone, JSON-able.
          correctable: go on before the first prompt that changed (`PROMPTS` of the settings), where nothing
            else has; for that, states stay when the video is finished.
          soft: whether probabilities are written, too.
          intermediates: names of the intermediates whose masks are written, too.
          exports: files and folders below OUT that are made of the masks; they go when masks are made anew.

        Raises:
          VosError: its masks were made with other settings and are not to be overwritten, or the folder holds
            masks of another program.
        """
        name = name or source.name
        whole = json.loads(json.dumps({**self._settings, **(settings or {})}))
        key = hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:16]
        folder = self.folder / files.safe_name(name)
        entry = self._entries.get(name)
        masks_there = [path for path in files.list_files(folder) if path.suffix == ".png"]
        if entry is None and (foreign := [path for path in masks_there if not self.output.owns(path)]):
            raise VosError(
                f"{foreign[0]}: {folder} holds masks that this program did not write; score them with "
                "--score-only, or choose another --out"
            )
        if entry is None or self.overwrite:
            agreed = 0
        elif entry["settings"] == key:
            agreed = video_results.ALL_FRAMES
        else:
            before = self._known.get(entry["settings"], {})
            agreed = agreed_frames(before, whole) if correctable else 0
            if not agreed:
                changed = difference(before, whole)
                raise VosError(
                    f"{folder} was made with other settings ({changed}); choose another --out, or "
                    "--overwrite to replace it"
                )
        summary = None
        if entry is not None and agreed == video_results.ALL_FRAMES and entry["summary"] is not None:
            summary = video_results.VideoSummary.of_json(entry["summary"])
        return video_results.VideoResults(
            self.output,
            self._writer,
            lambda found: self._note(name, key, whole, found),
            name=name,
            source=source,
            correctable=correctable,
            soft=soft,
            intermediates=tuple(intermediates),
            exports=tuple(exports),
            agreed=agreed,
            summary=summary,
        )

    def summary(self, name: str) -> video_results.VideoSummary:
        """Returns the summary of a finished video, of this run or an earlier one."""
        return video_results.VideoSummary.of_json(self._entries[name]["summary"])

    def _note(self, name: str, key: str, settings: Any, summary: video_results.VideoSummary | None) -> None:
        """Notes that a video is begun (`summary` None) or finished."""
        with self._mutex:
            self._entries[name] = {"settings": key, "summary": None if summary is None else summary.to_json()}
            self._known[key] = settings
            self._own.add(name)
            self._write()

    def _write(self) -> None:
        entries, name = self._entries, NAME
        if self._process:
            entries = {video: entries[video] for video in sorted(self._own)}
            name = f"{output_folder.STATES}/run-{self._process}.json"
        used = {entry["settings"] for entry in entries.values()}
        known = {key: settings for key, settings in self._known.items() if key in used}
        files.write_json(self.folder / name, {"videos": entries, "settings": known})


def run_settings(
    flat: Mapping[str, Any], sections: Sequence[str] = ("model.", "inference."), **more: Any
) -> dict[str, Any]:
    """Returns the settings that decide what masks look like.

    Args:
      flat: all settings by dotted key.
      sections: prefixes of those that count. Folders do not: they say where things lie.
      more: what decides besides, such as the weights and the version.
    """
    places = ("data.root", "data.sequences", "data.seen", "data.all_frames", "model.proposals.folder")
    return {
        key: value for key, value in flat.items() if key.startswith(tuple(sections)) and key not in places
    } | more


def prompt_settings(prompts: prompts_lib.Prompts) -> dict[str, str]:
    """Returns the checksum of the prompts by frame: they decide what a video's masks look like."""

    def checksum(prompt: prompts_lib.Prompt) -> str:
        said = b"" if prompt.ids is None else prompt.ids.tobytes()
        said += b"".join(b" absent %d" % object_id for object_id in sorted(prompt.absent))
        return hashlib.sha256(said).hexdigest()[:16]

    return {str(index): checksum(prompt) for index, prompt in prompts_lib.as_prompts(prompts).items()}


def _is_part(path: pathlib.Path) -> bool:
    return path.name.startswith("run-") and path.suffix == ".json" and path.exists()


def _read(path: pathlib.Path) -> tuple[Entries, dict[str, Any]]:
    """Returns the videos and settings of a run.json, none where there is no such file."""
    if not os.path.lexists(path):
        return {}, {}
    try:
        if path.is_symlink():
            raise ValueError("it is a link")
        content = files.read_json(path)
        entries, known = dict(content["videos"]), dict(content["settings"])
        for entry in entries.values():
            if not isinstance(known[entry["settings"]], dict):
                raise TypeError("settings are no mapping")
            if entry["summary"] is not None:
                video_results.VideoSummary.of_json(entry["summary"])
        return entries, known
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise VosError(f"{path} is not a record of this program ({error}); choose another --out") from error


def agreed_frames(before: Mapping[str, Any], now: Mapping[str, Any]) -> int:
    """Returns how many frames come before the first prompt that differs.

    0 where the first prompt of all differs, because no mask would stay, or any other setting does.
    """
    if {**before, PROMPTS: None} != {**now, PROMPTS: None}:
        return 0
    try:
        known, given = ({int(index): value for index, value in of[PROMPTS].items()} for of in (before, now))
    except (KeyError, ValueError, AttributeError):
        return 0  # settings of another version, or without prompts
    both = {**known, **given}
    changed = min((index for index in both if known.get(index) != given.get(index)), default=0)
    return changed if min(both, default=0) < changed < MAX_FRAMES else 0


def difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Returns the first keys in which settings differ, as `model.memory.every: 5, now 3`; "" if in none.

    Checksums are not shown: `video.sha256 has changed`.
    """
    before, now = _flat(before), _flat(now)
    names = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    shown = [
        f"{name} has changed"
        if _is_checksum(before.get(name)) and _is_checksum(now.get(name))
        else f"{name}: {before.get(name)}, now {now.get(name)}"
        for name in names[:3]
    ]
    return "; ".join([*shown, *(["..."] if len(names) > 3 else [])])


def _is_checksum(value: Any) -> bool:
    return isinstance(value, str) and len(value) >= 16 and not set(value) - set("0123456789abcdef")


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat
