"""Lossless storage leaves learning untouched: compressed and raw frames lead to the same weights, bit for bit.

So does the default camera where it is named.
"""

import pytest
from training_options import assert_identical, tiny_config

from drqv2.workspace import Workspace


def train(directory, codec, num_train_frames, *options):
    """Weights, and the number of updates, of a run with the loader in-process."""
    frames = ("num_seed_frames=300", f"num_train_frames={num_train_frames}")
    config = tiny_config("full_compress=true", f"codec={codec}", "nstep=3", *frames, *options)
    directory.mkdir()
    with Workspace(config, directory) as workspace:
        workspace.train()
        updates = int(workspace.agent.critic_optimizer.state[workspace.agent.critic.q1[0].weight]["step"])
        ratio = workspace.replay.stats().compression_ratio
        return workspace.agent.state_dict(), updates, ratio


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


def test_the_default_camera_by_its_number_leads_to_the_same_weights(tmp_path, raw):
    weights, updates, _ = raw
    other, other_updates, _ = train(tmp_path / "run", "raw", 1400, "cameras=[0]")
    assert updates == other_updates
    assert_identical(weights, other)
