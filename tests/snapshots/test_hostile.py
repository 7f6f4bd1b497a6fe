"""Directories that somebody made to do harm: an error, or a checked result, in bounded memory and time."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from says import says
from snapshot_tools import (
    SEVERAL,
    RestlessZstd,
    Writer,
    buffer,
    contents,
    make_directory,  # noqa: F401
    reseal,
    sizes,
)

from diffreplay import ReplayBuffer
from diffreplay.errors import CorruptDataError
from diffreplay.parts.spec import IMAGE_LAYOUTS
from diffreplay.snapshots.manifest import MANIFEST, PREVIOUS, read_manifest
from tests.snapshots.test_damage import put
from tests.snapshots.test_files import special_files

ROOT = Path(__file__).resolve().parents[2]
LOAD = """
import json, sys, time, warnings
sys.path.insert(0, "tests")
from pathlib import Path
from snapshot_tools import RestlessZstd
from diffreplay import ReplayBuffer
from diffreplay.errors import ReplayError
from diffreplay.snapshots.damage import verify_files
warnings.simplefilter("ignore")
def peak():
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
codec = RestlessZstd() if sys.argv[1] == "own" else None
def attempt(action):
    try:
        action()
        return "done"
    except ReplayError as error:
        return f"{type(error).__name__}: {error}"
def look(directory):
    begin = time.process_time()
    open("/proc/self/clear_refs", "w").write("5")
    before = peak()
    actions = [lambda skip=skip: ReplayBuffer.load(directory, codec=codec, skip_damaged=skip) for skip in (False, True)]
    said = [attempt(action) for action in actions] + [attempt(lambda: verify_files(directory))]
    return peak() - before, time.process_time() - begin, said
for name in sys.argv[2:]:
    print(json.dumps(look(Path(name))), flush=True)
"""


def load_in_a_process(*directories, codec="named"):
    """Of each: load it, load what is not damaged, and verify; peak bytes, seconds, and what each said."""
    command = [sys.executable, "-c", LOAD, codec, *directories]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=800)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def seal(directory, body):
    (directory / MANIFEST).write_bytes(
        body + b"\n" + hashlib.blake2b(body, digest_size=16).hexdigest().encode() + b"\n"
    )


@pytest.fixture(name="saved", params=["many sets", f"{SEVERAL}many sets"])
def save_some(directory, request):
    """A snapshot with several files of rows and sets, and one commit before it."""
    replay = buffer(90, case=request.param)
    writer = Writer(replay)
    for _ in range(3):
        writer.add(25)
        replay.save(directory)
    return replay


def test_what_is_no_file_is_refused_at_once(directory, saved):
    """In the place of each kind of file: FIFOs, sockets, directories, devices, and links to them."""
    manifest = read_manifest(directory)
    others, kept = directory.parent / "others", directory.parent / "kept"
    others.mkdir()
    for other in special_files(others):
        for name in (MANIFEST, PREVIOUS, manifest.segments[0].name, manifest.sets[0][-1].name):
            os.rename(directory / name, kept)
            os.rename(other, directory / name)
            begin = time.process_time()
            kind = other.name.removeprefix("link to ")
            if name == PREVIOUS:
                ReplayBuffer.load(directory, codec=RestlessZstd())
            else:
                with pytest.raises(CorruptDataError, match=f"{name}.*it is {kind}, not a file"):
                    ReplayBuffer.load(directory, codec=RestlessZstd())
            (problem,) = saved.verify()
            assert name in problem and f"it is {kind}, not a file" in problem and time.process_time() - begin < 20
            os.rename(directory / name, other)
            os.rename(kept, directory / name)
    assert saved.verify() == []


def test_links_to_files_are_followed(directory, saved):
    """As in a snapshot that was copied by linking."""
    copy = directory.parent / "copy"
    copy.mkdir()
    for path in directory.iterdir():
        os.symlink(path, copy / path.name)
    assert contents(ReplayBuffer.load(copy, codec=RestlessZstd())) == contents(saved)


def test_saving_over_what_is_no_file(directory, saved, tmp_path):
    """A save gets its manifest in place, or says why it cannot; nothing hangs."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for name in (MANIFEST, PREVIOUS, None):
        name = name or read_manifest(directory).segments[0].name
        (directory / name).unlink()
        os.symlink(fifo, directory / name)
        saved.save(directory)
        assert contents(ReplayBuffer.load(directory, codec=RestlessZstd())) == contents(saved)
    shutil.rmtree(directory)
    os.mkfifo(directory)
    with pytest.raises(OSError):
        saved.save(directory)


