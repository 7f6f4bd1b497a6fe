import pickle

import numpy as np
import pytest
import torch

from drqv2 import snapshot
from drqv2.errors import OptionError
from drqv2.snapshot import load_snapshot, save_snapshot


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


def test_something_else_is_reported(tmp_path):
    torch.save([1, 2], tmp_path / "snapshot.pt")
    with pytest.raises(OptionError, match="expected a dict, got list"):
        load_snapshot(tmp_path / "snapshot.pt")
