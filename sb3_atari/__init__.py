"""QR-DQN and PPO on Atari games through Stable-Baselines3, with and without compressed buffers."""
