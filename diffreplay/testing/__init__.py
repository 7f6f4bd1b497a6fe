"""For tests of what is built on diffreplay: steps to add, and the contract of a codec.

Imports errors, codecs and the replay buffer.
"""

from diffreplay.testing.contract import check_codec
from diffreplay.testing.steps import TimeStep

__all__ = ["TimeStep", "check_codec"]
