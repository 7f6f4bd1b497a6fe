"""Check that MuJoCo can render without a screen; install or name what is missing.

Renders one frame of walker_walk in a process of its own, with the backend named by ``MUJOCO_GL`` (EGL unless set).
If that fails and this process may install Debian packages, it installs the graphics library and tries once more;
otherwise it prints the command that would, and exits with status 1.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys

# Mesa's software renderer behind each of MuJoCo's backends. A GPU driver brings its own and ignores Mesa's.
PACKAGES = {
    "egl": ["libegl1", "libgl1", "libgles2", "libegl-mesa0", "libgl1-mesa-dri"],
    "osmesa": ["libosmesa6", "libgl1"],
}

RENDER_ONE_FRAME = """
from dm_control import suite
frame = suite.load("walker", "walk").physics.render(84, 84, camera_id=0)
if frame.shape != (84, 84, 3) or frame.min() == frame.max():
    raise SystemExit(f"the rendered frame is empty: shape {frame.shape}, all pixels {frame.min()}")
"""


def render_error(backend: str) -> str | None:
    """Render one frame in a fresh process; return None if it worked, else the last line of its error output."""
    # A fresh process, since a failed import of the OpenGL bindings cannot be repeated in this one.
    result = subprocess.run(
        [sys.executable, "-c", RENDER_ONE_FRAME],
        env={**os.environ, "MUJOCO_GL": backend},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if result.returncode == 0:
        return None
    # OpenGL objects that were half made complain once more when the interpreter shuts down: not the cause.
    lines = result.stderr.split("Exception ignored")[0].strip().splitlines()
    return lines[-1] if lines else f"the process ended with status {result.returncode}"


def install_commands(packages: list[str]) -> list[list[str]]:
    """The commands that install the packages on Debian and Ubuntu."""
    return [
        ["apt-get", "update"],
        ["apt-get", "install", "--yes", "--no-install-recommends", *packages],
    ]


def may_install() -> bool:
    """Whether this process can install Debian packages: it is root and apt-get exists."""
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


def install(packages: list[str]) -> bool:
    """Install the packages with apt-get; return whether every command succeeded."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in install_commands(packages):
        print(f"+ {shlex.join(command)}", flush=True)
        if subprocess.run(command, env=environment, stdin=subprocess.DEVNULL).returncode != 0:
            return False
    return True


def explain(backend: str, error: str) -> None:
    """Print what failed and the exact command that would help."""
    print(f"MuJoCo cannot render without a screen (MUJOCO_GL={backend}): {error}", file=sys.stderr)
    if backend not in PACKAGES:
        print("Choose a backend that needs no screen: MUJOCO_GL=egl or MUJOCO_GL=osmesa.", file=sys.stderr)
        return
    sudo = "" if os.geteuid() == 0 else "sudo "
    commands = " && ".join(sudo + shlex.join(command) for command in install_commands(PACKAGES[backend]))
    print(f"Expected Mesa's or a GPU driver's library. Install it and run this again:\n    {commands}", file=sys.stderr)
    if shutil.which("apt-get") is None:
        print(
            "(These are Debian's names; this system has no apt-get, so use its own package manager.)", file=sys.stderr
        )


def main() -> int:
    """Check, install where that is possible, check again; return the exit status."""
    backend = os.environ.get("MUJOCO_GL") or "egl"
    error = render_error(backend)
    if error is not None and backend in PACKAGES and may_install():
        print(f"MuJoCo cannot render without a screen (MUJOCO_GL={backend}): {error}", flush=True)
        print("Installing the graphics library.", flush=True)
        if install(PACKAGES[backend]):
            error = render_error(backend)
            if error is not None:
                print(f"The packages are installed, yet MuJoCo still cannot render: {error}", file=sys.stderr)
                return 1
    if error is not None:
        explain(backend, error)
        return 1
    print(f"MuJoCo renders without a screen (MUJOCO_GL={backend}).")
    return 0


if __name__ == "__main__":
    sys.exit(main())
