"""Several processes: torchrun's variables, a rendezvous, logs of each rank, and one end for all."""

from __future__ import annotations

import re

import pytest

from kube_nb.errors import JobFailed
from kube_nb.spec import Phase
from tests.conformance.sending import code

pytestmark = pytest.mark.slow

PLACE = """
import os, sys
names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK")
sys.stdout.write("place " + " ".join(os.environ[name] for name in names) + chr(10))
"""
GATHER = """
import os, socket, time
rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
if rank == 0:
    with socket.create_server(("", address[1])) as server:
        heard = {0}
        while len(heard) < world:
            peer, _ = server.accept()
            with peer:
                heard.add(int(peer.makefile().readline()))
    together = sorted(heard)
else:
    ends = time.monotonic() + 30
    while True:
        try:
            with socket.create_connection(address) as peer:
                peer.sendall(f"{rank}\\n".encode())
            break
        except ConnectionRefusedError:
            assert time.monotonic() < ends
            time.sleep(0.02)
    together = None
"""


def places(job) -> list[tuple[int, ...]]:
    """What each rank says of its place, by rank."""
    return sorted(tuple(map(int, line.split()[2:])) for line in job.logs() if "] place " in line)


def test_processes_of_one_node_have_torchruns_variables(cell):
    job = cell(send=PLACE, flags="--procs 2 -o none").job
    assert places(job) == [(0, 0, 2, 2, 0), (1, 1, 2, 2, 0)]


def test_processes_of_two_nodes_have_torchruns_variables(cell):
    job = cell(send=PLACE, flags="--nodes 2 --procs 2 -o none").job
    assert places(job) == [(0, 0, 4, 2, 0), (1, 1, 4, 2, 0), (2, 0, 4, 2, 1), (3, 1, 4, 2, 1)]


def test_nodes_of_one_process_have_torchruns_variables(cell):
    job = cell(send=PLACE, flags="--nodes 2 -o none").job
    assert places(job) == [(0, 0, 2, 1, 0), (1, 0, 2, 1, 1)]


def test_processes_meet_at_the_masters_address(cell):
    assert cell(send=GATHER, flags="--procs 2 -o together")["together"] == [0, 1]


@pytest.mark.rights
@pytest.mark.via
def test_nodes_meet_at_the_masters_address(cell):
    assert cell(send=GATHER, flags="--nodes 2 --procs 2 -o together")["together"] == [0, 1, 2, 3]


def test_the_values_of_rank_0_come_back(cell):
    kernel = cell(send="import kube_nb as kn\nmine = kn.rank(), kn.world_size()", flags="--procs 2")
    assert kernel["mine"] == (0, 2)


def test_the_values_of_rank_0_of_the_first_node_come_back(cell):
    kernel = cell("data = []", send="import kube_nb as kn\ndata.append(kn.rank())", flags="--nodes 2")
    assert kernel["data"] == [0]


def test_only_rank_0_displays(cell):
    kernel = cell(send="import os\nos.environ['RANK']", flags="--procs 2")
    assert [data["text/plain"] for data in kernel.displays] == ["'0'"]


def test_each_line_names_its_rank(cell):
    kernel = cell(send="import os\nprint('hello from', os.environ['RANK'])", flags="--procs 2")
    assert sorted(kernel.text.splitlines()) == ["[0] hello from 0", "[1] hello from 1"]


def test_lines_of_ranks_are_never_torn(cell):
    body = "import os\nfor i in range(2000):\n    print(os.environ['RANK'] * 50, i)"
    kernel = cell(send=body, flags="--procs 2 -o none")
    lines = kernel.text.splitlines()
    assert len(lines) == 4000
    assert all(re.fullmatch(r"\[(\d)\] \1{50} \d+", line) for line in lines)


def test_the_log_of_one_rank_is_its_own(cell):
    job = cell(send="import os\nprint('hello from', os.environ['RANK'])", flags="--nodes 2 --procs 2").job
    assert [list(job.logs(rank=rank)) for rank in range(4)] == [[f"hello from {rank}\n"] for rank in range(4)]


