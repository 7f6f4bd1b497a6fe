"""The codec `delta` gives the same bytes and the same pixels with every set of instructions."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import platform
import subprocess
import sysconfig
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from numpy.typing import NDArray

from diffreplay.codecs.delta import plain
from diffreplay.codecs.delta.codec import core as find_core
from diffreplay.testing.damage import mutate
from diffreplay.testing.frames import frames_of
from tests.codecs.test_delta import CORE, decoded, sprites
from tests.compiling import compiles

compiled = find_core()
pytestmark = pytest.mark.skipif(compiled is plain or not compiles(), reason="needs gcc, and the compiled core")
CPUINFO = Path("/proc/cpuinfo").read_text().split()
# What the processor must have, and how to compile a core that takes it.
BUILDS = {
    "none": (None, ["-DONE_PATH", "-U__SSE2__"]),
    "sse2": ("sse2", ["-DONE_PATH"]),
    "ssse3": ("ssse3", ["-DONE_PATH", "-mssse3"]),
    "avx2": ("avx2", []),  # found when it runs
}


@pytest.fixture(scope="module", params=BUILDS)
def build(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """A core with one set of instructions."""
    needed, flags = BUILDS[request.param]
    if needed and (platform.machine() != "x86_64" or needed not in CPUINFO):
        pytest.skip(f"this processor has no {needed}")
    path = tmp_path_factory.mktemp(request.param) / "_core.so"
    python = ["-DPy_LIMITED_API=0x030b0000", f"-I{sysconfig.get_path('include')}"]
    command = ["gcc", "-O1", "-ftree-vectorize", "-std=gnu11", "-DINLINE=static", "-shared", "-fPIC", *flags, *python]
    subprocess.run([*command, f"-I{CORE}", *sorted(CORE.glob("*.c")), "-o", path], check=True)
    assert (b"encode_avx2" in path.read_bytes()) == (needed == "avx2"), "it was compiled for other instructions"
    loader = importlib.machinery.ExtensionFileLoader("_core", str(path))
    spec = importlib.util.spec_from_loader("_core", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def encoded(core: ModuleType, frames: NDArray[np.uint8], references: NDArray[np.uint8], level: int) -> list[bytes]:
    """What a core makes of frames, (n, H, W, C), against references."""
    _, _, width, channels = frames.shape
    index = core.index(references.tobytes(), frames[0].size, width * channels, channels, level)
    return [core.encode(index, references.tobytes(), frame) for frame in frames]


# As many references as fill up to each number of lanes, and one more.
@pytest.mark.parametrize("count", [0, 1, 8, 9, 17, 40, 64, 70, 130, 200, 256])
@pytest.mark.parametrize("shape", [(24, 30, 1), (20, 18, 3), (11, 13, 2), (15, 12, 4)], ids=str)
def test_bytes_and_pixels_are_the_same(build: ModuleType, shape: tuple[int, int, int], count: int) -> None:
    rng, frames = np.random.default_rng(count), sprites(shape, count + 6, count)
    references, frames = frames[:count], frames[count:]
    near = (references[-2:] + rng.integers(-9, 9, shape)).astype(np.uint8)
    frames = np.concatenate([frames, frames_of("gradient", shape, 2), near])
    for level in (1, 2, 5):
        blobs = encoded(build, frames, references, level)
        assert blobs == encoded(compiled, frames, references, level)
        kept = [k for k, blob in enumerate(blobs) if blob is not None]
        blobs = [blobs[k] for k in kept]
        for planar in (False, True):
            out, damaged = decoded(build, blobs, references, shape, planar)
            assert damaged == -1
            np.testing.assert_array_equal(out.transpose(0, 2, 3, 1) if planar else out, frames[kept])
        for blob in blobs:
            wrong = mutate(blob, rng)[: frames[0].size - 1]
            (one, first), (other, second) = (decoded(core, [wrong], references, shape) for core in (build, compiled))
            assert first == second
            if first == -1:
                np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("shape", [(84, 84, 1), (84, 84, 3)], ids=str)
def test_large_frames_are_the_same(build: ModuleType, shape: tuple[int, int, int]) -> None:
    frames = sprites(shape, 110, 1)
    for level in (2, 4):
        blobs = encoded(build, frames[100:], frames[:100], level)
        assert None not in blobs
        assert blobs == encoded(compiled, frames[100:], frames[:100], level)
        out, damaged = decoded(build, blobs, frames[:100], shape, planar=True)
        assert damaged == -1
        np.testing.assert_array_equal(out.transpose(0, 2, 3, 1), frames[100:])
