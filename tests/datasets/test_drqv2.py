"""DrQ-v2's folder of episodes, there and back."""

from __future__ import annotations

import numpy as np
import pytest
from made_datasets import drqv2_episode, drqv2_folder, same_arrays, same_folders, write_npz
from says import says

import diffreplay
from diffreplay import ArraySpec, ReplayBuffer
from diffreplay.datasets import Description, Episode, convert
from diffreplay.errors import CorruptDataError, InputError
from diffreplay.testing import TimeStep
from drqv2.episode_files import EpisodeWriter


def there_and_back(tmp_path, **options):
    done = convert(tmp_path / "episodes", tmp_path / "snapshot", **options)
    back = convert(tmp_path / "snapshot", tmp_path / "back", target_format="drqv2")
    assert (back.episodes, back.steps) == (done.episodes, done.steps)
    same_folders(tmp_path / "episodes", tmp_path / "back")
    return diffreplay.open(tmp_path / "snapshot", verify=True)


@pytest.mark.parametrize("channels", [1, 3])
def test_round_trip(tmp_path, channels):
    episodes = drqv2_folder(tmp_path / "episodes", [1, 20, 7, 33], channels=channels)
    replay = there_and_back(tmp_path, nstep=3)
    assert (len(replay), replay.frame_stack, replay.nstep) == (61, 3, 3)
    assert replay.stats().frames == sum(len(episode["action"]) for episode in episodes)  # each frame once


def test_each_transition_is_what_was_stored(tmp_path):
    (episode,) = drqv2_folder(tmp_path / "episodes", [9])
    convert(tmp_path / "episodes", tmp_path / "snapshot")
    batch = diffreplay.open(tmp_path / "snapshot").sample(200)
    found = set()
    for obs, action, reward, next_obs in zip(
        batch.obs.numpy(), batch.action.numpy(), batch.reward.numpy(), batch.next_obs.numpy(), strict=True
    ):
        t = next(t for t in range(9) if np.array_equal(obs, episode["observation"][t]))
        same_arrays(next_obs, episode["observation"][t + 1])
        same_arrays(action, episode["action"][t + 1])
        same_arrays(reward, episode["reward"][t + 1])
        found.add(t)
    assert found == set(range(9))


def test_stacks_that_are_not_shifted_copies(tmp_path):
    rng = np.random.default_rng(1)
    drqv2_folder(tmp_path / "episodes", [8, 9])
    broken, begun = drqv2_episode(12, rng), drqv2_episode(10, rng)
    broken["observation"][5] = rng.integers(0, 256, broken["observation"][5].shape, np.uint8)
    begun["observation"] = begun["observation"][3:]  # its first stack is three frames
    begun = {key: values[: len(begun["observation"])] for key, values in begun.items()}
    write_npz(tmp_path / "episodes", 2, broken)
    write_npz(tmp_path / "episodes", 3, begun)
    there_and_back(tmp_path)


def test_noise_that_no_stack_continues(tmp_path):
    episode = drqv2_episode(6, np.random.default_rng(2))
    episode["observation"] = np.random.default_rng(3).integers(0, 256, episode["observation"].shape, np.uint8)
    (tmp_path / "episodes").mkdir()
    write_npz(tmp_path / "episodes", 0, episode)
    there_and_back(tmp_path)


def test_first_rows_that_are_no_dummies_and_further_arrays(tmp_path):
    rng = np.random.default_rng(4)
    (tmp_path / "episodes").mkdir()
    for number in range(3):
        episode = drqv2_episode(5 + number, rng)
        episode["physics"] = rng.normal(size=(len(episode["action"]), 18))
        episode["skill"] = rng.integers(0, 9, len(episode["action"]))
        if number == 1:
            episode["action"][0], episode["reward"][0], episode["discount"][0] = 0.3, -1.5, 0.25
        episode["discount"][-1] = number != 2
        write_npz(tmp_path / "episodes", number, episode)
    replay = there_and_back(tmp_path)
    assert set(replay.sample(4).extras) == {"physics", "skill"}


def test_states_in_place_of_images(tmp_path):
    rng = np.random.default_rng(5)
    (tmp_path / "episodes").mkdir()
    episode = drqv2_episode(14, rng) | {"observation": rng.normal(size=(15, 24)).astype(np.float32)}
    write_npz(tmp_path / "episodes", 0, episode)
    assert there_and_back(tmp_path).frame_stack == 1


def test_what_our_own_training_writes(tmp_path):
    rng = np.random.default_rng(6)
    writer = EpisodeWriter(tmp_path / "episodes", (9, 16, 16), 1, 1000, 3)
    for length in (12, 5):
        episode = drqv2_episode(length, rng)
        for t in range(length + 1):
            writer.add(
                TimeStep(
                    episode["observation"][t],
                    episode["action"][t],
                    float(episode["reward"][t, 0]),
                    float(episode["discount"][t, 0]),
                    is_first=t == 0,
                    is_last=t == length,
                )
            )
    there_and_back(tmp_path, nstep=3)


