"""A storage with compressed images for TorchRL's replay buffers.

    from diffreplay.torchrl import ReplayStorage

    buffer = TensorDictReplayBuffer(storage=ReplayStorage(100_000), batch_size=32)

Needs TorchRL 0.14: `pip install diffreplay[torchrl]`. `storage` has what a user meets, `tensor` stands for a tensor of
images, `images` holds these in a table, and `sequences` finds what an observation follows; `cursors` has TorchRL's
indices, `state` is all of it on its way into a file, `files` that file, and `usage` what it takes.

Imports `errors`, `stats`, `parts`, `codecs`, `store` and `tables`.
"""

try:
    import torchrl.data  # noqa: F401
except ImportError as error:
    raise type(error)(
        f"diffreplay.torchrl: expected TorchRL 0.14 or newer, got {error}; install it with "
        "pip install 'diffreplay[torchrl]'",
        name=error.name,
    ) from None

from diffreplay.torchrl.storage import ReplayStorage

__all__ = ["ReplayStorage"]
