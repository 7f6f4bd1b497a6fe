"""Which room may import which: one way between rooms, one way inside each, and nothing through a room's back door."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TOP = "diffreplay"
# What each may import, itself aside. What stands in none of these rooms is a room of its own, named like the module.
MAY_IMPORT = {
    "errors": set(),
    "stats": set(),
    "batch": set(),
    "limits": set(),
    "checks": {"errors"},
    "codecs": {"errors"},
    "store": {"errors", "limits", "codecs"},
    "loading": {"errors", "limits", "batch", "stats", "checks", "store"},
    "snapshots": {"errors", "codecs", "store"},
    "replay": {"errors", "limits", "batch", "stats", "checks", "codecs", "store", "loading", "snapshots"},
    "estimate": {"errors", "stats", "checks", "codecs", "store", "replay"},
    "testing": {"errors", "codecs", "replay"},
    "sb3": {"errors", "limits", "stats", "codecs", "store"},
    "cli": {"errors", "codecs", "store", "snapshots", "replay"},
    "__main__": {"errors", "cli"},
    "__init__": {"errors", "stats", "batch", "codecs", "loading", "replay", "estimate"},
}
APPLICATIONS = {"runs": {TOP}, "drqv2": {TOP, "runs"}, "sb3_atari": {TOP, "runs"}}


def modules(folder):
    """Dotted names of the modules below a folder of the root, and their files."""
    found = {}
    for path in sorted((ROOT / folder).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path):
    """What a file imports, wherever it does: (module, name) where a name is taken from it, else (module, None)."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            found += [(node.module, alias.name) for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [(alias.name, None) for alias in node.names]
    return found


LIBRARY = modules(TOP)


def targets(path):
    """Modules of the library that a file imports."""
    return {
        f"{module}.{name}" if f"{module}.{name}" in LIBRARY else module
        for module, name in imports(path)
        if module.split(".")[0] == TOP
    }


def room(module):
    """The room of a module of the library."""
    return module.split(".")[1] if "." in module else "__init__"


def test_every_module_stands_in_a_known_room():
    assert {room(module) for module in LIBRARY} == set(MAY_IMPORT)
    assert len([path for path in LIBRARY.values() if path.parent == ROOT / TOP]) <= 10


@pytest.mark.parametrize("module", LIBRARY)
def test_rooms_import_one_way(module):
    found = {room(target) for target in targets(LIBRARY[module])} - {room(module)}
    assert found <= MAY_IMPORT[room(module)], f"{module} imports {sorted(found - MAY_IMPORT[room(module)])}"


def test_no_circle():
    """Inside the rooms, too; imports for type checking count."""
    graph = {module: targets(path) - {module} for module, path in LIBRARY.items()}
    for module in graph:  # a room's __init__ imports its modules, which may import one another
        graph[module] -= {module.rsplit(".", 1)[0]} if "." in module else set()
    assert len(list(TopologicalSorter(graph).static_order())) >= len(LIBRARY)


def outside():
    """Files that are not of the library, tests aside."""
    folders = ["drqv2", "sb3_atari", "runs", "benchmarks", "examples", "scripts"]
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    return [*files, ROOT / "train.py"]


@pytest.mark.parametrize("path", [*LIBRARY.values(), *outside()], ids=lambda path: str(path.relative_to(ROOT)))
def test_others_use_what_a_room_exports(path):
    """`from diffreplay.store import ...`, not `from diffreplay.store.reader import ...`."""
    module = next((name for name, file in LIBRARY.items() if file == path), "")
    own = room(module) if module else None
    used = {module for module, _ in imports(path) if module.startswith(f"{TOP}.") and module.count(".") > 1}
    inner = {module for module in used if room(module) != own and module != f"{TOP}.sb3.contrib"}
    assert not inner, f"{path.name} imports {sorted(inner)}"


@pytest.mark.parametrize("application", APPLICATIONS)
def test_applications_do_not_import_one_another(application):
    ours = {*APPLICATIONS, TOP}
    for path in (ROOT / application).rglob("*.py"):
        found = {module.split(".")[0] for module, _ in imports(path)} & ours - {application}
        assert found <= APPLICATIONS[application], f"{path.name} imports {sorted(found)}"
