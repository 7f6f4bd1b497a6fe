"""ReplayStorage against TorchRL's own LazyTensorStorage: the same items, drawn and written by any index."""

from __future__ import annotations

import multiprocessing
import os
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from tensordict import LazyStackedTensorDict, TensorDict, TensorDictBase
from torchrl.data import LazyTensorStorage, ReplayBuffer, TensorDictReplayBuffer
from torchrl.data.replay_buffers import (
    PrioritizedSampler,
    PrioritizedSliceSampler,
    RandomSampler,
    SamplerWithoutReplacement,
    SliceSampler,
    SliceSamplerWithoutReplacement,
    TensorDictMaxValueWriter,
)

from diffreplay.errors import CorruptDataError, IndexingError, InputError, ReadOnlyError
from diffreplay.torchrl import ReplayStorage
from diffreplay.torchrl.images import CodedImages

STACK, SIDE = 4, 12
KEYS = ("pixels", ("next", "pixels"))


def pictures(rng: np.random.Generator, count: int, dtype: Any = np.uint8) -> np.ndarray:
    """Frames in which a few pixels differ from one to the next."""
    frames = np.repeat(rng.integers(0, 200, (1, SIDE, SIDE)), count, axis=0).astype(dtype)
    frames[np.arange(count), rng.integers(0, SIDE, count), rng.integers(0, SIDE, count)] = rng.integers(0, 250, count)
    return frames


def stacks(frames: np.ndarray, stack: int = STACK) -> np.ndarray:
    """Stacks of the newest frames at each step; the first frame comes several times."""
    padded = np.concatenate([np.repeat(frames[:1], stack - 1, 0), frames])
    return np.stack([padded[k : k + stack] for k in range(len(frames))])


def episode(rng: np.random.Generator, length: int, number: int = 0) -> TensorDict:
    """An episode whose terminal observation is in the last item alone."""
    seen = torch.from_numpy(stacks(pictures(rng, length + 1)))
    done = torch.zeros(length, 1, dtype=torch.bool)
    done[-1] = True
    vectors = torch.from_numpy(rng.normal(size=(length + 1, 3)).astype(np.float32))
    return TensorDict(
        {
            "pixels": seen[:-1],
            "state": vectors[:-1],
            "action": torch.from_numpy(rng.integers(0, 6, length)),
            "collector": {"traj_ids": torch.full((length,), number)},
            "next": {"pixels": seen[1:], "state": vectors[1:], "done": done, "reward": vectors[1:, :1].double()},
        },
        [length],
    )


def recording(seed: int = 0, items: int = 300) -> TensorDictBase:
    rng, episodes, count = np.random.default_rng(seed), [], 0
    while count < items:
        episodes.append(episode(rng, int(rng.integers(5, 40)), len(episodes)))
        count += len(episodes[-1])
    return torch.cat(episodes)[:items]


def same(one: Any, other: Any) -> bool:
    """Whether two TensorDicts have the same keys, dtypes, shapes and values."""
    names = set(one.keys(True, True))
    return (
        names == set(other.keys(True, True))
        and one.shape == other.shape
        and all(one[name].dtype == other[name].dtype and torch.equal(one[name], other[name][...]) for name in names)
    )


def pair(items: int, **options: Any) -> tuple[LazyTensorStorage, ReplayStorage]:
    return LazyTensorStorage(items), ReplayStorage(items, **options)


def filled(items: int = 100, of: int = 300, **options: Any) -> tuple[LazyTensorStorage, ReplayStorage]:
    both = pair(items, **options)
    for storage in both:
        buffer = TensorDictReplayBuffer(storage=storage, batch_size=8)
        for begin in range(0, of, 37):
            buffer.extend(recording(0, of)[begin : begin + 37])
    return both


@pytest.mark.parametrize("codec", ["delta", "zstd", "sparse", "raw"])
def test_any_index_gives_what_torchrl_gives(codec: str) -> None:
    theirs, ours = filled(codec=codec)
    assert len(ours) == len(theirs) == 100 and ours.shape == theirs.shape
    mask = torch.arange(100) % 3 == 0
    indices = [0, -1, 7, slice(None), slice(3, 50, 4), torch.tensor([5, 5, 99]), [1, 2], range(4), np.array([8, 3])]
    for index in [*indices, mask, torch.tensor([[1, 2], [3, 4]]), torch.tensor(3)]:
        assert same(theirs.get(index), ours.get(index)), index
    assert all(type(ours.get(torch.tensor([1, 2]))[key]) is torch.Tensor for key in KEYS)


