"""What each of several ranks runs that share a buffer: it trains a small network, and leaves what it saw in a folder.

python -m torch.distributed.run --standalone --nproc-per-node 2 tests/rank_program.py FOLDER
"""

from __future__ import annotations

import ctypes
import gc
import pickle
import re
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

import diffreplay

SHAPE, FRAMES, STEPS = (3, 64, 64), 32_000, 100
OPTIONS = {"num_workers": 2, "threads": True, "seed": 5}


def fill(replay: diffreplay.ReplayBuffer, steps: int) -> None:
    """Noise, which no codec makes smaller, and an action that a network can learn from it."""
    noise = np.random.default_rng(0).integers(0, 256, 1 << 22, dtype=np.uint8)
    size = int(np.prod(SHAPE))

    def frame(k: int) -> np.ndarray:
        return noise[(k * 4099) % (len(noise) - size) :][:size].reshape(SHAPE)

    for k in range(steps):
        replay.add_transition(frame(k), [frame(k).mean() / 255], 1.0, frame(k + 1), False, k % 500 == 499)


def shared(value: Any) -> Any:
    """What rank 0 has, on all ranks: as plain pickle."""
    values = [value]
    dist.broadcast_object_list(values)
    return values[0]


def train(loader: Any) -> tuple[list[list[int]], bytes]:
    """A hundred steps along the mean of all gradients: the steps that were drawn, and the weights in the end."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 8, 8), nn.ReLU(), nn.Flatten(), nn.Linear(256, 1))
    optimizer, drawn = torch.optim.Adam(network.parameters(), 1e-3), []
    for batch in islice(loader, STEPS):
        drawn.append(batch.index.tolist())
        optimizer.zero_grad()
        nn.functional.mse_loss(network(batch.obs / 255), batch.action).backward()
        for one in network.parameters():
            dist.all_reduce(one.grad)
            one.grad /= dist.get_world_size()
        optimizer.step()
    return drawn, pickle.dumps([one.detach().numpy() for one in network.parameters()])


def own_bytes() -> int:
    """What this process takes, and its share of the memory that it shares; not of files, which other programs have."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what is free, the C library may keep or not
    rollup = Path("/proc/self/smaps_rollup").read_text()
    return sum(int(one) for one in re.findall(r"^Pss_(?:Anon|Shmem): +(\d+) kB", rollup, re.MULTILINE)) << 10


def mapped_bytes(inode: int) -> int:
    """The same, of the mappings of one file alone."""
    smaps = Path("/proc/self/smaps").read_text()
    mappings = re.split(r"^(?=[0-9a-f]+-)", smaps, flags=re.MULTILINE)[1:]
    return sum(int(one.partition("Pss:")[2].split()[0]) for one in mappings if one.split()[4] == str(inode)) << 10


def main(folder: Path) -> None:
    dist.init_process_group("gloo")
    rank, size = dist.get_rank(), dist.get_world_size()
    ranks = {"rank": rank, "world_size": size}

    little = diffreplay.ReplayBuffer(200, SHAPE, (1,), frame_stack=1, codec="raw") if rank == 0 else None
    if little is not None:  # what any buffer takes besides, and any loader
        fill(little, 200)
    handle = shared(little and little.handle())
    train(diffreplay.make_replay_loader(handle, 32, **OPTIONS, **ranks))
    for _ in range(500):
        handle.sample(32)
    dist.barrier()
    saw: dict[str, Any] = {"before": own_bytes()}
    dist.barrier()

    replay = None
    if rank == 0:
        replay = diffreplay.ReplayBuffer(FRAMES, SHAPE, (1,), frame_stack=1, codec="raw")
        fill(replay, FRAMES)
    handle = shared(replay and replay.handle())
    loader = diffreplay.make_replay_loader(handle, 32, **OPTIONS, **ranks)
    batches = iter(loader)
    saw["drawn"], saw["weights"] = train(batches)
    for _ in range(1000):
        handle.sample(32)
    dist.barrier()
    spec = loader.dataset.batches.spec
    saw |= {
        "after": own_bytes(),
        "copy": handle.stats().total_bytes,
        "mapped": mapped_bytes(Path(f"/proc/self/fd/{handle.reader.frames.arena.fd}").stat().st_ino),
        "slots": (2 * 2 + 2) * spec.nbytes(spec.longest),
    }
    alone = diffreplay.make_replay_loader(handle, 32, **OPTIONS) if rank == 0 else []
    saw["every"] = [batch.index.tolist() for batch in islice(alone, size * STEPS)]
    (folder / str(rank)).write_bytes(pickle.dumps(saw))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
