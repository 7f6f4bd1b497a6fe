"""TorchRL's compiled half, which its prioritised samplers need, for the PyTorch that is installed."""

from __future__ import annotations

import fcntl
import importlib.util
import shutil
import subprocess
import sysconfig
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torchrl
from torch.utils import cpp_extension
from torchrl.data.replay_buffers.samplers import prioritized

BUILT = Path(__file__).resolve().parents[2] / "build" / "torchrl"
TREES = ("MinSegmentTreeFp32", "MinSegmentTreeFp64", "SumSegmentTreeFp32", "SumSegmentTreeFp64")


def build(library: Path) -> None:
    """Compile it from the sources that its wheel brings."""
    sources = Path(torchrl.__file__).parent / "csrc"
    folders = [*cpp_extension.include_paths(), sysconfig.get_paths()["include"], sources, sources.parent.parent]
    command = ["g++", "-O0", "-std=c++20", "-shared", "-fPIC", "-DTORCH_EXTENSION_NAME=_torchrl"]
    command += [f"-I{folder}" for folder in folders] + [str(sources / name) for name in ("pybind.cpp", "utils.cpp")]
    command += [f"-L{folder}" for folder in cpp_extension.library_paths()]
    command += ["-lc10", "-ltorch_cpu", "-ltorch", "-ltorch_python", "-o", str(library.with_suffix(".part"))]
    subprocess.run(command, check=True)
    library.with_suffix(".part").rename(library)


def compiled() -> ModuleType:
    """It is built once for each version, by one process."""
    BUILT.mkdir(parents=True, exist_ok=True)
    library = BUILT / f"{torchrl.__version__}-{torch.__version__}.so"
    with (BUILT / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not library.exists():
            build(library)
    spec = importlib.util.spec_from_file_location("_torchrl", library)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def priorities() -> None:
    """Have the prioritised samplers, whose wheel may be built for another PyTorch than the one installed."""
    if prioritized.SumSegmentTreeFp32 is None:
        if shutil.which("g++") is None:
            pytest.skip("TorchRL's wheel is built for another PyTorch, and there is no g++ to build it anew")
        module = compiled()
        for name in TREES:
            setattr(prioritized, name, getattr(module, name))