def test_a_ring_that_wraps_within_a_batch() -> None:
    theirs, ours = pair(50)
    buffers = [TensorDictReplayBuffer(storage=storage, batch_size=8) for storage in (theirs, ours)]
    data = recording(1, 400)
    for begin, end in [(0, 20), (20, 45), (45, 70), (70, 120), (120, 121), (121, 300), (300, 400)]:
        written = [buffer.extend(data[begin:end]) for buffer in buffers]
        assert torch.equal(*written)
        assert same(theirs.get(slice(None)), ours.get(slice(None)))


def test_random_places_are_overwritten() -> None:
    """In any order, in batches and one by one, against a plain storage; memory stays bounded."""
    theirs, ours = filled(60, 60)
    data, rng = recording(2, 300), np.random.default_rng(0)
    for _ in range(150):
        places = rng.permutation(60)[: rng.integers(1, 20)]
        items = data[torch.from_numpy(rng.integers(0, 300, len(places)))]
        for storage in (theirs, ours):
            storage.set(torch.from_numpy(places), items, set_cursor=False)
            storage.set(int(places[0]), items[0], set_cursor=False)
        index = torch.from_numpy(rng.integers(0, 60, 30))
        assert same(theirs.get(index), ours.get(index))
    assert same(theirs.get(slice(None)), ours.get(slice(None)))


@pytest.mark.parametrize("codec", ["delta", "zstd"])
def test_shuffled_items_overwrite_others_at_random(codec: str) -> None:
    """Sequences go on whose older frames left, and so must not be built upon; after it was loaded, too."""
    theirs, ours = pair(300, frame_stack=STACK, codec=codec)
    data, rng = recording(3, 1000), np.random.default_rng(0)
    for storage in (theirs, ours):
        storage.set(range(300), data[:300])
    for k in range(120):
        places, items = torch.from_numpy(rng.permutation(300)[:50]), torch.from_numpy(rng.integers(0, 1000, 50))
        for storage in (theirs, ours):
            storage.set(places, data[items], set_cursor=False)
        if k in (40, 80):
            ours = pickle.loads(pickle.dumps(ours)) if k == 40 else reloaded(ours)
        assert same(theirs.get(torch.arange(300)), ours.get(torch.arange(300))), k


def reloaded(storage: ReplayStorage) -> ReplayStorage:
    other = ReplayStorage(storage.max_size, frame_stack=STACK, codec=storage._codec)
    other.load_state_dict(storage.state_dict())
    return other


def test_tensors_of_several_shapes() -> None:
    """A lazy stack of them is kept as TorchRL keeps it."""
    seen = torch.from_numpy(stacks(pictures(np.random.default_rng(13), 6)))
    one = TensorDict({"pixels": seen, "map": torch.ones(6, 4, 8).byte()}, [6])
    other = TensorDict({"pixels": seen.flip(0), "map": torch.ones(6, 3, 8).byte()}, [6])
    theirs, ours = pair(8)
    for storage in (theirs, ours):
        ReplayBuffer(storage=storage, batch_size=4).extend(LazyStackedTensorDict(one, other, stack_dim=1))
    assert not ours.has_images
    for k in range(6):
        for mine, its in zip(ours.get(k).unbind(0), theirs.get(k).unbind(0), strict=True):
            assert same(mine, its)


def test_what_nothing_needs_leaves() -> None:
    ours, data, rng = ReplayStorage(300), recording(3, 600), np.random.default_rng(1)
    ours.set(range(300), data[:300])
    most = 2 * 300 * STACK  # each of 600 images needs four rows at worst
    for _ in range(60):
        places = rng.permutation(300)[:100]
        ours.set(torch.from_numpy(places), data[torch.from_numpy(rng.integers(0, 600, 100))], set_cursor=False)
    assert ours.stats().frames < 3 * most
    for begin in range(0, 3000, 100):
        ours.set(torch.arange(begin, begin + 100) % 300, data[begin % 500 : begin % 500 + 100], set_cursor=False)
    assert ours.stats().frames < 2 * 300, "in turns, a frame a step"


