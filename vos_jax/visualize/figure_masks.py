"""The paper's Figure 1: frame, truth, coarse masks, refined masks."""

import numpy as np

from vos_jax import geometry
from vos_jax.data import video as video_lib
from vos_jax.inference import inspection
from vos_jax.ops import masks as mask_lib
from vos_jax.typing import UInt8
from vos_jax.visualize import layout, overlay


def draw(video: video_lib.Video, inspected: inspection.Inspection) -> UInt8[np.ndarray, "H2 W2 3"]:
    """Draws one frame's masks; leaves out the truth or coarse masks if there are none."""
    frame = inspected.see(video.frame(inspected.index))
    panels = [("frame", frame)]
    truth = video.mask(inspected.index)
    if truth is not None:
        panels.append(("truth", overlay.overlay(frame, geometry.resize_ids(truth, inspected.view.size))))
    found = "masks"
    if inspected.prediction.out is not None:
        coarse = mask_lib.aggregate(inspected.prediction.out.coarse, inspected.object_valid)
        panels.append(("coarse masks: matched proposals", overlay.overlay(frame, inspected.ids(coarse))))
        found = "refined masks"
    panels.append((found, overlay.overlay(frame, inspected.ids(inspected.prob))))
    columns = len(panels) if len(panels) <= 3 else 2
    width = layout.panel_width(columns)
    return layout.grid(
        [layout.caption(layout.fit(image, width), text) for text, image in panels],
        columns=columns,
        title=f"{video.name}, frame {inspected.index}",
    )