def test_a_large_manifest_takes_little_memory(directory, saved):
    """32 MB of JSON, and as much as is parsed at most."""
    made = []
    for unit in ("[]", '{"":[]}', '"ab"', "12345678901234567890"):
        for nbytes in (32 << 20, (1 << 21) - 100):
            made.append(shutil.copytree(directory, directory.parent / f"{len(made)}"))
            seal(made[-1], ("[" + ",".join([unit] * (nbytes // (len(unit) + 1))) + "]").encode())
    for k, (peak, seconds, said) in enumerate(load_in_a_process(*made)):
        assert ("makes no sense" if k % 2 else "expected a file of at most") in said[0] and said[0] == said[1]
        assert peak < 100e6 and seconds < 20


def claim(manifest, files, rows=4096, **fields):
    """A manifest of many files of rows that are not there."""
    shape = manifest["buffer"]["arguments"][1]
    images = sum(layout in IMAGE_LAYOUTS for _, _, layout in shape.values()) if isinstance(shape, dict) else 1
    names = [f"rows-{k * rows:012d}-0123456789abcdef.bin" for k in range(files)]
    segments = [[name, 1 << 22, "0" * 32, k * rows, (k + 1) * rows] for k, name in enumerate(names)]
    return {**manifest, "head": files * rows, "tail": 0, "segments": segments, "sets": [[]] * images, **fields}


def large(manifest, capacity=2**31, observation_shape=None, action_shape=None, **options):
    manifest = put(manifest, ("buffer", "arguments", 0), capacity)
    if observation_shape is not None:
        manifest = put(manifest, ("buffer", "arguments", 1), observation_shape)
    if action_shape is not None:
        manifest = put(manifest, ("buffer", "arguments", 2), action_shape)
    for name, value in options.items():
        manifest = put(manifest, ("buffer", "options", name), value)
    return put(manifest, ("buffer", "streams"), [])


CLAIMS = {
    "large capacity": lambda m: large(m),
    "one file of all rows": lambda m: claim(large(m), 1, 2**40),
    "rows far before tail": lambda m: claim(large(m), 1, 2**40, tail=2**40 - 1),
    "many rows": lambda m: claim(large(m), 120),
    "very many rows": lambda m: claim(large(m), 15_000),
    "large actions": lambda m: large(m, 1000, action_shape=[2**24]),
    "large actions and many rows": lambda m: claim(large(m, 10**6, action_shape=[2**24]), 120),
    "large actions, few rows a file": lambda m: claim(large(m, 10**6, action_shape=[2**20]), 5000, 3),
    "large frames": lambda m: claim(large(m, 10**6, [3, 2**10, 2**10]), 120),
    "huge frames": lambda m: large(m, 10, [3, 2**40, 2**40]),
    "many frames in a stack": lambda m: large(m, 2**23, [2**22, 1, 1], frame_stack=2**22),
    "many steps": lambda m: large(m, 2**31, nstep=2**30),
    "large sets": lambda m: put(large(m), ("buffer", "codec_options"), {"set_frames": 2**60}),
}


def part(shape, dtype="|u1", layout=""):
    """What a manifest says of a part."""
    return [shape, dtype, layout]


CLAIMS_OF_PARTS = {
    "a huge image": lambda m: large(m, 10, {"a": part([3, 2**40, 2**40], layout="CHW")}),
    "a huge column": lambda m: large(m, 10, {"a": part([2**40], "<f8")}),
    "large images and rows": lambda m: claim(large(m, 10**6, {"a": part([2**10, 2**10], "<u2", "FHW")}), 120),
    "large columns and rows": lambda m: claim(large(m, 10**6, {"a": part([2**20], "<f8")}), 120),
    "many images and rows": lambda m: claim(
        large(m, 10**6, {str(k): part([1, 200, 200], layout="CHW") for k in range(32)}), 120
    ),
    "too many images and rows": lambda m: claim(
        large(m, 10**6, {str(k): part([1, 9, 9], layout="CHW") for k in range(1000)}), 120
    ),
    "many columns": lambda m: large(m, 2**20, {str(k): part([1], "<f4") for k in range(20_000)}),
    "many sides and rows": lambda m: claim(large(m, 10, {"a": part([1] * 1000, "<f4")}), 1),
    "huge extras": lambda m: large(m, 10, extras={"a": part([2**40], "<f8")}),
    "large extras and rows": lambda m: claim(large(m, 10**6, extras={"a": part([2**20], "<f8")}), 120),
    "many extras": lambda m: large(m, 10, extras={str(k): part([2**12], "<f8") for k in range(10_000)}),
    "many ranges": lambda m: put(m, ("buffer", "ranges"), [[[k % 1024, 0] for k in range(10**5)]] * 2),
}


@pytest.mark.parametrize("codec", ["delta", "zstd", "sparse", "raw", f"{SEVERAL}delta", f"{SEVERAL}sparse"])
def test_a_small_manifest_that_claims_much_takes_little_memory(directory, codec):
    replay = buffer(90, case=codec)
    Writer(replay).add(50)
    replay.save(directory)
    claims = CLAIMS_OF_PARTS if codec.startswith(SEVERAL) else CLAIMS
    made = [shutil.copytree(directory, directory.parent / name.replace(" ", "-")) for name in claims]
    for copy, change in zip(made, claims.values(), strict=True):
        reseal(copy, change)
    for copy, (peak, seconds, said) in zip(made, load_in_a_process(*made), strict=True):
        assert peak < 100e6 + 2 * sum(sizes(copy).values()) and seconds < 20
        assert said[0] == "done" or said[0].startswith(("CorruptDataError", "SharedMemoryError"))
        assert all(str(copy) in line for line in said if line != "done") and max(map(len, said)) < 600
        assert said[0].startswith("CorruptDataError") or "row" not in copy.name


def test_files_that_are_large_only_on_paper(directory, saved):
    """Sparse files of the size that the manifest claims."""
    entry = read_manifest(directory).segments[0]
    made = []
    for size in (1 << 33, 1 << 40):
        made.append(shutil.copytree(directory, directory.parent / f"{size}"))
        os.truncate(made[-1] / entry.name, size)
        reseal(made[-1], lambda m, size=size: put(m, ("segments", 0, 1), size))
    for peak, seconds, said in load_in_a_process(*made, codec="own"):
        assert said[0].startswith("CorruptDataError") and entry.name in said[0] and peak < 100e6 and seconds < 20


def test_one_file_is_not_named_twice(directory):
    replay = buffer(90, codec="raw")
    Writer(replay).add(50)
    replay.save(directory)
    name = read_manifest(directory).segments[0].name
    reseal(
        directory, lambda m: {**m, "head": 100, "segments": [m["segments"][0], [name, *m["segments"][0][1:3], 50, 100]]}
    )
    with pytest.raises(CorruptDataError) as info:
        ReplayBuffer.load(directory)
    says(info, f"{name}: | number | name | got 50")


def test_inspecting_what_is_hostile_gives_one_line(directory, saved):
    (directory / MANIFEST).unlink()
    os.mkfifo(directory / MANIFEST)
    command = [sys.executable, "-m", "diffreplay", "inspect", directory]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=800)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "it is a FIFO, not a file" in done.stderr


def test_numbers_and_nesting_that_no_manifest_has(directory, saved):
    whole = json.loads((directory / MANIFEST).read_bytes().partition(b"\n")[0])
    text = json.dumps(whole)
    for number in ("9" * 100_000, "1e999999", "-Infinity", "[" * 90_000 + "]" * 90_000, "[" * 900 + "]" * 900):
        for key in ("tail", "streams", "next_checks", "discount", "state"):
            begin = text.index(f'"{key}": ') + len(key) + 4
            body = text[:begin] + number + ', "x": ' + text[begin:]
            seal(directory, body.encode())
            with pytest.raises(CorruptDataError) as caught:
                ReplayBuffer.load(directory, codec=RestlessZstd())
            assert len(str(caught.value)) < 600
    body = text.replace('"streams": [', '"streams": ' + "[" * 900 + "]" * 900 + ', "streams": [')
    seal(directory, body.encode())  # of a key that comes twice, the last one counts
    assert contents(ReplayBuffer.load(directory, codec=RestlessZstd())) == contents(saved)
