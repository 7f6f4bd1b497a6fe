"""What acts: the encoder and the actor of DrQ-v2, with its exploration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from drqv2.config import AgentConfig
from drqv2.networks import Actor, encoder_of, initialise
from drqv2.observations import Shape
from drqv2.schedule import parse_schedule

# Actions stay this far inside [-1, 1], as in DrQ-v2.
ACTION_LIMIT = 1.0 - 1e-6


def sample_action(mean: Tensor, stddev: float, clip: float | None, generator: torch.Generator) -> Tensor:
    """Add Gaussian noise, itself clipped to [-clip, clip], to `mean` (B, A) and clip the sum to [-1, 1].

    The second clipping is straight-through: the gradient to `mean` is that of the unclipped sum. Equation 4 of the
    paper.
    """
    noise = torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype) * stddev
    if clip is not None:
        noise = noise.clamp(-clip, clip)
    action = mean + noise
    return action + (action.clamp(-ACTION_LIMIT, ACTION_LIMIT) - action).detach()


class Policy:
    """Acts on stacks of frames.

    Args:
        observation_shape: as of `drqv2.agent.DrQV2Agent`.
        action_shape: likewise.
        config: likewise.
        weights: draws the initial weights, on the CPU.
        noise: draws the exploration, on the device where the networks are to live.
    """

    def __init__(
        self,
        observation_shape: Shape | Mapping[str, Shape],
        action_shape: tuple[int],
        config: AgentConfig,
        weights: torch.Generator,
        noise: torch.Generator,
    ) -> None:
        self.encoder = encoder_of(observation_shape)
        self.actor = Actor(self.encoder.output_size, action_shape[0], config.feature_dim, config.hidden_dim)
        self.stddev = parse_schedule(config.stddev_schedule)
        self._num_expl_steps, self._noise = config.num_expl_steps, noise
        for network in (self.encoder, self.actor):
            initialise(network, weights)
            network.to(noise.device)

    @torch.no_grad()
    def act(self, observation: np.ndarray | Mapping[str, np.ndarray], step: int, evaluate: bool) -> np.ndarray:
        """Return an action, float32 (A,), for one observation at agent step `step`.

        Evaluation takes the mean. Otherwise noise is added; the first `num_expl_steps` actions are uniform.
        """
        mean = self.actor(self.encoder(self._batch_of_one(observation)))
        if evaluate:
            action = mean
        elif step < self._num_expl_steps:
            action = torch.rand(mean.shape, generator=self._noise, device=self._noise.device) * 2 - 1
        else:
            action = sample_action(mean, self.stddev(step), None, self._noise)
        return action.squeeze(0).cpu().numpy()

    def weights(self) -> NDArray[np.float32]:
        """A copy of all weights, end to end."""
        vector = parameters_to_vector([*self.encoder.parameters(), *self.actor.parameters()])
        return vector.detach().cpu().numpy()

    def take_weights(self, weights: NDArray[np.float32]) -> None:
        """Act with a copy of what `weights` of another policy returned."""
        vector = torch.tensor(weights, device=self._noise.device)
        vector_to_parameters(vector, [*self.encoder.parameters(), *self.actor.parameters()])

    def _batch_of_one(self, observation: np.ndarray | Mapping[str, np.ndarray]) -> Any:
        if isinstance(observation, Mapping):
            return {name: self._batch_of_one(part) for name, part in observation.items()}
        return torch.as_tensor(observation, device=self._noise.device).unsqueeze(0)


def make_policy(
    observation_shape: Shape | Mapping[str, Shape], action_shape: tuple[int], config: AgentConfig, seed: int
) -> Policy:
    """A policy on the CPU, whose noise `seed` decides; it acts sensibly once it has the weights of another one."""
    generator = torch.Generator().manual_seed(seed)
    return Policy(observation_shape, action_shape, config, generator, generator)
