"""Each network against a forward pass written in numpy."""

import numpy as np
import pytest
import torch

from drqv2.networks import Actor, Critic, Encoder, MappingEncoder, initialise


def seeded(network, seed=0):
    """`network` with weights that leave no term out: unlike the initial ones, biases are not zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return network


def arrays(module):
    return [parameter.detach().double().numpy() for parameter in module.parameters()]


def convolve(images, weight, bias, stride):
    windows = np.lib.stride_tricks.sliding_window_view(images, (3, 3), axis=(2, 3))[:, :, ::stride, ::stride]
    return np.einsum("bchwij,ocij->bohw", windows, weight, optimize=True) + bias[:, None, None]


def trunk(x, weight, bias, scale, offset):
    h = x @ weight.T + bias
    h = (h - h.mean(1, keepdims=True)) / np.sqrt(h.var(1, keepdims=True) + 1e-5)
    return np.tanh(h * scale + offset)


def mlp(x, w1, b1, w2, b2, w3, b3):
    h = np.maximum(x @ w1.T + b1, 0)
    return np.maximum(h @ w2.T + b2, 0) @ w3.T + b3


def test_encoder_is_four_convolutions_of_scaled_pixels():
    rng = np.random.default_rng(0)
    encoder = seeded(Encoder((9, 84, 84)))
    pixels = rng.integers(0, 256, (2, 9, 84, 84), dtype=np.uint8)
    h, parameters = pixels / 255 - 0.5, arrays(encoder)
    for layer, stride in enumerate((2, 1, 1, 1)):
        h = np.maximum(convolve(h, parameters[2 * layer], parameters[2 * layer + 1], stride), 0)
    assert h.shape == (2, 32, 35, 35)
    assert encoder.output_size == 32 * 35 * 35
    features = encoder(torch.from_numpy(pixels)).detach().numpy()
    np.testing.assert_allclose(features, h.reshape(2, -1), atol=1e-5)


def test_features_of_a_mapping_are_those_of_each_camera_and_the_vectors():
    shapes = {"camera2": (3, 28, 28), "state": (5,), "camera0": (9, 36, 36)}
    encoder = seeded(MappingEncoder(shapes))
    rng = np.random.default_rng(0)
    observation = {
        name: torch.from_numpy(rng.integers(0, 256, (2, *shape), dtype=np.uint8))
        if len(shape) == 3
        else torch.randn(2, 5)
        for name, shape in shapes.items()
    }
    separate = []
    for k, name in enumerate(("camera2", "camera0")):
        alone = Encoder(shapes[name])
        with torch.no_grad():
            mine = list(encoder.parameters())[8 * k : 8 * k + 8]
            for parameter, own in zip(alone.parameters(), mine, strict=True):
                parameter.copy_(own)
        separate.append(alone(observation[name]))
    features = encoder(observation)
    assert features.shape == (2, encoder.output_size) and encoder.output_size == 32 * (7 * 7 + 11 * 11) + 5
    assert torch.equal(features, torch.cat([*separate, observation["state"]], 1))
    assert len(list(encoder.parameters())) == 16  # nothing is shared between the cameras


def test_actor_is_the_tanh_of_an_mlp_on_the_trunk():
    actor = seeded(Actor(200, 6, feature_size=50, hidden_size=64))
    features = torch.randn(5, 200)
    parameters = arrays(actor)
    expected = np.tanh(mlp(trunk(features.double().numpy(), *parameters[:4]), *parameters[4:]))
    np.testing.assert_allclose(actor(features).detach().numpy(), expected, atol=1e-5)


def test_critics_share_the_trunk_and_nothing_else():
    critic = seeded(Critic(200, 6, feature_size=50, hidden_size=64))
    features, action = torch.randn(5, 200), torch.rand(5, 6) * 2 - 1
    parameters = arrays(critic)
    assert len(parameters) == 16
    h = np.concatenate((trunk(features.double().numpy(), *parameters[:4]), action.double().numpy()), axis=1)
    for value, own in zip(critic(features, action), (parameters[4:10], parameters[10:]), strict=True):
        assert value.shape == (5, 1)
        np.testing.assert_allclose(value.detach().numpy(), mlp(h, *own), atol=1e-5)


@pytest.mark.parametrize("network", [Encoder((3, 84, 84)), Actor(300, 2, 50, 64), Critic(300, 2, 50, 64)])
def test_initial_weights_are_orthogonal_and_biases_zero(network):
    initialise(network, torch.Generator().manual_seed(3))
    for layer in network.modules():
        if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear):
            matrix = layer.weight.detach().flatten(1).double()
            shorter = matrix if len(matrix) <= matrix.shape[1] else matrix.T
            gain = 2.0 if isinstance(layer, torch.nn.Conv2d) else 1.0  # squared
            torch.testing.assert_close(shorter @ shorter.T, gain * torch.eye(len(shorter)).double(), atol=1e-4, rtol=0)
            assert not layer.bias.any()
        if isinstance(layer, torch.nn.LayerNorm):
            assert (layer.weight == 1).all()
            assert not layer.bias.any()


def test_initial_weights_follow_from_the_generator():
    first, again, other = (Actor(30, 2, 5, 8) for _ in range(3))
    for actor, seed in ((first, 1), (again, 1), (other, 2)):
        initialise(actor, torch.Generator().manual_seed(seed))
    assert torch.equal(first.trunk[0].weight, again.trunk[0].weight)
    assert not torch.equal(first.trunk[0].weight, other.trunk[0].weight)
