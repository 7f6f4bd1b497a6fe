"""A batch of transitions whose observations share memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from diffreplay.parts import Part

Observations = Any
"""A tensor, or a dict of tensors where observations are mappings."""


@dataclass(frozen=True)
class ReplayBatch:
    """A batch of n-step transitions; unpacks as `obs, action, reward, discount, next_obs`.

    Attributes:
        parts: what observations are made of.
        windows: for each part, by name, the frames of both observations, (B, L, ...) in the part's dtype, oldest first;
            each frame once where the two share it.
        action: (B, *action_shape), action_dtype.
        reward: (B, 1) float32, discounted sum over the n steps.
        discount: (B, 1) float32, product of the steps' discounts and gamma ** n.
        extras: (B, *shape), by name, further values that were stored with the action.
    """

    parts: tuple[Part, ...]
    windows: dict[str, torch.Tensor]
    action: torch.Tensor
    reward: torch.Tensor
    discount: torch.Tensor
    extras: dict[str, torch.Tensor] = field(default_factory=dict)

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

    def _observations(self, cut: Callable[[Part, torch.Tensor], torch.Tensor]) -> Observations:
        found = {part.name: cut(part, self.windows[part.name]) for part in self.parts}
        return found.get("", found)

    def __iter__(self) -> Iterator[Observations]:
        return iter((self.obs, self.action, self.reward, self.discount, self.next_obs))

    def __len__(self) -> int:
        """5, as the batch unpacks."""
        return 5

    def tensors(self) -> list[torch.Tensor]:
        """All that it is made of."""
        return [*self.windows.values(), self.action, self.reward, self.discount, *self.extras.values()]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> ReplayBatch:
        """The batch on `device`; each window moves once."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def clone(self) -> ReplayBatch:
        """A copy in memory of its own."""
        return self._map(torch.Tensor.clone)

    def pin_memory(self) -> ReplayBatch:
        """A copy in page-locked memory, from which copies to a GPU need not wait; itself where it lies there."""
        return self._map(torch.Tensor.pin_memory)

    def _map(self, move: Callable[[torch.Tensor], torch.Tensor]) -> ReplayBatch:
        # The windows last: what is not page-locked would wait on the GPU's stream for what comes before it.
        action, reward, discount = map(move, (self.action, self.reward, self.discount))
        extras = {name: move(tensor) for name, tensor in self.extras.items()}
        windows = {name: move(tensor) for name, tensor in self.windows.items()}
        return ReplayBatch(self.parts, windows, action, reward, discount, extras)
