"""Lossless storage leaves learning untouched: compressed and raw frames lead to the same weights, bit for bit."""

import pytest
import torch
from training_options import tiny_config

from drqv2.workspace import Workspace


def train(directory, codec, num_train_frames):
    """Weights, and the number of updates, of a run with the loader in-process."""
    config = tiny_config(
        "full_compress=true", f"codec={codec}", "num_seed_frames=300", f"num_train_frames={num_train_frames}", "nstep=3"
    )
    directory.mkdir()
    with Workspace(config, directory) as workspace:
        workspace.train()
        updates = int(workspace.agent.critic_optimizer.state[workspace.agent.critic.q1[0].weight]["step"])
        ratio = workspace.replay.metrics()["compression_ratio"]
        return workspace.agent.state_dict(), updates, ratio


def assert_identical(first, second, path=""):
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second), path
    elif isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            assert_identical(first[key], second[key], f"{path}/{key}")
    elif isinstance(first, list):
        for i, (a, b) in enumerate(zip(first, second, strict=True)):
            assert_identical(a, b, f"{path}/{i}")
    else:
        assert first == second, path


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    return train(tmp_path_factory.mktemp("raw") / "run", "raw", 1400)


@pytest.mark.parametrize("codec", ["raw", "delta", "zstd", "sparse"])
def test_weights_do_not_depend_on_the_codec(tmp_path, raw, codec):
    weights, updates, raw_ratio = raw
    other, other_updates, ratio = train(tmp_path / "run", codec, 1400)
    assert updates == other_updates >= 50
    assert (ratio > 1.1 * raw_ratio) == (codec != "raw"), "the frames were not stored in another way"
    assert_identical(weights, other)
