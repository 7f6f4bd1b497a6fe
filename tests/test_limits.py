"""What the system refuses or lacks is said in one sentence that is right, and no more is asked of it than needed."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from says import says

from diffreplay import ReplayBuffer
from diffreplay.limits import available_bytes, usable_cores

ROOT = Path(__file__).resolve().parent.parent


def python(program: str) -> subprocess.CompletedProcess:
    """Run a program in a process of its own."""
    return subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=800)


UNDER = """
import resource, numpy as np
from diffreplay import ReplayBuffer
from diffreplay.errors import SharedMemoryError
descriptors = []
{limit}
try:
    replay = ReplayBuffer({arguments})
except SharedMemoryError as error:
    print(error)
else:
    print("made", replay.store.layout.nbytes)
"""
MILLION = "1_000_000, (3, 84, 84), (1,)"
FILES = "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 28, 1 << 28))"
SPACE = "resource.setrlimit(resource.RLIMIT_AS, (16 << 30, 16 << 30))"
DESCRIPTORS = """
import os
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
while len(descriptors) < 64:
    try:
        descriptors.append(os.dup(0))
    except OSError:
        break
"""


@pytest.mark.parametrize(
    ("limit", "right", "wrong"),
    [
        (
            FILES,
            "ulimit -f | 0.27 GB | lower the capacity | max_bytes",
            "ulimit -v",
        ),
        (
            SPACE,
            "ulimit -v | 17.18 GB | lower the capacity | max_bytes",
            "ulimit -f",
        ),
        (DESCRIPTORS, "close files | ulimit -n", "ulimit -v"),
    ],
    ids=["ulimit -f", "ulimit -v", "ulimit -n"],
)
def test_each_limit_is_named(limit: str, right: str, wrong: str) -> None:
    done = python(UNDER.format(limit=limit, arguments=MILLION))
    assert done.returncode == 0, done.stderr
    says(done.stdout, right)
    assert wrong not in done.stdout and done.stdout.count("\n") == 1


@pytest.mark.parametrize("limit", [FILES, SPACE], ids=["ulimit -f", "ulimit -v"])
def test_a_capped_buffer_asks_for_little_address_space(limit: str) -> None:
    limit = limit.replace("1 << 28", "1 << 29")
    done = python(UNDER.format(limit=limit, arguments=f"{MILLION}, max_bytes=20_000_000, codec='raw'"))
    made, nbytes = done.stdout.split()
    assert made == "made" and int(nbytes) < 500_000_000


def test_without_a_limit_the_message_names_none() -> None:
    done = python(UNDER.format(limit="", arguments="10**15, (3, 84, 84), (1,)"))
    assert "lower the capacity" in done.stdout and "ulimit" not in done.stdout


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_other_systems_get_one_sentence(platform: str) -> None:
    done = python(f"import sys; sys.platform = {platform!r}; import diffreplay")
    assert done.returncode == 1
    says(done.stderr.splitlines()[-1], "ImportError: | Linux")
    assert "AttributeError" not in done.stderr and "During handling" not in done.stderr


def test_a_python_without_memory_files_gets_one_sentence() -> None:
    done = python("import os; del os.memfd_create; import diffreplay")
    says(done.stderr.splitlines()[-1], "ImportError: | os.memfd_create")


LOADER = """
import os
del os.sched_getaffinity
import numpy as np
import diffreplay

if __name__ == "__main__":
    replay = diffreplay.ReplayBuffer(100, (3, 8, 8), (1,))
    stacks = np.zeros((20, 3, 8, 8), np.uint8)
    for t in range(19):
        replay.add_transition(stacks[t], [0.0], 0.0, stacks[t + 1], False, False)
    loader = diffreplay.make_replay_loader(replay, batch_size=4, num_workers=2, threads=True)
    print(next(iter(loader)).obs.shape)
"""


def test_a_linux_without_sched_getaffinity() -> None:
    done = python(LOADER)
    assert "torch.Size([4, 3, 8, 8])" in done.stdout, done.stderr
    assert usable_cores() == len(os.sched_getaffinity(0))


def test_a_raw_buffer_beyond_memory_warns() -> None:
    available = available_bytes()
    assert available is not None
    capacity = 3 * available // 84**2
    with pytest.warns(UserWarning, match=r"[\d.]+ GB\b.*\b[\d.]+ GB\b.*available") as seen:
        ReplayBuffer(capacity, (3, 84, 84), (1,), codec="raw")
    (one,) = (one for one in seen if one.category is UserWarning)
    assert one.filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ReplayBuffer(capacity, (3, 84, 84), (1,))
        ReplayBuffer(capacity, (3, 84, 84), (1,), codec="raw", max_bytes=10_000_000)
        ReplayBuffer(available // 84**2 // 3, (3, 84, 84), (1,), codec="raw")


def test_a_small_log_wraps_without_loss() -> None:
    """Under a cap the log is a small ring; the newest bytes never meet the oldest."""
    replay = ReplayBuffer(100_000, (1, 64, 64), (1,), frame_stack=1, codec="raw", max_bytes=1_500_000)
    layout = replay.store.layout
    assert layout.log_bytes < 2_000_000
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (400, 1, 64, 64), np.uint8)
    for _ in range(4):
        for t in range(len(frames) - 1):
            replay.add_transition(frames[t], [t], 0.0, frames[t + 1], False, False)
            if t % 50 == 0:
                replay.check_invariants()
        batch = replay.sample(64)
        for obs, action, next_obs in zip(batch.obs, batch.action, batch.next_obs, strict=True):
            t = int(action[0])
            np.testing.assert_array_equal(obs, frames[t])
            np.testing.assert_array_equal(next_obs, frames[t + 1])
    assert replay.store.head * 4096 > 3 * layout.log_bytes
