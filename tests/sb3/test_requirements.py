"""A Stable-Baselines3 that is missing, too old or broken is named in one sentence."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

from says import says

SB3 = "Stable-Baselines3 | 2.9"
CONTRIB = "sb3-contrib | 2.9"
ADVICE = "pip install 'diffreplay[atari]'"
OTHERS = {  # package, its source, what is imported, and what that says
    "old": ("stable_baselines3", "__version__ = '2.3.2'", "sb3", f"ImportError: | {SB3} | got 2.3.2 | {ADVICE}"),
    "very_old": ("stable_baselines3", "__version__ = '1.8.0'", "sb3", f"ImportError: | {SB3} | got 1.8.0 | {ADVICE}"),
    "newer": ("stable_baselines3", "__version__ = '2.10.0a1'", "sb3", "ModuleNotFoundError: No module named"),
    "unnamed": ("stable_baselines3", "", "sb3", f"ImportError: | {SB3} | without a version | {ADVICE}"),
    "without": ("stable_baselines3", "import gym_of_old", "sb3", f"ModuleNotFoundError: | {SB3} | {ADVICE}"),
    "old_contrib": (
        "sb3_contrib",
        "__version__ = '2.8.0'",
        "sb3.contrib",
        f"ImportError: | {CONTRIB} | got 2.8.0 | {ADVICE}",
    ),
    "no_contrib": (
        "sb3_contrib",
        "raise ModuleNotFoundError('none')",
        "sb3.contrib",
        f"ModuleNotFoundError: | {CONTRIB} | {ADVICE}",
    ),
    "not_needed": ("sb3_contrib", "raise ModuleNotFoundError('none')", "sb3", ""),
    "as_it_is": ("other", "", "sb3.contrib", ""),
}


def test_other_versions_are_named(tmp_path: Path) -> None:
    """Each case imports anew, with a package of the same name first on the path."""
    for name, (package, source, _, _) in OTHERS.items():
        (tmp_path / name / package).mkdir(parents=True)
        (tmp_path / name / package / "__init__.py").write_text(source)
    script = f"""
        import importlib, sys
        import diffreplay
        for name, module in {[(name, case[2]) for name, case in OTHERS.items()]}:
            sys.path.insert(0, {str(tmp_path)!r} + "/" + name)
            importlib.invalidate_caches()
            try:
                importlib.import_module("diffreplay." + module)
            except ImportError as error:
                print(type(error).__name__ + ":", error)
            else:
                print()
            del sys.path[0]
            for loaded in list(sys.modules):
                if loaded.startswith(("diffreplay.sb3", "stable_baselines3", "sb3_contrib")):
                    del sys.modules[loaded]
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(printed) == len(OTHERS)
    for (name, (_, _, _, expected)), said in zip(OTHERS.items(), printed, strict=True):
        says(said, expected)
        assert bool(said) == bool(expected) and said.startswith(expected.split(":")[0]), (name, said)
