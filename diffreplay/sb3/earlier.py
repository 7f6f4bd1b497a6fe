"""Buffers as pickles of earlier versions hold them, where each image has a store of its own."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

from diffreplay import tables
from diffreplay.sb3.images import ImageArray

# Under these names they look for what has moved.
for _class in (tables.ImageStore, tables.ImageTable, tables.FrameWatch, tables.Unchanged):
    _name = _class.__module__
    sys.modules.setdefault(_name.replace("tables", "sb3"), sys.modules[_name])


def buffer_state(state: dict[str, Any]) -> dict[str, Any]:
    """The attributes of a buffer of any version as those of this one. What was stored stays as it is."""
    if "_parts" in state:
        return state
    state = {key: value for key, value in state.items() if key != "_cuts"}
    if "_rings" in state:
        stores = {key: ring.store for key, ring in state["_rings"].items()}
        state["_rings"] = list(state["_rings"].values())
    else:
        stores = state["_stores"]
        state["_stores"] = list(stores.values())
    state["_parts"], state["_watches"] = {}, {}
    for key, store in stores.items():
        store.parts = (replace(store.parts[0], name=key),)
        state["_parts"][key] = store.parts[0]
        for watch in store.watches.values():
            state["_watches"][key] = watch
        store.watches = state["_watches"]
    for name in ("observations", "next_observations"):
        if name in state:
            state[name] = _arrays(state[name], state["obs_shape"])
    return state


def _arrays(values: Any, shape: Any) -> Any:
    """Arrays of images with the shape that they have in Stable-Baselines3."""
    if isinstance(values, dict):
        return {key: _arrays(value, shape[key]) for key, value in values.items()}
    return ImageArray(values.table, 0, shape) if isinstance(values, ImageArray) else values
