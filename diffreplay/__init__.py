"""In-RAM, losslessly compressed replay buffer for image-based reinforcement learning."""
