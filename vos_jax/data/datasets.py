"""From a config's `data` section to the video source it names."""

from ml_collections import config_dict

from vos_jax import files
from vos_jax.data import rendered, sources, youtube_vos
from vos_jax.errors import VosError


def _davis(data: config_dict.ConfigDict) -> sources.VideoSource:
    return sources.DavisSource(
        data.root,
        year=data.year,
        split=data.split,
        resolution=data.resolution,
        sequences=data.sequences,
        merge_objects=data.merge_objects or data.year == 2016,
        given=_given(data, "first_frame"),
    )


def _folders(data: config_dict.ConfigDict) -> sources.VideoSource:
    return sources.FoldersSource(
        data.root,
        sequences=data.sequences,
        merge_objects=data.merge_objects,
        given=_given(data, "first"),
    )


def _youtube_vos(data: config_dict.ConfigDict) -> sources.VideoSource:
    return youtube_vos.YouTubeVOSSource(
        data.root,
        year=data.year,
        split=data.split,
        all_frames=data.all_frames,
        sequences=data.sequences,
        seen=data.seen,
        given=_given(data, "first"),
    )


def _rendered(data: config_dict.ConfigDict) -> sources.VideoSource:
    if data.root:
        raise VosError(
            f"data.source=rendered draws its own video and reads no data; leave {data.root} (--data) away"
        )
    source = rendered.RenderedSource(merge_objects=data.merge_objects)
    files.select_names(data.sequences, source.sequences(), "the rendered sample")
    return source


def _given(data: config_dict.ConfigDict, protocol: str) -> str:
    # Training makes a `data` section of its own for its held-back videos: by protocol, without this key.
    given = data.get("given", "auto")
    return protocol if given == "auto" else given


SOURCES = {"davis": _davis, "ytvos": _youtube_vos, "folders": _folders, "rendered": _rendered}


def open_source(data: config_dict.ConfigDict) -> sources.VideoSource:
    """The source that `config.data` describes (configs/default.py), restricted to its `sequences`.

    Raises:
        VosError: an unknown kind of source, and whatever the source finds missing.
    """
    if data.source not in SOURCES:
        raise VosError(f"data.source is {data.source!r}; there are: {', '.join(SOURCES)}")
    return SOURCES[data.source](data)
