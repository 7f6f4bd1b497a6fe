"""Coded images as tensors and numbers, which `torch.save` writes and `torch.load` reads with `weights_only=True`."""

from __future__ import annotations

import dataclasses
import json
import zlib
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict

from diffreplay.errors import CorruptDataError, InputError
from diffreplay.store import (
    NO_ROW,
    FrameStore,
    StoredRows,
    StoreState,
    adopt_rows,
    adopt_set,
    begin_adopting,
    export_rows,
    export_state,
    finish_adopting,
    reopen_streams,
)
from diffreplay.torchrl.images import CodedImages

RUN = 1 << 14  # rows that leave together


def images_state(images: CodedImages) -> dict[str, Any]:
    """All of the images, coded as they are: tensors, numbers and strings, none of them shared with what is in use."""
    frames = images.store.frames
    state = export_state(frames)
    sets = [
        {"image": image, "first_row": its.first_row(number), "frames": _bytes(its.frames(number))}
        for image, its in enumerate(frames.sets)
        for number in its.numbers()
    ]
    runs = [_run(frames, first, min(first + RUN, frames.head)) for first in range(frames.tail, frames.head, RUN)]
    return {
        "layout": _layout(images),
        "store": json.dumps(
            [state.tail, state.head, state.log_tail, state.first_sets, state.next_checks, state.ranges]
        ),
        "sets": sets,
        "runs": runs,
        "tables": [torch.from_numpy(table.rows(...)) for table in images.tables],
        "checksum": _checksum(sets, runs),
    }


def load_images(images: CodedImages, state: dict[str, Any]) -> None:
    """Have fresh images be those of a state.

    Raises:
        InputError: they were stored with another codec, or in other frames.
        CorruptDataError: the state is damaged.
    """
    if state["layout"] != _layout(images):
        raise InputError(f"state: expected images stored as {_layout(images)}, got {state['layout']}")
    if state["checksum"] != _checksum(state["sets"], state["runs"]):
        raise CorruptDataError("state: expected images with the checksum that was saved, got another: it is damaged")
    frames = images.store.frames
    try:
        tail, head, log_tail, first_sets, next_checks, ranges = json.loads(state["store"])
        ranges = [[(int(a), int(b)) for a, b in its] for its in ranges]
        begin_adopting(frames, StoreState(tail, head, log_tail, first_sets, next_checks, [], ranges))
        for one in state["sets"]:
            adopt_set(frames, one["frames"].numpy().copy().data, one["first_row"], one["image"])
        for run in state["runs"]:
            adopt_rows(frames, _rows(frames, run))
        finish_adopting(frames, head)
        reopen_streams(frames, next_checks, [])
        for table, rows in zip(images.tables, state["tables"], strict=True):
            held = rows.numpy().reshape(table.shape)
            if ((held != NO_ROW) & ((held < tail) | (held >= head))).any():
                raise ValueError("rows that are not there")
            table.assign(..., held)
        images.measure()
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise CorruptDataError(f"state: expected what state_dict gave, got something damaged ({error!r})") from None


def loaded(state: dict[str, Any]) -> Any:
    """A TensorDict by its state, in memory of its own."""
    return TensorDict().load_state_dict(state, strict=False).clone()


def _layout(images: CodedImages) -> str:
    layout = dataclasses.asdict(images.store.frames.layout)
    return json.dumps([layout, images.part.spec.to_json(), images.part.frame_stack, list(images.item)], default=str)


def _run(frames: FrameStore, first: int, end: int) -> dict[str, Any]:
    rows = export_rows(frames, first, end)
    return {
        "first": rows.first,
        "columns": {name: _bytes(values) for name, values in rows.columns.items()},
        "lengths": torch.from_numpy(rows.lengths.astype(np.int64)),
        "coded": _bytes(np.concatenate([np.frombuffer(part, np.uint8) for part in rows.coded])),
        "sets": torch.from_numpy(rows.named.copy()),
    }


def _rows(frames: FrameStore, run: dict[str, Any]) -> StoredRows:
    kinds = {column.name: column for column in frames.layout.columns if column.name not in frames.layout.ends}
    columns = {
        name: run["columns"][name].numpy().view(column.dtype).reshape(-1, *column.shape)
        for name, column in kinds.items()
    }
    lengths, coded = run["lengths"].numpy().astype(np.uint32), run["coded"].numpy()
    if int(lengths.sum(dtype=np.int64)) != len(coded) or {len(values) for values in columns.values()} != {len(lengths)}:
        raise ValueError("lengths that do not fit")
    return StoredRows(run["first"], columns, lengths, [memoryview(coded)], run["sets"].numpy())


def _bytes(values: Any) -> torch.Tensor:
    """A copy of an array's bytes."""
    return torch.from_numpy(np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8).copy())


def _checksum(sets: list[dict[str, Any]], runs: list[dict[str, Any]]) -> int:
    value = 0
    for one in sets:
        value = zlib.crc32(one["frames"].numpy().tobytes(), value)
    for run in runs:
        for part in (
            run["lengths"],
            run["sets"],
            run["coded"],
            *(run["columns"][name] for name in sorted(run["columns"])),
        ):
            value = zlib.crc32(part.numpy().tobytes(), value)
    return value
