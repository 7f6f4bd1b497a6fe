"""Every task config composes with the main one, carries its published hyperparameters, and steps for real."""

from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir

from drqv2 import environment

CONFIG_DIR = Path(__file__).resolve().parents[2] / "cfgs"

# DrQ-v2's published tasks by difficulty, and what the configs say where they differ from the defaults.
TASKS = {
    "easy": "cartpole_balance cartpole_balance_sparse cartpole_swingup cup_catch finger_spin hopper_stand "
    "pendulum_swingup walker_stand walker_walk",
    "medium": "acrobot_swingup cartpole_swingup_sparse cheetah_run finger_turn_easy finger_turn_hard hopper_hop "
    "quadruped_run quadruped_walk reach_duplo reacher_easy reacher_hard walker_run",
    "hard": "humanoid_run humanoid_stand humanoid_walk",
}
DIFFICULTY = {task: difficulty for difficulty, names in TASKS.items() for task in names.split()}
NUM_TRAIN_FRAMES = {"easy": 1_100_000, "medium": 3_100_000, "hard": 30_100_000}
STDDEV_SCHEDULE = {
    "easy": "linear(1.0,0.1,100000)",
    "medium": "linear(1.0,0.1,500000)",
    "hard": "linear(1.0,0.1,2000000)",
}
CONFIGS = sorted(path.stem for path in (CONFIG_DIR / "task").glob("*.yaml") if path.stem not in TASKS)


def load(*overrides):
    with initialize_config_dir(str(CONFIG_DIR), version_base=None):
        return compose("config", overrides=list(overrides))


def test_configs_are_the_published_tasks():
    assert sorted(DIFFICULTY) == CONFIGS
    assert len(CONFIGS) == 24


@pytest.mark.parametrize("task", CONFIGS)
def test_hyperparameters(task):
    config = load(f"task={task}")
    domain = task.split("_")[0]
    walker, humanoid = domain == "walker", domain == "humanoid"

    assert config.task_name == task
    assert config.num_train_frames == NUM_TRAIN_FRAMES[DIFFICULTY[task]]
    assert config.stddev_schedule == STDDEV_SCHEDULE[DIFFICULTY[task]]
    assert (config.nstep, config.batch_size) == ((1, 512) if walker else (3, 256))
    assert (config.lr, config.feature_dim) == ((8e-5, 100) if humanoid else (1e-4, 50))
    assert config.replay_buffer_size == (100_000 if task == "quadruped_run" else 1_000_000)
    assert (config.frame_stack, config.action_repeat, config.discount) == (3, 2, 0.99)
    agent = config.agent
    assert (agent.lr, agent.feature_dim, agent.hidden_dim) == (config.lr, config.feature_dim, 1024)
    assert (agent.critic_target_tau, agent.update_every_steps, agent.num_expl_steps) == (0.01, 2, 2000)
    assert (agent.stddev_schedule, agent.stddev_clip) == (config.stddev_schedule, 0.3)


def test_command_line_wins_over_the_task():
    config = load("task=humanoid_run", "num_train_frames=3000", "lr=1e-3")
    assert (config.num_train_frames, config.lr, config.feature_dim) == (3000, 1e-3, 100)


@pytest.mark.parametrize("paper", [False, True], ids=["rgb", "gray_black_floor"])
@pytest.mark.parametrize("task", CONFIGS)
def test_task_steps(task, paper):
    config = load(f"task={task}")
    env = environment.make(
        config.task_name, config.frame_stack, config.action_repeat, config.seed, grayscale=paper, black_floor=paper
    )
    channels = 1 if paper else 3
    action_spec, observation_spec = env.action_spec(), env.observation_spec()
    assert observation_spec.shape == (3 * channels, 84, 84)
    assert action_spec.dtype == np.float32
    assert np.all(action_spec.minimum == -1) and np.all(action_spec.maximum == 1)

    rng = np.random.default_rng(0)
    time_step = env.reset()
    assert time_step.first()
    observation_spec.validate(time_step.observation)
    first_frame = time_step.observation[:channels]
    assert first_frame.min() < first_frame.max()
    np.testing.assert_array_equal(time_step.observation, np.tile(first_frame, (3, 1, 1)))

    for _ in range(2):
        before = time_step.observation
        action = rng.uniform(-1, 1, action_spec.shape).astype(np.float32)
        time_step = env.step(action)
        assert time_step.mid()
        observation_spec.validate(time_step.observation)
        np.testing.assert_array_equal(time_step.observation[:-channels], before[channels:])
        np.testing.assert_array_equal(time_step.action, action)
        assert isinstance(time_step.reward, float) and np.isfinite(time_step.reward)
        assert time_step.discount == 1.0
    env.close()
