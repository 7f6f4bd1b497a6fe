"""The option `device`: where the networks live."""

from __future__ import annotations

import torch

from runs.errors import OptionError


def resolve_device(name: str) -> torch.device:
    """Return the device called `auto` (CUDA if there is a GPU, else CPU), `cpu`, `cuda` or `cuda:<index>`.

    Raises:
        OptionError: there is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise OptionError(f"device={name}: expected auto, cpu, cuda or cuda:<index>") from error
    if device.type not in ("cpu", "cuda"):
        raise OptionError(f"device={name}: expected auto, cpu, cuda or cuda:<index>")
    if device.type == "cuda":
        _check_cuda(name, device)
    return device


def _check_cuda(name: str, device: torch.device) -> None:
    if not torch.cuda.is_available():
        reason = "this PyTorch is built without CUDA" if torch.version.cuda is None else "PyTorch finds no GPU"
        raise OptionError(f"device={name}: there is no CUDA GPU to use ({reason}); use device=auto or device=cpu")
    if device.index is not None and device.index >= torch.cuda.device_count():
        raise OptionError(f"device={name}: expected an index below {torch.cuda.device_count()}, the number of GPUs")
