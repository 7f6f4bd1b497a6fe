"""Writes the snapshots and pickles of one version, for later ones to load: tests/saved/NAME.zip.

    PYTHONPATH=CHECKOUT_OF_THAT_VERSION python tests/write_saved.py NAME [CASE ...]

Without cases, all of them are written. It uses nothing that the oldest of these versions has not, and notes beside each
what was in it.
"""

from __future__ import annotations

import hashlib
import inspect
import io
import json
import pickle
import sys
import tempfile
import warnings
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

import diffreplay

SAVED = Path(__file__).resolve().parent / "saved"
EPISODE = 13  # steps

# What each snapshot is of: options of the buffer, and of `Recipe`; `saves` are the steps after which it was saved.
CASES: dict[str, dict[str, Any]] = {
    "raw": {"codec": "raw"},
    "sparse": {"codec": "sparse"},
    "zstd": {"codec": "zstd"},
    "zstd with sets": {"codec": "zstd", "set_frames": 4, "capacity": 70, "side": 64, "saves": [50, 90]},
    "color": {"codec": "zstd", "channels": 3, "frame_stack": 2},
    "single frames": {"codec": "sparse", "frame_stack": 1, "max_bytes": 3_000_000},
    "wrapped": {"codec": "raw", "noisy": True, "saves": [3150, 3170]},
    "wrapped, sparse": {"codec": "sparse", "noisy": True, "saves": [3150, 3170]},
    "named streams": {"codec": "zstd", "streams": ["left", "right", 7]},
    "three steps": {"codec": "sparse", "nstep": 3, "shorter_at_end": True},
    "resets": {"codec": "zstd", "style": "resets"},
    "over three steps": {"codec": "zstd", "style": "over three steps", "streams": [0]},
    "lost": {"codec": "sparse", "saves": [20, 40, 60], "lose": 1},
    "delta": {"codec": "delta"},
    "delta with sets": {"codec": "delta", "set_frames": 4, "capacity": 70, "side": 64, "saves": [50, 90]},
    "several parts": {"codec": "delta", "parts": True, "channels": 3},
    "several parts with sets": {
        "codec": "delta",
        "parts": True,
        "set_frames": 4,
        "capacity": 70,
        "side": 64,
        "saves": [50, 90],
    },
    "several parts, sparse": {"codec": "sparse", "parts": True, "frame_stack": 2, "nstep": 2},
}
DEFAULTS = {"capacity": 40, "frame_stack": 3, "channels": 1, "side": 8, "noisy": False, "streams": [0, 1]}
DEFAULTS |= {
    "parts": False,
    "nstep": 1,
    "shorter_at_end": False,
    "max_bytes": None,
    "style": "steps",
    "saves": [25, 45, 58],
}


def frame(number: int, case: dict[str, Any]) -> np.ndarray:
    """(C, H, W) that tells `number`: a moving square on stripes, or noise."""
    side, channels = case["side"], case["channels"]
    if case["noisy"]:
        noise = hashlib.shake_128(number.to_bytes(8, "little")).digest(channels * side * side)
        return np.frombuffer(noise, np.uint8).reshape(channels, side, side)
    pixels = np.broadcast_to(np.arange(side, dtype=np.uint8) * 5, (channels, side, side)).copy()
    y, x = number % (side - 3), number // 3 % (side - 3)
    pixels[:, y : y + 3, x : x + 3] = 60 + number % 190
    return pixels


class Recipe:
    """Adds steps that depend on their number alone, of several streams in turns; a step's action is its number."""

    def __init__(self, case: dict[str, Any], steps: int = 0) -> None:
        self.case, self.steps = DEFAULTS | case, steps

    def stack(self, number: int, age: int) -> Any:
        """The observation that step `number` shows, so many steps after its episode's first one."""
        case, apart = self.case, len(self.case["streams"])
        ages = [max(age - back, 0) for back in range(case["frame_stack"] - 1, -1, -1)]
        if case["style"] == "resets" and age % 5 == 4:
            ages = ages[::-1]
        numbers = [number - apart * (age - a) for a in ages]
        images = np.concatenate([frame(n, case) for n in numbers])
        if not case["parts"]:
            return images
        depth = np.stack([257 * frame(n, case)[0].astype(np.uint16) for n in numbers])
        state = np.concatenate([np.array([n / 7, -0.0, np.inf], np.float32) for n in numbers])
        return {"front": images, "depth": depth, "state": state}

    def add(self, replay: Any, count: int) -> None:
        """Add the next `count` steps."""
        streams = self.case["streams"]
        for number in range(self.steps, self.steps + count):
            stream, age = streams[number % len(streams)], number // len(streams) % EPISODE
            last, reward = age == EPISODE - 1, number % 11 - 4.0
            obs = self.stack(number, age)
            if self.case["style"] == "over three steps":
                after = self.stack(number + 3, age + 3)
                replay.add_transition(obs, [number], reward, after, age == EPISODE - 1, False, stream)
                continue
            step = SimpleNamespace(observation=obs, action=[number], reward=reward, discount=1.0 - 0.25 * last)
            step.first, step.last = (lambda first=age == 0: first), (lambda last=last: last)
            replay.add(step, stream, *([{"log_prob": number / 3}] if self.case["parts"] else []))
        self.steps += count


