"""The paper's Figure 1: frame, truth, coarse masks (what matching found), refined masks (DESIGN §10)."""

import numpy as np

from vos_jax import geometry
from vos_jax.models import masks as mask_lib
from vos_jax.typing import UInt8
from vos_jax.visualize import overlay, sheet
from vos_jax.visualize import probe as probe_lib


def draw(probe: probe_lib.Probe) -> UInt8[np.ndarray, "H2 W2 3"]:
    """Draws one frame's masks; panels that there is nothing for (no truth, no coarse masks) are left out."""
    frame = probe.frame(probe.index)
    panels = [("frame", frame)]
    truth = probe.video.mask(probe.index)
    if truth is not None:
        panels.append(("truth", overlay.overlay(frame, geometry.resize_ids(truth, probe.view.size))))
    found = "masks"
    if probe.prediction.out is not None:
        coarse = mask_lib.aggregate(probe.prediction.out.coarse, probe.object_valid)
        panels.append(("coarse masks: matched proposals", overlay.overlay(frame, probe.ids(coarse))))
        found = "refined masks"
    panels.append((found, overlay.overlay(frame, probe.ids(probe.prob))))
    columns = len(panels) if len(panels) <= 3 else 2
    width = sheet.panel_width(columns)
    return sheet.grid(
        [sheet.caption(sheet.fit(image, width), text) for text, image in panels],
        columns=columns,
        title=f"{probe.video.name}, frame {probe.index}",
    )
