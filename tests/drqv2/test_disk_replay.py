import threading
import time

import numpy as np
import pytest
import torch

from diffreplay.testing import TimeStep
from drqv2 import disk_replay
from drqv2.disk_replay import DiskReplay
from drqv2.episode_files import EpisodeWriter, list_episodes, load_episode
from drqv2.episode_share import EpisodeShare
from runs.errors import OptionError

SHAPE, GAMMA = (3, 8, 8), 0.9


def episode(number, length):
    """Steps whose every value tells the episode and the step, and whose discounts differ."""
    rng = np.random.default_rng(number)
    return [
        TimeStep(
            np.full(SHAPE, 10 * number + t, np.uint8),
            np.array([number, t], np.float32),
            float(rng.uniform()),
            float(rng.choice([1.0, 0.5])),
            is_last=t == length,
        )
        for t in range(length + 1)
    ]


def write(directory, lengths, shares=1, capacity=1000, nstep=1):
    writer = EpisodeWriter(directory, SHAPE, shares, capacity, nstep)
    for number, length in enumerate(lengths):
        for step in episode(number, length):
            writer.add(step)
    return writer


def share(directory, worker=0, num_workers=1, capacity=1000, nstep=1, keep_files=True):
    return EpisodeShare(directory, worker, num_workers, capacity, nstep, GAMMA, keep_files, np.random.default_rng(0))


def make_replay(directory, num_workers=0, **changes):
    options = {"capacity": 1000, "batch_size": 4, "nstep": 1, "seed": 0, "keep_files": True} | changes
    return DiskReplay(directory, SHAPE, num_workers=num_workers, discount=GAMMA, pin_memory=False, **options)


def check(batch, nstep):
    """Compare every transition with a sum over the steps it must come from; return (episode, position) of each."""
    seen = []
    for obs, action, reward, discount, next_obs in zip(*batch, strict=True):
        number, t = int(action[0]), int(action[1]) - 1
        steps = episode(number, 9)
        np.testing.assert_array_equal(obs, steps[t].observation)
        np.testing.assert_array_equal(next_obs, steps[t + nstep].observation)
        following = steps[t + 1 : t + 1 + nstep]
        factors = np.cumprod([1.0] + [GAMMA * step.discount for step in following])
        np.testing.assert_allclose(reward, [sum(f * s.reward for f, s in zip(factors, following, strict=False))], 1e-5)
        np.testing.assert_allclose(discount, [factors[-1]], 1e-5)
        seen.append((number, t))
    return seen


def test_an_episode_is_one_file_named_by_time_index_and_length(tmp_path):
    write(tmp_path, [9, 4])
    files = list_episodes(tmp_path)
    assert [(file.index, file.length) for file in files] == [(0, 9), (1, 4)]
    assert all(len(file.path.stem.split("_")[0]) == len("20210101T000000") for file in files)
    assert list(tmp_path.iterdir()) != [] and not list(tmp_path.glob("*.tmp"))
    stored = load_episode(files[1].path)
    assert {name: (array.shape, array.dtype.name) for name, array in stored.items()} == {
        "observation": ((5, *SHAPE), "uint8"),
        "action": ((5, 2), "float32"),
        "reward": ((5, 1), "float32"),
        "discount": ((5, 1), "float32"),
    }


def test_an_unfinished_file_is_not_seen(tmp_path):
    (tmp_path / "20210101T000000_0_9.tmp").write_bytes(b"half")
    mine = share(tmp_path)
    mine.fetch()
    assert len(mine) == 0


@pytest.mark.parametrize("nstep", [1, 3, 9])
def test_samples_are_the_episodes_own_nstep_transitions(tmp_path, nstep):
    write(tmp_path, [9, 9, 9])
    mine = share(tmp_path, nstep=nstep)
    mine.fetch()
    seen = check([np.stack(column) for column in zip(*(mine.sample() for _ in range(1500)), strict=True)], nstep)
    every = {(number, t) for number in range(3) for t in range(9 - nstep + 1)}
    assert set(seen) == every
    assert min(seen.count(place) for place in every) > 0.5 * 1500 / len(every)


def test_shares_are_private(tmp_path):
    write(tmp_path, [9] * 7, shares=3)
    held = []
    for worker in range(3):
        mine = share(tmp_path, worker, num_workers=3)
        mine.fetch()
        held.append({int(mine.sample()[1][0]) for _ in range(200)})
    assert held == [{0, 3, 6}, {1, 4}, {2, 5}]


def test_the_earliest_episodes_leave_first(tmp_path):
    writer = write(tmp_path, [9] * 3, capacity=20)
    mine = share(tmp_path, capacity=20)
    mine.fetch()
    assert {int(mine.sample()[1][0]) for _ in range(200)} == {1, 2}
    for step in episode(3, 9):
        writer.add(step)
    mine.fetch()
    assert {int(mine.sample()[1][0]) for _ in range(200)} == {2, 3}
    assert len(mine) == writer.transitions == 18
    assert [file.index for file in list_episodes(tmp_path)] == [0, 2, 3]  # 0 was never loaded, 1 was dropped


