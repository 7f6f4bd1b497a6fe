"""What `--help` tells: every option of a configuration with its comment, and the tasks by their difficulty."""

from __future__ import annotations

import re
from pathlib import Path

from runs.mistakes import DIFFICULTIES

COMMANDS = {"config": "python train.py", "atari": "python train.py --config-name=atari"}
EXAMPLES = {"config": "task=walker_walk full_compress=true", "atari": "env=Pong alg=qrdqn full_compress=true"}


def help_text(config: str, folder: Path) -> str:
    """The help of a configuration.

    Args:
        config: its name, of COMMANDS.
        folder: where the configurations are.
    """
    others = [f"{command} --help" for name, command in COMMANDS.items() if name != config]
    parts = [
        f"Usage: {COMMANDS[config]} [OPTION=VALUE ...], such as {EXAMPLES[config]}",
        _options(folder / f"{config}.yaml"),
    ]
    if config == "config":
        parts.append(_tasks(folder / "task"))
    parts.append("Several values, one run each: -m seed=1,2,3. The same with other options: " + ", ".join(others))
    return "\n\n".join(parts)


def _options(file: Path) -> str:
    """The file without what is hydra's own."""
    text = file.read_text(encoding="utf-8")
    text = re.sub(r"^(#.*\n)*hydra:\n(.*\n?)*", "", text, flags=re.MULTILINE)
    return re.sub(r"^defaults:\n( .*\n)+", "", text, flags=re.MULTILINE).strip()


def _tasks(folder: Path) -> str:
    """Lines of the tasks of each difficulty, and what a difficulty sets."""
    tasks: dict[str, list[str]] = {difficulty: [] for difficulty in DIFFICULTIES}
    for file in sorted(folder.glob("*.yaml")):
        found = re.search(r"^  - (\w+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
        if found and found[1] in tasks:
            tasks[found[1]].append(file.stem)
    lines = [f"  {difficulty}: {', '.join(names)}" for difficulty, names in tasks.items()]
    return "\n".join(["# task=..., by difficulty, which sets num_train_frames and stddev_schedule", *lines])
