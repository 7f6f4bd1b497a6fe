"""The set-up's refusals: what it prints and how it ends where it cannot go on."""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from says import says

import diffreplay

ROOT = Path(__file__).resolve().parents[1]
CHECK = "scripts/check_rendering.py"


def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, timeout=800
    )


def executable(path: Path, script: str) -> Path:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def test_rendering_works_here() -> None:
    result = run(sys.executable, CHECK, MUJOCO_GL="")
    assert result.returncode == 0, result.stderr
    assert "MUJOCO_GL=egl" in result.stdout and result.stdout.count("\n") == 1


def test_backend_that_needs_a_screen_is_refused() -> None:
    result = run(sys.executable, CHECK, MUJOCO_GL="glfw", DISPLAY="")
    assert result.returncode == 1
    says(result.stderr, "MUJOCO_GL=egl", "MUJOCO_GL=osmesa")
    assert "Traceback" not in result.stderr


def without_egl(folder: Path) -> dict[str, str]:
    """The environment of a machine without the library: an empty file in its name is found before the real one."""
    for name in ("libEGL.so.1", "libEGL.so"):
        (folder / name).touch()
    return {"MUJOCO_GL": "egl", "LD_LIBRARY_PATH": str(folder)}


def test_missing_library_names_the_command(tmp_path: Path) -> None:
    # With no apt-get on PATH nothing may be installed, whoever runs this.
    result = run(sys.executable, CHECK, **without_egl(tmp_path), PATH=str(tmp_path))
    assert result.returncode == 1
    assert "apt-get install --yes --no-install-recommends libegl1 " in result.stderr
    assert "Traceback" not in result.stderr


# The apt-get of these tests is a script of their own: the real one would change the machine that they run on.
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may install packages")
def test_root_installs_the_missing_library(tmp_path: Path) -> None:
    environment = without_egl(tmp_path)
    executable(tmp_path / "apt-get", f'echo "ran $1" && if [ "$1" = install ]; then rm {tmp_path}/libEGL.*; fi')
    result = run(sys.executable, CHECK, **environment, PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert result.returncode == 0, result.stderr
    assert result.stdout.index("ran update") < result.stdout.index("ran install")
    assert "MUJOCO_GL=egl" in result.stdout.splitlines()[-1]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may install packages")
def test_failed_installation_stops(tmp_path: Path) -> None:
    environment = without_egl(tmp_path)
    executable(tmp_path / "apt-get", 'echo "ran $1" && exit 100')
    result = run(sys.executable, CHECK, **environment, PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert result.returncode == 1
    assert "ran update" in result.stdout and "ran install" not in result.stdout
    assert "    apt-get update && apt-get install --yes" in result.stderr


def test_python_that_cannot_work_is_refused(tmp_path: Path) -> None:
    old = executable(tmp_path / "python", 'if [ "$1" = --version ]; then echo Python 3.10.13; else exit 1; fi')
    result = run("scripts/create_venv.sh", tmp_path / "venv", "dev", PYTHON=str(old))
    assert result.returncode == 1
    says(result.stderr, "3.11", "3.12", "Python 3.10.13")
    assert not (tmp_path / "venv").exists()


def test_every_package_is_listed() -> None:
    listed = configparser.ConfigParser()
    listed.read(ROOT / "setup.cfg")
    run_from_the_checkout = {"benchmarks", "drqv2", "runs", "sb3_atari", "tests"}  # and not installed
    tops = [file.parent for file in ROOT.glob("*/__init__.py") if file.parent.name not in run_from_the_checkout]
    packages = {".".join(file.parent.relative_to(ROOT).parts) for top in tops for file in top.rglob("__init__.py")}
    assert set(listed["options"]["packages"].split()) == packages


def test_options_in_args_win() -> None:
    result = run(
        "make", "--no-print-directory", "--dry-run", "--always-make", "train", "ARGS=task=quadruped_walk seed=2"
    )
    assert result.returncode == 0, result.stderr
    command = result.stdout.splitlines()[-1]
    assert "train.py task=walker_walk full_compress=true " in command
    options = command.partition("train.py ")[2].split()
    chosen = yaml.safe_load(run(sys.executable, "train.py", *options, "--cfg", "job").stdout)
    assert (chosen["task_name"], chosen["seed"], chosen["full_compress"]) == ("quadruped_walk", 2, True)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a build needs, apart from the checkout, which it would write to."""
    folder = tmp_path_factory.mktemp("sources")
    for name in ("setup.py", "setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    for name in ("diffreplay", "drqv2"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    return folder


def wheel(sources: Path, folder: Path, **environment: str) -> Path:
    command = (sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", folder, ".")
    result = subprocess.run(
        command, cwd=sources, env={**os.environ, **environment}, capture_output=True, text=True, timeout=800
    )
    assert result.returncode == 0, result.stderr
    (built,) = folder.glob("*.whl")
    return built


def test_wheel_holds_the_library_alone(sources: Path, tmp_path: Path) -> None:
    """With what is compiled for all versions of Python; none of the applications, and no C."""
    built = wheel(sources, tmp_path)
    assert "-cp311-abi3-" in built.name
    names = zipfile.ZipFile(built).namelist()
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"diffreplay"}
    compiled = ["diffreplay/codecs/delta/_core.abi3.so", "diffreplay/store/_lookup.abi3.so"]
    assert sorted(name for name in names if name.endswith(".so")) == compiled
    assert not [name for name in names if name.endswith((".c", ".h"))]


def test_wheel_without_a_compiler(sources: Path, tmp_path: Path) -> None:
    """It is built all the same, without what is compiled."""
    shutil.rmtree(sources / "build", ignore_errors=True)
    missing = str(tmp_path / "no-compiler")
    names = zipfile.ZipFile(wheel(sources, tmp_path, CC=missing, LDSHARED=missing)).namelist()
    assert "diffreplay/codecs/delta/plain.py" in names and not [name for name in names if name.endswith(".so")]


def test_the_version_is_told():
    assert diffreplay.__version__ == version("diffreplay")
