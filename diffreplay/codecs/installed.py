"""Codecs that other installed packages register, by the entry points of a group."""

from __future__ import annotations

from collections.abc import Container
from importlib.metadata import EntryPoint, entry_points

from diffreplay.codecs.base import Codec
from diffreplay.errors import UnknownCodecError

GROUP = "diffreplay.codecs"


def find_installed(name: str, taken: Container[str]) -> type[Codec] | None:
    """The codec that an installed package registers by that name; None where none does.

    The packages that there are now are looked through.

    Raises:
        UnknownCodecError: a package registers a name that is `taken`, two register this one, or what is registered
            cannot be imported or is no codec of that name.
    """
    registered = entry_points(group=GROUP)
    for entry in registered:
        if entry.name in taken:
            raise UnknownCodecError(
                f"codec: expected a name that diffreplay has no codec of itself, but {_where(entry)}; "
                "the package has to choose another, or to be uninstalled"
            )
    found = [entry for entry in registered if entry.name == name]
    if not found:
        return None
    if len(found) > 1:
        raise UnknownCodecError(
            f"codec: expected one package that registers {name!r}, but {' and '.join(map(_where, found))}; "
            "uninstall one"
        )
    return _load(found[0])


def installed_names() -> list[str]:
    """The names that installed packages register."""
    return sorted({entry.name for entry in entry_points(group=GROUP)})


def _load(entry: EntryPoint) -> type[Codec]:
    try:
        codec = entry.load()
    except Exception as error:  # another package's code, which may raise anything
        raise UnknownCodecError(
            f"codec: {_where(entry)}, which cannot be imported: {type(error).__name__}: {error!s:.300}; "
            "mend or uninstall the package"
        ) from error
    if not isinstance(codec, type) or not issubclass(codec, Codec):
        raise UnknownCodecError(f"codec: {_where(entry)}: expected a subclass of Codec, got {codec!r:.100}")
    if (own := getattr(codec, "name", None)) != entry.name:
        raise UnknownCodecError(
            f"codec: {_where(entry)}: expected a codec of that name, got one whose name is {own!r:.100}"
        )
    return codec


def _where(entry: EntryPoint) -> str:
    package = "a package" if entry.dist is None else f"package {entry.dist.name!r}"
    return f"{package} registers {entry.name!r} as {entry.value}"
