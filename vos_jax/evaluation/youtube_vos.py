"""The YouTube-VOS scores, separately for seen categories (trained on) and unseen ones."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np


def summarise(
    objects: Iterable[Mapping[str, Any]], seen: Mapping[tuple[str, int], bool]
) -> dict[str, float | None]:
    """Returns G, the mean of J and F over seen and over unseen categories, and these four means.

    Each of the four is a mean over OBJECTS of their means over frames.

    Args:
      objects: {"sequence", "object", "J", "F"} per scored object, J and F in [0, 1].
      seen: (sequence, object id) -> whether its category was trained on.

    Returns:
      {"G", "J_seen", "J_unseen", "F_seen", "F_unseen"}. A mean over no object is None and not part of G; G is
      None if there is no object.
    """
    groups: dict[bool, list[Mapping[str, Any]]] = {True: [], False: []}
    for scored in objects:
        key = scored["sequence"], scored["object"]
        if key in seen:
            groups[seen[key]].append(scored)
    means = {
        f"{measure}_{name}": float(np.mean([scored[measure] for scored in groups[which]]))
        if groups[which]
        else None
        for measure in "JF"
        for name, which in (("seen", True), ("unseen", False))
    }
    known = [value for value in means.values() if value is not None]
    return {"G": float(np.mean(known)) if known else None, **means}
