"""The DrQ-v2 agent: DDPG with twin critics, n-step targets and random shifts, learning from pixels.

Yarats et al., "Mastering Visual Continuous Control: Improved Data-Augmented Reinforcement Learning" (arXiv
2107.09645), section 3.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from drqv2.augmentation import RandomShift
from drqv2.config import AgentConfig
from drqv2.networks import Critic, initialise
from drqv2.observations import Shape, is_image
from drqv2.policy import Policy, sample_action


@torch.no_grad()
def soft_update(network: nn.Module, target: nn.Module, tau: float) -> None:
    """Polyak averaging, in place: target = tau * network + (1 - tau) * target."""
    for parameter, averaged in zip(network.parameters(), target.parameters(), strict=True):
        averaged.copy_(tau * parameter + (1 - tau) * averaged)


class DrQV2Agent:
    """Acts on stacks of frames and learns from batches of n-step transitions.

    Args:
        observation_shape: (frame_stack * C, H, H) of the uint8 observations; where they are mappings, the shape of
            each part, that of float32 vectors being (n,).
        action_shape: (A,) of the float32 actions in [-1, 1].
        config: hyperparameters, see cfgs/config.yaml.
        device: where networks live and batches are moved to.
        seed: of the initial weights (drawn on the CPU, thus equal on every device), of the noise and of the shifts.
    """

    def __init__(
        self,
        observation_shape: Shape | Mapping[str, Shape],
        action_shape: tuple[int],
        config: AgentConfig,
        device: torch.device,
        seed: int,
    ) -> None:
        self.config = config
        self.device = device
        self._observation_shape = observation_shape
        self._augment = RandomShift(pad=4)
        self.generator = torch.Generator(device).manual_seed(seed)

        weights = torch.Generator().manual_seed(seed)
        self.policy = Policy(observation_shape, action_shape, config, weights, self.generator)
        self.encoder, self.actor = self.policy.encoder, self.policy.actor
        sizes = (self.encoder.output_size, action_shape[0], config.feature_dim, config.hidden_dim)
        self.critic = Critic(*sizes)
        self.critic_target = Critic(*sizes).requires_grad_(False)
        initialise(self.critic, weights)
        self.critic_target.load_state_dict(self.critic.state_dict())
        for network in (self.critic, self.critic_target):
            network.to(device)

        self.encoder_optimizer = torch.optim.Adam(self.encoder.parameters(), lr=config.lr, fused=True)
        self.actor_optimizer = torch.optim.Adam(self.actor.parameters(), lr=config.lr, fused=True)
        self.critic_optimizer = torch.optim.Adam(self.critic.parameters(), lr=config.lr, fused=True)

    def act(self, observation: np.ndarray | Mapping[str, np.ndarray], step: int, evaluate: bool) -> np.ndarray:
        """As `Policy.act`."""
        return self.policy.act(observation, step, evaluate)

    def is_update_due(self, step: int) -> bool:
        """Whether agent step `step` comes with an update."""
        return step % self.config.update_every_steps == 0

    def update(self, batch: Iterable[Any], step: int) -> dict[str, Tensor]:
        """Learn from `batch`, (obs, action, reward, discount, next_obs), with the noise of agent step `step`.

        Observations are uint8 (B, *observation_shape), or mappings of such parts, vectors float32, and may be views of
        one tensor; action is float32 (B, A), reward and discount float32 (B, 1), all on the agent's device. Returns
        metrics as scalar tensors on the agent's device: reading them waits for the device, so read them seldom.
        """
        obs, action, reward, discount, next_obs = batch
        features = self.encoder(self._augmented(obs))
        with torch.no_grad():
            next_features = self.encoder(self._augmented(next_obs))
        stddev = self.policy.stddev(step)
        metrics = {"batch_reward": reward.mean()}
        metrics |= self._update_critic(features, action, reward, discount, next_features, stddev)
        metrics |= self._update_actor(features.detach(), stddev)
        soft_update(self.critic, self.critic_target, self.config.critic_target_tau)
        return metrics

    def _augmented(self, observation: Any) -> Any:
        """The observation with its images shifted, each camera's by draws of their own; vectors as they are."""
        if not isinstance(self._observation_shape, Mapping):
            return self._augment(observation.float(), self.generator)
        return {
            name: self._augment(observation[name].float(), self.generator) if is_image(shape) else observation[name]
            for name, shape in self._observation_shape.items()
        }

    def _update_critic(
        self, features: Tensor, action: Tensor, reward: Tensor, discount: Tensor, next_features: Tensor, stddev: float
    ) -> dict[str, Tensor]:
        """Regress both critics on the n-step target; the encoder learns from this loss alone (equations 2 and 3)."""
        with torch.no_grad():
            next_action = sample_action(self.actor(next_features), stddev, self.config.stddev_clip, self.generator)
            target = reward + discount * torch.minimum(*self.critic_target(next_features, next_action))
        q1, q2 = self.critic(features, action)
        loss = functional.mse_loss(q1, target) + functional.mse_loss(q2, target)
        self.encoder_optimizer.zero_grad(set_to_none=True)
        self.critic_optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.critic_optimizer.step()
        self.encoder_optimizer.step()
        return {
            "critic_target_q": target.mean(),
            "critic_q1": q1.detach().mean(),
            "critic_q2": q2.detach().mean(),
            "critic_loss": loss.detach(),
        }

    def _update_actor(self, features: Tensor, stddev: float) -> dict[str, Tensor]:
        """Ascend the smaller of the two values, through the action (equation 4)."""
        action = sample_action(self.actor(features), stddev, self.config.stddev_clip, self.generator)
        loss = -torch.minimum(*self.critic(features, action)).mean()
        self.actor_optimizer.zero_grad(set_to_none=True)
        # Naming the inputs spares the critic's own gradients, which nothing would use.
        loss.backward(inputs=list(self.actor.parameters()))
        self.actor_optimizer.step()
        return {"actor_loss": loss.detach()}

    def _parts(self) -> dict[str, Any]:
        return {
            "encoder": self.encoder,
            "actor": self.actor,
            "critic": self.critic,
            "critic_target": self.critic_target,
            "encoder_optimizer": self.encoder_optimizer,
            "actor_optimizer": self.actor_optimizer,
            "critic_optimizer": self.critic_optimizer,
        }

    def state_dict(self) -> dict[str, Any]:
        """Weights, optimisers and the generator's state, as tensors and plain containers (views, not copies)."""
        return {name: part.state_dict() for name, part in self._parts().items()} | {
            "generator": self.generator.get_state(),
            "generator_device": self.device.type,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned, also from an agent on another device; the learning rate stays ours.

        A generator's state fits its own kind of device only; on another one the generator goes on as it was seeded.
        """
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        for optimizer in (self.encoder_optimizer, self.actor_optimizer, self.critic_optimizer):
            for group in optimizer.param_groups:
                group["lr"] = self.config.lr
        if state["generator_device"] == self.device.type:
            self.generator.set_state(state["generator"])
