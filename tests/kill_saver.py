"""A process that saves without pause is killed at random moments, most of them within a save.

Run as `python kill_saver.py DIRECTORY ROUNDS SEED [CASE]`.

Each round forks a child that loads the snapshot and goes on: add, save, add, save. Before and after each save it
tells the digest of the state. The directory must hold the state of the last save that returned, or of the one that
was under way. Rounds go on until as many found a snapshot, and one of them that of a save that was cut short. Prints
what it saw as JSON.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from snapshot_tools import Writer, buffer, contents, own_codec

from diffreplay import ReplayBuffer

SAVES = 4  # one of the first so many is cut short
CASE = sys.argv[4] if len(sys.argv) > 4 else "many sets"


def go_on(directory: Path, told: int, seed: int) -> None:
    """The child's life."""
    rng = random.Random(seed)
    if (directory / "manifest.json").exists():
        replay = ReplayBuffer.load(directory, codec=own_codec(CASE))
    else:
        replay = buffer(150, case=CASE)
    writer = Writer(replay, replay.store.head)  # of these steps, each takes one row
    os.write(told, b"loaded\n")
    while True:
        writer.add(rng.randint(1, 12))
        digest = contents(replay).encode()
        os.write(told, b"begun " + digest + b"\n")
        replay.save(directory)
        os.write(told, b"done " + digest + b"\n")


def kill_one(directory: Path, seed: int, save: int, seconds: float) -> tuple[str | None, str | None, float | None]:
    """Start a child and kill it so long after it has begun a save.

    Returns:
        The digests of its last finished save and of the unfinished one, and how long a save took, None where none did.
    """
    reader, told = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.close(reader)
            go_on(directory, told, seed)
        finally:
            os._exit(1)
    os.close(told)
    events, taken = [], None
    with open(reader, encoding="ascii") as lines:
        assert lines.readline() == "loaded\n"
        for _ in range(save):
            events.append(lines.readline().split())
            begun = time.perf_counter()
            events.append(lines.readline().split())
            taken = time.perf_counter() - begun
        events.append(lines.readline().split())
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        events += [line.split() for line in lines.read().splitlines()]
    done = [digest for event, digest in events if event == "done"]
    under_way = events[-1][1] if events[-1][0] == "begun" else None
    return (done[-1] if done else None), under_way, taken


def main() -> None:
    directory, rounds, rng = Path(sys.argv[1]), int(sys.argv[2]), random.Random(int(sys.argv[3]))
    state, seen = None, {"kept": 0, "committed under way": 0, "saves cut short": 0, "rows": 0}
    save_seconds = 0.01
    for k in range(20 * rounds):
        if seen["kept"] + seen["committed under way"] >= rounds and seen["committed under way"]:
            break
        done, under_way, taken = kill_one(directory, k, rng.randrange(SAVES), 1.2 * rng.random() * save_seconds)
        save_seconds = taken or save_seconds
        state = done or state
        seen["saves cut short"] += under_way is not None
        if not (directory / "manifest.json").exists():
            assert state is None
            continue
        replay = ReplayBuffer.load(directory, codec=own_codec(CASE))
        found = contents(replay)
        assert found in (state, under_way), f"round {k}: a state that was never saved"
        assert replay.verify() == []
        replay.check_invariants()
        seen["committed under way" if found == under_way else "kept"] += 1
        seen["rows"], state = replay.store.head, found
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
