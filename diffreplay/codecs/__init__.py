"""Codecs by name: how the store codes a frame."""

from __future__ import annotations

import reprlib

from diffreplay.codecs.base import Buffer, Codec, Frame, SetPlanner
from diffreplay.codecs.delta import DeltaCodec
from diffreplay.codecs.installed import find_installed, installed_names
from diffreplay.codecs.raw import RawCodec
from diffreplay.codecs.set_planner import STARTUP_SETS as STARTUP_SETS  # for `estimate`
from diffreplay.codecs.set_planner import select_references
from diffreplay.codecs.sparse import SparseCodec
from diffreplay.codecs.sparse import pixel_dtype as pixel_dtype  # for benchmarks
from diffreplay.codecs.zstd import ZstdCodec
from diffreplay.errors import UnknownCodecError

REGISTRY: dict[str, type[Codec]] = {
    "raw": RawCodec,
    "sparse": SparseCodec,
    "zstd": ZstdCodec,
    "delta": DeltaCodec,
}
DEFAULT = "delta"
"""Name of the codec where none is given."""


def get(codec: str | Codec) -> Codec:
    """The codec of that name with its default options; a codec instance is returned as it is.

    Raises:
        UnknownCodecError: no such name, or what a package registers by it cannot be used.

    Examples:
        >>> diffreplay.codecs.get("zstd").name
        'zstd'
    """
    if isinstance(codec, Codec):
        return codec
    kind = find(codec)
    try:
        return kind()
    except TypeError as error:
        raise UnknownCodecError(
            f"codec: expected {codec!r} to be made without arguments, got {error}; pass an instance"
        ) from error


def find(name: str) -> type[Codec]:
    """The class of a codec: one of `REGISTRY`, else what an installed package registers by an entry point.

    Raises:
        UnknownCodecError: no such name, or what a package registers by it cannot be used.

    Examples:
        >>> diffreplay.codecs.find("raw").__name__
        'RawCodec'
    """
    if isinstance(name, str):
        found = REGISTRY.get(name) or find_installed(name, REGISTRY)
        if found is not None:
            return found
    names = ", ".join(repr(known) for known in (*REGISTRY, *installed_names()))
    raise UnknownCodecError(f"codec: expected one of {names} or a codec instance, got {reprlib.repr(name)}")


__all__ = [
    "DEFAULT",
    "REGISTRY",
    "Buffer",
    "Codec",
    "DeltaCodec",
    "Frame",
    "RawCodec",
    "SetPlanner",
    "SparseCodec",
    "ZstdCodec",
    "find",
    "get",
    "select_references",
]
