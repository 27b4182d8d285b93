"""What an import costs: nothing heavy with the package, only the standard library with what ships with a job."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "kube_nb"
HEAVY = {
    "kubernetes",
    "kfp",
    "mlflow",
    "torch",
    "pandas",
    "pydantic",
    "numpy",
    "optuna",
    "papermill",
    "tomlkit",
    "yaml",
}


def loaded_by(code: str) -> set[str]:
    """The top-level modules that a fresh interpreter has loaded after `code`."""
    code += "\nimport sys; print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("code", ["import kube_nb", "from kube_nb.config import Settings; Settings.load().get('on')"])
def test_nothing_heavy_is_imported(code):
    assert not loaded_by(code) & HEAVY


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Level and name of each import that runs when the module is imported, not later inside a function."""
    statements: list[ast.AST] = [ast.parse(path.read_text())]
    while statements:
        node = statements.pop()
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.level, node.module or ""
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) and not (
            isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        ):
            statements += ast.iter_child_nodes(node)


WITH = {"job_shell.py": {"IPython", "traitlets"}, "notebook_client.py": {"jupyter_client", "nbclient", "nbformat"}}
"""Modules for what needs more, and what: others import them inside the function that knows it to be there."""
SHIPPED = [PACKAGE / "events.py", PACKAGE / "inside.py", *sorted((PACKAGE / "runner").glob("*.py"))]


@pytest.mark.parametrize("path", [path for path in SHIPPED if path.exists()], ids=lambda path: path.name)
def test_what_ships_with_a_job_needs_only_the_standard_library(path):
    """Of our own it names only its siblings and the events, and those relatively: it has another name there."""
    for level, name in imports(path):
        top = name.split(".")[0]
        if level == 0:
            entry = path.name == "entry.py" and top == "_kube_nb_job"
            known = top == "cloudpickle" or top in WITH.get(path.name, ())
            assert top in sys.stdlib_module_names or known or entry, name
        elif level == 1:
            assert f"{top}.py" not in WITH, name
        elif level == 2:
            assert top in {"events", ""}, name


def test_inside_stands_alone():
    path = PACKAGE / "inside.py"
    if path.exists():
        assert all(level == 0 and name.split(".")[0] in sys.stdlib_module_names for level, name in imports(path))