def test_the_magic_prints_the_log_of_one_rank(cell):
    kernel = cell(send="import os\nprint('hello from', os.environ['RANK'])", flags="--procs 2")
    assert kernel.run("%kube_logs --rank 1").text == "hello from 1\n"


def test_every_rank_reports(cell):
    job = cell(send="import kube_nb as kn\nkn.report(loss=kn.rank() / 2)", flags="--procs 2").job
    assert sorted((point["rank"], point["loss"]) for point in job.metrics()) == [(0, 0.0), (1, 0.5)]


def test_ranks_are_processes_of_their_own(cell):
    job = cell(send="import os\nprint('pid', os.getpid())", flags="--procs 2").job
    assert len({line.split()[-1] for line in job.logs()}) == 2


def test_an_exception_of_one_rank_ends_all(cell):
    kernel = cell(
        send="""
        import os, time
        if os.environ["RANK"] == "1":
            raise ValueError("rank 1 gives up")
        time.sleep(600)
        """,
        flags="--procs 2",
        fails=True,
    )
    assert (kernel.error.ename, kernel.error.evalue) == ("ValueError", "rank 1 gives up")
    assert kernel.job.phase is Phase.FAILED


def test_the_death_of_one_rank_ends_all(cell):
    kernel = cell(
        send="""
        import os, signal, time
        if os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(600)
        """,
        flags="--procs 2",
        fails=True,
    )
    assert kernel.error.ename == "JobFailed"
    assert (kernel.job.phase, code(kernel.job)) == (Phase.FAILED, "Signal")
    assert "rank 1 was killed by SIGKILL" in kernel.job.reason.what


def test_the_death_of_a_rank_of_another_node_ends_all(cell):
    kernel = cell(
        send="""
        import os, time
        if os.environ["RANK"] == "1":
            os._exit(9)
        time.sleep(600)
        """,
        flags="--nodes 2",
        fails=True,
    )
    assert (kernel.job.phase, code(kernel.job)) == (Phase.FAILED, "Exited")
    assert "rank 1 ended with status 9" in kernel.job.reason.what


def test_an_exception_of_another_node_is_shown(cell):
    kernel = cell(
        send="""
        import os, time
        if os.environ["RANK"] == "1":
            raise ValueError("the second node gives up")
        time.sleep(600)
        """,
        flags="--nodes 2",
        fails=True,
    )
    assert kernel.error.ename == "ValueError"


def test_a_job_waits_for_all_its_ranks(cell):
    job = cell(
        send="""
        import os, time
        if os.environ["RANK"] == "1":
            time.sleep(1)
            print("the last word")
        """,
        flags="--procs 2 -o none",
    ).job
    assert "[1] the last word\n" in list(job.logs())


def test_a_function_runs_on_all_ranks_and_gives_the_value_of_the_first(cell):
    kernel = cell("import os\ndef place():\n    print('here')\n    return int(os.environ['RANK'])")
    kernel.run("import kube_nb as kn\njob = kn.Client(procs=2).train(place)\nvalue = job.result()")
    assert kernel["value"] == 0
    assert sorted(kernel["job"].logs()) == ["[0] here\n", "[1] here\n"]


def test_cancelling_ends_all_ranks(cell):
    kernel = cell(send="import time\nprint('up')\ntime.sleep(600)", flags="--procs 2 --detach --job j")
    ups = (line for line in kernel["j"].logs(follow=True) if line.endswith("up\n"))
    assert {next(ups), next(ups)} == {"[0] up\n", "[1] up\n"}
    kernel["j"].cancel()
    assert kernel["j"].wait().phase is Phase.CANCELLED


def test_a_failed_rank_says_why_in_python(cell):
    kernel = cell("import os\ndef f():\n    if os.environ['RANK'] == '1':\n        raise ValueError('no')")
    job = kernel.run("import kube_nb as kn\nkn.Client(procs=2).train(f)").value
    with pytest.raises(JobFailed) as caught:
        job.result()
    assert isinstance(caught.value.__cause__, ValueError)
