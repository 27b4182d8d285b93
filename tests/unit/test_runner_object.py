"""The runner object: whole, immutable, shared, and quick to find again."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kube_nb.capture import runner_object as module
from kube_nb.capture.runner_object import runner_object
from kube_nb.errors import StorageFailed

PACKAGE = Path(module.__file__).parents[1]


def files(directory: Path) -> set[str]:
    return {
        path.relative_to(directory).as_posix()
        for path in directory.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_it_holds_all_that_ships_with_a_job_and_nothing_else(tmp_path: Path) -> None:
    made = runner_object(tmp_path)
    runner = {f"_kube_nb_job/runner/{path.name}" for path in (PACKAGE / "runner").glob("*.py")}
    assert files(made) == (runner - {"_kube_nb_job/runner/entry.py", "_kube_nb_job/runner/pod_entry.py"}) | {
        "__main__.py",
        "_kube_nb_job/__init__.py",
        "_kube_nb_job/events.py",
        "main.py",
        "small/kube_nb/__init__.py",
        "vendor/cloudpickle/__init__.py",
        "vendor/cloudpickle/cloudpickle.py",
        "vendor/cloudpickle/cloudpickle_fast.py",
        "vendor/cloudpickle/LICENSE",
    }
    assert (made / "main.py").read_bytes() == (PACKAGE / "runner/entry.py").read_bytes()
    assert (made / "__main__.py").read_bytes() == (PACKAGE / "runner/pod_entry.py").read_bytes()
    assert (made / "_kube_nb_job/events.py").read_bytes() == (PACKAGE / "events.py").read_bytes()
    assert (made / "_kube_nb_job/__init__.py").read_bytes() == b""
    assert [entry.name for entry in made.parent.iterdir()] == [made.name]


def test_it_imports_in_an_interpreter_without_site_packages(tmp_path: Path) -> None:
    made = runner_object(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*")}
    paths = [str(made), str(made / "vendor"), str(made / "small")]
    code = f"import sys; sys.path[:0] = {paths}; import _kube_nb_job.runner.node, cloudpickle, kube_nb; kube_nb.report"
    subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True)
    assert {path: path.stat().st_mtime_ns for path in made.rglob("*")} == before  # compiled when it was made


def test_the_same_files_are_the_same_object_and_others_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "kube_nb"
    (copy / "runner").mkdir(parents=True)
    for name in ("events.py", "inside.py", *(f"runner/{path.name}" for path in (PACKAGE / "runner").glob("*.py"))):
        (copy / name).write_bytes((PACKAGE / name).read_bytes())
    first = runner_object(tmp_path / "state")
    monkeypatch.setattr(module, "_KUBE_NB", copy)
    assert runner_object(tmp_path / "state") == first
    (copy / "events.py").write_text("VERSION = 2")
    other = runner_object(tmp_path / "state")
    assert other != first
    assert (other / "_kube_nb_job/events.py").read_text() == "VERSION = 2"


def test_a_damaged_one_is_made_again(tmp_path: Path) -> None:
    made = runner_object(tmp_path)
    (made / "_kube_nb_job/events.py").unlink()
    assert runner_object(tmp_path) == made
    assert (made / "_kube_nb_job/events.py").exists()
    assert [entry.name for entry in made.parent.iterdir()] == [made.name]


def test_many_at_once_make_one(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = set(pool.map(lambda _: runner_object(tmp_path), range(8)))
    assert len(made) == 1
    assert [entry.name for entry in (tmp_path / "runners").iterdir()] == [made.pop().name]


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "runners").write_text("a file")
    with pytest.raises(StorageFailed) as caught:
        runner_object(tmp_path)
    assert str(tmp_path / "runners") in str(caught.value)
