"""lookup_garbage.py MODULE CALLS: have a compiled `_lookup` look at columns, rows and numbers of any kind.

The test runs it with a module that sanitizers watch. Memory of its own is as large as each array needs, so that they
notice any byte beyond.
"""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

DTYPES = ("u1", "<u2", "<u4", "<u8", "<u8", "S3", "S11")
EXTREMES = np.array([0, 1, -1, 2**62, -(2**62), 2**63 - 1, -(2**63), 1 - 2**63])


def column(rng: np.random.Generator, blocks: int) -> NDArray[Any]:
    """A column that may be no column, with a gap between its blocks, the last of which may be the first."""
    rows, gap = int(rng.integers(0, 20)), int(rng.integers(0, 9))
    inner = tuple(rng.integers(0, 4, rng.choice([0, 1, 2], p=[0.8, 0.1, 0.1])).tolist())
    whole = np.empty((rows, *inner), rng.choice(DTYPES))
    memory = rng.integers(0, 256, blocks * (whole.nbytes + gap), np.uint8)
    if rng.integers(2):
        memory[:] = np.resize(rng.choice(EXTREMES, 1).view(np.uint8), memory.size)
    made = np.ndarray((blocks, *whole.shape), whole.dtype, memory.data, 0, (whole.nbytes + gap, *whole.strides))
    kind = rng.integers(10)
    return made[::-1] if kind == 0 else made[:, :: int(rng.choice([-1, 2]))] if kind == 1 else made


def numbers(rng: np.random.Generator) -> NDArray[np.int64]:
    """Row numbers, near, far and at the ends of what there is."""
    found = rng.integers(-300, 300, rng.integers(0, 20))
    if len(found) and rng.integers(2):
        found[rng.integers(len(found))] = rng.choice(EXTREMES)
    return found


def room(rng: np.random.Generator, size: int) -> bytearray:
    """So many bytes, or seldom others."""
    return bytearray(size if rng.integers(10) else max(0, size + int(rng.choice([-8, -1, 1, 8]))))


def main(path: str, calls: int) -> None:
    """Call each function so often; what does not fit may be refused."""
    spec = importlib.util.spec_from_file_location("_lookup", path)
    assert spec is not None and spec.loader is not None
    lookup = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(lookup)
    rng, done = np.random.default_rng(0), [0] * 6
    for _ in range(calls):
        blocks = int(rng.integers(0, 5))
        first, second = column(rng, blocks), column(rng, blocks if rng.integers(4) else blocks + 1)
        third = first.copy() if rng.integers(2) else column(rng, blocks)
        rows = numbers(rng)
        entry = first.nbytes // (first.shape[0] * first.shape[1] or 1)
        stack, log_bytes = int(rng.integers(0, 5)), int(rng.choice([0, 1, 7, 1000, 2**63 - 1]))
        back = int(rng.choice([0, 1, 1, 7]))
        flags = [int(flag) for flag in rng.integers(0, 2**32, 2)]
        for k, (call, *arguments) in enumerate(
            (
                (lookup.take, first, rows, room(rng, len(rows) * entry)),
                (lookup.stacks, first, second, rows, room(rng, 8 * len(rows) * stack), *flags),
                (lookup.spans, second, third, first, rows, *(room(rng, rows.nbytes) for _ in "12"), log_bytes, back),
                (lookup.ranges, first, rows, room(rng, rows.nbytes), log_bytes, 65535),
                (lookup.equal, first, third),
                (lookup.follow, first, rows, room(rng, 8 * len(rows) * stack)),
            )
        ):
            try:
                call(*arguments)
                done[k] += 1
            except ValueError:
                pass
    print("calls of take, stacks, spans, ranges, equal and follow that were not refused:", *done)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
