"""Turns hydra's reports of a mistaken command line into one line that says what would be right."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import fields

from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException

from drqv2.config import AgentConfig, Config

DIFFICULTIES = ("easy", "medium", "hard")


def explain(error: HydraException) -> str:
    """One line for `error`, with the closest options or values where it is about a name."""
    if isinstance(error, MissingConfigException) and error.options and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.rpartition("/")
        names = [option for option in error.options if option not in DIFFICULTIES]
        return f"{group}={name}: there is no such {group}; {_hint(name, names)} (cfgs/{group} has all)"
    if isinstance(error, ConfigCompositionException):
        unknown = re.match(r"Could not override '([^']+)'", str(error))
        if unknown:
            return f"there is no option {unknown[1]!r}; {_hint(unknown[1], _options())} (cfgs/config.yaml has all)"
    reason = " ".join(str(error).split())
    if error.__cause__ is not None:
        reason = f"{reason}: {str(error.__cause__).splitlines()[0]}" if str(error.__cause__) else reason
    return reason


def _options() -> list[str]:
    return ["task", *(f.name for f in fields(Config)), *(f"agent.{f.name}" for f in fields(AgentConfig))]


def _hint(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known))
    return f"did you mean {' or '.join(close)}?" if close else "no other name comes close"
