"""Replay buffers for stacked Atari frames side by side: Stable-Baselines3, sb3-extra-buffers, TorchRL and this library.

Each buffer gets the same transitions of a recording, half as many again as it holds, so that its ring wraps; then all
that it holds is read back and compared. Every case runs in a new process. The columns:

- `bytes a transition`: observation and next observation as the buffer holds them. For buffers of compressed blobs the
  blobs alone, without the Python objects around them; for this library's coded frames, index and reference frames.
- `PSS growth`: what the process grew by from before the buffer was made until it was full: beside the images, Python
  objects around blobs, what the allocator cannot use again, compression contexts, actions and rewards.
- `add`: processor time of one call, the mean of all. `sample`: processor time of a batch of 256, the median.
- `wrong`: transitions that did not come back bit for bit.

Peers that are not installed are left out, with a sentence that says how to install them.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import importlib.util
import logging
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer

from benchmarks.playback import ACTION_DIM, Playback
from benchmarks.processes import in_new_process, pss
from benchmarks.recordings import Frames, Recording
from benchmarks.runner import BATCH, Report, chosen, parser
from benchmarks.timing import in_turns, quartiles, timed_adds
from diffreplay.sb3 import CompressedReplayBuffer

NAMES = ("atari_Pong", "atari_BeamRider")
HEADER = ("bytes a transition", "SB3's / its", "PSS growth MB", "add us", "sample ms", "wrong")
INSTALL = "pip install -c constraints.txt -e '.[peers]'"


class Transition(NamedTuple):
    """What an off-policy algorithm adds to its buffer."""

    obs: Frames  # (frame_stack, H, W)
    action: Any  # (ACTION_DIM,) float32, tells the number of the step to next_obs
    reward: float
    next_obs: Frames
    done: bool


class Batch(NamedTuple):
    """Transitions that a buffer returned."""

    obs: Frames  # (B, frame_stack, H, W)
    action: Any
    reward: Any
    next_obs: Frames


class Held(Protocol):
    """A buffer under test."""

    def add(self, transition: Transition) -> None:
        """Append, in place of the oldest where the buffer is full."""

    def sample(self) -> Any:
        """A batch of BATCH random transitions, as the buffer returns it."""

    def contents(self) -> Iterator[Batch]:
        """Everything that may be sampled, once."""

    def image_bytes(self) -> int:
        """Bytes of all observations and next observations."""


class StableBaselines:
    """Any replay buffer with Stable-Baselines3's interface."""

    def __init__(self, buffer: ReplayBuffer, image_bytes: Callable[[Any], int]) -> None:
        self.buffer, self._image_bytes = buffer, image_bytes

    def add(self, transition: Transition) -> None:
        obs, action, reward, next_obs, done = transition
        self.buffer.add(obs[None], next_obs[None], action[None], np.array([reward]), np.array([done]), [{}])

    def sample(self) -> Any:
        return self.buffer.sample(BATCH)

    def contents(self) -> Iterator[Batch]:
        # With optimize_memory_usage the oldest place of a full ring holds a next observation, and is never sampled.
        single = self.buffer.optimize_memory_usage and self.buffer.full
        ages = np.arange(int(single), self.buffer.size())
        for part in np.array_split((ages + self.buffer.pos * self.buffer.full) % self.buffer.buffer_size, 16):
            got = self.buffer._get_samples(part)
            yield Batch(*(np.asarray(x) for x in (got.observations, got.actions, got.rewards, got.next_observations)))

    def image_bytes(self) -> int:
        return self._image_bytes(self.buffer)


class TorchRL:
    """TorchRL's replay buffer over its compressed storage, with the compression that it has by default."""

    def __init__(self, capacity: int) -> None:
        data = importlib.import_module("torchrl.data")
        self._tensordict = importlib.import_module("tensordict").TensorDict
        self.storage = data.CompressedListStorage(capacity)
        self.buffer = data.ReplayBuffer(storage=self.storage, batch_size=BATCH)

    def add(self, transition: Transition) -> None:
        obs, action, reward, next_obs, done = transition
        fields = {
            "obs": torch.from_numpy(obs),
            "action": torch.from_numpy(action),
            "reward": torch.tensor(reward),
            "next_obs": torch.from_numpy(next_obs),
            "done": torch.tensor(done),
        }
        self.buffer.add(self._tensordict(fields, batch_size=[]))

    def sample(self) -> Any:
        batch = self.buffer.sample()
        return [batch[name] for name in ("obs", "action", "reward", "next_obs", "done")]  # stacks the items

    def contents(self) -> Iterator[Batch]:
        for part in np.array_split(np.arange(len(self.storage)), 16):
            got = self.buffer[torch.from_numpy(part)]
            yield Batch(*(got[name].numpy() for name in Batch._fields))

    def image_bytes(self) -> int:
        items = self.storage.state_dict()["_storage"]
        return sum(item[name].numel() for item in items for name in ("obs", "next_obs"))


def _sb3(
    buffer_class: Any, image_bytes: Callable[[Any], int], options: dict[str, Any], shape: Any, capacity: int
) -> Held:
    images, actions = spaces.Box(0, 255, shape, np.uint8), spaces.Box(-np.inf, np.inf, (ACTION_DIM,), np.float32)
    return StableBaselines(buffer_class(capacity, images, actions, device="cpu", **options), image_bytes)


