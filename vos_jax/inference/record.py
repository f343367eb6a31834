"""How the masks in a results folder were made, so that an interrupted run goes on and none are mixed."""

import hashlib
import json
import pathlib
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from vos_jax import files
from vos_jax.data import video as video_lib
from vos_jax.errors import VosError
from vos_jax.inference import writer

NAME = "run.json"

# What processes beside the first one note, until that one puts it together.
PARTS = "run.*.json"


class Record:
    """OUT/run.json: per sequence, the settings it was made with and the seconds it took.

    The masks themselves say whether a sequence is complete (`writer.finished`); this says whether it is ours.

    Args:
        folder: the results folder; it exists.
        settings: everything that decides what the masks look like, JSON-able.
        own: by sequence, what decides besides and is of that sequence alone.
        overwrite: what is there already counts for nothing.
        part: which of several processes this is. The first one, 0, writes OUT/run.json and takes into it what
            others have left; they write a file of their own, of what they noted themselves.
    """

    def __init__(
        self,
        folder: pathlib.Path | str,
        settings: Mapping[str, Any],
        *,
        own: Mapping[str, Mapping[str, Any]] | None = None,
        overwrite: bool = False,
        part: int = 0,
    ):
        self.folder = pathlib.Path(folder)
        self._overwrite = overwrite
        self._common, self._own = dict(settings), dict(own or {})
        self._entries, self._known = _read(self.folder / NAME)
        self._lock = threading.Lock()
        self._part, self._noted = part, set()
        if part == 0:
            self.gather()

    def gather(self) -> None:
        """Takes over what other processes noted, and removes their files."""
        others = sorted(self.folder.glob(PARTS))
        for path in others:
            entries, known = _read(path)
            self._entries |= entries
            self._known |= known
        if others:
            self._write()
        for path in others:
            path.unlink(missing_ok=True)

    def unfinished(self, videos: Sequence[video_lib.Video]) -> list[str]:
        """The names of videos that nobody has noted as finished."""
        return [v.name for v in videos if not self._entries.get(v.name, {}).get("seconds")]

    def is_finished(self, video: video_lib.Video) -> bool:
        """Whether every mask of the video is there, made with these settings.

        Raises:
            VosError: there are masks of it that were made with other settings or by another program.
        """
        if self._overwrite:
            return False
        folder, names = self.folder / video.name, video.required_names
        entry = self._entries.get(video.name)
        if entry is None:
            masks = (writer.mask_path(self.folder, video.name, name) for name in names)
            if any(mask.exists() for mask in masks):
                raise VosError(
                    f"{folder} holds masks that this program did not record; score them with --score_only, "
                    "choose another --out, or --overwrite to replace them"
                )
            return False
        key, settings = self._settings(video.name)
        if entry["settings"] != key:
            difference = self._difference(entry["settings"], settings)
            raise VosError(
                f"{folder} was made with other settings ({difference}); "
                "choose another --out, or --overwrite to replace it"
            )
        complete = entry["seconds"] is not None
        return complete and writer.finished(self.folder, video.name, names, video.size)

    def note(
        self,
        sequence: str,
        seconds: Mapping[str, float] | None,
        presence: Mapping[int, Sequence[float | None]] | None = None,
    ) -> None:
        """Notes that a sequence is begun (`seconds` None) or finished, what it took, and who is there.

        Threads may call it at once.
        """
        key, settings = self._settings(sequence)
        entry = {"settings": key, "seconds": seconds and dict(seconds)}
        if presence is not None:
            entry["presence"] = {str(object_id): list(values) for object_id, values in presence.items()}
        with self._lock:
            self._entries[sequence] = entry
            self._noted.add(sequence)
            self._known |= {key: settings}
            self._write()

    def _write(self) -> None:
        entries = self._entries
        if self._part:
            entries = {name: entries[name] for name in sorted(self._noted)}
        used = {entry["settings"] for entry in entries.values()}
        known = {name: settings for name, settings in self._known.items() if name in used}
        name = PARTS.replace("*", str(self._part)) if self._part else NAME
        files.write_json(self.folder / name, {"sequences": entries, "settings": known})

    def seconds(self, sequence: str) -> dict[str, float]:
        """What a finished sequence took, in this run or an earlier one."""
        return self._entries[sequence]["seconds"]

    def working_seconds(self, sequence: str) -> float:
        """What it took without compilation."""
        seconds = self.seconds(sequence)
        return seconds["inference"] + seconds["io"] + seconds.get("adaptation", 0.0)

    def presence(self, sequence: str) -> dict[str, list[float | None]]:
        """Per object of a finished sequence, how sure the model is of it in each written frame."""
        return self._entries[sequence].get("presence", {})

    def _settings(self, sequence: str) -> tuple[str, dict[str, Any]]:
        """A sequence's settings, and the short name they go by."""
        settings = json.loads(json.dumps({**self._common, **self._own.get(sequence, {})}))
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16], settings

    def _difference(self, key: str, settings: Mapping[str, Any]) -> str:
        return difference(self._known.get(key, {}), settings)


def _read(path: pathlib.Path) -> tuple[dict[str, dict], dict[str, Any]]:
    """A record's sequences and settings, none where there is no such file."""
    if not path.exists():
        return {}, {}
    try:
        content = files.read_json(path)
        entries, known = dict(content["sequences"]), dict(content["settings"])
        for entry in entries.values():
            if not isinstance(known[entry["settings"]], dict):
                raise TypeError("settings are no mapping")
            if entry["seconds"] is not None:
                _ = entry["seconds"]["inference"] + entry["seconds"]["io"] + entry["seconds"]["compile"] + 0.0
            dict(entry.get("presence", {}))
        return entries, known
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise VosError(f"{path} is not a record of this program ({error}); choose another --out") from error


def difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The first keys in which settings differ, as `model.memory.every: 5, now 3`; "" if in none."""
    before, now = _flat(before), _flat(now)
    names = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    shown = [f"{name}: {before.get(name)}, now {now.get(name)}" for name in names[:3]]
    return "; ".join([*shown, *(["..."] if len(names) > 3 else [])])


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat
