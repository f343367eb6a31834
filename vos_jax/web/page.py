"""The page: upload, paint or box, segment, scrub, correct, download. Its state is a `Project`."""

import dataclasses
import functools
import inspect
import logging
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr  # pyright: ignore[reportMissingImports] - of requirements-app.txt
import numpy as np
from gradio.themes import Default as Theme  # pyright: ignore[reportMissingImports]

from vos_jax import errors
from vos_jax.inference import engine as engine_lib
from vos_jax.web import project as project_lib

KEEP_SECONDS = 24 * 3600
"""A visitor's video is removed when the page is closed, and at the latest this long after it was dropped."""

PREVIEW_EVERY = 3
"""Number of frames between two pictures that are shown while a video is segmented."""

COLOURS = ("#c83232", "#32c832", "#c8c832", "#3232c8", "#c832c8", "#32c8c8")

HELP = """\
**1.** Drop a video. **2.** On any frame, paint an object, or click two opposite corners around it.
**3.** *Segment*. **4.** Scrub; where a mask is wrong, paint that object anew there, or press *Not in this
frame* if another thing is taken for it, and segment again."""


@dataclasses.dataclass(frozen=True)
class Server:
    """The engine that all visitors share, and the folder in which each has a project."""

    engine: engine_lib.Engine
    root: pathlib.Path

    def open(self, video: str | os.PathLike) -> project_lib.Project:
        """Returns a visitor's new project. Raises VosError for a file that is no video."""
        return project_lib.Project(self.engine, video, self.root)


# ---------------------------------------------------------------- errors
def _shows_errors(handler: Callable) -> Callable:
    """Decorates a handler: errors become messages, without a traceback or a path of this machine."""

    @functools.wraps(handler)
    def wrapped(*arguments: Any) -> Any:
        try:
            return handler(*arguments)
        except Exception as error:
            raise _message(error) from None

    @functools.wraps(handler)
    def wrapped_generator(*arguments: Any) -> Iterator[Any]:
        try:
            yield from handler(*arguments)
        except Exception as error:
            raise _message(error) from None

    return wrapped_generator if inspect.isgeneratorfunction(handler) else wrapped


def _message(error: Exception) -> gr.Error:
    if isinstance(error, gr.Error):
        return error
    if isinstance(error, errors.VosError):
        words = [
            pathlib.PurePath(word).name if os.sep in word and word.startswith(os.sep) else word
            for word in str(error).split(" ")
        ]
        return gr.Error(" ".join(words))
    logging.getLogger(__name__).exception("the page failed", exc_info=error)
    return gr.Error("Something went wrong here; the log of the server says what.")


# ---------------------------------------------------------------- handlers
Visitor = project_lib.Project | None
"""A visitor's project; None before a video was dropped."""


def open_video(server: Server, path: str | None, old: Visitor) -> tuple:
    """Opens a dropped video in place of the old one; one that cannot be read leaves the old one."""
    project = None if path is None else server.open(path)
    if old is not None:
        old.close()
    if project is None:
        return None, gr.update(interactive=False), None, None, [], "Drop a video.", None
    last = project.num_frames - 1
    slider = gr.update(minimum=0, maximum=max(last, 1), value=0, interactive=last > 0)
    height, width = project.size
    text = f"{project.num_frames} frames of {width}x{height}. Paint or box the first object."
    return project, slider, project.frame(0), project.picture(0), [], text, None


@_shows_errors
def show(project: Visitor, index: float) -> tuple:
    """Shows a frame."""
    project = _opened(project)
    return project.frame(int(index)), project.picture(int(index)), []


@_shows_errors
def take_paint(project: Visitor, index: float, object_id: float, editor: Any) -> tuple:
    """Takes the paint of the editor as a prompt."""
    project, index = _opened(project), int(index)
    layers = [layer for layer in (editor or {}).get("layers", []) if layer is not None]
    if not layers:
        raise errors.VosError("nothing is painted yet")
    project.paint(index, int(object_id), np.any([layer[..., 3] > 0 for layer in layers], axis=0))
    return project.frame(index), project.picture(index), _status(project)


@_shows_errors
def take_corner(
    project: Visitor, index: float, object_id: float, corners: list, event: gr.SelectData
) -> tuple:
    """Takes a click: the second one completes the box of an object."""
    project, index = _opened(project), int(index)
    corners = [*corners, (int(event.index[0]), int(event.index[1]))]
    if len(corners) < 2:
        return project.picture(index), corners, "Now the opposite corner."
    (x0, y0), (x1, y1) = corners[:2]
    project.box(index, int(object_id), (y0, x0, y1, x1))
    return project.picture(index), [], _status(project)


@_shows_errors
def take_absence(project: Visitor, index: float, object_id: float) -> tuple:
    """Takes the word that an object is not in the frame."""
    project, index = _opened(project), int(index)
    project.absent(index, int(object_id))
    return project.frame(index), project.picture(index), _status(project)


@_shows_errors
def forget(project: Visitor, index: float) -> tuple:
    """Removes the prompts of a frame."""
    project, index = _opened(project), int(index)
    project.forget(index)
    return project.frame(index), project.picture(index), [], _status(project)


@_shows_errors
def segment(project: Visitor) -> Iterator[tuple]:
    """Segments the video and shows some frames on the way."""
    project = _opened(project)
    index = None
    for index in project.run():
        if index % PREVIEW_EVERY == 0:
            yield project.picture(index), gr.update(value=index), _status(project)
    if index is not None:
        yield project.picture(index), gr.update(value=index), _status(project)
    else:
        yield gr.update(), gr.update(), _status(project)


@_shows_errors
def download(project: Visitor) -> list[str]:
    """Makes the files to download."""
    project = _opened(project)
    return [str(project.save_masks()), str(project.save_overlay())]


def _opened(project: Visitor) -> project_lib.Project:
    if project is None:
        raise errors.VosError("drop a video first")
    return project


def _status(project: project_lib.Project) -> str:
    painted = ", ".join(map(str, sorted(project.prompts))) or "none"
    return f"{project.done} of {project.num_frames} frames are segmented; painted frames: {painted}."


# ---------------------------------------------------------------- layout
def build(server: Server) -> gr.Blocks:
    """Builds the page; `launch` it."""
    with gr.Blocks(title="vos_jax", analytics_enabled=False) as page:
        project = gr.State(None, time_to_live=KEEP_SECONDS, delete_callback=lambda p: p and p.close())
        corners = gr.State([])
        gr.Markdown("# Video object segmentation")
        gr.Markdown(HELP)
        with gr.Row():
            with gr.Column():
                video = gr.File(label="Video", file_types=["video", ".gif"], elem_id="video", height=110)
                editor = gr.ImageEditor(
                    label="Paint",
                    type="numpy",
                    layers=False,
                    transforms=(),
                    sources=(),
                    brush=gr.Brush(default_size=24, colors=list(COLOURS), color_mode="fixed"),
                    height=480,
                    elem_id="editor",
                )
                with gr.Row():
                    object_id = gr.Number(value=1, minimum=1, maximum=254, precision=0, label="Object")
                    use = gr.Button("Use the paint", elem_id="use")
                    absent = gr.Button("Not in this frame", elem_id="absent")
                    undo = gr.Button("Forget this frame's paint", elem_id="forget")
            with gr.Column():
                gr.Markdown("Masks; click two opposite corners around an object to box it")
                # No label: it would lie over the corner that a visitor wants to click.
                picture = gr.Image(
                    show_label=False,
                    interactive=False,
                    height=440,
                    elem_id="picture",
                    buttons=[],
                )
                slider = gr.Slider(0, 1, value=0, step=1, label="Frame", interactive=False, elem_id="frame")
                with gr.Row():
                    run = gr.Button("Segment", variant="primary", elem_id="run")
                    stop = gr.Button("Stop", elem_id="stop")
                    fetch = gr.Button("Make files", elem_id="fetch")
                status = gr.Markdown("Drop a video.", elem_id="said")
                files = gr.File(label="Masks and overlay", interactive=False, elem_id="files", height=110)

        opened = _shows_errors(functools.partial(open_video, server))
        video.change(opened, [video, project], [project, slider, editor, picture, corners, status, files])
        slider.release(show, [project, slider], [editor, picture, corners])
        use.click(take_paint, [project, slider, object_id, editor], [editor, picture, status])
        absent.click(take_absence, [project, slider, object_id], [editor, picture, status])
        picture.select(take_corner, [project, slider, object_id, corners], [picture, corners, status])
        undo.click(forget, [project, slider], [editor, picture, corners, status])
        running = run.click(segment, project, [picture, slider, status], concurrency_limit=1)
        running.then(show, [project, slider], [editor, picture, corners])
        stop.click(None, cancels=[running])
        fetch.click(download, project, files)
    return page


def serve(server: Server, *, host: str, port: int | None, max_mb: int, wait: bool = True) -> gr.Blocks:
    """Opens the page at host:port (None: the first free one) for videos of at most `max_mb`.

    Raises:
      VosError: the address cannot be had.
    """
    page = build(server)
    try:
        page.queue(default_concurrency_limit=4).launch(
            server_name=host,
            server_port=port,
            max_file_size=f"{max_mb}mb",
            # Fonts of the visitor's own machine: nothing is fetched from elsewhere.
            theme=Theme(font="system-ui", font_mono="monospace"),
            footer_links=[],
            share=False,
            ssr_mode=False,
            prevent_thread_lock=not wait,
            quiet=not wait,
        )
    except OSError as error:
        raise errors.VosError(f"cannot serve at {host}:{port}: {error}") from error
    return page
