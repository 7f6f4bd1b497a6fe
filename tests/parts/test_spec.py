"""What an ArraySpec takes, and what it is afterwards."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import torch
from says import says

from diffreplay.errors import InputError, ReplayError
from diffreplay.parts import ArraySpec

IMAGE = (3, 8, 6)


@pytest.mark.parametrize(
    ("arguments", "layout"),
    [
        ((IMAGE,), "CHW"),
        ((IMAGE, "uint16"), "CHW"),
        (((8, 6, 3), np.uint8, "HWC"), "HWC"),
        (((8, 6), "uint8", "HW"), "HW"),
        ((IMAGE, "uint8", ""), ""),
        ((IMAGE, "float32"), ""),
        ((IMAGE, "int8"), ""),
        (((8, 6),), ""),
        (((24,), "float64"), ""),
        (((), "int64"), ""),
        (((), "bool", "F"), "F"),
        (((2, 3, 4, 5), "uint8"), ""),
    ],
)
def test_images_and_columns(arguments, layout):
    spec = ArraySpec(*arguments)
    assert spec.layout == layout
    assert spec.is_image == (layout not in ("", "F"))
    assert spec.shape == arguments[0] and np.dtype(spec.dtype) == np.dtype((*arguments, "uint8")[1])
    for copy in (pickle.loads(pickle.dumps(spec)), ArraySpec.from_json(json.loads(json.dumps(spec.to_json())))):
        assert copy == spec and hash(copy) == hash(spec) and repr(copy) == repr(spec)


def test_specs_compare_by_what_they_are():
    assert ArraySpec([np.int64(3), 8, 6], np.dtype(">u2")) == ArraySpec(IMAGE, "<u2", "CHW")
    assert type(ArraySpec([np.int64(3), 8, 6]).shape[0]) is int
    different = {ArraySpec(IMAGE), ArraySpec(IMAGE, "u2"), ArraySpec(IMAGE, layout="HWC"), ArraySpec((3, 8, 7))}
    assert len(different) == 4


INTEGERS = [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]


@pytest.mark.parametrize("name", ["bool", *INTEGERS, "float16", "float32", "float64"])
def test_every_dtype_of_numbers_that_torch_has(name):
    for order in "<>":
        spec = ArraySpec((2,), np.dtype(name).newbyteorder(order))
        assert torch.from_numpy(np.zeros(2, spec.dtype)).dtype == getattr(torch, name)


@pytest.mark.parametrize(
    ("layout", "shape", "stacked"),
    [
        ("CHW", (3, 8, 6), (12, 8, 6)),
        ("HWC", (8, 6, 3), (8, 6, 12)),
        ("FCHW", (3, 8, 6), (4, 3, 8, 6)),
        ("FHWC", (8, 6, 3), (4, 8, 6, 3)),
        ("FHW", (8, 6), (4, 8, 6)),
        ("F", (), (4,)),
        ("F", (5,), (4, 5)),
        ("F", (2, 5), (4, 2, 5)),
        ("", (), (4,)),
        ("", (5,), (20,)),
        ("", (2, 5), (8, 5)),
    ],
)
def test_shapes_of_observations(layout, shape, stacked):
    spec = ArraySpec(shape, "uint8", layout)
    assert spec.stacked(4) == stacked
    assert spec.stacked(1) == ((1, *shape) if "F" in layout else shape)


REFUSED = {
    "no shape": (((None,)), "shape: | tuple of positive integers | got None"),
    "a number": ((3,), "shape: | tuple of positive integers | got 3"),
    "text": (("384",), "shape: | tuple of positive integers | got '384'"),
    "an empty frame": (((3, 0, 6),), "shape: | positive integer | got 0 in (3, 0, 6)"),
    "an empty column": (((0,), "f4"), "shape: | positive integer | got 0"),
    "half a pixel": (((3, 8.5, 6),), "shape: | positive integer | got 8.5"),
    "a flag": (((True,), "f4"), "shape: | positive integer | got True"),
    "no dtype": ((IMAGE, None), "dtype: | dtype of numbers | got None"),
    "an unknown dtype": ((IMAGE, "float31"), "dtype: | dtype of numbers | got 'float31'"),
    "complex": ((IMAGE, "complex64"), "dtype: | dtype of numbers | got complex64"),
    "objects": ((IMAGE, object), "dtype: | dtype of numbers | got object"),
    "text in it": (((4,), "U8"), "dtype: | dtype of numbers | got <U8"),
    "times": (((4,), "M8[s]"), "dtype: | dtype of numbers | got datetime64"),
    "what PyTorch has not": (((4,), np.longdouble), "dtype: | PyTorch has | got "),
    "an unknown layout": ((IMAGE, "u1", "WHC"), "layout: | 'CHW', 'HWC' | got 'WHC'"),
    "a layout of no text": ((IMAGE, "u1", 3), "layout: | got 3"),
    "a float image": (
        (IMAGE, "f4", "CHW"),
        "dtype: | uint8 or uint16 with layout 'CHW' | got float32 | without a layout",
    ),
    "an image of four sides": (
        ((4, 3, 8, 6), "u1", "FCHW"),
        "shape: | 3 sides | one frame | 'FCHW' | got (4, 3, 8, 6)",
    ),
    "a gray image of three sides": (((8, 6, 1), "u1", "HW"), "shape: | 2 sides | 'HW' | got (8, 6, 1)"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case):
    arguments, needles = REFUSED[case]
    with pytest.raises(InputError) as info:
        ArraySpec(*arguments)
    says(info, needles)
    assert isinstance(info.value, ReplayError) and isinstance(info.value, ValueError)


@pytest.mark.parametrize("value", [None, [], [[3], "f4"], [[3], 4, ""], ["3", "f4", ""], {"shape": [3]}])
def test_json_that_holds_no_spec(value):
    with pytest.raises(InputError, match=r"^ArraySpec: expected \[shape, dtype, layout\], got"):
        ArraySpec.from_json(value)


@pytest.mark.parametrize("value", [[[-3], "f4", ""], [[3], "object", ""], [[3], "f4", "CHW"], [[3.5], "f4", ""]])
def test_json_of_a_spec_that_cannot_be(value):
    with pytest.raises(InputError):
        ArraySpec.from_json(value)


def test_a_spec_does_not_change():
    with pytest.raises(AttributeError):
        ArraySpec(IMAGE).shape = (1, 2, 3)
