"""Jobs that nobody waits for: `--detach`, `%kube_attach`, other kernels, and what became of a name meanwhile."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from kube_nb import Client
from kube_nb.spec import Phase
from tests.conformance.sending import own_jobs, sent, until

ROOT = Path(__file__).parents[2]


def elsewhere(code: str) -> subprocess.CompletedProcess[str]:
    """Run cells, separated by `# %%`, in a process with the same state directory; it prints the text of the last."""
    program = textwrap.dedent(
        """
        import sys
        from tests.conformance.kernel import Kernel
        kernel = Kernel()
        for cell in sys.stdin.read().split("# %%\\n"):
            shown = kernel.run(cell)
        print(shown.text, end="")
        """
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", program],
        input=code,
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
        check=False,
    )


def test_detach_gives_the_job_at_once(cell, gate):
    shown = cell().run(f"%%kube_train --detach\n{gate.wait}\ny = 1")
    assert not shown.value.phase.final
    gate.open()
    assert shown.value.wait().phase is Phase.SUCCEEDED


def test_a_detached_job_assigns_nothing_by_itself(cell):
    kernel = cell(send="y = 1", flags="--detach --job j")
    assert kernel["j"].wait().outputs["y"] == 1
    assert "y" not in kernel


def test_the_card_of_a_detached_job_shows_its_end(cell):
    kernel = cell(send="y = 1", flags="--detach --job j")
    kernel["j"].wait()
    until(lambda: "Succeeded" in kernel.sent.cards[0]["text/plain"], what="the card shows the end")


def test_attach_replays_and_assigns(cell):
    kernel = cell(send="print('first line')\ny = 1", flags="--detach --job j")
    shown = kernel.run("%kube_attach j")
    assert shown.text == "first line\n"
    assert kernel["y"] == 1


def test_attach_without_a_name_takes_the_last_job(cell):
    kernel = cell(send="y = 1", flags="--detach")
    kernel.run("%kube_attach")
    assert kernel["y"] == 1


def test_attach_replays_displays(cell):
    kernel = cell(send="display(1)\nh = display(2, display_id=True)\nh.update(3)\ndel h", flags="--detach")
    assert [data["text/plain"] for data in kernel.run("%kube_attach").displays] == ["1", "3"]


def test_attach_twice_shows_the_same(cell):
    kernel = cell(send="print('line'); display(5)", flags="--detach")
    first, second = kernel.run("%kube_attach"), kernel.run("%kube_attach")
    assert (first.text, first.displays) == (second.text, second.displays)


def test_attach_raises_what_the_job_raised(cell):
    kernel = cell(send="1 / 0", flags="--detach")
    assert kernel.run("%kube_attach", fails=True).error.ename == "ZeroDivisionError"


def test_a_name_rebound_meanwhile_is_not_overwritten(cell):
    kernel = cell("x = 1", send="x = 2\ny = 3", flags="--detach --job j")
    kernel.run("x = 'mine'")
    shown = kernel.run("%kube_attach j")
    assert (kernel["x"], kernel["y"]) == ("mine", 3)
    assert "job.outputs['x']" in shown.card


def test_a_name_made_meanwhile_is_not_overwritten(cell):
    kernel = cell(send="x = 2", flags="--detach")
    kernel.run("x = 'mine'")
    kernel.run("%kube_attach")
    assert kernel["x"] == "mine"


def test_a_value_changed_meanwhile_is_not_overwritten(cell):
    kernel = cell("scores = [1]", send="scores.append(2)", flags="--detach")
    kernel.run("scores.append('mine')")
    kernel.run("%kube_attach")
    assert kernel["scores"] == [1, "mine"]


def test_a_name_that_nobody_touched_is_assigned(cell):
    kernel = cell("scores = [1]\nx = 1", send="scores.append(2)\nx = 2", flags="--detach")
    kernel.run("total = sum(scores) + x")
    kernel.run("%kube_attach")
    assert (kernel["scores"], kernel["x"]) == ([1, 2], 2)


def test_what_was_not_overwritten_is_the_jobs(cell):
    kernel = cell("x = 1", send="x = 2", flags="--detach --job j")
    kernel.run("x = 'mine'")
    kernel.run("%kube_attach j")
    assert kernel["j"].outputs["x"] == 2


def test_attaching_again_after_the_names_were_assigned_keeps_later_changes(cell):
    kernel = cell(send="x = 1", flags="--detach")
    kernel.run("%kube_attach")
    kernel.run("x = 'mine'")
    kernel.run("%kube_attach")
    assert kernel["x"] == "mine"


@pytest.fixture
def interrupted(cell, gate):
    """Sends a cell to a kernel that a person watches, and interrupts it once; the job goes on when `go` is called."""

    def send(setup: str, body: str):
        kernel = cell(setup)
        kernel.shell.kernel._allow_stdin = True
        waits = f"print('up', flush=True)\n{gate.wait}\n"

        def interrupt() -> None:
            job = until(lambda: own_jobs(Client()))[0]
            until(lambda: "up\n" in list(job.logs()))
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

        threading.Thread(target=interrupt).start()
        kernel.send(waits + body, "--job j")
        kernel.go = gate.open
        return kernel

    return send


@pytest.mark.slow
def test_an_interrupt_leaves_the_job_running_and_names_it(interrupted):
    kernel = interrupted("", "y = 1")
    assert kernel.job.id in kernel.text
    assert not kernel.job.phase.final


@pytest.mark.slow
def test_names_that_nobody_touched_since_an_interrupt_are_assigned(interrupted):
    kernel = interrupted("x, scores = 1, [1]", "x = 2\nscores.append(2)")
    kernel.go()
    kernel.run("%kube_attach")
    assert (kernel["x"], kernel["scores"]) == (2, [1, 2])


@pytest.mark.slow
def test_names_that_were_changed_since_an_interrupt_are_kept(interrupted):
    kernel = interrupted("x, scores = 1, [1]", "x = 2\nscores.append(2)")
    kernel.run("x = 'mine'\nscores.append('mine')")
    kernel.go()
    kernel.run("%kube_attach j")
    assert (kernel["x"], kernel["scores"]) == ("mine", [1, "mine"])


@pytest.mark.slow
def test_the_card_of_an_interrupted_cell_shows_the_end(interrupted):
    kernel = interrupted("", "y = 1")
    kernel.go()
    kernel["j"].wait()
    until(lambda: "Succeeded" in kernel.sent.cards[0]["text/plain"], what="the card shows the end")


def test_a_job_is_cancelled_by_its_name(cell):
    kernel = cell(send="import time\ntime.sleep(600)", flags="--detach --name long --job j")
    kernel.run("%kube_cancel long")
    assert kernel["j"].phase is Phase.CANCELLED


def test_a_job_is_deleted_by_its_name(cell):
    kernel = cell(send="y = 1", flags="--name brief")
    kernel.run("%kube_delete brief")
    assert sent(Client()) == []


@pytest.mark.slow
def test_a_kernel_that_ends_leaves_its_job_running(cell, gate):
    done = elsewhere(f"%%kube_train --detach --name outlives\n{gate.wait}\nprint('done')")
    assert done.returncode == 0, done.stderr
    (job,) = own_jobs(Client())
    assert (job.name, job.phase.final) == ("outlives", False)
    gate.open()
    assert job.wait().phase is Phase.SUCCEEDED
    assert list(job.logs()) == ["done\n"]


def unique() -> str:
    """A name of no other job: a cluster has those of other tests, too, and the newest of a name is meant."""
    return f"shared-{secrets.token_hex(4)}"


@pytest.mark.slow
@pytest.mark.rights
def test_another_kernel_replays_from_the_first_line_and_assigns(cell):
    name = unique()
    cell("k = 20", send="print('first'); print('last')\ny = k + 1\nz = [y]", flags=f"--name {name}")
    done = elsewhere(f"%kube_attach {name}\n# %%\nprint(y, z)")
    assert done.stdout == "21 [21]\n", done.stderr
    done = elsewhere(f"%kube_attach {name}")
    assert done.stdout == "first\nlast\n", done.stderr


@pytest.mark.slow
def test_another_kernel_follows_a_live_job(cell, gate):
    kernel = cell(send=f"print('first', flush=True)\n{gate.wait}\ny = 42", flags="--detach --name live --job j")
    assert next(kernel["j"].logs(follow=True)) == "first\n"
    gate.open()
    done = elsewhere("%kube_attach live\n# %%\nprint(y)")
    assert done.stdout == "42\n", done.stderr


@pytest.mark.slow
def test_another_kernel_gets_instances_of_the_notebooks_classes(cell):
    cell("class Point:\n    def __init__(self, x): self.x = x", send="p = Point(3)", flags="--name points")
    done = elsewhere("%kube_attach points\n# %%\nprint(type(p).__name__, p.x)")
    assert done.stdout == "Point 3\n", done.stderr


@pytest.mark.slow
def test_another_kernel_does_not_overwrite_its_own_names(cell):
    name = unique()
    cell("x = 1", send="x = 2", flags=f"--name {name}")
    done = elsewhere(f"x = 'mine'\n# %%\n%kube_attach {name}\n# %%\nprint(x)")
    assert done.stdout == "mine\n", done.stderr


@pytest.mark.slow
def test_another_program_reads_the_result(cell):
    kernel = cell(send="y = [1, 2]")
    program = "import kube_nb as kn, sys, json\nprint(json.dumps(kn.Client().job(sys.argv[1]).outputs['y']))"
    done = subprocess.run(
        [sys.executable, "-c", program, kernel.job.id], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert json.loads(done.stdout) == [1, 2]
