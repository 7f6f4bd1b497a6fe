"""What the tests of snapshots share: steps, a digest of all that a buffer holds, and an oracle of a loaded buffer."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import resource
import shutil
import tempfile
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from forms import form_of
from oracle import Oracle

from diffreplay import ArraySpec, ReplayBuffer, codecs
from diffreplay.codecs.base import SetPlanner
from diffreplay.snapshots.manifest import MANIFEST, read_manifest
from diffreplay.testing import TimeStep

SIDE = 16


@pytest.fixture(name="directory")
def make_directory():
    """A directory to save in; in memory where possible, as every save waits for its files to be on disk."""
    made = Path(tempfile.mkdtemp(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
    yield made / "snapshot"
    shutil.rmtree(made)


class EveryNineRows(SetPlanner):
    """Builds a set of the newest frames every 9 rows, so that many sets come and go."""

    def due(self, head):
        return head >= self.next_check

    def choose(self, store):
        self.next_check = store.head + 9
        rows = store.present(np.arange(max(store.tail, store.head - 3), store.head))
        return store.read(rows) if len(rows) else None


class RestlessZstd(codecs.ZstdCodec):
    """Zstandard with a new reference set every few rows."""

    def __init__(self) -> None:
        super().__init__(level=1, set_frames=4)

    def planner(self, frame_shape):
        return EveryNineRows()


CODECS = codecs.REGISTRY | {"many sets": RestlessZstd}
SEVERAL = "several parts, "
CASES = [*CODECS, *(SEVERAL + codec for codec in ("delta", "sparse", "many sets"))]  # of `buffer`, by name


def codec_of(case):
    """A new codec for a case."""
    return CODECS[case.removeprefix(SEVERAL)]()


def own_codec(case):
    """What loading a case takes."""
    return codec_of(case) if case.endswith("many sets") else None


def shape_of(case, frame_stack=3, channels=1, side=SIDE):
    """What the observations of a case are made of, frames of (channels, side, side) among it."""
    if not case.startswith(SEVERAL):
        return (frame_stack * channels, side, side)
    return {
        "place": ArraySpec((3,), "float64"),
        "front": ArraySpec((channels, side, side)),
        "depth": ArraySpec((side, side // 2), "uint16", "FHW"),
    }


def frame(number, channels=1, noisy=False):
    """(channels, SIDE, SIDE) that tells `number`: a moving square on stripes, or noise."""
    if noisy:
        return np.random.default_rng(number).integers(0, 256, (channels, SIDE, SIDE), np.uint8)
    pixels = np.broadcast_to(np.arange(SIDE, dtype=np.uint8) * 9, (channels, SIDE, SIDE)).copy()
    y, x = number % (SIDE - 3), number // 7 % (SIDE - 3)
    pixels[:, y : y + 3, x : x + 3] = 100 + number % 150
    return pixels


def parts_of_step(number, form):
    """What step `number` shows, one array of each part: one of `frame`, in its layout, or numbers that tell it."""
    found, noisy = [], number % 5 == 0
    for name, spec in form.specs.items():
        if not spec.is_image:
            found.append(np.array([number, np.nan, -0.0]))
        elif spec.dtype == "<u2":
            low, high = frame(number, 2, noisy)
            found.append((low.astype("u2") + high * np.uint16(256))[:, : spec.shape[1]])
        else:
            found.append(frame(number + len(name), spec.shape[0], noisy))
    return found


class Writer:
    """Adds steps that depend on their number alone, of two streams in turns; an episode has 17 steps."""

    def __init__(self, replay, steps=0) -> None:
        self.replay, self.steps = replay, steps

    def add(self, count):
        layout, form = self.replay.store.layout, form_of(self.replay)
        for number in range(self.steps, self.steps + count):
            stream, age = number % 2, number // 2 % 17
            ages = np.maximum(np.arange(age - layout.frame_stack + 1, age + 1), 0)
            numbers = number - 2 * (age - ages)
            stack = form.join([parts_of_step(n, form) for n in numbers.tolist()])
            step = TimeStep(stack, np.array([number]), number % 13 - 5.0, float(age != 16), age == 0, age == 16)
            self.replay.add(step, stream, dict.fromkeys(self.replay.extras, number) or None)
        self.steps += count


def buffer(capacity, *, case="", channels=1, frame_stack=3, codec="zstd", **options):
    """A buffer for `Writer`, of a case or of a codec."""
    if case:
        codec = codec_of(case)
    if case.startswith(SEVERAL):
        options["extras"] = {"log_prob": ArraySpec((), "float32")}
    shape = shape_of(case, frame_stack, channels)
    return ReplayBuffer(capacity, shape, (1,), action_dtype="int64", frame_stack=frame_stack, codec=codec, **options)


def observations(store, rows):
    """All that rows hold of observations: an array of each part."""
    frames = [store.read(rows, image) for image in range(len(store.layout.images))]
    return [*frames, *(store.stacked(column, rows) for column in store.layout.scalars[: store.layout.stacked])]


def by_row(store, rows):
    """The bytes of all that each of these rows holds of an observation."""
    parts = observations(store, rows)
    return {row: b"".join(part[k].tobytes() for part in parts) for k, row in enumerate(rows.tolist())}


def decodable(store):
    """Rows that were neither lost nor lost what they are coded against."""
    rows = store.present(np.arange(*store.bounds()))
    return rows[store.oldest_needed(rows) >= store.bounds()[0]]


def contents(replay):
    """A digest of all that a buffer holds and of all that decides how it goes on."""
    store = replay.store
    rows = np.arange(*store.bounds())
    present = decodable(store)
    digest = hashlib.blake2b(digest_size=16)
    images = range(len(store.layout.images))
    for values in (rows, present, *(store.read(present, image) for image in images)):
        digest.update(values.tobytes())
    for column in store.layout.columns:
        if column.name not in store.layout.ends:
            digest.update(store.column(column.name, rows).tobytes())
    for image, sets in enumerate(store.sets):
        digest.update(store.lengths(rows, image).tobytes() + sets.serving(rows).tobytes())
        for number in sets.numbers():
            digest.update(bytes(sets.frames(number)) + sets.first_row(number).to_bytes(8, "little"))
    streams = [
        [name, stream.row, stream.is_open, [hashlib.blake2b(part.tobytes()).hexdigest() for part in stream.stack]]
        for name, stream in store.streams.items()
    ]
    next_checks = [planner.next_check for planner in store.planning.planners]
    digest.update(json.dumps([streams, replay.rng.bit_generator.state, next_checks]).encode())
    return digest.hexdigest()


def held(replay):
    """What a buffer holds, without what it allocated: a coder takes memory when it is first used."""
    return replace(replay.stats(), total_bytes=0)


def resumed(oracle, replay, gone=frozenset()):
    """An oracle of `replay`, which was loaded from what `oracle`'s buffer saved, without the rows `gone`."""
    mirror = copy.copy(oracle)
    mirror.replay, mirror.store, mirror.open = replay, replay.store, set(oracle.open)
    whole = {}
    for step in oracle.live:
        if gone.isdisjoint(step.frames):
            previous = None if step.previous is None else whole.get(step.previous.number)
            whole[step.number] = replace(step, previous=previous)
    mirror.live = list(whole.values())
    followed = {id(step.previous) for step in mirror.live}
    going_on = {oracle.newest[stream].number for stream in mirror.open}
    for step in mirror.live:
        step.ends = id(step) not in followed and step.number not in going_on
    mirror.newest = {name: whole.get(step.number, replace(step, frames=[-1])) for name, step in oracle.newest.items()}
    for name in mirror.open:  # a stream whose newest observation is not whole begins anew
        if not mirror.is_whole(step := mirror.newest[name]):
            step.ends, mirror.newest[name] = True, replace(step, frames=[-1])
    mirror.strays, mirror.searches = Counter(), set()
    return mirror