def test_next_images_are_stored_once() -> None:
    """As many frames as the environment gave, terminal ones included; stacks begin anew in a frame each."""
    data = recording(4, 300)
    for batches in ([300], [1] * 300, [7] * 43):
        ours = ReplayStorage(300, frame_stack=STACK)
        buffer = TensorDictReplayBuffer(storage=ours, batch_size=8)
        begin = 0
        for size in batches:
            if begin < 300:
                buffer.extend(data[begin : begin + size])
            begin += size
        episodes = len(data["collector", "traj_ids"].unique())
        assert ours.stats().frames == 300 + episodes


def test_steps_of_many_environments() -> None:
    """Several environments step after step, and each one's steps after another's, as collectors flatten them."""
    rng = np.random.default_rng(5)
    envs = [torch.cat([episode(rng, 30, number), episode(rng, 30, number + 100)]) for number in range(10)]
    by_step = torch.stack(envs, 1)
    for flat in (by_step, torch.stack([torch.stack(envs)[:, k : k + 6] for k in range(0, 60, 6)])):
        ours = ReplayStorage(600, frame_stack=STACK)
        buffer = TensorDictReplayBuffer(storage=ours, batch_size=8)
        for part in flat:
            buffer.extend(part.reshape(-1))
        assert ours.stats().frames == 600 + 20
        assert torch.equal(ours.get(torch.arange(600))["next", "pixels"], flat.reshape(-1)["next", "pixels"])


def test_next_images_several_steps_ahead() -> None:
    """As MultiStepTransform gives them: an image is found again that was another item's next one."""
    rng = np.random.default_rng(6)
    seen = torch.from_numpy(stacks(pictures(rng, 203)))
    ours = ReplayStorage(200, frame_stack=STACK)
    data = TensorDict({"pixels": seen[:200], "next": {"pixels": seen[3:]}}, [200])
    TensorDictReplayBuffer(storage=ours, batch_size=8).extend(data)
    assert ours.stats().frames <= 203 + 2 * STACK
    held = ours.get(torch.arange(200))
    assert all(torch.equal(held[key], data[key]) for key in KEYS)


def test_next_images_that_are_others() -> None:
    """What looks like the next item's image but is not is kept: the last frame of it differs."""
    data = recording(7, 100)
    data["next", "pixels"][::3, -1, 0, 0] += 1
    ours = ReplayStorage(100)
    ours.set(range(100), data)
    assert same(ours.get(torch.arange(100)), data)


SAMPLERS = {
    "random": lambda: RandomSampler(),
    "without replacement": lambda: SamplerWithoutReplacement(),
    "slices": lambda: SliceSampler(num_slices=4, traj_key=("collector", "traj_ids"), strict_length=False),
    "slices by end": lambda: SliceSampler(slice_len=4, end_key=("next", "done"), strict_length=False),
    "slices once": lambda: SliceSamplerWithoutReplacement(
        num_slices=4, traj_key=("collector", "traj_ids"), strict_length=False
    ),
    "prioritised": lambda: PrioritizedSampler(100, alpha=0.7, beta=0.5),
    "prioritised slices": lambda: PrioritizedSliceSampler(
        100, alpha=0.7, beta=0.5, num_slices=4, traj_key=("collector", "traj_ids"), strict_length=False
    ),
}


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.usefixtures("priorities")
def test_samplers_give_what_they_give_with_torchrls_storage(name: str) -> None:
    data, drawn = recording(8, 260), []
    for storage in pair(100):
        torch.manual_seed(0)
        np.random.seed(0)
        sampler = SAMPLERS[name]()
        sampler._rng = torch.Generator().manual_seed(1)
        buffer = TensorDictReplayBuffer(storage=storage, sampler=sampler, batch_size=16, priority_key="td_error")
        batches = []
        for begin in range(0, 260, 20):
            buffer.extend(data[begin : begin + 20])
            batch = buffer.sample()
            batches.append(batch)
            if "prioritised" in name:
                batch.set("td_error", batch["state"].abs().sum(-1))
                buffer.update_tensordict_priority(batch)
        drawn.append(batches)
    assert all(same(one, other) for one, other in zip(*drawn, strict=True))


def test_slices_decode_what_is_drawn_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    _, ours = filled(100, 100)
    buffer = TensorDictReplayBuffer(
        storage=ours, sampler=SliceSampler(num_slices=2, traj_key=("collector", "traj_ids")), batch_size=8
    )
    read, counted = CodedImages.read, []

    def count(self: CodedImages, *arguments: Any) -> Any:
        pixels = read(self, *arguments)
        counted.append(len(pixels))
        return pixels

    monkeypatch.setattr(CodedImages, "read", count)
    buffer.sample()
    assert counted and set(counted) == {8}, "not all 100"


