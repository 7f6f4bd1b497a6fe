"""DrQ-v2 trained from a compressed replay buffer."""
