"""Batches whose observations share memory: of transitions, and of sequences."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self

import torch

from diffreplay.parts import Part

Observations = Any
"""A tensor, or a dict of tensors where observations are mappings."""


STAY = "index", "source"  # on the CPU: they say what a sample is, and are for the trainer's loop


@dataclass(frozen=True, eq=False)
class _Batch:
    """What batches share: they move as a whole."""

    parts: tuple[Part, ...]
    windows: dict[str, torch.Tensor]
    action: torch.Tensor
    reward: torch.Tensor
    discount: torch.Tensor
    extras: dict[str, torch.Tensor] = field(default_factory=dict)
    index: torch.Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    weight: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    source: torch.Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))

    def tensors(self) -> list[torch.Tensor]:
        """All that moves to a device with it: everything but `index` and `source`."""
        found = []
        for name, value in self._values().items():
            if name not in STAY:
                found += list(value.values()) if isinstance(value, dict) else [value]
        return found

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """The batch on `device`, but for `index` and `source`, which stay on the CPU; each window moves once."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking), besides=STAY)

    def clone(self) -> Self:
        """A copy in memory of its own."""
        return self._map(torch.Tensor.clone)

    def part(self, which: slice) -> Self:
        """Some of its samples: views."""
        return self._map(lambda tensor: tensor[which])

    def pin_memory(self) -> Self:
        """A copy in page-locked memory, from which copies to a GPU need not wait; itself where it lies there."""
        return self._map(torch.Tensor.pin_memory, besides=STAY)

    def _values(self) -> dict[str, Any]:
        """Tensors and mappings of tensors, by name; the windows last."""
        # What is not page-locked would wait on the GPU's stream for what comes before it.
        names = sorted((field.name for field in fields(self)), key=lambda name: name == "windows")
        values = {name: getattr(self, name) for name in names}
        return {name: value for name, value in values.items() if isinstance(value, torch.Tensor | dict)}

    def _map(self, move: Callable[[torch.Tensor], torch.Tensor], besides: tuple[str, ...] = ()) -> Self:
        moved: dict[str, Any] = {}
        for name, value in self._values().items():
            if name not in besides:
                one = isinstance(value, torch.Tensor)
                moved[name] = move(value) if one else {key: move(tensor) for key, tensor in value.items()}
        return replace(self, **moved)

    def _observations(self, cut: Callable[[Part, torch.Tensor], torch.Tensor]) -> Observations:
        found = {part.name: cut(part, self.windows[part.name]) for part in self.parts}
        return found.get("", found)


@dataclass(frozen=True, eq=False)
class ReplayBatch(_Batch):
    """A batch of n-step transitions; unpacks as `obs, action, reward, discount, next_obs`.

    Attributes:
        parts: what observations are made of.
        windows: for each part, by name, the frames of both observations, (B, L, ...) in the part's dtype, oldest first;
            each frame once where the two share it.
        action: (B, *action_shape), action_dtype.
        reward: (B, 1) float32, discounted sum over the n steps.
        discount: (B, 1) float32, product of the steps' discounts and gamma ** n.
        extras: (B, *shape), by name, further values that were stored with the action.
        index: (B,) int64, on the CPU: the numbers of the steps at which the transitions begin. A number is never given
            to another step.
        weight: (B,) float32, of importance sampling, relative to the largest that the batch has from the same buffer; 1
            without priorities.
        source: (B,) int64, on the CPU: which of several buffers each is from, 0 for the first one.

    Examples:
        >>> obs, action, reward, discount, next_obs = replay.sample(32)
        >>> obs.shape, reward.shape
        (torch.Size([32, 3, 16, 16]), torch.Size([32, 1]))
    """

    @property
    def obs(self) -> Observations:
        """The observations at which the transitions begin.

        (B, frame_stack * C, H, W) uint8, or as they were added; a mapping where they are mappings. Views of `windows`;
        a copy only of several frames side by side in the last axis (layout "HWC").
        """
        return self._observations(Part.first)

    @property
    def next_obs(self) -> Observations:
        """The observations at which they end, like `obs`."""
        return self._observations(Part.last)

    @property
    def window(self) -> Observations:
        """`windows` with their frames one after the other: (B, L * C, H, W) uint8; views.

        `obs` is its first channels, `next_obs` its last ones. With other layouts (B, L, ...), with several parts a
        mapping.
        """
        found = {
            part.name: self.windows[part.name].flatten(1, 2) if part.spec.layout == "CHW" else self.windows[part.name]
            for part in self.parts
        }
        return found.get("", found)

    def __iter__(self) -> Iterator[Observations]:
        return iter((self.obs, self.action, self.reward, self.discount, self.next_obs))

    def __len__(self) -> int:
        """5, as the batch unpacks."""
        return 5


@dataclass(frozen=True, eq=False)
class SequenceBatch(_Batch):
    """A batch of sequences: T consecutive steps of one episode each, fewer where the episode has no more.

    Step t has the observation, the action that was taken in it, and what that action led to. Where `mask` is False,
    the episode has no further step: all values are 0, and observations mean nothing, but for the first one of them,
    which is the last observation of the episode, in which no action was taken. So `obs[:, t + 1]` is the observation
    after step t wherever `mask[:, t]` is True.

    Attributes:
        parts: what observations are made of.
        windows: for each part, by name, the frames of the observations, (B, L, ...) in the part's dtype, oldest first;
            each frame once where stacks share it: L is T + frame_stack - 1 then.
        action: (B, T, *action_shape), action_dtype.
        reward: (B, T) float32.
        discount: (B, T) float32, the environment's: 0 where it terminated. Without gamma.
        terminated: (B, T) bool, whether the episode ended in a terminal state.
        is_first: (B, T) bool, whether it is the first step of its episode.
        mask: (B, T) bool, whether there is such a step.
        extras: (B, T, *shape), by name, further values that were stored with the action.
        index: (B,) int64, on the CPU: the numbers of the first steps. A number is never given to another step.
        weight: (B,) float32, of importance sampling, relative to the largest that the batch has from the same buffer; 1
            without priorities.
        source: (B,) int64, on the CPU: which of several buffers each is from, 0 for the first one.

    Examples:
        >>> batch = replay.sample(4, sequence_length=8)
        >>> batch.obs.shape, batch.mask.shape
        (torch.Size([4, 8, 3, 16, 16]), torch.Size([4, 8]))
    """

    terminated: torch.Tensor = field(kw_only=True)
    is_first: torch.Tensor = field(kw_only=True)
    mask: torch.Tensor = field(kw_only=True)

    @property
    def obs(self) -> Observations:
        """The observations of the steps.

        (B, T, frame_stack * C, H, W) uint8, or (B, T, ...) as they were added; a mapping where they are mappings. Views
        of `windows`, in which stacks overlap, so read them only; a copy only of several frames side by side in the last
        axis (layout "HWC").
        """
        length = self.mask.shape[1]
        return self._observations(lambda part, window: part.sequence(window, length))
