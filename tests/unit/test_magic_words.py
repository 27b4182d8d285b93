"""Loading, unloading and completing the magics."""

from __future__ import annotations

import pytest
from IPython.core.completer import provisionalcompleter
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config


@pytest.fixture
def shell():
    config = Config()
    config.HistoryManager.enabled = False
    shell = InteractiveShell.instance(config=config)
    shell.run_line_magic("load_ext", "kube_nb")
    yield shell
    shell.run_line_magic("unload_ext", "kube_nb")
    InteractiveShell.clear_instance()


def completions(shell, line):
    with provisionalcompleter():
        return {line[: found.start] + found.text for found in shell.Completer.completions(line, len(line))}


def test_loading_and_unloading_are_idempotent(shell):
    for magic in ("load_ext", "reload_ext", "load_ext", "unload_ext", "unload_ext", "load_ext"):
        shell.run_line_magic(magic, "kube_nb")
    assert "kube_train" in shell.magics_manager.magics["cell"]
    assert len([m for m in shell.Completer.custom_matchers if "kube_nb" in m.__module__]) == 1
    shell.run_line_magic("unload_ext", "kube_nb")
    assert "kube_train" not in shell.magics_manager.magics["cell"]
    assert not [m for m in shell.Completer.custom_matchers if "kube_nb" in m.__module__]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("%%kube_train --mem", "%%kube_train --memory"),
        ("%%kube_train --on lo", "%%kube_train --on local"),
        ("%%kube_train --on-interrupt ", "%%kube_train --on-interrupt cancel"),
        ("x = %kube_train --det", "x = %kube_train --detach"),
        ("%kube_config ret", "%kube_config return_limit="),
    ],
)
def test_what_may_follow_is_offered(shell, line, expected):
    assert expected in completions(shell, line)


def test_jobs_are_offered_by_id(shell):
    from kube_nb.client import Client

    job = Client().train(abs, -1).wait()
    assert f"%kube_logs {job.id}" in completions(shell, f"%kube_logs {job.id[:5]}")


def test_other_lines_are_left_alone(shell):
    assert not any(found.endswith("--detach") for found in completions(shell, "x = --det"))


@pytest.mark.parametrize("magic", ["kube_train", "kube_jobs", "kube_logs", "kube_config", "kube_doctor"])
def test_help_lists_the_flags(shell, magic, capsys):
    shell.run_line_magic(magic, "--help")
    assert f"%{magic}" in capsys.readouterr().out


def test_help_is_asked_whatever_the_cell_says(shell, capsys):
    shell.run_cell_magic("kube_train", "--help", "raise ValueError")
    assert "--gpus" in capsys.readouterr().out
