"""Compressed rollout buffers for the algorithms of sb3-contrib that need more than `RolloutBuffer` holds.

    from diffreplay.sb3.contrib import CompressedMaskableRolloutBuffer

    model = MaskablePPO("CnnPolicy", env, rollout_buffer_class=CompressedMaskableRolloutBuffer)

Samples are those of sb3-contrib's own buffers, bit for bit. Arguments are theirs, and `codec`, `max_bytes` and
`frame_stack` as in `CompressedRolloutBuffer`.
"""

from __future__ import annotations

from diffreplay.sb3.requirements import require

require("sb3_contrib")

from sb3_contrib.common.maskable.buffers import MaskableDictRolloutBuffer, MaskableRolloutBuffer  # noqa: E402
from sb3_contrib.common.recurrent.buffers import RecurrentDictRolloutBuffer, RecurrentRolloutBuffer  # noqa: E402

from diffreplay.sb3.rollout import CompressedRollouts  # noqa: E402

__all__ = [
    "CompressedMaskableDictRolloutBuffer",
    "CompressedMaskableRolloutBuffer",
    "CompressedRecurrentDictRolloutBuffer",
    "CompressedRecurrentRolloutBuffer",
]


class CompressedMaskableRolloutBuffer(CompressedRollouts, MaskableRolloutBuffer):
    """sb3-contrib's `MaskableRolloutBuffer` with coded observations.

    Examples:
        >>> from diffreplay.sb3.contrib import CompressedMaskableRolloutBuffer
        >>> buffer = CompressedMaskableRolloutBuffer(8, images, actions)
    """


class CompressedMaskableDictRolloutBuffer(CompressedRollouts, MaskableDictRolloutBuffer):
    """sb3-contrib's `MaskableDictRolloutBuffer` with coded images; other entries stay plain arrays.

    Examples:
        >>> from diffreplay.sb3.contrib import CompressedMaskableDictRolloutBuffer
        >>> buffer = CompressedMaskableDictRolloutBuffer(8, dicts.observation_space, actions)
    """


class CompressedRecurrentRolloutBuffer(CompressedRollouts, RecurrentRolloutBuffer):
    """sb3-contrib's `RecurrentRolloutBuffer` with coded observations.

    `RecurrentPPO` takes no buffer class: assign one to `model.rollout_buffer` once the model is made or loaded.

    Examples:
        >>> from diffreplay.sb3.contrib import CompressedRecurrentRolloutBuffer
        >>> buffer = CompressedRecurrentRolloutBuffer(8, images, actions, hidden_state_shape=(8, 1, 1, 16))
    """


class CompressedRecurrentDictRolloutBuffer(CompressedRollouts, RecurrentDictRolloutBuffer):
    """sb3-contrib's `RecurrentDictRolloutBuffer` with coded images; other entries stay plain arrays.

    Examples:
        >>> from diffreplay.sb3.contrib import CompressedRecurrentDictRolloutBuffer
        >>> state = (8, 1, 1, 16)
        >>> buffer = CompressedRecurrentDictRolloutBuffer(8, dicts.observation_space, actions, state)
    """