def test_files_go_when_loaded_unless_kept(tmp_path):
    write(tmp_path, [9])
    mine = share(tmp_path, keep_files=False)
    mine.fetch()
    assert len(mine) == 9 and list_episodes(tmp_path) == []


def test_episodes_shorter_than_nstep_are_left_out(tmp_path):
    writer = write(tmp_path, [2, 9], nstep=3)
    mine = share(tmp_path, nstep=3)
    mine.fetch()
    assert {int(mine.sample()[1][0]) for _ in range(50)} == {1}
    assert writer.transitions == 9


def test_a_damaged_file_is_reported_and_left_out(tmp_path, caplog):
    write(tmp_path, [9, 9])
    damaged = list_episodes(tmp_path)[0].path
    damaged.write_bytes(damaged.read_bytes()[:100])
    mine = share(tmp_path)
    mine.fetch()
    assert len(mine) == 9 and damaged.name in caplog.text


def test_an_episode_beyond_the_capacity_is_refused(tmp_path):
    with pytest.raises(OptionError, match=r"replay_buffer_size.*at least 18"):
        write(tmp_path, [9], shares=2, capacity=8)


def test_episodes_found_are_gone_on_from(tmp_path):
    write(tmp_path, [9, 9])
    writer = EpisodeWriter(tmp_path, SHAPE, 1, 1000, 1)
    assert writer.transitions == 18
    for step in episode(2, 9):
        writer.add(step)
    assert [file.index for file in list_episodes(tmp_path)] == [0, 1, 2]
    with pytest.raises(OptionError, match="shape"):
        EpisodeWriter(tmp_path, (9, 8, 8), 1, 1000, 1)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_through_the_loader(tmp_path, num_workers):
    write(tmp_path, [9] * 5)
    replay = make_replay(tmp_path, num_workers, nstep=3)
    assert replay.ready and len(replay) == 45
    batches = replay.batches(torch.device("cpu"))
    seen = set()
    for _ in range(60):
        batch = next(batches)
        assert [(tuple(value.shape), value.dtype) for value in batch] == [
            ((4, *SHAPE), torch.uint8),
            ((4, 2), torch.float32),
            ((4, 1), torch.float32),
            ((4, 1), torch.float32),
            ((4, *SHAPE), torch.uint8),
        ]
        seen.update(number for number, _ in check([value.numpy() for value in batch], 3))
    assert seen == set(range(5))


def test_one_seed_gives_the_same_batches(tmp_path):
    write(tmp_path, [9] * 3)
    first, again, other = (next(make_replay(tmp_path, seed=seed).batches(torch.device("cpu"))) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_new_episodes_are_fetched_every_thousand_samples(tmp_path):
    write(tmp_path, [9])
    replay = make_replay(tmp_path, batch_size=100)
    batches = replay.batches(torch.device("cpu"))
    next(batches)
    for step in episode(1, 9):
        replay.add(step)
    held = [set(next(batches)[1][:, 0].tolist()) for _ in range(10)]
    assert held[8] == {0.0} and held[9] == {0.0, 1.0}


def test_a_worker_waits_for_its_first_episode(tmp_path):
    replay = make_replay(tmp_path, num_workers=1)
    assert not replay.ready
    batches = replay.batches(torch.device("cpu"))
    arrived = []
    waiter = threading.Thread(target=lambda: arrived.append(next(batches)))
    waiter.start()
    time.sleep(3)
    assert not arrived
    write(tmp_path, [9])
    waiter.join(200)
    check([value.numpy() for value in arrived[0]], 1)


def test_sampling_nothing_in_process_is_an_error(tmp_path):
    with pytest.raises(RuntimeError, match="no episode"):
        next(make_replay(tmp_path).batches(torch.device("cpu")))


def test_ready_when_every_worker_has_an_episode(tmp_path):
    replay = make_replay(tmp_path, num_workers=2)
    ready = []
    for number in range(2):
        for step in episode(number, 9):
            replay.add(step)
        ready.append(replay.ready)
    assert ready == [False, True]
    replay.close()


def test_stats_count_what_workers_hold(tmp_path):
    write(tmp_path, [9, 9])
    stats = make_replay(tmp_path).stats()
    size = np.prod(SHAPE)
    assert (stats.transitions, stats.frames, stats.total_bytes, stats.stacked_bytes) == (18, 20, 20 * size, 18 * size)
    assert stats.compression_ratio == 0.9
    assert stats.forecast(1800) == 2000 * size


def test_too_little_shared_memory_is_said_beforehand(tmp_path, monkeypatch):
    monkeypatch.setattr(disk_replay.shutil, "disk_usage", lambda path: disk_replay.shutil._ntuple_diskusage(0, 0, 1000))
    with pytest.raises(OptionError, match="/dev/shm"):
        make_replay(tmp_path, num_workers=2)
