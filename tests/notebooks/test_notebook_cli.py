"""`kube-nb notebook`: papermill's words on the command line."""

from __future__ import annotations

import pytest

from kube_nb import Client
from kube_nb.cli import main
from tests.conformance.notebooks import code_cells, executed, sent, text

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KUBE_NB_ON", "local")


def test_parameters_are_given_as_papermill_has_them(tmp_path, capfd):
    path = sent(
        "# Show", "print([lr, name, day, more, none])", parameters="lr = name = day = none = 0\nmore = 1\nother = 2"
    )
    (tmp_path / "p.yaml").write_text("more: [1, a]\n")
    words = ["-p", "lr", "0.5", "-p", "none=None", "-r", "name", "007", "-y", "day: 2024-01-31", "-f", "p.yaml"]
    assert main(["notebook", path, *words, "--output", "out-{lr}.ipynb"]) == 0
    out, err = capfd.readouterr()
    assert out == "[0.5, '007', '2024-01-31', [1, 'a'], None]\n"
    assert "cell 3 of 3: Show" in err
    assert text(code_cells(executed("out-0.5.ipynb"))[2]) == out


def test_a_failing_notebook_ends_with_1(capfd):
    assert main(["notebook", sent("# Head", "1 / 0"), "--output", "out.ipynb"]) == 1
    assert "cell 1 of 1 (Head)" in capfd.readouterr().err


def test_a_wrong_parameter_sends_nothing(capfd):
    assert main(["notebook", sent("1", parameters="lr = 1"), "-p", "rl", "1"]) == 1
    assert "has no parameter `rl`" in capfd.readouterr().err
    assert main(["notebook", sent("1", parameters="lr = 1"), "-p", "lr", "2", "--dry-run"]) == 0
    assert "lr = 2" in capfd.readouterr().out
    assert Client().jobs() == []


def test_attaching_writes_what_nobody_has_written(capfd):
    assert main(["notebook", sent("print('kept')"), "--output", "out.ipynb", "--detach"]) == 0
    assert main(["attach"]) == 0
    assert text(code_cells(executed())[0]) == "kept\n"