def test_a_writer_that_replaces_the_worst() -> None:
    data, rng = recording(9, 200), np.random.default_rng(2)
    data["td_error"] = torch.from_numpy(rng.random(200))
    got = []
    for storage in pair(40):
        buffer = TensorDictReplayBuffer(
            storage=storage, writer=TensorDictMaxValueWriter(rank_key="td_error"), batch_size=8
        )
        for begin in range(0, 200, 10):
            buffer.extend(data[begin : begin + 10])
        got.append(storage.get(slice(None)))
    assert same(*got)


@pytest.mark.parametrize("layout", ["CHW", "HWC", "rgb stack", "FCHW", "HW", "depth", "depth stack"])
def test_images_of_any_layout(layout: str) -> None:
    rng = np.random.default_rng(10)
    dtype = np.uint16 if "depth" in layout else np.uint8
    frames = pictures(rng, 61, dtype)
    if "depth" in layout:
        frames = frames * 257 + 3
    colours = np.stack([frames, frames // 2, frames // 3], -1)
    seen = {
        "CHW": colours.transpose(0, 3, 1, 2),
        "HWC": colours,
        "rgb stack": stacks(colours.transpose(0, 3, 1, 2), 3).reshape(61, 9, SIDE, SIDE),
        "FCHW": stacks(colours.transpose(0, 3, 1, 2), 3),
        "HW": frames,
        "depth": frames[:, None],
        "depth stack": stacks(frames, 3),
    }[layout]
    seen = torch.from_numpy(np.ascontiguousarray(seen))
    data = TensorDict({"agents": {"camera": seen[:-1]}, "next": {"agents": {"camera": seen[1:]}}}, [60])
    ours = ReplayStorage(50)
    buffer = TensorDictReplayBuffer(storage=ours, batch_size=4)
    for begin in range(0, 60, 11):
        buffer.extend(data[begin : begin + 11])
    held = ours.get(range(50))
    for key in (("agents", "camera"), ("next", "agents", "camera")):
        expected = data[key].numpy()[np.r_[50:60, 10:50]]
        assert held[key].dtype == data[key].dtype and (held[key].numpy() == expected).all()
        assert (ours.get(3)[key].numpy() == expected[3]).all()
    assert ours.stats().frames <= 61, "frames, not stacks of them"


def test_frames_are_found_from_what_comes() -> None:
    """Three gray frames look like one of colours until it is seen how they follow each other."""
    seen = torch.from_numpy(stacks(pictures(np.random.default_rng(11), 201), 3))
    data = TensorDict({"pixels": seen[:-1], "next": {"pixels": seen[1:]}}, [200])
    found, told = ReplayStorage(200), ReplayStorage(200, frame_stack=3)
    for storage in (found, told):
        buffer = TensorDictReplayBuffer(storage=storage, batch_size=8)
        for item in data:
            buffer.add(item)
        held = storage.get(torch.arange(200))
        assert all(torch.equal(held[key], data[key]) for key in KEYS)
    assert found.stats().frames == told.stats().frames


def test_several_axes() -> None:
    """A storage of two axes: environments beside time."""
    rng = np.random.default_rng(12)
    envs = torch.stack([episode(rng, 60, number) for number in range(3)], 1)
    storages = LazyTensorStorage(120, ndim=2), ReplayStorage(120, ndim=2)
    for storage in storages:
        buffer = TensorDictReplayBuffer(storage=storage, batch_size=8, dim_extend=0)
        for begin in range(0, 60, 7):
            buffer.extend(envs[begin : begin + 7])
    theirs, ours = storages
    assert ours.shape == theirs.shape and len(ours) == len(theirs)
    index = torch.tensor([0, 5, 39]), torch.tensor([2, 0, 1])
    for key in (index, slice(None), 3, (slice(2, 5), 1)):
        assert same(theirs.get(key), ours.get(key))
    assert ours.stats().frames <= 60 * 3 + 3


@pytest.mark.parametrize("how", ["state_dict", "dumps", "pickle"])
def test_a_storage_is_saved_and_goes_on(how: str, tmp_path: Any) -> None:
    theirs, ours = filled()
    if how == "state_dict":
        torch.save(ours.state_dict(), tmp_path / "state.pt")
        loaded = ReplayStorage(100)
        loaded.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    elif how == "dumps":
        ours.dumps(tmp_path / "storage")
        loaded = ReplayStorage(100)
        loaded.loads(tmp_path / "storage")
    else:
        loaded = pickle.loads(pickle.dumps(ours))
    assert same(theirs.get(slice(None)), loaded.get(slice(None)))
    data = recording(13, 90)
    for storage in (theirs, loaded):
        storage.set(torch.arange(50, 140) % 100, data, set_cursor=False)
    assert same(theirs.get(slice(None)), loaded.get(slice(None)))
    assert not same(theirs.get(slice(None)), ours.get(slice(None))), "it is a copy"


def test_a_storage_of_torchrl_is_loaded(tmp_path: Any) -> None:
    theirs, _ = filled()
    theirs.dumps(tmp_path / "storage")
    by_file, by_state = ReplayStorage(100), ReplayStorage(100)
    by_file.loads(tmp_path / "storage")
    by_state.load_state_dict(theirs.state_dict())
    for loaded in (by_file, by_state):
        assert loaded.has_images and same(theirs.get(slice(None)), loaded.get(slice(None)))


@pytest.mark.usefixtures("priorities")
def test_a_whole_buffer_is_saved(tmp_path: Any) -> None:
    _, ours = filled()
    buffer = TensorDictReplayBuffer(storage=ours, sampler=PrioritizedSampler(100, 0.7, 0.5), batch_size=8)
    buffer.dumps(tmp_path)
    other = TensorDictReplayBuffer(storage=ReplayStorage(100), sampler=PrioritizedSampler(100, 0.7, 0.5), batch_size=8)
    other.loads(tmp_path)
    assert same(ours.get(slice(None)), other.storage.get(slice(None)))


@pytest.mark.parametrize("where", [0.1, 0.5, 0.9])
def test_a_damaged_file_is_refused(where: float, tmp_path: Any) -> None:
    _, ours = filled()
    ours.dumps(tmp_path)
    (file,) = tmp_path.iterdir()
    content = bytearray(file.read_bytes())
    file.write_bytes(content[: int(len(content) * where)])
    loaded = ReplayStorage(100)
    with pytest.raises(CorruptDataError, match="expected what dumps wrote"):
        loaded.loads(tmp_path)
    assert len(loaded) == 0


def test_a_state_with_other_bytes_is_refused() -> None:
    _, ours = filled()
    state = ours.state_dict()
    state["images"][0]["of"]["runs"][0]["coded"][5] ^= 1
    with pytest.raises(CorruptDataError, match="checksum"):
        ReplayStorage(100).load_state_dict(state)


def test_a_state_of_another_size_or_codec_is_refused() -> None:
    _, ours = filled()
    with pytest.raises(InputError, match="max_size: expected 100"):
        ReplayStorage(50).load_state_dict(ours.state_dict())
    with pytest.raises(InputError, match="expected images stored as"):
        ReplayStorage(100, codec="sparse").load_state_dict(ours.state_dict())


def test_images_are_written_by_their_key() -> None:
    theirs, ours = filled()
    value = torch.randint(0, 255, (3, STACK, SIDE, SIDE), dtype=torch.uint8)
    for storage in (theirs, ours):
        buffer = TensorDictReplayBuffer(storage=storage, batch_size=8)
        buffer.set_at_("pixels", value, torch.tensor([1, 50, 99]))
        buffer.set_at_("state", torch.ones(3, 3), torch.tensor([1, 50, 99]))
        storage.set(2, storage.get(3), set_cursor=False)
    assert same(theirs.get(slice(None)), ours.get(slice(None)))


def test_images_of_a_slice_are_decoded_as_they_are_used() -> None:
    theirs, ours = filled()
    one, other = theirs.get(slice(10, 60))["pixels"], ours.get(slice(10, 60))["pixels"]
    assert other.shape == one.shape and other.dtype == one.dtype and len(other) == 50
    assert torch.equal(one.float().mean(0), other.float().mean(0))
    assert torch.equal(one[:, 1], other[:, 1]) and torch.equal(one[3], other[3])
    assert torch.equal(one[5:20:3][1:], other[5:20:3][1:].clone())
    assert torch.equal(torch.cat([one, one]), torch.cat([other, other])) and (one.numpy() == np.asarray(other)).all()
    with pytest.raises(InputError, match="changes no image in place"):
        other.add_(1)


def test_an_emptied_storage_begins_anew() -> None:
    theirs, ours = filled()
    for storage in (theirs, ours):
        buffer = TensorDictReplayBuffer(storage=storage, batch_size=8)
        buffer.empty()
        assert len(storage) == 0
        buffer.extend(recording(14, 30))
    assert same(theirs.get(slice(None)), ours.get(slice(None)))


def test_contains() -> None:
    theirs, ours = filled(100, 40)
    for item in (0, 39, 40, -1, torch.tensor([0, 50])):
        assert np.array_equal(theirs.contains(item), ours.contains(item))
    assert 0 in ours and 70 not in ours


def test_prefetching_threads() -> None:
    _, ours = filled()
    buffer = TensorDictReplayBuffer(storage=ours, batch_size=16, prefetch=3)
    data = recording(0, 300)
    for begin in range(0, 300, 20):
        buffer.extend(data[begin : begin + 20])
        batch = buffer.sample()
        assert torch.equal(batch["pixels"][:, 1:], batch["next", "pixels"][:, :-1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pixels": torch.zeros(2, 4, 8, 8, dtype=torch.uint8)}, r"pixels: expected shape \(2, 4, 12, 12\)"),
        ({"pixels": torch.zeros(2, STACK, SIDE, SIDE)}, "pixels: expected uint8 as before, got torch.float32"),
    ],
)
def test_other_images_than_before_are_refused(change: dict[str, torch.Tensor], message: str) -> None:
    theirs, ours = filled()
    with pytest.raises(InputError, match=message):
        ours.set(range(2), recording(15, 2).update(change))
    assert same(theirs.get(slice(None)), ours.get(slice(None)))


@pytest.mark.parametrize(("cursor", "items"), [(slice(5, 10), 0), (range(5), slice(3)), (torch.arange(3), slice(5))])
def test_another_number_of_items_is_refused(cursor: Any, items: Any) -> None:
    theirs, ours = filled()
    with pytest.raises(InputError, match="data: expected items of shape"):
        ours.set(cursor, recording(15, 9)[items])
    assert same(theirs.get(slice(None)), ours.get(slice(None)))


def test_places_that_are_not_there_are_refused() -> None:
    theirs, ours = filled()
    for cursor in (100, torch.tensor([3, 100]), [-101]):
        with pytest.raises(IndexingError, match="expected items below 100"):
            ours.set(cursor, recording(15, 2)[0 if isinstance(cursor, int) else slice(len(cursor))])
    assert same(theirs.get(slice(None)), ours.get(slice(None)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_size": 0}, "max_size: expected a positive integer, got 0"),
        ({"max_size": 5, "ndim": True}, "ndim: expected a positive integer, got True"),
        ({"max_size": 5, "device": "cuda"}, "device: expected the CPU"),
        ({"max_size": 5, "device": "auto"}, "device: expected the CPU"),
        ({"max_size": 5, "codec": "gzip"}, "gzip"),
    ],
)
def test_arguments_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ReplayStorage(**options)


def test_a_stack_that_does_not_divide_the_channels_is_refused() -> None:
    with pytest.raises(InputError, match="frame_stack: expected a divisor of the 4 channels, got 3"):
        ReplayStorage(10, frame_stack=3).set(range(2), recording(15, 2))


def test_floats_are_kept_uncompressed_with_a_warning() -> None:
    ours = ReplayStorage(10)
    with pytest.warns(UserWarning, match="expected images, which are uint8 or uint16.*ToTensorImage"):
        ours.set(range(2), TensorDict({"pixels": torch.rand(2, 3, SIDE, SIDE)}, [2]))
    assert ours.get(range(2))["pixels"].dtype == torch.float32


def test_it_is_not_given_to_another_process() -> None:
    _, ours = filled()
    process = multiprocessing.get_context("spawn").Process(target=len, args=(ours,))
    with pytest.raises(InputError, match="expected to stay in the process that made it"):
        process.start()


def test_a_forked_process_is_refused() -> None:
    _, ours = filled()
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        try:
            ours.get(torch.tensor([0]))
        except ReadOnlyError as error:
            os.write(writing, str(error).encode())
        finally:
            os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    assert b"expected use by process" in os.read(reading, 1000)
