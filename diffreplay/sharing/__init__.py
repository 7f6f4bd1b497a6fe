"""The way to a buffer's memory from any process of the same user on this machine.

A `ReplayHandle` (`handle`) pickles to what a `ReplayReader` needs besides the memory. That comes as a file descriptor,
over a Unix socket, from the process that made the handle (`descriptors`).

Imports `loading` and `store`. What others use stands here.
"""

from diffreplay.sharing.handle import ReplayHandle, Shared

__all__ = ["ReplayHandle", "Shared"]
