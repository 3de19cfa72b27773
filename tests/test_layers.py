"""The house of DESIGN section 3, checked on the syntax trees: ranks, no circles, no hidden imports."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "nono"

# A module belongs to the longest prefix; it may import lower ranks, and its own package.
RANKS = {
    "nono.errors": 0,
    "nono": 0,
    "nono.record": 0,
    "nono.kernel": 1,
    "nono.loop": 1,
    "nono.policy": 2,
    "nono.credentials": 3,
    "nono.audit": 3,
    "nono.rollback": 3,
    "nono.trust": 3,
    "nono.sandbox": 4,
    "nono.proxy": 4,
    "nono.supervisor": 5,
    "nono.registries": 5,
    "nono.session": 6,
    "nono.demo": 7,
    "nono.cli": 8,
    "nono.__main__": 9,
}
# What the child does not need to start is imported after the spawn; see session.py.
_SESSION = ("run", "serve", "parts", "policy", "policy_file", "probe", "why", "learn", "wrap", "trust",
            "verification")  # fmt: skip
MAY_IMPORT_LATE = {f"nono.session.{name}" for name in _SESSION}
# Imported before the child exists: each costs milliseconds that a user waits for (measured in docs/decisions/0001).
SLOW = {
    "typing",
    "dataclasses",
    "pathlib",
    "subprocess",
    "msgspec",
    "ssl",
    "h11",
    "keyring",
    "logging",
    "inspect",
    "tempfile",
    "importlib.resources",
}
START = ("nono.session.run", "nono.cli.run", "nono.cli.args")
PURE_POLICY_FORBIDS = {"os", "socket", "subprocess"}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): ast.parse(path.read_text()) for path in sorted(ROOT.rglob("*.py"))}


def rank_of(module: str) -> int:
    while module not in RANKS:
        module = module.rpartition(".")[0]
    return RANKS[module]


def room_of(module: str) -> str:
    return ".".join(module.split(".")[:2])


def imported(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, "imports are absolute"
        for alias in node.names:
            full = f"{node.module}.{alias.name}"
            yield full if full in MODULES else str(node.module)


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def imports_of(tree: ast.Module) -> Iterator[str]:
    """What is imported when the module is: not in a function, not for the type checker alone."""
    stack: list[ast.AST] = [tree]
    while stack:
        node = stack.pop()
        yield from imported(node)
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)) and not is_type_checking(node):
            stack.extend(ast.iter_child_nodes(node))


@pytest.mark.parametrize("module", MODULES)
def test_imports_only_lower_ranks_and_its_own_room(module: str) -> None:
    for node in ast.walk(MODULES[module]):
        for name in imported(node):
            if name.split(".")[0] == "nono" and name != "nono":
                same_room = room_of(name) == room_of(module)
                assert same_room or rank_of(name) < rank_of(module), f"{module} imports {name}"


@pytest.mark.parametrize("module", MODULES)
def test_imports_nothing_inside_functions(module: str) -> None:
    if module in MAY_IMPORT_LATE:
        return
    for function in ast.walk(MODULES[module]):
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
            for node in ast.walk(function):
                assert not isinstance(node, (ast.Import, ast.ImportFrom)), f"{module}:{node.lineno}"


def test_has_no_circles() -> None:
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path, module))
        if module not in done:
            for name in imports_of(MODULES[module]):
                if name in MODULES and name != module:
                    visit(name, (*path, module))
            done.add(module)

    for module in MODULES:
        visit(module, ())


def test_only_the_kernel_room_touches_the_shim() -> None:
    for module, tree in MODULES.items():
        names = {name for node in ast.walk(tree) for name in imported(node)}
        if any(name.endswith("_shim") for name in names):
            assert room_of(module) == "nono.kernel", module


def test_policy_knows_neither_disk_nor_network() -> None:
    for module, tree in MODULES.items():
        if room_of(module) == "nono.policy":
            assert not PURE_POLICY_FORBIDS & set(imports_of(tree)), module


def test_nothing_slow_is_imported_before_the_child_exists() -> None:
    seen: set[str] = set()
    todo = list(START)
    while todo:
        module = todo.pop()
        if module in seen:
            continue
        seen.add(module)
        for name in imports_of(MODULES[module]):
            assert name not in SLOW, f"{module} imports {name}"
            parts = name.split(".")
            todo += [p for p in (".".join(parts[:n]) for n in range(1, len(parts) + 1)) if p in MODULES]


def test_every_module_has_a_theory_of_operation() -> None:
    for module, tree in MODULES.items():
        source = (ROOT.parent / module.replace(".", "/")).with_suffix(".py")
        empty_package = not source.exists() and not tree.body
        assert empty_package or ast.get_docstring(tree), module


def test_files_stay_readable() -> None:
    for path in ROOT.rglob("*.py"):
        assert len(path.read_text().splitlines()) <= 520, path
