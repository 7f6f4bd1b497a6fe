"""The compiled look-ups in the index give what the same ones in NumPy give, and refuse what does not fit."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from diffreplay.store import Flag, lookup
from diffreplay.store.layout import RANGE
from tests.compiling import SANITIZE, compiles
from tests.store.lookup_garbage import EXTREMES

compiled = pytest.importorskip("diffreplay.store._lookup")
BLOCKS, ROWS, GAP = 5, 16, 64
LOG_BYTES = 1000


def column(rng: np.random.Generator, dtype: str, shape: tuple[int, ...] = ()) -> NDArray[Any]:
    """A column with random entries and a gap between its blocks, as others stand there."""
    size = ROWS * np.dtype(dtype).itemsize * int(np.prod(shape, dtype=int))
    memory = rng.integers(0, 256, BLOCKS * (size + GAP), np.uint8)
    inner = np.empty((ROWS, *shape), dtype).strides
    return np.ndarray((BLOCKS, ROWS, *shape), dtype, memory.data, 0, (size + GAP, *inner))


@pytest.fixture(params=range(20))
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    return np.random.default_rng(request.param)


def some_rows(rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    yield np.empty(0, np.int64)
    yield rng.integers(0, BLOCKS * ROWS, 50)
    yield rng.integers(0, 10**12, 50)
    yield rng.integers(-300, 300, 50)  # what torn links lead to
    yield EXTREMES


@pytest.mark.parametrize(("dtype", "shape"), [("u1", ()), ("<f4", ()), ("<f8", (3, 2)), ("<i8", (1,)), ("u1", (0,))])
def test_take(rng: np.random.Generator, dtype: str, shape: tuple[int, ...]) -> None:
    entries = column(rng, dtype, shape)
    for flat in some_rows(rng):
        for rows in (flat, flat.reshape(-1, 1), flat.reshape(2, -1)):
            ours, theirs = (np.zeros(rows.shape + shape, dtype) for _ in range(2))
            compiled.take(entries, rows, ours)
            lookup.in_numpy["take"](entries, rows, theirs)
            assert ours.tobytes() == theirs.tobytes()


@pytest.mark.parametrize("frame_stack", [1, 2, 4])
def test_stacks(rng: np.random.Generator, frame_stack: int) -> None:
    flags, links = column(rng, "u1"), column(rng, "<u2")
    links %= int(rng.integers(1, 200))
    for rows in some_rows(rng):
        ours, theirs = (np.zeros((len(rows), frame_stack), np.int64) for _ in range(2))
        for stacks, out in ((compiled.stacks, ours), (lookup.in_numpy["stacks"], theirs)):
            stacks(flags, links, rows, out, Flag.FIRST | Flag.ZEROS, Flag.RESTART)
        assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("dtype", ["<u4", "<u8"])
@pytest.mark.parametrize("back", [0, 1])
def test_spans(rng: np.random.Generator, back: int, dtype: str) -> None:
    base, before, ends = column(rng, "<u8")[:, :1], column(rng, dtype), column(rng, dtype)
    base %= int(rng.choice([1, 10, 10**6, 2**62]))
    before %= 700
    ends %= int(rng.choice([1, 500, 2**32 - 1]))
    for rows in some_rows(rng):
        ours, theirs = (np.zeros((2, len(rows)), np.int64) for _ in range(2))
        for spans, out in ((compiled.spans, ours), (lookup.in_numpy["spans"], theirs)):
            spans(base, before, ends, rows, *out, LOG_BYTES, back)
        assert np.array_equal(ours, theirs)


def test_ranges(rng: np.random.Generator) -> None:
    table = column(rng, "<u4")[:, :14].view(RANGE)
    table["place"] %= 300
    for rows in some_rows(rng):
        ours, theirs = (np.zeros(len(rows), np.int64) for _ in range(2))
        for ranges, out in ((compiled.ranges, ours), (lookup.in_numpy["ranges"], theirs)):
            ranges(table, rows, out, 200, 77)
        assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("dtype", ["u1", "<u2", "<u4"])
def test_follow(rng: np.random.Generator, dtype: str) -> None:
    further = column(rng, dtype)
    further[rng.random(further.shape) < 0.2] = 0
    further = np.ascontiguousarray(further).reshape(1, -1)
    for rows in some_rows(rng):
        for length in (1, 2, 9):
            ours, theirs = (np.zeros((len(rows), length), np.int64) for _ in range(2))
            with np.errstate(over="ignore"):
                lookup.in_numpy["follow"](further, rows, theirs)
            if len(rows):
                compiled.follow(further, rows, ours)
            assert np.array_equal(ours, theirs)


def test_equal() -> None:
    """Bytes count, not values; what does not lie in one piece is refused."""
    nan, zeros = np.full((3, 2), np.nan), np.zeros(6)
    for equal in (compiled.equal, lookup.in_numpy["equal"]):
        assert equal(nan, nan.copy().reshape(-1)) and equal(zeros, zeros.copy()) and not equal(zeros, -zeros)
        assert not equal(zeros, zeros[:5]) and equal(zeros[:0], np.empty(0, np.uint8))
        with pytest.raises(ValueError, match="contiguous"):
            equal(nan[:, 0], nan[:, 0])


def test_what_does_not_fit_is_refused() -> None:
    rng = np.random.default_rng(0)
    flags, ends, rows, few = column(rng, "u1"), column(rng, "<u4"), np.arange(4), np.zeros(3, np.int64)
    for array in (
        np.zeros(4, np.uint8),
        flags[:, ::2],
        flags[:0],
        np.zeros((2, 0), np.uint8),
        column(rng, "u1", (4,))[..., 1:],
    ):
        with pytest.raises(ValueError, match="expected a column"):
            compiled.take(array, rows, np.zeros(4, np.uint8))
    with pytest.raises(ValueError, match="room for an entry"):
        compiled.take(flags, rows, np.zeros(3, np.uint8))
    with pytest.raises(ValueError, match="room for as many frames"):
        compiled.stacks(flags, column(rng, "<u2"), rows, few, 3, 8)
    with pytest.raises(ValueError, match="room for as many beginnings"):
        compiled.spans(column(rng, "<u8")[:, :1], ends, ends, rows, few, few, LOG_BYTES, 1)
    with pytest.raises(ValueError, match="room for as many beginnings"):
        compiled.spans(column(rng, "<u8")[:2, :1], ends, ends, few, few, few, LOG_BYTES, 1)
    with pytest.raises(ValueError, match="room for as many beginnings"):
        compiled.spans(column(rng, "<u8")[:, :1], ends[:2], ends, few, few, few, LOG_BYTES, 0)
    with pytest.raises(ValueError, match="room for as many slots"):
        compiled.ranges(ends, rows, few, ROWS, 0)
    with pytest.raises(ValueError, match="room for as many of each"):
        compiled.follow(flags, rows, np.zeros(7, np.int64))
    with pytest.raises(ValueError, match="room for as many of each"):
        compiled.follow(flags, rows[:0], few[:0])
    with pytest.raises(ValueError, match="expected ranges"):
        compiled.ranges(flags, few, few, ROWS, 0)
    with pytest.raises(ValueError, match="expected a column"):
        compiled.stacks(flags, column(rng, "<u8", (2,)), rows, np.zeros((4, 2), np.int64), 3, 8)
    for size in (3, 5):  # no number is of so many bytes
        with pytest.raises(ValueError, match="expected a column"):
            compiled.stacks(flags, column(rng, f"S{size}"), rows, np.zeros((4, 2), np.int64), 3, 8)
    with pytest.raises(ValueError, match="expected a column"):
        compiled.spans(column(rng, "<u8")[:, :1], ends, column(rng, "S3"), rows, rows.copy(), rows.copy(), LOG_BYTES, 1)
    with pytest.raises(ValueError, match="expected a column"):
        compiled.stacks(flags, column(rng, "u1", (0,)), rows, np.zeros((4, 2), np.int64), 3, 8)


@pytest.mark.skipif(not compiles(*SANITIZE), reason="needs gcc with its sanitizers")
def test_sanitizers_find_nothing(tmp_path: Path) -> None:
    """Columns, rows and numbers of any kind."""
    folder = Path(__file__).resolve().parent
    source = folder.parents[1] / "diffreplay" / "store" / "_lookup.c"
    module, include = tmp_path / "_lookup.so", sysconfig.get_path("include")
    subprocess.run(["gcc", *SANITIZE, "-shared", "-fPIC", f"-I{include}", source, "-o", module], check=True)
    runtime = subprocess.run(["gcc", "-print-file-name=libasan.so"], capture_output=True, text=True).stdout.strip()
    # Python's own memory comes out of larger pieces, whose bounds are not those of what is passed in.
    watched = {"LD_PRELOAD": runtime, "ASAN_OPTIONS": "detect_leaks=0", "PYTHONMALLOC": "malloc"}
    command = [sys.executable, folder / "lookup_garbage.py", module, "3000"]
    run = subprocess.run(command, env=os.environ | watched, capture_output=True, text=True, timeout=800)
    assert run.returncode == 0, run.stderr
    assert all(int(count) > 100 for count in run.stdout.split(":")[1].split()), run.stdout
