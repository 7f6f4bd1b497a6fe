"""Turns hydra's reports of a mistaken command line into one line that says what would be right."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Iterable, Mapping, Sequence

from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException

DIFFICULTIES = ("easy", "medium", "hard")


def explain(error: HydraException, arguments: Sequence[str], known: Mapping[str, Sequence[str]]) -> str:
    """One line for `error`, with the closest options or values where it is about a name.

    Args:
        error: what hydra raised.
        arguments: of the command line, which say the configuration in use.
        known: the options of each configuration.
    """
    config = config_name(arguments)
    if isinstance(error, MissingConfigException):
        if config not in known:
            return f"--config-name={config}: there is no such configuration; {_hint(config, known)} (cfgs has all)"
        if error.options and error.missing_cfg_file:
            group, _, name = error.missing_cfg_file.rpartition("/")
            names = [option for option in error.options if option not in DIFFICULTIES]
            return f"{group}={name}: there is no such {group}; {_hint(name, names)} (cfgs/{group} has all)"
    if isinstance(error, ConfigCompositionException):
        unknown = re.match(r"Could not override '([^']+)'", str(error))
        if unknown:
            return f"there is no option {unknown[1]!r}; {_option_hint(unknown[1], config, known)}"
    several = re.match(r"Ambiguous value for argument '([^=']+)=([^']*)'", str(error))
    if several:
        name, values = several.groups()
        return (
            f"{name}={values}: expected one value; add -m (hydra's --multirun) for a run with each of them, or write "
            f"{name}=[{values}] for a list"
        )
    reason = " ".join(str(error).split())
    if error.__cause__ is not None:
        reason = f"{reason}: {str(error.__cause__).splitlines()[0]}" if str(error.__cause__) else reason
    return reason


def config_name(arguments: Sequence[str]) -> str:
    """The configuration that a command line chooses, in any of the spellings that hydra takes."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--config-name", "-cn", default="config")
    return str(parser.parse_known_args(arguments)[0].config_name)


def _option_hint(option: str, config: str, known: Mapping[str, Sequence[str]]) -> str:
    for other, names in known.items():
        if other != config and option in names and option not in known.get(config, ()):
            command = "python train.py" if other == "config" else f"python train.py --config-name={other}"
            return f"`{command}` has it (cfgs/{config}.yaml has all of this configuration)"
    return f"{_hint(option, known.get(config, ()))} (cfgs/{config}.yaml has all)"


def _hint(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known))
    return f"did you mean {' or '.join(close)}?" if close else "no other name comes close"
