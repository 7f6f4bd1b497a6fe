"""Which room may import which: one way between rooms and inside each, by no back door; private names stay at home."""

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
    "batch": {"parts"},
    "limits": set(),
    "checks": {"errors", "parts"},
    "parts": {"errors"},
    "spaces": {"errors", "parts"},
    "codecs": {"errors"},
    "store": {"errors", "limits", "codecs"},
    "loading": {"errors", "limits", "parts", "batch", "stats", "checks", "store"},
    "snapshots": {"errors", "parts", "codecs", "store"},
    "adding": {"errors", "checks", "store"},
    "sharing": {"errors", "stats", "store", "loading"},
    "replay": {
        "adding",
        "errors",
        "limits",
        "parts",
        "spaces",
        "batch",
        "stats",
        "checks",
        "codecs",
        "store",
        "loading",
        "sharing",
        "snapshots",
    },
    "offline": {"errors", "parts", "checks", "codecs", "store", "loading", "snapshots"},
    "datasets": {
        "errors",
        "parts",
        "checks",
        "codecs",
        "store",
        "loading",
        "snapshots",
        "replay",
        "offline",
        "testing",
    },
    "estimate": {"errors", "parts", "stats", "checks", "codecs", "store", "replay"},
    "distributed": {
        "errors",
        "parts",
        "batch",
        "checks",
        "codecs",
        "store",
        "loading",
        "sharing",
        "snapshots",
        "replay",
    },
    "testing": {"errors", "codecs", "replay"},
    "tables": {"errors", "parts", "codecs", "store"},
    "sb3": {"errors", "checks", "limits", "parts", "stats", "codecs", "store", "tables"},
    "torchrl": {"errors", "stats", "parts", "codecs", "store", "tables"},
    "cli": {"errors", "parts", "stats", "store", "snapshots", "offline"},
    "__main__": {"errors", "cli", "datasets"},
    "__init__": {"errors", "stats", "parts", "batch", "codecs", "loading", "sharing", "offline", "replay", "estimate"},
}
# Private names of others that are used all the same, and why.
OF_OTHERS = {
    "_exit": "os: a forked child ends without the parent's clean-up",
    "_getframe": "sys: `inspect` has a public name for it, and reads source files besides",
    "_current_frames": "sys: there is no other way to see what another thread is running",
    "_replace": "NamedTuple: public, with an underscore against clashes with fields",
    "_fields": "NamedTuple: likewise",
    "_asdict": "NamedTuple: likewise",
    "_children": "multiprocessing: a forked child forgets the workers of its parent, which it would end otherwise",
    "_inheriting": "multiprocessing: whether a process is still importing the program's main file",
    "import _core": "the compiled half of the codec delta, beside its Python half",
    "import _lookup": "the compiled half of the index's look-ups, beside the same in NumPy",
    "import _thread": "the standard library: starts a thread in one call, which no interrupt cuts in two",
    "_make_wrapper_subclass": "PyTorch: what stands for a tensor without memory has no public name",
    "_C": "PyTorch: likewise, calling a function as of a plain tensor",
    "_storage": "TorchRL: what subclasses of its storages keep in, and are asked for",
    "_last_obs": "Stable-Baselines3: what a model goes on from has no public name",
    "_last_episode_starts": "Stable-Baselines3: likewise",
    "_stats_window_size": "Stable-Baselines3: likewise",
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


def private(name):
    return name.startswith("_") and not name.endswith("__")


def defined(tree):
    """Names that a module gives to anything: functions, classes, variables, and attributes of `self` or `cls`."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    names = {node.name for node in ast.walk(tree) if isinstance(node, kinds)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and is_own(node.value):
            names.add(node.attr)
    return names


def is_own(node):
    """Whether an expression is `self`, `cls` or `super()`, whose private names may be an ancestor's."""
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id == "super"
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


def private_of_others(source):
    """What a module's source reaches for or imports, under a private name that it does not define itself."""
    tree = ast.parse(source)
    own, used, imported = defined(tree), set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and not is_own(node.value):
            used.add(node.attr)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id.endswith("attr"):
            name = node.args[1] if len(node.args) > 1 and not is_own(node.args[0]) else None  # of getattr and its like
            used |= {name.value} if isinstance(name, ast.Constant) else set()
        elif isinstance(node, ast.ImportFrom):
            imported |= {*node.module.split("."), *(alias.name for alias in node.names)}
        elif isinstance(node, ast.Import):
            imported |= {part for alias in node.names for part in alias.name.split(".")}
    return {name for name in used - own if private(name)} | {f"import {name}" for name in imported if private(name)}


@pytest.mark.parametrize(
    "source",
    [
        "from diffreplay.store import _repair",
        "from diffreplay.store._inner import repair",
        "import diffreplay._inner",
        "store._repair()",
        "class Save:\n def _run(self): self.store._repair(), self._run()",
        "from diffreplay import store\nstore._repair = None",
        "getattr(store, '_repair')",
    ],
)
def test_a_private_name_of_another_module_is_found(source):
    (name,) = private_of_others(source)
    assert name.split()[-1] in ("_repair", "_inner")


def test_private_names_of_a_module_and_of_its_ancestors_are_its_own():
    assert not private_of_others("class A:\n def _a(self, other: 'A'): self._of_b(), super()._of_b(), other._a()")
    assert not private_of_others("import x\nx.__name__, getattr(x, '__name__'), x.name")


def test_no_private_name_is_used_across_modules():
    """Whoever changes a module need not look further for what it calls private."""
    files = [path for folder in (TOP, *APPLICATIONS) for path in (ROOT / folder).rglob("*.py")]
    found = {path: private_of_others(path.read_text(encoding="utf-8")) - set(OF_OTHERS) for path in files}
    assert not {str(path.relative_to(ROOT)): names for path, names in found.items() if names}
