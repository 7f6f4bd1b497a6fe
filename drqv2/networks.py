"""DrQ-v2's networks: a convolutional encoder, an actor and a pair of critics on its features.

Architecture and initialisation follow Yarats et al., "Mastering Visual Continuous Control" (arXiv 2107.09645),
appendix B: orthogonal weights (gain sqrt(2) in convolutions, 1 in linear layers) and zero biases.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from drqv2.observations import Shape, is_image

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

    def __init__(self, observation_shape: Shape) -> None:
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


class MappingEncoder(nn.Module):
    """Features of an observation that is a mapping: those of each camera's frames, then the vectors as they come.

    Each camera has an encoder of its own. Views from the side, from behind or from a wrist show different things at the
    same place and of different size, and the filters of one `Encoder` are few; sharing them would also spare no
    convolution. Frames of all cameras as the channels of one image would add up, from the first layer on, pixels that
    show nothing in common.

    Vectors are not scaled. Of a state all stacked steps are used, those whose frames are: velocities follow from them
    where the task observes none, and beside the frames' features they are few.
    """

    def __init__(self, observation_shape: Mapping[str, Shape]) -> None:
        super().__init__()
        encoders = {name: Encoder(shape) for name, shape in observation_shape.items() if is_image(shape)}
        self.cameras = nn.ModuleDict(encoders)
        self._vectors = [name for name in observation_shape if name not in encoders]
        self.output_size = sum(encoder.output_size for encoder in encoders.values())
        self.output_size += sum(observation_shape[name][0] for name in self._vectors)

    def forward(self, observation: Mapping[str, Tensor]) -> Tensor:
        """Features, float32 (B, output_size), of pixels (B, C, H, W) as `Encoder` takes them and vectors (B, n)."""
        frames = [encoder(observation[name]) for name, encoder in self.cameras.items()]
        return torch.cat([*frames, *(observation[name] for name in self._vectors)], dim=1)


def encoder_of(observation_shape: Shape | Mapping[str, Shape]) -> Encoder | MappingEncoder:
    """The encoder of observations of one shape, or of parts that have one each."""
    if isinstance(observation_shape, Mapping):
        return MappingEncoder(observation_shape)
    return Encoder(observation_shape)


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
