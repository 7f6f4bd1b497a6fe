"""What the training commands share, whatever they train: options and their mistakes, run folders, snapshots and tables.

Imports `diffreplay` at most; `drqv2` and `sb3_atari` import it, and neither the other.
"""
