"""Damaged bytes for a codec: an error or some frame, and nothing worse.

They are decoded in a process of their own, which a codec may crash, and whose memory is limited.
"""

from __future__ import annotations

import faulthandler
import os
import resource
import select
import signal
import warnings
from collections.abc import Callable, Iterator
from typing import NoReturn

import numpy as np
import torch

from diffreplay.codecs import Buffer, Codec
from diffreplay.errors import CodecError, CorruptDataError
from diffreplay.testing.calls import Calls
from diffreplay.testing.frames import frames_of

SHAPES = ((3, 5, 1), (20, 20, 3), (84, 84, 1))
ROUNDS = 400  # of each shape
MORE_BYTES = 1 << 28  # that decoding may take
SECONDS = 120
CLAIM_BYTES = 16  # in which a size may stand, at the start of a blob
MESSAGE_BYTES = 1 << 12  # fits into a pipe
FINE = b"fine"


def mutate(blob: bytes, rng: np.random.Generator) -> bytes:
    """Damaged bytes: flipped, cut, extended, or a part put elsewhere."""
    damaged = bytearray(blob)
    how = rng.integers(5) if blob else 2
    if how == 0:
        for place in rng.integers(0, len(damaged), rng.integers(1, 5)):
            damaged[place] ^= 1 << rng.integers(8)
    elif how == 1:
        del damaged[rng.integers(len(damaged)) :]
    elif how == 2:
        damaged += rng.bytes(int(rng.integers(1, 40)))
    elif how == 3:
        begin, end = np.sort(rng.integers(0, len(damaged), 2))
        damaged[begin:end] = rng.bytes(int(rng.integers(0, 30)))
    else:
        damaged = bytearray(rng.bytes(len(damaged)))
    return bytes(damaged)


def check_damage(codec: Codec, seed: int) -> None:
    """Decode damaged bytes.

    Raises:
        CodecError: an exception other than CorruptDataError, a crash, too much memory or time.
    """

    def check() -> None:
        for shape in SHAPES:
            frames = frames_of("moving", shape, 6, seed)
            references = frames[: max(1, min(3, codec.set_frames(frames[0].size)))]
            calls = Calls(codec, references, f"{MORE_BYTES >> 20} MiB to take; damaged bytes of moving frames")
            blobs = [calls.encode(frame) for frame in frames[3:]]
            for damaged in _damaged([b"any bytes" if blob is None else blob for blob in blobs], seed):
                _decode(calls, damaged)

    problem = _apart(check)
    if problem is not None:
        raise CodecError(problem if problem.startswith("codec ") else f"codec {codec.name!r}: {problem}")


def _damaged(blobs: list[bytes], seed: int) -> Iterator[list[bytes]]:
    """Batches of which a blob is damaged, or whose bytes are cut into blobs at wrong places."""
    rng = np.random.default_rng(seed)
    for width in (1, 2, 4, 8):
        for value in (b"\xff" * width, b"\xff" * (width - 1) + b"\x7f", b"\x7f" + b"\xff" * (width - 1)):
            for place in range(min(len(blobs[0]), CLAIM_BYTES)):
                yield [blobs[0][:place] + value + blobs[0][place + width :], *blobs[1:]]
    joined = b"".join(blobs)
    for number in range(ROUNDS):
        if number % 4 == 0:
            first, second = np.sort(rng.integers(0, len(joined) + 1, 2)).tolist()
            yield [joined[:first], joined[first:second], joined[second:]]
        else:
            which = int(rng.integers(len(blobs)))
            yield [mutate(blob, rng) if k == which else blob for k, blob in enumerate(blobs)]
    yield [b""] * len(blobs)


def _decode(calls: Calls, damaged: list[bytes]) -> None:
    """Decode what the store would hand on: it takes what is as long as a raw frame for one."""
    fitting: list[Buffer] = [blob[: calls.frame_bytes - 1] for blob in damaged]
    try:
        calls.decode(fitting, damaged=True)
    except CorruptDataError:
        return


def _apart(check: Callable[[], None]) -> str | None:
    """What goes wrong with `check` in a child process, or None."""
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads: none of them is needed there
        child = os.fork()
    if child == 0:
        _run(check, write)
    os.close(write)
    message = b""
    try:
        in_time = bool(select.select([read], [], [], SECONDS)[0])
        message = os.read(read, MESSAGE_BYTES) if in_time else b""
    finally:
        os.close(read)
        if not message:
            os.kill(child, signal.SIGKILL)  # of one that has ended already this does nothing
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if message:
        return None if message == FINE else message.decode(errors="replace")
    expected = "damaged bytes: expected CorruptDataError or some frame"
    if not in_time:
        return f"{expected} within {SECONDS} seconds, got neither"
    return f"{expected}, got the end of the process by {f'signal {-status}' if status < 0 else f'exit code {status}'}"


def _run(check: Callable[[], None], write: int) -> NoReturn:
    """The child: run `check`, say what came of it, and end without anything that the parent has to do at its end."""
    try:
        faulthandler.disable()  # a crash is told by the parent
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
        torch.set_num_threads(1)  # the parent's threads are not there
        try:
            _limit_memory()
            check()
            message = FINE
        except CodecError as error:
            message = str(error).encode()
        except BaseException as error:  # such as the panic of a codec in Rust
            expected = "damaged bytes: expected CorruptDataError or some frame"
            message = f"{expected}, got {type(error).__name__}: {error!s:.300}".encode()
        os.write(write, message[:MESSAGE_BYTES])
    finally:
        os._exit(0)


def _limit_memory() -> None:
    """Let this process take MORE_BYTES of address space beyond what it has."""
    with open("/proc/self/statm") as file:
        most = int(file.read().split()[0]) * resource.getpagesize() + MORE_BYTES
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
