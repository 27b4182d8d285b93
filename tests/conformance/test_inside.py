"""`import kube_nb as kn` inside a job, and what it does in the kernel."""

from __future__ import annotations

import pytest


def test_reports_are_the_jobs_metrics(cell):
    kernel = cell(send="import kube_nb as kn\nfor i in range(3):\n    kn.report(loss=1 / (i + 1), step=i)")
    points = kernel.job.metrics()
    assert [(point["step"], point["loss"]) for point in points] == [(0, 1.0), (1, 0.5), (2, pytest.approx(1 / 3))]
    assert all(point["rank"] == 0 and point["attempt"] == 0 and point["time"] > 0 for point in points)


def test_the_newest_report_is_on_the_card(cell):
    assert "0.25" in cell(send="import kube_nb as kn\nkn.report(loss=0.5)\nkn.report(loss=0.25)").card


def test_numbers_of_numpy_can_be_reported(cell):
    kernel = cell("import numpy as np", send="import kube_nb as kn\nkn.report(loss=np.float32(0.5), n=np.int64(3))")
    assert kernel.job.metrics()[0]["loss"] == 0.5


def test_progress_is_on_the_card(cell):
    assert "50%" in cell(send="import kube_nb as kn\nkn.progress(5, 10)").card


def test_an_output_value_is_the_jobs(cell):
    kernel = cell(send="import kube_nb as kn\nkn.output('best', {'lr': 0.1})")
    assert kernel.job.outputs["best"] == {"lr": 0.1}


def test_an_output_file_is_the_jobs(cell):
    kernel = cell(
        send="""
        import kube_nb as kn
        from pathlib import Path
        Path("weights.bin").write_bytes(bytes(range(256)))
        kn.output("weights", Path("weights.bin"))
        """
    )
    assert bytes(kernel.job.outputs["weights"]) == bytes(range(256))


def test_checkpoints_have_a_directory(cell):
    kernel = cell(
        send="""
        import kube_nb as kn
        folder = kn.checkpoint_dir()
        (folder / "one.txt").write_text("kept")
        found = [path.name for path in folder.iterdir()]
        del folder
        """
    )
    assert kernel["found"] == ["one.txt"]


@pytest.mark.slow
def test_checkpoints_survive_a_retry(cell):
    kernel = cell(
        send="""
        import kube_nb as kn
        mark = kn.checkpoint_dir() / "tried"
        again = mark.exists()
        mark.touch()
        assert again
        del mark
        """,
        flags="--retries 1",
    )
    assert kernel["again"] is True


def test_a_single_job_is_rank_0_of_1(cell):
    assert cell(send="import kube_nb as kn\nplace = kn.rank(), kn.world_size()")["place"] == (0, 1)


def test_a_subprocess_reports_too(cell):
    kernel = cell(
        send="""
        import subprocess, sys
        subprocess.run([sys.executable, "-c", "import kube_nb as kn; kn.report(loss=0.5, step=1)"], check=True)
        """
    )
    assert [(point["step"], point["loss"]) for point in kernel.job.metrics()] == [(1, 0.5)]


def test_a_command_reports_too(cell):
    kernel = cell(send="import sys\n!{sys.executable} -c 'import kube_nb as kn; kn.report(loss=0.5)'")
    assert kernel.job.metrics()[0]["loss"] == 0.5


def test_a_function_of_the_notebook_reports(cell):
    setup = "import kube_nb as kn\ndef train():\n    for i in range(2):\n        kn.report(loss=i)"
    assert [point["loss"] for point in cell(setup, send="train()").job.metrics()] == [0, 1]


def test_a_name_imported_from_the_package_reports(cell):
    kernel = cell("from kube_nb import report", send="report(loss=3)")
    assert kernel.job.metrics()[0]["loss"] == 3


def test_a_report_keeps_its_order_with_print(cell):
    kernel = cell(send="import kube_nb as kn\nprint('a'); kn.report(loss=1); print('b')")
    assert kernel.text == "a\nb\n"


def test_it_does_something_sensible_in_the_kernel(cell):
    kernel = cell()
    shown = kernel.run(
        """
        import kube_nb as kn
        kn.report(loss=0.5, step=1)
        kn.progress(1, 2)
        kn.output("best", 3)
        place = kn.rank(), kn.world_size()
        folder = kn.checkpoint_dir()
        kept = folder.is_dir()
        """
    )
    assert kernel["place"] == (0, 1)
    assert kernel["kept"] is True
    assert shown.error is None


@pytest.mark.slow
def test_a_job_inside_a_job_runs(cell):
    kernel = cell(
        send="""
        import kube_nb as kn
        def inner(x):
            print("inside the inner job")
            return x + 1
        y = kn.Client().train(inner, 41).result()
        """
    )
    assert kernel["y"] == 42


@pytest.mark.slow
def test_a_remote_function_is_itself_inside_a_job(cell):
    setup = "import kube_nb as kn, os\n@kn.remote\ndef where():\n    return os.environ['KUBE_NB_JOB']"
    kernel = cell(setup, send="inner = where()\nouter = os.environ['KUBE_NB_JOB']")
    assert kernel["inner"] == kernel["outer"]


def test_an_output_may_be_any_value_that_a_cell_can_return(cell):
    kernel = cell("import numpy as np", send="import kube_nb as kn\nkn.output('weights', np.arange(100_000))")
    assert int(kernel.job.outputs["weights"].sum()) == 4999950000


def test_an_output_of_the_notebooks_class_is_of_that_class(cell):
    kernel = cell("class Point:\n    x = 3", send="import kube_nb as kn\nkn.output('p', Point())")
    assert type(kernel.job.outputs["p"]) is kernel["Point"]


def test_an_output_of_a_failed_job_is_there(cell):
    kernel = cell(send="import kube_nb as kn\nkn.output('best', 7)\n1 / 0", fails=True)
    assert kernel.job.outputs["best"] == 7


def test_a_report_that_is_no_number_is_the_persons_error(cell):
    kernel = cell(send="import kube_nb as kn\nkn.report(loss='a word')", fails=True)
    assert (kernel.error.ename, "loss" in kernel.error.evalue) == ("TypeError", True)
    assert "kn.report(loss='a word')" in kernel.error.text
    assert "inside.py" not in kernel.error.text
