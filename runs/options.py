"""What the options of every kind of run have in common: types, lower bounds, and the choice of a compressed buffer.

Light to import, as `drqv2.config` and `sb3_atari.config`, which use it, are to be.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from decimal import Decimal
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from runs.errors import OptionError

LONGEST_NAME = 200  # bytes, of the 255 that most file systems allow, with a time before it and a digest after it
CODECS = ("delta", "zstd", "sparse", "raw")  # diffreplay's, which takes seconds to import
DEFAULT_CODEC = CODECS[0]
LARGEST = 1 << 62
UNITS = {"": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
UNITS |= {"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}

Options = TypeVar("Options")


def typed(options: DictConfig, schema: type[Options]) -> Options:
    """Hydra's `options` as an instance of the dataclass `schema`; OptionError names the one that does not fit.

    A number of bytes, which the name of the option ends with, may have a unit: 4GB, 500MB, 2GiB.
    """
    sizes = {name: options.get(name) for name in option_names(schema) if name.endswith("max_bytes")}
    written = {name: number_of_bytes(name, size) for name, size in sizes.items() if isinstance(size, str | float)}
    try:
        options = OmegaConf.merge(options, written)  # type: ignore[assignment]
        config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), options))
    except OmegaConfBaseException as error:
        reason = _reason(str(error.msg or error).splitlines()[0])
        raise OptionError(f"option {error.full_key or error.key}: {reason}") from error
    if not isinstance(config, schema):
        raise TypeError(f"expected a {schema.__name__}, got {type(config).__name__}")
    return config


def _reason(said: str) -> str:
    """What OmegaConf says of a value of another type, as a sentence of this house."""
    found = re.fullmatch(r"Value '(.*?)' .*?(bool|Integer|Float)\b.*", said)
    kinds = {"bool": "true or false", "Integer": "a whole number", "Float": "a number"}
    return f"expected {kinds[found[2]]}, got {found[1]}" if found else said


def option_names(schema: type) -> list[str]:
    """All names that an option of the dataclass `schema` can be set by, `group.name` in nested ones."""
    types = get_type_hints(schema)
    names = [field.name for field in fields(schema)]
    groups = [name for name in names if is_dataclass(types[name])]
    return names + [f"{group}.{name}" for group in groups for name in option_names(types[group])]


def number_of_bytes(name: str, size: str | float) -> int:
    """The bytes that an option says, with a unit or without; OptionError where it says something else."""
    found = re.fullmatch(r"(\d+(?:\.\d*)?(?:e\+?\d+)?) *([a-z]*)", str(size).strip().lower())
    number = Decimal(found[1]) * UNITS[found[2]] if found and found[2] in UNITS else None
    if number is None or number > LARGEST or number != int(number):
        raise OptionError(f"{name}={size}: expected a number of bytes, such as 4000000000, 4GB or 4GiB")
    return int(number)


def shortened(name: str) -> str:
    """A name for a folder that is not too long for a file system; what is cut off shows as a digest."""
    encoded = name.encode()
    if len(encoded) <= LONGEST_NAME:
        return name
    digest = hashlib.blake2b(encoded, digest_size=4).hexdigest()
    return f"{encoded[:LONGEST_NAME].decode(errors='ignore')}...{digest}"


def check_at_least(config: Any, bounds: Mapping[str, float]) -> None:
    """OptionError where an option is less than its bound; None passes."""
    for name, least in bounds.items():
        value = getattr(config, name)
        if value is not None and value < least:
            raise OptionError(f"{name}={value}: expected at least {least}")


def check_compression(half_compress: bool, full_compress: bool, codec: str | None) -> None:
    """OptionError where the options that choose a compressed buffer contradict each other."""
    known = [*CODECS, *(entry.name for entry in entry_points(group="diffreplay.codecs"))]
    if codec is not None and codec not in known:
        close = difflib.get_close_matches(codec, known)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        raise OptionError(f"codec={codec}: expected one of {', '.join(known)}{hint}")
    if half_compress and full_compress:
        raise OptionError(
            "half_compress=true and full_compress=true exclude each other: keep half_compress for raw frames stored "
            "once or full_compress for compressed ones"
        )
    if codec is not None and not full_compress:
        raise OptionError(
            f"codec={codec} has an effect with full_compress=true alone: add full_compress=true or drop codec"
        )


def chosen_codec(half_compress: bool, full_compress: bool, codec: str | None) -> str | None:
    """Name of the compressed buffer's codec; None for the uncompressed baseline."""
    if full_compress:
        return codec or DEFAULT_CODEC
    return "raw" if half_compress else None


def what_is_left(folder: Path, save_snapshot: bool) -> str:
    """Where the files of an interrupted run are, and whether it can go on."""
    if (folder / "snapshot.pt").exists():
        # The inner quotes are hydra's, for the signs in the folder's name, and the outer ones the shell's.
        return f"the same options with \"hydra.run.dir='{folder}'\" go on from its snapshot"
    why = "the first one was not due yet" if save_snapshot else "save_snapshot=true keeps one"
    return f"what it wrote is in {folder}, without a snapshot to go on from ({why})"
