"""The person's own modules: beside the notebook, in packages, installed in editable mode."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


def write(directory: Path, **files: str) -> None:
    """Files by their path, with `__` for a slash: `write(here, pkg__core="x = 1")` makes `pkg/core.py`."""
    for name, text in files.items():
        path = directory / (name.replace("__init__", "\0").replace("__", "/").replace("\0", "__init__") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_a_module_beside_the_notebook_is_imported_by_the_cell(cell, notebook_dir):
    write(notebook_dir, recipes="def cook():\n    return 'soup'")
    assert cell(send="import recipes\ndish = recipes.cook()")["dish"] == "soup"


def test_a_module_that_the_notebook_imported_is_used_by_the_cell(cell, notebook_dir):
    write(notebook_dir, recipes="def cook():\n    return 'soup'")
    assert cell("import recipes", send="dish = recipes.cook()")["dish"] == "soup"


def test_a_function_of_a_module_beside_the_notebook_works(cell, notebook_dir):
    write(notebook_dir, recipes="salt = 'salty '\ndef cook():\n    return salt + 'soup'")
    assert cell("from recipes import cook", send="dish = cook()")["dish"] == "salty soup"


def test_names_of_a_star_import_of_a_local_module_are_found(cell, notebook_dir):
    write(notebook_dir, recipes="def cook():\n    return 'soup'\ndef bake():\n    return 'bread'")
    assert cell("from recipes import *", send="meal = cook(), bake()")["meal"] == ("soup", "bread")


def test_a_star_import_of_a_local_module_in_the_cell_works(cell, notebook_dir):
    write(notebook_dir, recipes="def cook():\n    return 'soup'")
    assert cell(send="from recipes import *\ndish = cook()")["dish"] == "soup"


def test_relative_imports_inside_a_local_package_work(cell, notebook_dir):
    write(
        notebook_dir,
        kitchen____init__="from .core import cook",
        kitchen__core="from .sub.spices import spice\ndef cook():\n    return spice + ' soup'",
        kitchen__sub____init__="",
        kitchen__sub__spices="from ..words import word as spice",
        kitchen__words="word = 'hot'",
    )
    assert cell(send="from kitchen import cook\ndish = cook()")["dish"] == "hot soup"


def test_a_package_without_init_works(cell, notebook_dir):
    write(notebook_dir, loose__core="answer = 42")
    assert cell(send="from loose import core\nx = core.answer")["x"] == 42


def test_data_files_of_a_local_package_travel(cell, notebook_dir):
    write(
        notebook_dir,
        kitchen____init__="from importlib.resources import files\nmenu = (files(__name__) / 'menu.txt').read_text()",
    )
    (notebook_dir / "kitchen" / "menu.txt").write_text("soup")
    assert cell(send="import kitchen\nmenu = kitchen.menu")["menu"] == "soup"


def test_a_module_that_a_local_module_imports_inside_a_function_travels(cell, notebook_dir):
    write(notebook_dir, recipes="def cook():\n    import spices\n    return spices.word", spices="word = 'hot'")
    assert cell(send="import recipes\ndish = recipes.cook()")["dish"] == "hot"


def test_a_module_that_a_function_of_the_notebook_imports_travels(cell, notebook_dir):
    write(notebook_dir, recipes="dish = 'soup'")
    assert cell("def cook():\n    from recipes import dish\n    return dish", send="x = cook()")["x"] == "soup"


def test_an_instance_of_a_class_of_a_local_module_comes_back(cell, notebook_dir):
    write(notebook_dir, shapes="class Square:\n    def __init__(self, size):\n        self.size = size")
    kernel = cell("from shapes import Square", send="made = Square(3)")
    assert type(kernel["made"]) is kernel["Square"]


def test_an_edit_of_a_local_module_is_seen_by_the_next_job(cell, notebook_dir):
    write(notebook_dir, recipes="dish = 'soup'")
    kernel = cell(send="import recipes\ndish = recipes.dish")
    write(notebook_dir, recipes="dish = 'bread and butter'")
    kernel.send("import recipes\ndish = recipes.dish")
    assert kernel["dish"] == "bread and butter"


def test_a_module_in_a_directory_of_sys_path_travels(cell, tmp_path, notebook_dir):
    write(tmp_path / "elsewhere", tools="answer = 42")
    setup = f"import sys\nsys.path.append({str(tmp_path / 'elsewhere')!r})"
    assert cell(setup, send="import tools\nx = tools.answer")["x"] == 42


def test_a_local_module_goes_before_an_installed_one(cell, notebook_dir):
    write(notebook_dir, editables="mine = True")
    assert cell(send="import editables\nx = editables.mine")["x"] is True


@pytest.fixture
def editable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project, installed in editable mode into a directory of sys.path by a build backend's own hook."""
    project = tmp_path / "project"
    (project / "src" / "kn_editable_probe").mkdir(parents=True)
    (project / "src" / "kn_editable_probe" / "__init__.py").write_text(
        "from .core import answer\nfrom importlib.metadata import version\n__version__ = version('kn-editable-probe')\n"
    )
    (project / "src" / "kn_editable_probe" / "core.py").write_text("answer = 42\n")
    (project / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
        '[project]\nname = "kn-editable-probe"\nversion = "1.2.3"\n'
    )
    site = tmp_path / "site"
    command = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-build-isolation"]
    subprocess.run([sys.executable, *command, "--target", site, "--editable", project], check=True)
    # What the site module does with a .pth file at the start of a kernel.
    monkeypatch.setattr(sys, "path", [*sys.path, str(site), *next(site.glob("*.pth")).read_text().split()])
    return project


@pytest.mark.slow
def test_an_editable_install_travels_as_it_is_now(cell, editable):
    (editable / "src" / "kn_editable_probe" / "core.py").write_text("answer = 43\n")
    kernel = cell(send="import kn_editable_probe as p\nx = p.answer, p.__version__\ndel p")
    assert kernel["x"] == (43, "1.2.3")