def _extra_buffers(method: str, shape: Any, capacity: int) -> Held:
    logging.getLogger("sb3_extra_buffers").setLevel(logging.ERROR)  # it prints what else could be installed
    compressed = importlib.import_module("sb3_extra_buffers.compressed")
    dtypes = compressed.find_buffer_dtypes(obs_shape=shape, elem_dtype=np.uint8, compression_method=method)
    options = {"dtypes": dtypes, "compression_method": method}
    return _sb3(compressed.CompressedReplayBuffer, _blob_bytes, options, shape, capacity)


def _torchrl(shape: Any, capacity: int) -> Held:
    return TorchRL(capacity)


def _array_bytes(buffer: ReplayBuffer) -> int:
    return buffer.observations.nbytes + (0 if buffer.optimize_memory_usage else buffer.next_observations.nbytes)


def _blob_bytes(buffer: Any) -> int:
    return sum(len(blob) for blob in (*buffer.observations.flat, *buffer.next_observations.flat))


def _coded_bytes(buffer: CompressedReplayBuffer) -> int:
    return buffer.stats().observation_bytes


class Contender(NamedTuple):
    """How to make a buffer, and the modules that it needs beyond those of the extra `atari`."""

    make: Callable[[Any, int], Held]
    needs: tuple[str, ...] = ()


ONE_ARRAY = {"optimize_memory_usage": True, "handle_timeout_termination": False}
CONTENDERS = {
    "SB3": Contender(partial(_sb3, ReplayBuffer, _array_bytes, {})),
    "SB3, optimize_memory_usage": Contender(partial(_sb3, ReplayBuffer, _array_bytes, ONE_ARRAY)),
    "sb3-extra-buffers, lz4-frame/1": Contender(partial(_extra_buffers, "lz4-frame/1"), ("sb3_extra_buffers", "lz4")),
    "sb3-extra-buffers, zstd-3": Contender(partial(_extra_buffers, "zstd-3"), ("sb3_extra_buffers", "zstd")),
    "TorchRL, CompressedListStorage": Contender(_torchrl, ("torchrl",)),
    "diffreplay": Contender(partial(_sb3, CompressedReplayBuffer, _coded_bytes, {})),
}


def transitions(playback: Playback) -> Iterator[Transition]:
    """Endless transitions of a recording."""
    obs = None
    for step in playback.steps():
        if obs is not None:
            yield Transition(obs, step.action, step.reward, step.observation, step.last())
        obs = None if step.last() else step.observation


def wrong(playback: Playback, batch: Batch) -> int:
    """Transitions of a batch that differ from the recording."""
    found = 0
    for k, number in enumerate(batch.action[:, 0].astype(int).tolist()):
        right = np.array_equal(batch.obs[k], playback.observation(number - 1))
        right &= np.array_equal(batch.next_obs[k], playback.observation(number))
        found += not right or float(batch.reward[k].item()) != number % 7
    return found


def measure(recording: Recording, name: str, capacity: int, repeats: int) -> tuple[Any, ...]:
    """The values of HEADER for one contender; call it in a new process."""
    torch.set_num_threads(1)
    playback = Playback(recording)
    make = CONTENDERS[name].make
    first = make(playback.observation_shape, BATCH)  # imports and one-time work do not count
    for transition in islice(transitions(playback), 2 * BATCH):
        first.add(transition)
    first.sample()
    del first
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # or the buffer would fill what earlier steps left free, and count as less
    before = pss()
    buffer = make(playback.observation_shape, capacity)
    costs = timed_adds(buffer, islice(transitions(playback), capacity * 3 // 2))
    gc.collect()
    grown = pss() - before
    held, errors = 0, 0
    for batch in buffer.contents():
        held += len(batch.obs)
        errors += wrong(playback, batch)
    ((seconds,),) = in_turns([buffer.sample], repeats)
    size = buffer.image_bytes() / capacity
    stacks = 2 * recording.stacked_bytes
    return size, stacks / size, grown / 1e6, 1e6 * float(costs.mean()), quartiles(1e3 * seconds), f"{errors} of {held}"


def missing() -> dict[str, list[str]]:
    """Contenders that cannot run here, with the modules that they lack."""
    lacking = {
        name: [module for module in contender.needs if importlib.util.find_spec(module) is None]
        for name, contender in CONTENDERS.items()
    }
    return {name: modules for name, modules in lacking.items() if modules}


def main(argv: list[str] | None = None) -> None:
    """Run from the command line."""
    options = parser(__doc__, *NAMES, repeats=15)
    options.add_argument("--capacity", type=int, default=4000, help="transitions of each buffer (%(default)s)")
    args = options.parse_args(argv)
    if args.capacity < BATCH:
        options.error(f"--capacity {args.capacity}: expected at least {BATCH}, the transitions of a batch")
    absent = missing()
    recordings = list(chosen(args))
    names = [name for name in CONTENDERS if name not in absent]
    rows = (
        (f"{r.name}: {name}", *in_new_process(measure, r, name, args.capacity, args.repeats))
        for r in recordings
        for name in names
    )
    with Report("benchmarks.peers", args, argv) as report:
        report.describe()
        if absent:
            modules = sorted({module for lacking in absent.values() for module in lacking})
            print(f"Left out: {'; '.join(absent)}: {', '.join(modules)} not installed; `{INSTALL}` installs them.\n")
        report.table((f"{args.capacity} transitions", *HEADER), rows)


if __name__ == "__main__":
    main()
