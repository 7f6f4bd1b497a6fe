import numpy as np
import pytest
import torch

from drqv2.augmentation import RandomShift, shift_images


def crop(image, x, y, pad):
    """The naive oracle: repeat the border, cut out a window."""
    size = image.shape[-1]
    padded = np.pad(image, ((0, 0), (pad, pad), (pad, pad)), mode="edge")
    return padded[:, y : y + size, x : x + size]


def test_every_shift_is_a_crop_of_the_padded_image():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (81, 9, 84, 84), dtype=np.uint8)
    shift = np.array([(x, y) for x in range(9) for y in range(9)])
    shifted = shift_images(torch.from_numpy(images).float(), torch.from_numpy(shift), pad=4).numpy()
    for image, (x, y), result in zip(images, shift, shifted, strict=True):
        # Coordinates in [-1, 1] are rounded to float32, which mixes in some 1e-5 of a neighbour's value.
        np.testing.assert_allclose(result, crop(image, x, y, 4), atol=0.02)


def test_middle_shift_changes_nothing():
    images = torch.rand(3, 2, 20, 20)
    shifted = shift_images(images, torch.full((3, 2), 4), pad=4)
    torch.testing.assert_close(shifted, images, atol=1e-5, rtol=0)


def test_shifts_are_uniform_and_drawn_for_each_sample():
    # An image whose every pixel holds its own place tells the shift.
    place = torch.arange(20.0)
    image = torch.stack((place.expand(20, 20), place[:, None].expand(20, 20)))
    batch = image.expand(8100, 2, 20, 20)
    shifted = RandomShift(pad=4)(batch, torch.Generator().manual_seed(0))
    x, y = (shifted[:, channel, 10, 10].round().long() - 6 for channel in (0, 1))
    counts = torch.bincount(9 * x + y, minlength=81)
    assert counts.shape == (81,)
    # Chi-squared with 80 degrees of freedom exceeds 140 with a probability below 1e-4.
    assert ((counts - 100) ** 2 / 100).sum() < 140


def test_the_generator_decides():
    images = torch.rand(16, 3, 20, 20)
    first, again, other = (RandomShift()(images, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_images_must_be_square():
    with pytest.raises(ValueError, match="square"):
        shift_images(torch.zeros(1, 1, 4, 6), torch.zeros(1, 2), pad=1)
