"""Files that travel and come back, the job's own directory, its environment variables."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kube_nb import Client
from tests.conformance.sending import files_below, own_jobs

SECRET = "s3cr3t-d0-n0t-sh0w"


@pytest.mark.rights
def test_included_files_are_there_under_their_relative_path(cell, notebook_dir):
    (notebook_dir / "data").mkdir()
    (notebook_dir / "data" / "a.csv").write_text("x\n1\n")
    kernel = cell(send="text = open('data/a.csv').read()", flags="--include data/a.csv")
    assert kernel["text"] == "x\n1\n"


def test_a_pattern_includes_all_that_fit(cell, notebook_dir):
    for name in ("a.csv", "b.csv", "c.txt"):
        (notebook_dir / name).write_text(name)
    kernel = cell(send="import os\nnames = sorted(os.listdir())\ndel os", flags="--include *.csv")
    assert kernel["names"] == ["a.csv", "b.csv"]


def test_a_directory_is_included_whole(cell, notebook_dir):
    (notebook_dir / "data" / "deep").mkdir(parents=True)
    (notebook_dir / "data" / "deep" / "a.bin").write_bytes(b"\0\xff")
    kernel = cell(send="found = open('data/deep/a.bin', 'rb').read()", flags="--include data")
    assert kernel["found"] == b"\0\xff"


def test_a_pattern_that_fits_nothing_is_refused(cell):
    kernel = cell(send="x = 1", flags="--include nothing-*.csv", fails=True)
    assert "nothing-*.csv" in kernel.error.evalue


def test_the_working_directory_is_fresh(cell, notebook_dir):
    (notebook_dir / "here.txt").write_text("of the notebook")
    kernel = cell(send="import os\nfound, where = os.listdir(), os.getcwd()\ndel os")
    assert kernel["found"] == []
    assert kernel["where"] != str(notebook_dir)


def test_each_job_has_a_directory_of_its_own(cell):
    kernel = cell(send="open('left.txt', 'w').close()")
    kernel.send("import os\nfound = os.listdir()\ndel os")
    assert kernel["found"] == []


def test_a_relative_path_that_does_not_travel_is_a_warning(cell, notebook_dir):
    (notebook_dir / "data.csv").write_text("x")
    kernel = cell(send="import os\nfound = os.path.exists('data.csv')\ndel os")
    assert kernel["found"] is False
    assert "--include" in kernel.card
    assert "data.csv" in kernel.card


def test_an_included_path_is_no_warning(cell, notebook_dir):
    (notebook_dir / "data.csv").write_text("x")
    kernel = cell(send="text = open('data.csv').read()", flags="--include data.csv")
    assert "--include" not in kernel.card


def test_collected_files_come_back_under_their_relative_path(cell, notebook_dir):
    kernel = cell(
        send="""
        import os
        os.makedirs("out/deep")
        for name in ("out/a.txt", "out/deep/b.txt", "out/c.bin"):
            with open(name, "w") as file:
                file.write(name)
        del os, file, name
        """,
        flags="--collect out/**/*.txt",
    )
    assert (notebook_dir / "out" / "a.txt").read_text() == "out/a.txt"
    assert (notebook_dir / "out" / "deep" / "b.txt").read_text() == "out/deep/b.txt"
    assert not (notebook_dir / "out" / "c.bin").exists()
    assert "out/a.txt" in kernel.card


def test_a_pattern_that_collects_nothing_is_said(cell):
    kernel = cell(send="x = 1", flags="--collect *.pt")
    assert kernel["x"] == 1
    assert "*.pt" in kernel.card


def test_a_variable_with_a_value_is_set(cell):
    kernel = cell(send="import os\nseen = os.environ['TOKEN'] == 's3cr3t'\ndel os", flags="--env TOKEN=s3cr3t")
    assert kernel["seen"] is True


def test_a_variable_without_a_value_is_taken_from_the_kernel(cell, monkeypatch):
    monkeypatch.setenv("TOKEN", "from the kernel")
    assert cell(send="import os\nseen = os.environ['TOKEN']\ndel os", flags="--env TOKEN")["seen"] == "from the kernel"


def test_a_quoted_variable_keeps_its_spaces(cell):
    assert cell(send="import os\nseen = os.environ['K']\ndel os", flags='--env K="a b"')["seen"] == "a b"


def test_a_variable_that_is_not_set_is_refused(cell):
    kernel = cell(send="x = 1", flags="--env KUBE_NB_TEST_NOWHERE", fails=True)
    assert kernel.error.ename == "BadValue"
    assert "KUBE_NB_TEST_NOWHERE" in kernel.error.evalue


def test_variables_that_the_settings_pass_are_set(cell, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://there")
    kernel = cell('%kube_config pass_env=["MLFLOW_*"]')
    kernel.send("import os\nseen = os.environ['MLFLOW_TRACKING_URI']\ndel os")
    assert kernel["seen"] == "http://there"


def test_the_value_of_a_variable_is_not_shown_by_a_dry_run(cell):
    kernel = cell(send="x = 1", flags=f"--env TOKEN={SECRET} --dry-run")
    shown = "".join(str(data) for data in kernel.displays) + kernel.text
    assert "TOKEN" in shown
    assert SECRET not in shown


def test_the_value_of_a_variable_is_not_on_the_card(cell):
    cards = cell(send="x = 1", flags=f"--env TOKEN={SECRET}").sent.cards
    assert SECRET not in json.dumps(cards)


def test_the_value_of_a_variable_is_in_no_record_of_this_machine(cell, state_dir):
    cell(send="x = 1", flags=f"--env TOKEN={SECRET}")
    assert [path for path, data in files_below(state_dir) if SECRET.encode() in data] == []


def test_a_dry_run_submits_nothing(cell):
    kernel = cell("data = [1]", send="y = data", flags="--dry-run")
    assert "y" not in kernel
    assert own_jobs(Client()) == []
    assert "data" in kernel.displays[0]["text/plain"]


def test_the_home_of_the_notebook_is_not_the_jobs_directory(cell):
    kernel = cell(send="import os\nhere = os.getcwd()\nopen('made.txt', 'w').close()\ndel os")
    assert not (Path.cwd() / "made.txt").exists()
    assert kernel["here"] != str(Path.cwd())
