"""Locks, directories that are on disk, and files that are none. Real processes, kills and special files."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from says import says

from diffreplay.errors import InUseError, ReplayError
from diffreplay.snapshots.files import Lock, make_directory, open_regular, used_elsewhere

ROOT = Path(__file__).resolve().parents[2]
HOLD = """
import os, sys, time
from pathlib import Path
from diffreplay.snapshots.files import Lock
lock = Lock(Path(sys.argv[1]))
if sys.argv[2:] == ["leave a child"] and not os.fork():
    print(os.getpid(), flush=True)
    time.sleep(300)
elif not sys.argv[2:]:
    print("held", flush=True)
    time.sleep(300)
os._exit(0)
"""


def start(*arguments):
    command = [sys.executable, "-c", HOLD, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)


def test_one_process_holds_a_lock_until_it_is_killed(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file"):
        with start(path) as first:
            assert first.stdout.readline() == "held\n"
            with pytest.raises(InUseError) as caught:
                Lock(path)
            says(caught, f"{path}: | alone")
            assert isinstance(caught.value, OSError) and isinstance(caught.value, ReplayError)
            assert used_elsewhere(path) == path.is_file()
            first.kill()
        assert not used_elsewhere(path)
        with Lock(path):
            assert not used_elsewhere(path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_child_that_outlives_the_holder_keeps_nobody_out(tmp_path):
    with start(tmp_path, "leave a child") as first:
        child = int(first.stdout.readline())
        first.wait()
        try:
            os.kill(child, 0)
            Lock(tmp_path).release()
        finally:
            os.kill(child, signal.SIGKILL)


def test_a_child_neither_holds_nor_releases_the_lock_of_its_parent(tmp_path):
    lock = Lock(tmp_path)
    child = os.fork()
    if not child:
        try:
            handle = os.open(tmp_path, os.O_RDONLY)  # of the number that the lock's had
            lock.release()
            os.fstat(handle)
            Lock(tmp_path)
        except InUseError:
            os._exit(7)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    with pytest.raises(InUseError):
        Lock(tmp_path)
    lock.release()
    lock.release()
    Lock(tmp_path)  # which goes at once
    Lock(tmp_path)


def test_names_of_new_parents_are_brought_to_disk(tmp_path, monkeypatch):
    synced, fsync = [], os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda handle: synced.append(os.readlink(f"/proc/self/fd/{handle}")) or fsync(handle)
    )
    make_directory(tmp_path / "a/b/c")
    assert (tmp_path / "a/b/c").is_dir()
    assert set(synced) == {str(path) for path in (tmp_path, tmp_path / "a", tmp_path / "a/b")}
    synced.clear()
    make_directory(tmp_path / "a/b/c")
    assert not synced


def special_files(directory):
    """One of each kind of what is no file, and links to such."""
    os.mkfifo(directory / "a FIFO")
    (directory / "a directory").mkdir()
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(directory / "a socket"))
    os.symlink("/dev/zero", directory / "a device")
    for path in list(directory.iterdir()):
        os.symlink(path, directory / f"link to {path.name}")
    return sorted(directory.iterdir())


def test_only_files_are_opened(tmp_path):
    for path in special_files(tmp_path):
        begin = time.monotonic()
        with pytest.raises(OSError, match=f"it is {path.name.removeprefix('link to ')}, not a file"):
            open_regular(path)
        assert time.monotonic() - begin < 30
    (tmp_path / "file").write_bytes(b"abc")
    os.symlink("file", tmp_path / "link")
    os.symlink("nowhere", tmp_path / "broken link")
    for name in ("file", "link"):
        with open_regular(tmp_path / name) as file:
            assert file.read() == b"abc" and stat.S_ISREG(os.fstat(file.fileno()).st_mode)
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "broken link")
