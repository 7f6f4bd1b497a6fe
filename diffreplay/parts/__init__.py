"""What an observation is made of: its parts, how they are stored and how they are sampled; checks of what callers pass.

Imports errors.
"""

from diffreplay.parts.check import ObservationCheck, held
from diffreplay.parts.made import LEAST_SIDE, Shape, extras_of, parts_of, shape_from_json, shape_to_json
from diffreplay.parts.part import Part
from diffreplay.parts.spec import LAYOUTS, ArraySpec

__all__ = [
    "LAYOUTS",
    "LEAST_SIDE",
    "ArraySpec",
    "ObservationCheck",
    "Part",
    "Shape",
    "extras_of",
    "held",
    "parts_of",
    "shape_from_json",
    "shape_to_json",
]