def test_a_buffer_that_nobody_converted(tmp_path):
    """Episodes of two streams side by side, the oldest of them evicted in part."""
    rng = np.random.default_rng(7)
    replay = ReplayBuffer(60, (9, 16, 16), (6,), frame_stack=3)
    episodes = [drqv2_episode(25, rng) for _ in range(4)]
    for pair in (episodes[:2], episodes[2:]):
        for t in range(26):
            for stream, episode in enumerate(pair):
                step = TimeStep(episode["observation"][t], episode["action"][t], float(episode["reward"][t, 0]))
                replay.add(step._replace(is_first=t == 0, is_last=t == 25), stream=stream)
    replay.save(tmp_path / "snapshot")
    convert(tmp_path / "snapshot", tmp_path / "out", target_format="drqv2")
    files = sorted((tmp_path / "out").iterdir(), key=lambda path: int(path.stem.split("_")[1]))
    assert len(files) == 4
    held = 0
    for path, episode in zip(files, episodes, strict=True):
        with np.load(path) as found:
            count = len(found["action"])
            held += count - 1
            same_arrays(found["observation"], episode["observation"][26 - count :])
            same_arrays(found["action"][1:], episode["action"][27 - count :])
            assert path.stem.endswith(f"_{count - 1}")
    assert held >= 55


def test_options(tmp_path):
    drqv2_folder(tmp_path / "episodes", [30])
    convert(tmp_path / "episodes", tmp_path / "nine", frame_stack=9, capacity=100, codec="zstd", discount=0.5)
    replay = diffreplay.open(tmp_path / "nine")
    assert (replay.frame_stack, replay.capacity, replay.codec.name) == (9, 100, "zstd")
    with pytest.raises(InputError) as refused:
        convert(tmp_path / "episodes", tmp_path / "four", frame_stack=4)
    says(refused, "frame_stack | 9 channels | 4")
    with pytest.raises(InputError) as refused:
        convert(tmp_path / "episodes", tmp_path / "few", capacity=29)
    says(refused, "capacity | 30 | 29")
    assert not (tmp_path / "four").exists() and not (tmp_path / "few").exists()


def test_names_tell_lengths(tmp_path):
    drqv2_folder(tmp_path / "episodes", [30])
    (path,) = (tmp_path / "episodes").iterdir()
    wrong = path.rename(path.with_name("20211231T120000_0_501.npz"))
    with pytest.raises(CorruptDataError) as refused:
        convert(tmp_path / "episodes", tmp_path / "snapshot")
    says(refused, wrong, "502 rows | 31")
    assert not (tmp_path / "snapshot").exists()


def test_a_snapshot_in_another_codec_keeps_where_it_came_from(tmp_path):
    drqv2_folder(tmp_path / "episodes", [6, 9])
    convert(tmp_path / "episodes", tmp_path / "snapshot")
    convert(tmp_path / "snapshot", tmp_path / "other", target_format="snapshot", codec="zstd", nstep=3)
    convert(tmp_path / "other", tmp_path / "back", target_format="drqv2")
    same_folders(tmp_path / "episodes", tmp_path / "back")


def test_rewards_that_are_rounded_are_told(tmp_path):
    class Exact:
        format = "exact"
        description = Description(
            ArraySpec((3, 16, 16)), ArraySpec((2,), "float32"), reward=ArraySpec((), "float64"), steps=2
        )

        def episodes(self, start=0):
            yield Episode(np.zeros((3, 3, 16, 16), np.uint8), np.zeros((2, 2), np.float32), np.array([0.1, 0.2]))

    convert(Exact(), tmp_path / "snapshot")
    with pytest.warns(UserWarning, match="rewards are rounded to float32"):
        convert(tmp_path / "snapshot", tmp_path / "episodes", target_format="drqv2")
    with np.load(next((tmp_path / "episodes").iterdir())) as found:
        same_arrays(found["reward"], np.array([[0], [0.1], [0.2]], np.float32))


def test_a_first_row_that_makes_no_sense_is_told(tmp_path):
    class Strange:
        format = "strange"
        description = Description(ArraySpec((3, 16, 16)), ArraySpec((2,), "float32"), steps=2)

        def episodes(self, start=0):
            frames, actions = np.zeros((3, 3, 16, 16), np.uint8), np.zeros((2, 2), np.float32)
            first = {"first row": {"action": [1, 2, 3]}}
            yield Episode(frames, actions, np.zeros(2, np.float32), name="one", attributes=first)

    with pytest.raises(CorruptDataError) as refused:
        convert(Strange(), tmp_path / "episodes", target_format="drqv2")
    says(refused, "one", "first row of action of shape (2,)")
