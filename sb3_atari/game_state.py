"""The whole state of Atari environments as tensors and plain containers: games go on as if nothing had happened."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import ale_py
import numpy as np
import torch
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecEnvWrapper

PLAIN = (bool, int, float, str, type(None), np.generic)


def game_state(env: VecEnv) -> dict[str, Any]:
    """The state of the emulators, of the random generators and of all wrappers around them."""
    games: list[Any] = [game.unwrapped for game in _inner(env).envs]
    return {
        "layers": [{name: _packed(v) for name, v in vars(part).items() if _is_plain(v)} for part in _layers(env)],
        "emulators": [_packed(_bytes(game.ale.cloneState(include_rng=True).serialize())) for game in games],
        "generators": [game.np_random.bit_generator.state for game in games],
    }


def set_game_state(env: VecEnv, state: dict[str, Any]) -> None:
    """Have environments that were made in the same way go on from what `game_state` returned."""
    for part, values in zip(_layers(env), state["layers"], strict=True):
        vars(part).update({name: _unpacked(value) for name, value in values.items()})
    games: list[Any] = [game.unwrapped for game in _inner(env).envs]
    for game, emulator, generator in zip(games, state["emulators"], state["generators"], strict=True):
        game.ale.restoreState(ale_py.ALEState(_unpacked(emulator).tobytes()))
        game.np_random.bit_generator.state = generator


def _inner(env: VecEnv) -> DummyVecEnv:
    while isinstance(env, VecEnvWrapper):
        env = env.venv
    if not isinstance(env, DummyVecEnv):
        raise TypeError(f"expected environments in this process, got {type(env).__name__}")
    return env


def _layers(env: VecEnv) -> Iterator[Any]:
    """All objects between what an algorithm steps and the emulators."""
    while isinstance(env, VecEnvWrapper):
        yield env
        if hasattr(env, "stacked_obs"):
            yield env.stacked_obs
        env = env.venv
    yield env
    games: list[Any] = _inner(env).envs
    for game in games:
        part = game
        while part is not game.unwrapped:
            yield part
            part = part.env


def _is_plain(value: Any) -> bool:
    return isinstance(value, (*PLAIN, np.ndarray)) or (
        isinstance(value, list) and all(isinstance(item, PLAIN) for item in value)
    )


def _packed(value: Any) -> Any:
    """An array as a tensor and a list of their own, as both may change later; NumPy's numbers as Python's."""
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())
    if isinstance(value, list):
        return [_packed(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value


def _unpacked(value: Any) -> Any:
    return value.numpy().copy() if isinstance(value, torch.Tensor) else _packed(value)


def _bytes(data: bytes) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.frombuffer(data, np.uint8)