def gone_rows(oracle, directory, damaged):
    """The rows that cannot be decoded without the files `damaged`, worked out from the original buffer."""
    store, manifest = oracle.store, read_manifest(directory)
    rows = np.arange(store.tail, store.head)
    sizes = [image.frame_bytes for image in store.layout.images]
    coded = [set(rows[store.lengths(rows, image) < size].tolist()) for image, size in enumerate(sizes)]
    gone = set()
    for entry in manifest.segments:
        if entry.name in damaged:
            gone |= set(range(max(entry.first, store.tail), entry.end))  # what was evicted before is not lost by it
    for image, sets in enumerate(manifest.sets):
        ends = [entry.end for entry in sets[1:]] + [manifest.head]
        for entry, end in zip(sets, ends, strict=False):
            if entry.name in damaged:
                gone |= {row for row in range(entry.end, end) if row in coded[image]}
    if store.codec.reference == "frame":
        back = store.column("reference", rows).astype(int).tolist()
        gone |= {row for row, distance in zip(rows.tolist(), back, strict=True) if row - distance in gone}
    return gone


def check_samples(oracle: Oracle):
    """Every complete window is drawn, and nothing else is; where there is none, sampling says so."""
    windows = oracle.windows()
    drawn = oracle.check_batch(oracle.replay.sample(30 * len(windows))) if windows else []
    assert set(np.unique(drawn).tolist()) == set(windows)  # each is missed once in e^30 times


def sizes(directory):
    """Bytes of each file in a directory."""
    return {path.name: path.stat().st_size for path in directory.iterdir()}


def reseal(directory, change, name=MANIFEST):
    """Change the manifest's fields, and give it a checksum that is right."""
    body = (directory / name).read_bytes().partition(b"\n")[0]
    body = json.dumps(change(json.loads(body))).encode()
    seal = hashlib.blake2b(body, digest_size=16).hexdigest()
    (directory / name).write_bytes(body + b"\n" + seal.encode() + b"\n")


@contextmanager
def at_most(which, more):
    """Limit a resource of this process, RLIMIT_AS to `more` than it takes now."""
    soft, hard = resource.getrlimit(which)
    if which == resource.RLIMIT_AS:
        with open("/proc/self/statm") as file:
            more += int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(which, (more, hard))
    try:
        yield
    finally:
        resource.setrlimit(which, (soft, hard))
