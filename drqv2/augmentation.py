"""Random shifts, the data augmentation of DrQ and DrQ-v2."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


class RandomShift:
    """Shifts each image by whole pixels, up to `pad` in each direction; the border's pixels are replicated.

    All channels of a sample (the frames of its stack) move alike. Yarats et al., "Mastering Visual Continuous
    Control" (arXiv 2107.09645), section 3.1: pad by 4 on every side, take a random crop of the original size, with
    bilinear interpolation.
    """

    def __init__(self, pad: int = 4) -> None:
        self.pad = pad

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return a shifted copy of `images`, float32 (B, C, H, H), with shifts drawn from `generator`."""
        shift = torch.randint(
            0, 2 * self.pad + 1, (len(images), 2), generator=generator, device=images.device, dtype=torch.int64
        )
        return shift_images(images, shift, self.pad)


def shift_images(images: Tensor, shift: Tensor, pad: int) -> Tensor:
    """Crop `images` (B, C, H, H), padded by `pad`, at the corners (x, y) of `shift`, int64 (B, 2) in [0, 2 pad].

    The crop is read with a bilinear grid in one call. Coordinates are those of `grid_sample` with
    ``align_corners=False``: the padded image of size S spans [-1, 1], and pixel k has its centre at (2k + 1) / S - 1.
    """
    batch, _, height, width = images.shape
    if height != width:
        raise ValueError(f"expected square images, (B, C, H, H), got {tuple(images.shape)}")
    padded = functional.pad(images, (pad, pad, pad, pad), mode="replicate")
    size = height + 2 * pad
    centre = (2 * torch.arange(height, device=images.device, dtype=images.dtype) + 1) / size - 1
    corner = shift.to(images.dtype) * (2 / size)
    x = (centre + corner[:, :1])[:, None, :].expand(batch, height, width)
    y = (centre + corner[:, 1:])[:, :, None].expand(batch, height, width)
    grid = torch.stack((x, y), dim=-1)
    return functional.grid_sample(padded, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
