"""The Ray cluster of a run with actors: one of this machine's own, or one that runs already."""

from __future__ import annotations

import os
import socket
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from runs.errors import OptionError

OBJECT_STORE_BYTES, ROUND_BYTES = 256 << 20, 32 << 20  # weights alone go through it, and those of each round
CONNECT_SECONDS = 10.0
ROOT = Path(__file__).resolve().parents[1]


def check_installed(actors: int) -> None:
    """OptionError where Ray is missing."""
    if find_spec("ray") is None:
        raise OptionError(
            f"actors={actors}: expected the package ray, which is not installed: pip install 'diffreplay[ray]'"
        )


def connect(actors: int, address: str | None) -> bool:
    """Connect to the cluster at `address`, or start one of this process; whether it is to be ended with the run.

    A process that is connected already stays so.

    Raises:
        OptionError: Ray is missing, or there is no cluster at `address`.
    """
    check_installed(actors)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if address is None:
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # keeps to 127.0.0.1; read at the import
    ray: Any = import_module("ray")
    if ray.is_initialized():
        return False
    # Workers on other machines have this code at the same place, or on their own path. How they render is theirs.
    path = os.pathsep.join(
        dict.fromkeys([str(ROOT), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))])
    )
    # One thread for each actor, as there are more actors than cores; also of LLVMpipe, which renders without a GPU.
    one_each = dict.fromkeys(("OMP_NUM_THREADS", "LP_NUM_THREADS"), "1")
    environment = {"env_vars": {"PYTHONPATH": path, **one_each}}
    quiet = {"log_to_driver": False, "logging_level": "ERROR", "runtime_env": environment}
    if address is None:
        # Of a processor, an actor or a shard takes a hundredth; Ray starts a process for each processor beforehand.
        room = {"num_cpus": 1 + actors // 50, "object_store_memory": OBJECT_STORE_BYTES + actors * ROUND_BYTES}
        quiet |= {"include_dashboard": False, "_node_ip_address": "127.0.0.1", **room}
        try:
            ray.init(address="local", **quiet)
        except (ConnectionError, ValueError, RuntimeError, OSError) as error:
            raise OptionError(
                f"actors={actors}: expected Ray to start on this machine, but it does not: {_line(error)}"
            ) from error
        return True
    _check_address(address)
    try:
        ray.init(address=address, **quiet)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise _no_cluster(address, _line(error)) from error
    return True


def _check_address(address: str) -> None:
    """OptionError where nobody answers; Ray itself would go on trying for minutes."""
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "/" in host:
        raise _no_cluster(address, "no host:port")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise _no_cluster(address, str(error)) from error


def _no_cluster(address: str, reason: str) -> OptionError:
    return OptionError(
        f"ray_address={address}: expected the address of a Ray cluster that this machine is part of, such as "
        f"10.0.0.1:6379 or auto, got none there ({reason}); start one with `ray start --head`, or join it with `ray "
        "start --address=...`, or leave ray_address out"
    )


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
