"""DrQ-v2's networks: a convolutional encoder, an actor and a pair of critics on its features.

Architecture and initialisation follow Yarats et al., "Mastering Visual Continuous Control" (arXiv 2107.09645),
appendix B: orthogonal weights (gain sqrt(2) in convolutions, 1 in linear layers) and zero biases.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

CHANNELS = 32
STRIDES = (2, 1, 1, 1)


def initialise(module: nn.Module, generator: torch.Generator) -> None:
    """Fill `module` with orthogonal weights drawn from `generator` (a CPU one) and zero biases, in place."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            gain = math.sqrt(2) if isinstance(layer, nn.Conv2d) else 1.0
            nn.init.orthogonal_(layer.weight, gain, generator=generator)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


class Encoder(nn.Module):
    """Four 3x3 convolutions of 32 channels with ReLU, the first with stride 2; no normalisation, no pooling."""

    def __init__(self, observation_shape: tuple[int, int, int]) -> None:
        super().__init__()
        channels, height, width = observation_shape
        layers: list[nn.Module] = []
        for stride in STRIDES:
            layers += [nn.Conv2d(channels, CHANNELS, kernel_size=3, stride=stride), nn.ReLU()]
            channels, height, width = CHANNELS, (height - 3) // stride + 1, (width - 3) // stride + 1
        self.convolutions = nn.Sequential(*layers)
        self.output_size = CHANNELS * height * width

    def forward(self, observation: Tensor) -> Tensor:
        """Features, float32 (B, output_size), of pixels (B, C, H, W) in [0, 255]; uint8 or float32."""
        return self.convolutions(observation / 255.0 - 0.5).flatten(start_dim=1)


def _trunk(input_size: int, feature_size: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(input_size, feature_size), nn.LayerNorm(feature_size), nn.Tanh())


def _mlp(input_size: int, hidden_size: int, output_size: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(input_size, hidden_size),
        nn.ReLU(inplace=True),
        nn.Linear(hidden_size, hidden_size),
        nn.ReLU(inplace=True),
        nn.Linear(hidden_size, output_size),
    )


class Actor(nn.Module):
    """The policy's mean: trunk, two hidden layers, tanh."""

    def __init__(self, input_size: int, action_size: int, feature_size: int, hidden_size: int) -> None:
        super().__init__()
        self.trunk = _trunk(input_size, feature_size)
        self.policy = _mlp(feature_size, hidden_size, action_size)

    def forward(self, features: Tensor) -> Tensor:
        """Mean action in [-1, 1], float32 (B, action_size), of encoder features (B, input_size)."""
        return torch.tanh(self.policy(self.trunk(features)))


class Critic(nn.Module):
    """Two Q functions with separate hidden layers behind one trunk."""

    def __init__(self, input_size: int, action_size: int, feature_size: int, hidden_size: int) -> None:
        super().__init__()
        self.trunk = _trunk(input_size, feature_size)
        self.q1 = _mlp(feature_size + action_size, hidden_size, 1)
        self.q2 = _mlp(feature_size + action_size, hidden_size, 1)

    def forward(self, features: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Both values, each float32 (B, 1), of encoder features (B, input_size) and actions (B, action_size)."""
        joined = torch.cat((self.trunk(features), action), dim=-1)
        return self.q1(joined), self.q2(joined)
