"""Tiny runs of the whole loop on the real walker."""

import csv
import math

import pytest
import torch
from training_options import tiny_config

from drqv2.logger import TRAIN_COLUMNS
from drqv2.workspace import Workspace
from runs.errors import OptionError


def run(directory, *overrides):
    """Train to the end; return the workspace, whose counters and agent can be looked at."""
    with Workspace(tiny_config(*overrides), directory) as workspace:
        workspace.train()
    return workspace


def rows(directory, name="train.csv"):
    with (directory / name).open(newline="") as file:
        return list(csv.DictReader(file))


def course(directory):
    """What each episode of a run came to, without what depends on the machine's speed."""
    columns = ("frame", "episode_reward", "critic_loss", "actor_loss", "batch_reward")
    return [[row[c] for c in columns] for row in rows(directory)]


def updates(workspace):
    state = workspace.agent.critic_optimizer.state.values()
    return int(next(iter(state))["step"]) if state else 0


def weights(workspace):
    agent = workspace.agent
    return torch.cat(
        [p.detach().flatten() for net in (agent.encoder, agent.actor, agent.critic) for p in net.parameters()]
    )


MODES = {
    "disk": ([], 9, 100 / 101),
    "half": (["half_compress=true"], 3, 2.5),
    "sparse": (["full_compress=true", "codec=sparse"], 3, 2.8),
    "zstd": (["full_compress=true", "codec=zstd"], 3, 3.5),
    "delta": (["full_compress=true"], 3, 3.5),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("num_workers", [0, 1])
def test_every_mode_trains(tmp_path, mode, num_workers):
    overrides, channels, least_ratio = MODES[mode]
    with Workspace(
        tiny_config(*overrides, f"replay_buffer_num_workers={num_workers}", "num_train_frames=2000"), tmp_path
    ) as workspace:
        assert workspace.train_env.observation_spec().shape == (channels, 84, 84)
        before = weights(workspace)
        workspace.train()
    assert not torch.equal(before, weights(workspace))
    assert updates(workspace) == 50  # one every two of the 100 steps after the seed frames
    first, second = rows(tmp_path)
    assert tuple(first) == TRAIN_COLUMNS
    assert (first["frame"], first["step"], first["episode"], first["buffer_size"]) == ("1000", "100", "1", "100")
    assert (second["frame"], second["episode_length"], second["buffer_size"]) == ("2000", "1000", "200")
    assert first["critic_loss"] == "" and first["samples_per_second"] == "0.0"
    numbers = {name: float(value) for name, value in second.items()}
    assert all(map(math.isfinite, numbers.values()))
    assert numbers["compression_ratio"] >= least_ratio
    assert 0 < numbers["data_wait"] < 1
    # 50 updates of 4 and 1000 frames in the same seconds.
    assert numbers["samples_per_second"] == pytest.approx(numbers["fps"] * 200 / 1000)
    assert (tmp_path / "buffer").exists() == (mode == "disk")


def test_one_seed_gives_one_result(tmp_path):
    for name, seed in (("first", 1), ("again", 1), ("other", 2)):
        (tmp_path / name).mkdir()
        run(tmp_path / name, "full_compress=true", "num_seed_frames=400", "save_snapshot=true", f"seed={seed}")
    first, again, other = (
        torch.load(tmp_path / name / "snapshot.pt", weights_only=True)["agent"]["critic"]["q1.0.weight"]
        for name in ("first", "again", "other")
    )
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert course(tmp_path / "first") == course(tmp_path / "again") != []


@pytest.mark.parametrize("images", [True, False], ids=["gray with a black floor", "RGB"])
def test_training_from_compressed_frames_is_bit_for_bit_training_from_raw_ones(tmp_path, images):
    options = [f"grayscale={images}", f"black_floor={images}", "num_seed_frames=400", "num_train_frames=1000"]
    learned = {}
    for name, mode in (("half", "half_compress=true"), ("full", "full_compress=true")):
        (tmp_path / name).mkdir()
        learned[name] = run(tmp_path / name, mode, *options)
    assert updates(learned["half"]) == updates(learned["full"]) == 30
    assert torch.equal(weights(learned["half"]), weights(learned["full"]))
    assert course(tmp_path / "half") == course(tmp_path / "full") != []


def test_updates_wait_until_every_worker_has_an_episode(tmp_path):
    workspace = run(tmp_path, "num_seed_frames=100", "num_train_frames=1100")
    # An episode has 100 steps, so updates begin at step 100, not at step 10.
    assert workspace.step == 110 and updates(workspace) == 5


@pytest.mark.parametrize("options", [["num_seed_frames=0"], ["num_seed_frames=20", "nstep=20"]])
@pytest.mark.parametrize("mode", [["full_compress=true"], ["half_compress=true"], []])
@pytest.mark.parametrize("num_workers", [0, 1])
def test_updates_wait_for_a_batch_rather_than_the_trainer_for_itself(tmp_path, options, mode, num_workers):
    short = ["task=cartpole_balance", "action_repeat=20", "num_train_frames=1200"]  # 50 steps an episode
    workspace = run(tmp_path, *short, *mode, *options, f"replay_buffer_num_workers={num_workers}")
    nstep = workspace.config.nstep
    # On disk, an episode is there once it is over.
    first = nstep if mode else 50
    assert workspace.step == 60 and updates(workspace) == len(range(first + first % 2, 60, 2))


def test_updates_pause_where_eviction_took_the_last_window(tmp_path):
    """A buffer of 21 steps at the start of each episode of 20: it holds two halves, with no window of 15 in either."""
    options = ["task=cartpole_balance", "action_repeat=50", "num_train_frames=2500", "num_seed_frames=0"]
    workspace = run(tmp_path, *options, "full_compress=true", "nstep=15", "replay_buffer_size=20")
    assert workspace.step == 50 and 0 < updates(workspace) < (50 - 15) // 2 - 5


def test_evaluations_come_at_the_start_in_between_and_at_the_end(tmp_path):
    options = ("action_repeat=50", "eval_every_frames=150", "num_train_frames=300", "num_eval_episodes=2")
    run(tmp_path, "half_compress=true", *options)
    assert [(row["frame"], row["episode_length"]) for row in rows(tmp_path, "eval.csv")] == [
        ("0", "1000.0"),
        ("150", "1000.0"),
        ("300", "1000.0"),
    ]
    (tmp_path / "later").mkdir()
    run(tmp_path / "later", "half_compress=true", *options, "evaluate_at_start=false")
    assert [row["frame"] for row in rows(tmp_path / "later", "eval.csv")] == ["150", "300"]


def test_a_run_goes_on_from_its_snapshot(tmp_path):
    options = ("full_compress=true", "save_snapshot=true", "num_seed_frames=900")
    first = run(tmp_path, *options, "num_train_frames=1500")
    assert updates(first) == 30
    with Workspace(tiny_config(*options, "num_train_frames=3000"), tmp_path) as second:
        assert (second.step, second.episode, updates(second)) == (150, 1, 30)
        assert torch.equal(weights(first), weights(second))
        assert len(second.replay) == 150
        with pytest.warns(UserWarning, match="truncated"):  # the first run ended in mid-episode
            second.train()
    # Its buffer is as it was, so that updates go on at once.
    assert second.step == 300 and updates(second) == 30 + (300 - 150) // 2
    assert [row["frame"] for row in rows(tmp_path)] == ["1000", "2500"]
    total_times = [float(row["total_time"]) for row in rows(tmp_path)]
    assert total_times == sorted(total_times)

    with pytest.raises(OptionError, match="observation_shape"):
        Workspace(tiny_config(*options, "grayscale=false"), tmp_path)
    with pytest.raises(OptionError, match="hidden_dim"):
        Workspace(tiny_config(*options, "agent.hidden_dim=17"), tmp_path)


def test_episodes_on_disk_outlive_a_run_that_keeps_snapshots(tmp_path):
    run(tmp_path, "save_snapshot=true", "num_train_frames=1000")
    second = run(tmp_path, "save_snapshot=true", "num_train_frames=1200")
    assert updates(second) == 10 and len(second.replay) == 100


def test_training_episodes_are_filmed_when_asked(tmp_path):
    run(tmp_path, "half_compress=true", "save_train_video=true", "num_train_frames=1000")
    assert [path.name for path in (tmp_path / "train_video").iterdir()] == ["1000.mp4"]
