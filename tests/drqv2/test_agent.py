"""The agent against an independent computation of one DrQ-v2 update: plain functions on weights, Adam by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from drqv2.agent import DrQV2Agent, soft_update
from drqv2.config import AgentConfig
from drqv2.policy import sample_action
from runs.snapshot import load_snapshot, save_snapshot

CONFIG = AgentConfig(
    lr=1e-3,
    feature_dim=6,
    hidden_dim=10,
    critic_target_tau=0.01,
    update_every_steps=2,
    num_expl_steps=50,
    stddev_schedule="linear(1.0,0.2,100)",
    stddev_clip=0.3,
)
SHAPE, ACTIONS, BATCH = (3, 28, 28), 2, 5
PARTS = {"camera0": SHAPE, "camera1": SHAPE, "state": (4,)}


def make_agent(seed=1, shape=SHAPE, **changes):
    return DrQV2Agent(shape, (ACTIONS,), replace(CONFIG, **changes), torch.device("cpu"), seed)


def make_batch(seed=0, overlapping=False):
    rng = np.random.default_rng(seed)
    window = torch.from_numpy(rng.integers(0, 256, (BATCH, SHAPE[0] + 1, *SHAPE[1:]), dtype=np.uint8))
    obs, next_obs = window[:, :-1], window[:, 1:]
    if not overlapping:
        obs, next_obs = obs.clone(), next_obs.clone()
    action, reward = rng.uniform(-1, 1, (BATCH, ACTIONS)), rng.uniform(0, 3, (BATCH, 1))
    discount = rng.choice([0.0, 0.97], (BATCH, 1))
    return obs, *(torch.tensor(value, dtype=torch.float32) for value in (action, reward, discount)), next_obs


def make_parts(seed=0):
    """A batch whose observations are mappings of PARTS."""
    (obs, *values, next_obs), (other, *_, next_other) = make_batch(seed), make_batch(seed + 1000)
    states = torch.randn(2, BATCH, 4, generator=torch.Generator().manual_seed(seed))
    first, last = ((obs, other, states[0]), (next_obs, next_other, states[1]))
    return dict(zip(PARTS, first, strict=True)), *values, dict(zip(PARTS, last, strict=True))


def weights(network):
    return [parameter.detach().clone() for parameter in network.parameters()]


def encode(images, w):
    h = images / 255 - 0.5
    for layer, stride in enumerate((2, 1, 1, 1)):
        h = functional.conv2d(h, w[2 * layer], w[2 * layer + 1], stride=stride).clamp(min=0)
    return h.flatten(1)


def trunk(h, w):
    return torch.tanh(functional.layer_norm(h @ w[0].T + w[1], w[2].shape, w[2], w[3]))


def mlp(h, w):
    return ((h @ w[0].T + w[1]).clamp(min=0) @ w[2].T + w[3]).clamp(min=0) @ w[4].T + w[5]


def actor_mean(h, w):
    return torch.tanh(mlp(trunk(h, w), w[4:]))


def q_values(h, action, w):
    joined = torch.cat((trunk(h, w), action), 1)
    return mlp(joined, w[4:10]), mlp(joined, w[10:])


def crop(images, shift):
    padded = functional.pad(images.float(), (4, 4, 4, 4), mode="replicate")
    size = images.shape[-1]
    return torch.stack([p[:, y : y + size, x : x + size] for p, (x, y) in zip(padded, shift.tolist(), strict=True)])


def adam(parameter, gradient, moments, count, lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-8):
    """Kingma and Ba (arXiv 1412.6980), algorithm 1, in float64."""
    m, v = moments
    m = beta1 * m + (1 - beta1) * gradient
    v = beta2 * v + (1 - beta2) * gradient**2
    step = lr * (m / (1 - beta1**count)) / ((v / (1 - beta2**count)).sqrt() + eps)
    return (parameter.double() - step).float(), (m, v)


class Reference:
    """The paper's update on lists of weights, with the agent's own random draws."""

    def __init__(self, agent):
        self.w = {name: weights(getattr(agent, name)) for name in ("encoder", "actor", "critic", "critic_target")}
        self.moments = {name: [(0.0, 0.0)] * len(self.w[name]) for name in ("encoder", "actor", "critic")}
        self.generator = torch.Generator()
        self.generator.set_state(agent.generator.get_state())
        self.count = 0

    def noisy(self, mean, stddev):
        noise = (torch.randn(mean.shape, generator=self.generator) * stddev).clamp(-0.3, 0.3)
        return (mean + noise).clamp(-1 + 1e-6, 1 - 1e-6)

    def descend(self, loss, names):
        parameters = [p for name in names for p in self.w[name]]
        gradients = iter(torch.autograd.grad(loss, parameters))
        for name in names:
            for i, parameter in enumerate(self.w[name]):
                new, self.moments[name][i] = adam(
                    parameter.detach(), next(gradients).double(), self.moments[name][i], self.count
                )
                self.w[name][i] = new

    def encode(self, observation, shifts):
        if isinstance(observation, torch.Tensor):
            return encode(crop(observation, shifts[0]), self.w["encoder"])
        first, second, state = observation.values()
        views = ((first, shifts[0], self.w["encoder"][:8]), (second, shifts[1], self.w["encoder"][8:]))
        return torch.cat([*(encode(crop(images, shift), w) for images, shift, w in views), state], 1)

    def update(self, batch, stddev):
        obs, action, reward, discount, next_obs = batch
        self.count += 1
        for name in ("encoder", "actor", "critic"):
            self.w[name] = [p.requires_grad_() for p in self.w[name]]
        views = 1 if isinstance(obs, torch.Tensor) else 2
        shifts = [torch.randint(0, 9, (BATCH, 2), generator=self.generator) for _ in range(2 * views)]
        h = self.encode(obs, shifts[:views])
        with torch.no_grad():
            next_h = self.encode(next_obs, shifts[views:])
            next_action = self.noisy(actor_mean(next_h, self.w["actor"]), stddev)
            target = reward + discount * torch.min(*q_values(next_h, next_action, self.w["critic_target"]))
        loss = sum(((q - target) ** 2).mean() for q in q_values(h, action, self.w["critic"]))
        self.descend(loss, ["encoder", "critic"])

        mean = actor_mean(h.detach(), self.w["actor"])
        assert mean.abs().max() < 0.7, "the reference clips without straight-through, so it must not clip here"
        policy_loss = -torch.min(*q_values(h.detach(), self.noisy(mean, stddev), self.w["critic"])).mean()
        self.descend(policy_loss, ["actor"])

        averaged = zip(self.w["critic"], self.w["critic_target"], strict=True)
        self.w["critic_target"] = [0.01 * p + 0.99 * t for p, t in averaged]
        return loss.item(), policy_loss.item()


@pytest.mark.parametrize(("shape", "make_batch"), [(SHAPE, make_batch), (PARTS, make_parts)], ids=["array", "mapping"])
def test_updates_equal_an_independent_computation(shape, make_batch):
    agent = make_agent(shape=shape)
    reference = Reference(agent)
    before = {name: weights(getattr(agent, name)) for name in reference.w}
    for step in (0, 50, 400):
        batch = make_batch(seed=step)
        metrics = agent.update(batch, step)
        critic_loss, actor_loss = reference.update(batch, {0: 1.0, 50: 0.6, 400: 0.2}[step])
        assert metrics["critic_loss"].item() == pytest.approx(critic_loss, rel=1e-4)
        assert metrics["actor_loss"].item() == pytest.approx(actor_loss, rel=1e-4)
        assert metrics["batch_reward"].item() == pytest.approx(batch[2].mean().item())
    for name, expected in reference.w.items():
        for mine, wanted, old in zip(weights(getattr(agent, name)), expected, before[name], strict=True):
            # How far weights moved, not where they are. Where a gradient is nearly zero, Adam turns its rounding into a
            # visible step, so a few weights differ by more.
            move, wanted_move = mine - old, wanted.detach() - old
            assert wanted_move.norm() > 0
            assert (move - wanted_move).norm() < 0.01 * wanted_move.norm(), name


def test_views_of_one_window_learn_like_copies():
    first, second = make_agent(), make_agent()
    first.update(make_batch(overlapping=True), 0)
    second.update(make_batch(overlapping=False), 0)
    assert_same_weights(first, second)


def test_a_mapping_of_one_camera_learns_like_its_array():
    first, second = make_agent(), make_agent(shape={"camera1": SHAPE})
    for step in range(3):
        obs, *values, next_obs = make_batch(step)
        first.update((obs, *values, next_obs), step)
        second.update(({"camera1": obs}, *values, {"camera1": next_obs}), step)
    assert_same_weights(first, second)
    observation = np.random.default_rng(0).integers(0, 256, SHAPE, dtype=np.uint8)
    np.testing.assert_array_equal(first.act(observation, 99, False), second.act({"camera1": observation}, 99, False))


def test_the_order_of_a_mapping_makes_no_difference():
    first, second = make_agent(shape=PARTS), make_agent(shape=PARTS)
    obs, *values, next_obs = make_parts()
    first.update((obs, *values, next_obs), 0)
    turned = (dict(reversed(part.items())) for part in (obs, next_obs))
    second.update((next(turned), *values, next(turned)), 0)
    assert_same_weights(first, second)


def test_an_action_depends_on_every_part():
    agent = make_agent(shape=PARTS)
    rng = np.random.default_rng(0)
    observation = {name: rng.integers(0, 256, SHAPE, dtype=np.uint8) for name in ("camera0", "camera1")}
    observation["state"] = rng.normal(size=4).astype(np.float32)
    action = agent.act(observation, 0, evaluate=True)
    assert action.shape == (ACTIONS,) and action.dtype == np.float32
    for name, part in observation.items():
        assert not np.array_equal(agent.act(observation | {name: part[::-1].copy()}, 0, evaluate=True), action), name


def test_encoder_learns_from_the_critic_alone():
    agent = make_agent()
    agent._update_actor(agent.encoder(torch.zeros(2, *SHAPE)).detach(), 0.1)
    assert all(p.grad is None for p in [*agent.encoder.parameters(), *agent.critic.parameters()])


def test_noise_is_clipped_and_so_is_the_action():
    mean = torch.linspace(-0.99, 0.99, 2000).reshape(1000, 2)
    draws = torch.randn(1000, 2, generator=torch.Generator().manual_seed(5)).numpy()
    for clip in (0.3, None):
        action = sample_action(mean, 0.5, clip, torch.Generator().manual_seed(5)).numpy()
        noise = 0.5 * draws if clip is None else np.clip(0.5 * draws, -clip, clip)
        np.testing.assert_allclose(action, np.clip(mean.numpy() + noise, -1 + 1e-6, 1 - 1e-6), atol=1e-6)
        assert np.abs(action).max() < 1


def test_clipping_lets_the_gradient_through():
    mean = torch.tensor([[0.999, -0.999, 0.0]], requires_grad=True)
    sample_action(mean, 5.0, None, torch.Generator().manual_seed(0)).sum().backward()
    assert torch.equal(mean.grad, torch.ones(1, 3))


def test_soft_update():
    network, target = torch.nn.Linear(2, 1), torch.nn.Linear(2, 1)
    expected = [0.01 * p + 0.99 * t for p, t in zip(weights(network), weights(target), strict=True)]
    soft_update(network, target, 0.01)
    for mine, wanted in zip(target.parameters(), expected, strict=True):
        torch.testing.assert_close(mine.detach(), wanted)


def test_one_update_every_two_steps():
    assert [make_agent().is_update_due(step) for step in range(4)] == [True, False, True, False]


def test_acting_explores_uniformly_first_then_around_the_mean():
    agent = make_agent()
    observation = np.random.default_rng(0).integers(0, 256, SHAPE, dtype=np.uint8)
    mean = agent.act(observation, 0, evaluate=True)
    assert mean.dtype == np.float32 and mean.shape == (ACTIONS,)
    np.testing.assert_array_equal(mean, agent.act(observation, 999, evaluate=True))

    uniform = np.array([agent.act(observation, 49, evaluate=False) for _ in range(2000)])
    assert np.abs(uniform.mean(0)).max() < 0.06 and np.abs(uniform.std(0) - 3**-0.5).max() < 0.03
    noisy = np.array([agent.act(observation, 100, evaluate=False) for _ in range(2000)])
    assert np.abs(noisy.mean(0) - mean).max() < 0.03
    # Not clipped to 0.3: at a standard deviation of 0.2 some of 4000 draws lie beyond three of them.
    assert np.abs(noisy.std(0) - 0.2).max() < 0.03 and np.abs(noisy - mean).max() > 0.55


def assert_same_weights(first, second):
    for name in ("encoder", "actor", "critic", "critic_target"):
        for a, b in zip(weights(getattr(first, name)), weights(getattr(second, name)), strict=True):
            assert torch.equal(a, b), name


def test_one_seed_gives_one_result():
    first, again, other = make_agent(1), make_agent(1), make_agent(2)
    for agent in (first, again, other):
        for step in range(3):
            agent.update(make_batch(step), step)
    assert_same_weights(first, again)
    assert not torch.equal(weights(first.actor)[0], weights(other.actor)[0])


@pytest.mark.parametrize(("shape", "make_batch"), [(SHAPE, make_batch), (PARTS, make_parts)], ids=["array", "mapping"])
def test_a_snapshot_goes_on_bit_for_bit(tmp_path, shape, make_batch):
    agent = make_agent(1, shape)
    agent.update(make_batch(0), 0)
    save_snapshot(tmp_path / "snapshot.pt", agent.state_dict())
    resumed = make_agent(7, shape)
    resumed.load_state_dict(load_snapshot(tmp_path / "snapshot.pt"))
    for each in (agent, resumed):
        each.update(make_batch(1), 2)
    assert_same_weights(agent, resumed)
    observation = make_batch(2)[0]
    observation = (
        observation[0].numpy() if shape is SHAPE else {name: part[0].numpy() for name, part in observation.items()}
    )
    np.testing.assert_array_equal(agent.act(observation, 10, False), resumed.act(observation, 10, False))
