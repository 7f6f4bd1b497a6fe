"""A run that is gone on with under other options: what would mix is refused, what may change is applied."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from training_options import tiny_config

from drqv2.workspace import Workspace
from runs.errors import OptionError

RAM = "full_compress=true"
FAST = ("save_snapshot=true", "action_repeat=50", "num_seed_frames=500")  # 20 agent steps an episode


def make(folder: Path, *options: str) -> Workspace:
    return Workspace(tiny_config(*FAST, *options), folder)


def begin(folder: Path, *options: str) -> None:
    """A run that is stopped at its start."""
    with make(folder, *options) as workspace:
        workspace.save_snapshot()


def train(folder: Path, *options: str) -> None:
    with make(folder, *options) as workspace:
        workspace.train()


def frames(path: Path) -> list[str]:
    with path.open(newline="") as file:
        return [row["frame"] for row in csv.DictReader(file)]


def change_state(folder: Path, change: Any) -> None:
    """Write the snapshot as an earlier version did."""
    state = torch.load(folder / "snapshot.pt", weights_only=True)
    change(state)
    torch.save(state, folder / "snapshot.pt")


DIFFERENT = [
    ((RAM,), ("action_repeat=25",), "action_repeat=50", "action_repeat=25"),
    ((), ("action_repeat=25",), "action_repeat=50", "action_repeat=25"),
    ((RAM,), ("black_floor=false",), "black_floor=true", "black_floor=false"),
    ((), ("black_floor=true",), "black_floor=false", "black_floor=true"),
    ((), ("grayscale=true", "frame_stack=9"), "grayscale=false", "grayscale=true"),  # of one shape
    ((RAM,), ("task=walker_run",), "task_name=walker_walk", "task_name=walker_run"),
    ((RAM,), ("seed=2",), "seed=1", "seed=2"),
    ((RAM, "nstep=3"), ("nstep=5",), "nstep=3", "nstep=5"),
    ((RAM,), ("discount=0.9",), "discount=0.99", "discount=0.9"),
    ((RAM,), ("codec=sparse",), "codec=delta", "codec=sparse"),
    ((RAM, "codec=zstd"), ("codec=null",), "codec=zstd", "codec=delta"),  # of before `delta` was the default
    ((RAM,), ("cameras=[1]",), "cameras=null", "cameras=[1]"),  # of one shape
    ((), ("cameras=[1]",), "cameras=null", "cameras=[1]"),
    ((RAM,), ("cameras=[0,1]",), "cameras=null", "cameras=[0,1]"),
    ((RAM, "cameras=[0,1]"), ("cameras=[1,0]",), "cameras=[0,1]", "cameras=[1,0]"),
    ((RAM,), ("proprioception=true",), "proprioception=false", "proprioception=true"),
    ((RAM, "proprioception=true"), ("proprioception=false",), "proprioception=true", "proprioception=false"),
    ((RAM,), ("replay_buffer_size=999",), "replay_buffer_size=1000", "replay_buffer_size=999"),
    ((RAM,), ("full_compress=false", "grayscale=true", "black_floor=true"), "in RAM", "on disk"),
    (("grayscale=true", "black_floor=true"), (RAM,), "on disk", "in RAM"),
]


@pytest.mark.parametrize(("options", "others", "made", "has"), DIFFERENT)
def test_what_would_mix_is_refused(
    tmp_path: Path, options: tuple[str, ...], others: tuple[str, ...], made: str, has: str
) -> None:
    begin(tmp_path, *options)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    with pytest.raises(OptionError) as caught:
        make(tmp_path, *options, *others)
    message = str(caught.value)
    assert made in message.split("this run has")[0] and has in message.split("this run has")[1]
    assert "hydra.run.dir" in message and "\n" not in message
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    make(tmp_path, *options).close()


def test_a_folder_of_an_earlier_version_is_gone_on_with(tmp_path: Path) -> None:
    begin(tmp_path, RAM)

    def as_before(state: dict[str, Any]) -> None:
        kept = ("task_name", "observation_shape", "action_shape", "feature_dim", "hidden_dim")
        state["run"] = {name: state["run"][name] for name in kept}
        del state["evaluated"]

    change_state(tmp_path, as_before)
    with make(tmp_path, RAM) as workspace:
        assert workspace.step == 0
    with pytest.raises(OptionError, match="hidden_dim=16, this run has hidden_dim=17"):
        make(tmp_path, RAM, "agent.hidden_dim=17")
    with pytest.raises(OptionError, match=r"cameras=null, this run has cameras=\[1\]"):
        make(tmp_path, RAM, "cameras=[1]")


@pytest.mark.parametrize("change", [{"agent": {}}, {"step": None, "agent": 7}, {"run": None}, {"version": 1}])
def test_a_snapshot_that_makes_no_sense_is_one_sentence(tmp_path: Path, change: dict[str, Any]) -> None:
    begin(tmp_path, RAM)
    change_state(tmp_path, lambda state: state.update(change))
    with pytest.raises(OptionError, match="not a readable snapshot") as caught:
        make(tmp_path, RAM)
    assert "\n" not in str(caught.value)


def test_another_cap_and_learning_rate_are_applied(tmp_path: Path) -> None:
    begin(tmp_path, RAM, "replay_buffer_max_bytes=50000000")
    with make(tmp_path, RAM, "replay_buffer_max_bytes=20000000", "lr=0.5") as workspace:
        assert workspace.replay._buffer.store.max_bytes == 20_000_000  # type: ignore[attr-defined]
        assert workspace.agent.actor_optimizer.param_groups[0]["lr"] == 0.5
    with make(tmp_path, RAM) as workspace:
        assert workspace.replay._buffer.store.max_bytes is None  # type: ignore[attr-defined]
    with pytest.raises(OptionError, match="max_bytes: expected at least"):
        make(tmp_path, RAM, "replay_buffer_max_bytes=1000")


def test_evaluations_stay_whatever_becomes_of_their_frequency(tmp_path: Path) -> None:
    task = ("task=cartpole_balance", RAM, "num_seed_frames=3000")
    train(tmp_path, *task, "num_train_frames=2000", "eval_every_frames=1000")
    assert frames(tmp_path / "eval.csv") == ["0", "1000", "2000"]
    first = (tmp_path / "eval.csv").read_bytes()
    train(tmp_path, *task, "num_train_frames=2000", "eval_every_frames=1000")  # nothing to train
    assert (tmp_path / "eval.csv").read_bytes() == first
    train(tmp_path, *task, "num_train_frames=3000", "eval_every_frames=1500")
    assert frames(tmp_path / "eval.csv") == ["0", "1000", "2000", "3000"]
    train(tmp_path, *task, "num_train_frames=4000", "eval_every_frames=0")
    assert (tmp_path / "eval.csv").read_bytes().startswith(first)
    assert frames(tmp_path / "eval.csv") == ["0", "1000", "2000", "3000"]
    assert frames(tmp_path / "train.csv") == ["1000", "2000", "3000", "4000"]
