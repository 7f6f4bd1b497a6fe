"""A storage in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torchrl.data.replay_buffers.checkpointers import TensorStorageCheckpointer
from torchrl.data.replay_buffers.storages import LazyTensorStorage

from diffreplay.errors import CorruptDataError

FILE = "replay_storage.pt"


class Checkpointer(TensorStorageCheckpointer):
    """Writes what `state_dict` gives to one file, and reads it without unpickling anything but tensors.

    Without images, files are TorchRL's own; those of a `LazyTensorStorage` are read, too.
    """

    def dumps(self, storage: Any, path: str | Path) -> None:
        """Write a storage to a folder."""
        if not storage.has_images:
            super().dumps(storage, path)
            return
        Path(path).mkdir(parents=True, exist_ok=True)
        torch.save(storage.state_dict(), Path(path) / FILE)

    def loads(self, storage: Any, path: str | Path) -> None:
        """Read what `dumps` wrote.

        Raises:
            CorruptDataError: the file is damaged, or none of `dumps`.
        """
        file = Path(path) / FILE
        if not file.exists() and storage.initialized and not storage.has_images:
            super().loads(storage, path)
            return
        if not file.exists():
            other = LazyTensorStorage(storage.max_size, ndim=storage.ndim)
            super().loads(other, path)
            storage.take_over(other)
            return
        try:
            state = torch.load(file, weights_only=True, map_location="cpu")
        except Exception as error:  # of any kind, where the file is damaged
            raise CorruptDataError(f"{file}: expected what dumps wrote, got something damaged ({error})") from None
        storage.load_state_dict(state)