def make_buffer(case: dict[str, Any]) -> Any:
    """An empty buffer, or None where this version has not what it takes."""
    case = DEFAULTS | case
    codec: Any = case["codec"]
    if codec not in diffreplay.codecs.REGISTRY:
        return None
    if "set_frames" in case:
        codec = diffreplay.codecs.REGISTRY[codec](set_frames=case["set_frames"])
    options = {"frame_stack": case["frame_stack"], "nstep": case["nstep"], "max_bytes": case["max_bytes"]}
    if case["shorter_at_end"]:
        if "shorter_at_end" not in inspect.signature(diffreplay.ReplayBuffer).parameters:
            return None
        options["shorter_at_end"] = True
    shape: Any = (case["frame_stack"] * case["channels"], case["side"], case["side"])
    if case["parts"]:
        if not hasattr(diffreplay, "ArraySpec"):
            return None
        side, spec = case["side"], diffreplay.ArraySpec
        shape = {"front": spec((case["channels"], side, side)), "state": spec((3,), "f4")}
        shape["depth"] = spec((side, side), "uint16", "FHW")
        options["extras"] = {"log_prob": spec((), "f8")}
    return diffreplay.ReplayBuffer(case["capacity"], shape, (1,), action_dtype="int64", codec=codec, **options)


def digest(*arrays: Any) -> str:
    """A checksum of what arrays hold, in words that a JSON file can."""
    made = hashlib.blake2b(digest_size=8)
    for array in map(np.asarray, arrays):
        made.update(f"{array.dtype.str} {array.shape} ".encode() + np.ascontiguousarray(array).tobytes())
    return made.hexdigest()


def draw(replay: Any, count: int, seed: int) -> list[np.ndarray]:
    """The arrays of a batch, which versions draw with a generator under different names; the action is the second."""
    draw = getattr(replay, "draw", replay.sample)
    batch = draw(count, np.random.default_rng(seed))
    obs, action, *rest, next_obs = batch
    if not isinstance(obs, dict):
        return [value.numpy() for value in batch]
    parts = [values[name] for values in (obs, next_obs) for name in sorted(values)]
    return [value.numpy() for value in (parts[0], action, *rest, *parts[1:], *batch.extras.values())]


def windows(replay: Any) -> dict[str, str]:
    """A checksum of every window that a buffer holds, by the action that comes first in it."""
    found: dict[str, str] = {}
    for seed in range(16):  # a window is missed once in e^16 times
        batch = draw(replay, len(replay) + 4, seed)
        for k, number in enumerate(batch[1][:, 0].tolist()):
            if str(number) not in found:
                found[str(number)] = digest(*(value[k] for value in batch))
    return dict(sorted(found.items(), key=lambda item: int(item[0])))


def write_snapshot(directory: Path, case: dict[str, Any]) -> dict[str, Any] | None:
    """Write a snapshot of a case, several saves to one directory; what it holds."""
    replay, recipe = make_buffer(case), Recipe(case)
    if replay is None:
        return None
    held = []
    for steps in recipe.case["saves"]:
        recipe.add(replay, steps - recipe.steps)
        replay.save(directory)
        held.append(windows(replay))
    if "lose" in case:
        sorted(directory.glob("rows-*.bin"))[case["lose"]].unlink()
        replay = diffreplay.ReplayBuffer.load(directory, skip_damaged=True)
        for _ in range(2):
            recipe.add(replay, 3)
            replay.save(directory)
            held.append(windows(replay))
    return {"case": case, "steps": recipe.steps, "windows": held[-1], "before": held[-2]}


# Stable-Baselines3.

