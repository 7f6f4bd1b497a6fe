"""A batch of transitions whose observations share one tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class ReplayBatch:
    """A batch of n-step transitions; unpacks as `obs, action, reward, discount, next_obs`.

    Attributes:
        window: (B, channels in all, H, W) uint8, the frames of both observations, each frame once where the
            two share it.
        action: (B, *action_shape), action_dtype.
        reward: (B, 1) float32, discounted sum over the n steps.
        discount: (B, 1) float32, product of the steps' discounts and gamma ** n.
        obs_channels: channels of one observation, frame_stack * C.
    """

    window: torch.Tensor
    action: torch.Tensor
    reward: torch.Tensor
    discount: torch.Tensor
    obs_channels: int

    @property
    def obs(self) -> torch.Tensor:
        """(B, frame_stack * C, H, W) uint8, a view of the first channels of `window`."""
        return self.window[:, : self.obs_channels]

    @property
    def next_obs(self) -> torch.Tensor:
        """(B, frame_stack * C, H, W) uint8, a view of the last channels of `window`."""
        return self.window[:, -self.obs_channels :]

    def __iter__(self) -> Iterator[torch.Tensor]:
        return iter((self.obs, self.action, self.reward, self.discount, self.next_obs))

    def __len__(self) -> int:
        """5, as the batch unpacks."""
        return 5

    def to(self, device: torch.device | str, non_blocking: bool = False) -> ReplayBatch:
        """The batch on `device`; the window moves once."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def clone(self) -> ReplayBatch:
        """A copy in memory of its own."""
        return self._map(torch.Tensor.clone)

    def pin_memory(self) -> ReplayBatch:
        """A copy in page-locked memory, from which copies to a GPU need not wait; itself where it lies there."""
        return self._map(torch.Tensor.pin_memory)

    def _map(self, move: Callable[[torch.Tensor], torch.Tensor]) -> ReplayBatch:
        # The window last: what is not page-locked would wait on the GPU's stream for what comes before it.
        action, reward, discount, window = map(move, (self.action, self.reward, self.discount, self.window))
        return ReplayBatch(window, action, reward, discount, self.obs_channels)
