"""What callers pass to `Priorities`, checked and converted before anything is changed."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from diffreplay import checks
from diffreplay.errors import InputError
from diffreplay.store import Rows


def row_numbers(index: Any) -> Rows:
    """Numbers of steps, (B,)."""
    rows = _flat("index", index)
    if rows.dtype.kind not in "iu" and len(rows):
        raise InputError(f"index: expected whole numbers of steps, as batch.index has them, got {rows.dtype}")
    rows = rows.astype(np.int64)
    if len(rows) and rows.min() < 0:
        raise InputError(f"index: expected numbers of steps from 0 on, got {rows.min()}")
    return rows


def priorities_of(td_error: Any, epsilon: float) -> NDArray[np.float32]:
    """|td_error| + epsilon, (B,)."""
    errors = _flat("td_error", td_error)
    if errors.dtype.kind not in "iuf" and len(errors):
        raise InputError(f"td_error: expected finite numbers, got {errors.dtype}")
    with np.errstate(over="ignore"):
        given = (np.abs(errors.astype(np.float64)) + epsilon).astype(np.float32)
    if not np.isfinite(given).all():
        wrong = errors[~np.isfinite(given)][0]
        raise InputError(f"td_error: expected finite numbers (float32), got {wrong}; nothing was updated")
    return given


def state_values(state: Any, alpha: float) -> tuple[float, float, int, NDArray[np.float32]]:
    """What `Priorities.state_dict` gave: beta, the largest priority, the first row, and priorities from it on."""
    names = {"alpha", "beta", "largest", "first", "priorities"}
    if not isinstance(state, dict) or state.keys() != names:
        found = sorted(map(str, state)) if isinstance(state, dict) else type(state).__name__
        raise InputError(f"state: expected what state_dict of Priorities gave, got {found!s:.200}")
    if state["alpha"] != alpha:
        raise InputError(f"alpha: expected {state['alpha']!r}, as of the saved priorities, got {alpha}; give the same")
    beta, largest = checks.share("beta", state["beta"]), checks.finite("largest", state["largest"])
    first, given = checks.at_least(0, "first", state["first"]), _flat("priorities", state["priorities"])
    if given.dtype != np.float32 or not (np.isfinite(given) & (given >= 0)).all() or not np.float32(largest) > 0:
        raise InputError("state: expected finite priorities (float32) from 0 on, got others")
    return beta, largest, first, given


def _flat(name: str, values: Any) -> NDArray[Any]:
    """All elements of an array or tensor, (N,)."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        values = (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    try:
        return np.asarray(values).reshape(-1)
    except (TypeError, ValueError, RuntimeError) as error:  # the last one of tensors in a list
        raise InputError(f"{name}: expected numbers, got {type(values).__name__} ({error})") from None