BUFFERS: dict[str, dict[str, Any]] = {
    "replay": {"steps": 45},
    "replay, sparse, not full": {"codec": "sparse", "steps": 12},
    "replay, one array": {"codec": "raw", "steps": 45, "optimize_memory_usage": True},
    "replay of three steps": {"steps": 45, "n_steps": 3, "gamma": 0.9},
    "dict replay": {"kind": "DictReplay", "steps": 45},
    "rollout": {"kind": "Rollout", "steps": 20},
    "dict rollout": {"kind": "DictRollout", "codec": "sparse", "steps": 20},
    "replay, delta": {"codec": "delta", "steps": 45},
    "rollout, delta": {"kind": "Rollout", "codec": "delta", "steps": 20},
    "dict replay of cameras": {"kind": "DictReplay", "cameras": True, "steps": 45},
    "dict replay of cameras, not full": {"kind": "DictReplay", "cameras": True, "codec": "sparse", "steps": 5},
    "dict rollout of cameras": {"kind": "DictRollout", "cameras": True, "codec": "sparse", "steps": 20},
}


def make_sb3(case: dict[str, Any]) -> Any:
    """A compressed buffer of two environments."""
    from gymnasium import spaces

    import diffreplay.sb3

    case = dict(case)
    kind, cameras, _ = case.pop("kind", "Replay"), case.pop("cameras", False), case.pop("steps")
    space: Any = spaces.Box(0, 255, (3, 8, 8), np.uint8)
    if kind.startswith("Dict"):
        parts = {"image": space, "place": spaces.Box(-1, 1, (2,), np.float32)}
        if cameras:
            parts |= {"wrist": space, "last": spaces.Box(0, 255, (1, 8, 8), np.uint8)}
        space = spaces.Dict(parts)
    size = 20 if "Rollout" in kind else 40
    if case.get("optimize_memory_usage"):
        case["handle_timeout_termination"] = False
    buffer = getattr(diffreplay.sb3, f"Compressed{kind}Buffer")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return buffer(size, space, spaces.Discrete(4), n_envs=2, device="cpu", **case)


def add_sb3(buffer: Any, case: dict[str, Any], first: int, count: int) -> None:
    """Add steps that depend on their number alone."""
    recipe = Recipe({"codec": "", "streams": [0, 1]})

    def observe(step: int) -> Any:
        images = np.stack([recipe.stack(2 * step + env, step % EPISODE) for env in range(2)])
        parts = {"image": images, "place": np.full((2, 2), step / 100, np.float32)}
        if case.get("cameras"):
            parts |= {"wrist": 255 - images[..., ::-1], "last": images[:, -1:]}
        return parts if "Dict" in case.get("kind", "") else images

    for step in range(first, first + count):
        ends = step % EPISODE == EPISODE - 1
        action, reward, done = np.array([step % 4] * 2), np.array([step, -1.0]), np.array([ends] * 2)
        if "Rollout" in case.get("kind", ""):
            import torch

            value = torch.tensor([step / 2, step / 3])
            buffer.add(observe(step), action.reshape(2, 1), reward, done, value, -value)
        else:
            buffer.add(observe(step), observe(step + 1), action, reward, done, [{}, {}])


def held_sb3(buffer: Any) -> dict[str, Any]:
    """A checksum of each array of a buffer, and how far it is filled."""
    held: dict[str, Any] = {"pos": int(buffer.pos), "full": bool(buffer.full), "size": int(buffer.size())}
    names = ("observations", "next_observations", "actions", "rewards", "dones", "values", "log_probs")
    for name in names:
        value = getattr(buffer, name, None)
        for key, table in value.items() if isinstance(value, dict) else {"": value}.items():
            if table is not None:
                held[f"{name} {key}".strip()] = digest(table)
    return held


def flat(sample: Any) -> Any:
    """The arrays of a sample of Stable-Baselines3."""
    for value in sample:
        yield from value.values() if isinstance(value, dict) else () if value is None else (value,)


def main(name: str, *chosen: str) -> None:
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(SAVED / f"{name}.zip", "w") as archive:

        def put(path: str, data: bytes) -> None:
            archive.writestr(zipfile.ZipInfo(path), data, zipfile.ZIP_DEFLATED, 9)

        contents: dict[str, Any] = {"snapshots": {}, "pickles": {}}
        for case, options in CASES.items():
            if chosen and case not in chosen:
                continue
            directory = Path(folder) / case
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                held = write_snapshot(directory, options)
            if held is not None:
                contents["snapshots"][case] = held
                for path in sorted(directory.iterdir()):
                    put(f"{case}/{path.name}", path.read_bytes())
        for case, options in BUFFERS.items():
            if chosen and case not in chosen:
                continue
            buffer = make_sb3(options)
            add_sb3(buffer, options, 0, options["steps"])
            file = io.BytesIO()
            pickle.dump(buffer, file, pickle.HIGHEST_PROTOCOL)
            contents["pickles"][case] = {"case": options, "held": held_sb3(buffer)}
            put(f"{case}.pkl", file.getvalue())
        put("contents.json", json.dumps(contents).encode())


if __name__ == "__main__":
    main(*sys.argv[1:])
