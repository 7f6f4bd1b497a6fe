"""Shared memory: taken as it is written, given back, attached to with a check, and not from /dev/shm."""

import gc
import mmap
import multiprocessing
import os
import threading

import numpy as np
import pytest
from says import says

from diffreplay.errors import ReplayError, SharedMemoryError
from diffreplay.store.arena import PAGE, Arena, Ring, fence, round_up


def resident(arena):
    """Bytes of memory that the arena's file takes."""
    return os.fstat(arena.fd).st_blocks * 512


def test_round_up():
    assert [round_up(n, 8) for n in (0, 1, 8, 9)] == [0, 8, 8, 16]
    assert round_up(1) == PAGE == mmap.PAGESIZE


def test_memory_is_taken_as_it_is_written_and_given_back():
    arena = Arena(1 << 40)
    assert resident(arena) == 0
    arena.bytes[: 100 * PAGE] = bytes([7]) * (100 * PAGE)
    assert resident(arena) == 100 * PAGE
    arena.release(10 * PAGE, 50 * PAGE)
    assert resident(arena) == 50 * PAGE
    assert arena.bytes[10 * PAGE - 1] == 7 and arena.bytes[10 * PAGE] == 0
    assert arena.bytes[60 * PAGE - 1] == 0 and arena.bytes[60 * PAGE] == 7


def test_it_does_not_lie_in_dev_shm():
    arena = Arena(PAGE)
    assert os.readlink(f"/proc/self/fd/{arena.fd}").startswith("/memfd:")
    assert not os.get_inheritable(arena.fd)


def test_arrays_are_views_and_outlive_the_arena():
    arena = Arena(3 * PAGE)
    array = arena.array("<u4", (2, 3), PAGE, (PAGE, 4))
    array[:] = [[1, 2, 3], [4, 5, 6]]
    assert bytes(arena.bytes[2 * PAGE : 2 * PAGE + 12]) == np.array([4, 5, 6], "<u4").tobytes()
    fd = arena.fd
    del arena
    gc.collect()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    assert array.sum() == 21


def attach_and_write(arena, connection):
    arena.bytes[PAGE] += 1
    connection.send((arena.bytes[0], arena.nbytes))


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_started_process_maps_the_same_bytes(method):
    context = multiprocessing.get_context(method)
    arena = Arena(5 * PAGE)
    arena.bytes[0], arena.bytes[PAGE] = 42, 1
    ours, theirs = context.Pipe()
    process = context.Process(target=attach_and_write, args=(arena, theirs))
    process.start()
    assert ours.poll(200)
    assert ours.recv() == (42, 5 * PAGE)
    process.join(100)
    assert process.exitcode == 0 and arena.bytes[PAGE] == 2


def test_attaching_checks_the_size():
    arena = Arena(4 * PAGE)
    with pytest.raises(SharedMemoryError) as info:
        Arena(8 * PAGE, fd=os.dup(arena.fd))
    says(info, f"{8 * PAGE} bytes", f"got one of {4 * PAGE}")


@pytest.mark.parametrize("nbytes", [1 << 55, 1 << 62, 1 << 80])
def test_more_than_there_is_address_space(nbytes):
    with pytest.raises(SharedMemoryError, match="lower the capacity") as info:
        Arena(nbytes)
    assert isinstance(info.value, ReplayError)


def test_failures_leave_no_file_open():
    gc.collect()
    before = set(os.listdir("/proc/self/fd"))
    for _ in range(20):
        with pytest.raises(SharedMemoryError):
            Arena(1 << 55)
    gc.collect()
    assert set(os.listdir("/proc/self/fd")) <= before


def test_ring_takes_and_gives_back_extents_across_its_end():
    arena = Arena(8 * PAGE)
    ring = Ring(arena, PAGE, 2 * PAGE, 3)
    assert ring.allocated == 0
    for number in range(20):
        ring.end = number + 1
        place = PAGE + number % 3 * 2 * PAGE
        assert arena.bytes[place] == 0, "a segment that was given back reads as zeros"
        arena.bytes[place : place + 2 * PAGE] = bytes([number + 1]) * (2 * PAGE)
        if number % 5 >= 1:
            ring.release(number)  # of two or three extents, all but the newest
            assert ring.allocated == 2 * PAGE == resident(arena)
            assert arena.bytes[place] == number + 1
    ring.release(30)
    assert (ring.first, ring.end, ring.allocated, resident(arena)) == (30, 30, 0, 0)
    ring.release(10)
    assert ring.first == 30


def test_fence_can_be_called_from_any_thread():
    done = []
    threads = [threading.Thread(target=lambda: (fence(), fence(), done.append(1))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100)
    assert len(done) == 4
