"""The structure of the source: layers, lengths, and who may use private names of other packages."""

import ast
from itertools import chain
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src"
FILES = sorted((SRC / "rnnlab").rglob("*.py")) + sorted((SRC / "hydra_plugins").rglob("*.py"))
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in FILES}
# a package may import those of lower layers; packages of one layer import nothing of each other
LAYERS = [{"utils"}, {"config", "nn"}, {"data"}, {"tasks"}, {"training"}, {"sweeps"}, {"commands"}]
PATCHES = "training/lightning_patches.py"
PUBLIC = ("_exit", "_replace", "_target_")  # public names that begin with an underscore


def name_of(path):
    return path.relative_to(SRC / "rnnlab").as_posix() if path.is_relative_to(SRC / "rnnlab") else path.name


def layer(package):
    return next((number for number, packages in enumerate(LAYERS) if package in packages), len(LAYERS))


def imported(tree):
    """The modules that a file imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_imports_point_one_way():
    upward = set()
    for path, tree in TREES.items():
        package = name_of(path).partition("/")[0]
        for module in imported(tree):
            if module.startswith("rnnlab."):
                other = module.split(".")[1]
                allowed = layer(other) < layer(package) or other == package
                upward |= set() if allowed else {f"{name_of(path)} imports {module}"}
    assert not upward


def test_no_circular_imports():
    modules = {".".join(path.relative_to(SRC).with_suffix("").parts): tree for path, tree in TREES.items()}
    needs = {name: {other for other in imported(tree) if other in modules} for name, tree in modules.items()}
    while free := {name for name, others in needs.items() if not others & needs.keys()}:
        needs = {name: others for name, others in needs.items() if name not in free}
    assert not needs


def test_packages():
    packages = [path for path in (SRC / "rnnlab").iterdir() if path.is_dir() and path.name != "__pycache__"]
    assert {path.name for path in packages} == set(chain(*LAYERS))
    modules = [path.name for path in (SRC / "rnnlab").glob("*.py")]
    assert modules == ["__init__.py"]


def test_lengths():
    files = {name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    functions = {
        f"{name_of(path)}:{node.name}": (node.end_lineno or 0) - node.lineno + 1
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
    }
    long_files = {name: lines for name, lines in files.items() if lines > 250}
    long_functions = {name: lines for name, lines in functions.items() if lines > 60}
    assert not long_files
    assert not long_functions


def is_private(name):
    return name.startswith("_") and not name.endswith("__")


def private_names():
    """`file:line: name` of every private name of another package; what the project defines itself is its own."""
    own = set()
    for node in chain.from_iterable(map(ast.walk, TREES.values())):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            own.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            own.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self":
            own.add(node.attr)
    scripts = {path: ast.parse(path.read_text(encoding="utf-8")) for path in (SRC.parent / "scripts").glob("*.py")}
    for path, tree in {**TREES, **scripts}.items():
        for node in ast.walk(tree):
            names = []
            if isinstance(node, ast.Attribute):
                names = [node.attr]
            elif isinstance(node, ast.ImportFrom) and not (node.module or "").startswith("rnnlab"):
                names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            elif isinstance(node, ast.Import):
                names = [part for alias in node.names for part in alias.name.split(".")]
            for name in names:
                if is_private(name) and name not in (*own, *PUBLIC):
                    yield f"{name_of(path)}:{node.lineno}: {name}"


def test_private_names_of_other_packages():
    found = [line for line in private_names() if not line.startswith(PATCHES)]
    assert found == []


@pytest.mark.parametrize("path", [path for path in FILES if path.name == "__init__.py"], ids=name_of)
def test_packages_tell_what_belongs_there(path):
    text = path.read_text(encoding="utf-8")
    assert text.startswith('"""')
    assert len(text.splitlines()) == 1
