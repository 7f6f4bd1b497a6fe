import json
import os
import pickle
import random
import resource
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from drqv2.agent import DrQV2Agent
from drqv2.config import AgentConfig
from runs import snapshot
from runs.errors import OptionError
from runs.snapshot import load_snapshot, save_snapshot


class Evil:
    """Unpickles by calling a function, which must not happen."""

    def __reduce__(self):
        return (pytest.fail, ("pickled code was executed",))


def test_round_trip(tmp_path):
    path = tmp_path / "snapshot.pt"
    state = {"weights": torch.rand(3), "rng": np.random.default_rng(0).bit_generator.state, "step": 2**40, "none": None}
    save_snapshot(path, state)
    loaded = load_snapshot(path)
    assert torch.equal(loaded.pop("weights"), state.pop("weights"))
    assert loaded == state
    assert [file.name for file in tmp_path.iterdir()] == ["snapshot.pt"]


def test_a_crash_while_writing_leaves_the_old_snapshot(tmp_path, monkeypatch):
    path = tmp_path / "snapshot.pt"
    save_snapshot(path, {"step": 1})

    def crash(state, file):
        file.write(b"half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr(snapshot.torch, "save", crash)
    with pytest.raises(KeyboardInterrupt):
        save_snapshot(path, {"step": 2})
    assert load_snapshot(path) == {"step": 1}


def test_pickled_code_is_refused(tmp_path):
    path = tmp_path / "snapshot.pt"
    torch.save({"agent": Evil()}, path)
    with pytest.raises(OptionError, match=r"snapshot\.pt is not a readable snapshot"):
        load_snapshot(path)
    path.write_bytes(pickle.dumps(Evil(), protocol=2))
    with pytest.raises(OptionError, match=r"snapshot\.pt is not a readable snapshot"):
        load_snapshot(path)


@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, 0.99])
def test_a_torn_file_is_reported(tmp_path, keep):
    path = tmp_path / "snapshot.pt"
    save_snapshot(path, {"weights": torch.rand(1000)})
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
    with pytest.raises(OptionError, match="not a readable snapshot"):
        load_snapshot(path)


def small_agent_state():
    """What a run keeps of a real agent, small."""
    config = AgentConfig(1e-4, 1, 1, 0.01, 2, 2000, "1.0", 0.3)
    agent = DrQV2Agent((1, 84, 84), (1,), config, torch.device("cpu"), 1)
    generator = np.random.RandomState(1).get_state(legacy=False)
    return {"version": 2, "agent": agent.state_dict(), "step": 7, "generator": generator["state"]["key"].tolist()}


def refusal(path):
    """The sentence that refuses to load `path`."""
    with pytest.raises(OptionError) as caught:
        load_snapshot(path)
    message = str(caught.value)
    assert str(path) in message and "not a readable snapshot" in message and "hydra.run.dir" in message
    assert "\n" not in message
    return message


def test_every_flipped_bit_is_noticed(tmp_path):
    path, rng = tmp_path / "snapshot.pt", random.Random(0)
    save_snapshot(path, small_agent_state())
    whole = path.read_bytes()
    places = [rng.randrange(8 * len(whole)) for _ in range(300)]
    places += range(8 * (len(whole) - 70), 8 * len(whole))  # the archive's end and the checksum itself
    for place in places:
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        refusal(path)
    path.write_bytes(whole)
    assert load_snapshot(path)["step"] == 7
    assert torch.load(path, weights_only=True)["step"] == 7, "anything else may read it, too"


def test_every_cut_and_every_addition_is_noticed(tmp_path):
    path = tmp_path / "snapshot.pt"
    save_snapshot(path, {"weights": torch.rand(30)})
    whole = path.read_bytes()
    for keep in range(len(whole)):
        path.write_bytes(whole[:keep])
        refusal(path)
    path.write_bytes(whole + b"\0")
    refusal(path)


def test_a_snapshot_of_an_earlier_version_loads_and_its_damage_is_noticed(tmp_path):
    path, rng, state = tmp_path / "snapshot.pt", random.Random(1), small_agent_state()
    torch.save(state, path)  # as it was written then
    whole = path.read_bytes()
    assert load_snapshot(path)["step"] == 7
    loaded = 0
    for _ in range(150):
        place = rng.randrange(8 * len(whole))
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        try:
            found = load_snapshot(path)
        except OptionError:
            continue
        loaded += 1  # the flip hit what means nothing, such as padding
        for name, value in state["agent"]["encoder"].items():
            assert torch.equal(found["agent"]["encoder"][name], value)
        assert found["generator"] == state["generator"] and found["step"] == 7
    assert loaded < 30


@pytest.mark.parametrize("kind", ["folder", "pipe", "device", "nowhere", "pickle", "json"])
def test_what_is_no_snapshot_is_refused_at_once(tmp_path, kind):
    path = tmp_path / "snapshot.pt"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "nowhere":
        path.symlink_to(tmp_path / "gone")
    elif kind == "pickle":
        path.write_bytes(pickle.dumps({"step": 1}))
    else:
        path.write_text(json.dumps({"step": 1}))
    refusal(path)


def test_a_full_disk_keeps_the_old_snapshot_and_leaves_no_part_of_the_new_one(tmp_path):
    path = tmp_path / "snapshot.pt"
    save_snapshot(path, {"step": 1})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(OptionError, match=r"cannot be written .*make room for it") as caught:
            save_snapshot(path, {"step": 2, "weights": torch.rand(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(caught.value)
    assert [file.name for file in tmp_path.iterdir()] == ["snapshot.pt"]
    assert load_snapshot(path) == {"step": 1}
    save_snapshot(path, {"step": 2})
    assert load_snapshot(path) == {"step": 2}


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace shows the system calls")
def test_the_folder_is_on_disk_after_the_rename(tmp_path):
    """Watched from outside, by the system calls themselves."""
    trace = tmp_path / "trace"
    program = "import sys; from pathlib import Path; from runs.snapshot import save_snapshot\n"
    program += "save_snapshot(Path(sys.argv[1]), {'step': 1})"
    command = ["strace", "-f", "-y", "-o", str(trace), "-e", "trace=fsync,rename,renameat,renameat2"]
    subprocess.run([*command, sys.executable, "-c", program, str(tmp_path / "snapshot.pt")], check=True, timeout=800)
    calls = [line for line in trace.read_text().splitlines() if str(tmp_path) in line]
    order = [line.split("(")[0].split()[-1][:6] for line in calls]
    assert order == ["fsync", "rename", "fsync"]
    assert "snapshot.pt.tmp" in calls[0] and f"<{tmp_path}>" in calls[2]


def test_something_else_is_reported(tmp_path):
    torch.save([1, 2], tmp_path / "snapshot.pt")
    with pytest.raises(OptionError, match="expected a dict, got list"):
        load_snapshot(tmp_path / "snapshot.pt")
