"""Codecs by name: how the store codes a frame."""

from __future__ import annotations

from diffreplay.codecs.base import Buffer, Codec, Frame, SetPlanner
from diffreplay.codecs.raw import RawCodec
from diffreplay.codecs.references import STARTUP_SETS as STARTUP_SETS  # for `estimate`
from diffreplay.codecs.references import select_references
from diffreplay.codecs.sparse import SparseCodec
from diffreplay.codecs.sparse import pixel_dtype as pixel_dtype  # for benchmarks
from diffreplay.codecs.zstd import ZstdCodec
from diffreplay.errors import UnknownCodecError

REGISTRY: dict[str, type[Codec]] = {"raw": RawCodec, "sparse": SparseCodec, "zstd": ZstdCodec}


def get(codec: str | Codec) -> Codec:
    """The codec of that name with its default options; a codec instance is returned as it is.

    Raises:
        UnknownCodecError: no such name.
    """
    if isinstance(codec, Codec):
        return codec
    if not isinstance(codec, str) or codec not in REGISTRY:
        names = ", ".join(repr(name) for name in REGISTRY)
        raise UnknownCodecError(f"codec: expected one of {names} or a codec instance, got {codec!r}")
    return REGISTRY[codec]()


__all__ = [
    "REGISTRY",
    "Buffer",
    "Codec",
    "Frame",
    "RawCodec",
    "SetPlanner",
    "SparseCodec",
    "ZstdCodec",
    "get",
    "select_references",
]
