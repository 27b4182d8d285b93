"""A GPU of this machine, for real: what a job sees of it, what comes back from it, and that it is free afterwards."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from kube_nb.backends.local.machine import installed
from kube_nb.errors import Refused
from kube_nb.spec import Phase
from tests.conformance.sending import Notebook, Sender, code, ended, gone, running, until

if not shutil.which("nvidia-smi") or not installed():
    pytest.skip("gpu: there is none", allow_module_level=True)
torch = pytest.importorskip("torch", reason="torch: it is not installed")

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("gpu")]

NETWORK = """
import torch

def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.Tanh(), torch.nn.Linear(128, 1))

def fit(net, x, y, steps):
    optimiser = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(steps):
        optimiser.zero_grad()
        loss = torch.nn.functional.mse_loss(net(x), y)
        loss.backward()
        optimiser.step()
    return loss.item()
"""
HOLDS = (
    "import torch\nkept = torch.ones(2**28, device='cuda')\nprint('ready', flush=True)\nimport time\ntime.sleep(600)"
)


def used() -> int:
    """MiB of the first GPU that any process of this machine has."""
    asked = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "--id=0"]
    return int(subprocess.run(asked, capture_output=True, text=True, check=True).stdout)


def test_a_job_sees_the_devices_that_it_asked_for_and_no_other(send: Sender) -> None:
    source = "import os, torch\nprint(os.environ['CUDA_VISIBLE_DEVICES'], torch.cuda.device_count())"
    job = send.over(source, gpus=1)
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    assert "".join(job.logs()).split() == [named, "1"]


def test_what_was_trained_on_a_gpu_comes_back_on_it(send: Sender) -> None:
    """The same numbers as here: a job computes what the kernel would have computed."""
    notebook = Notebook(NETWORK)
    fill = "torch.manual_seed(1)\nx, y = torch.randn(256, 64, device='cuda'), torch.randn(256, 1, device='cuda')"
    exec(fill, notebook.names)
    job = send.over("net = network().cuda()\nloss = fit(net, x, y, 50)", notebook, gpus=1, outputs=["net", "loss"])
    assert job.phase is Phase.SUCCEEDED, job.reason
    net, loss = job.outputs["net"], job.outputs["loss"]
    exec("here = network().cuda()\nsame = fit(here, x, y, 50)", notebook.names)
    assert {parameter.device.type for parameter in net.parameters()} == {"cuda"}
    assert loss == pytest.approx(notebook.names["same"], rel=1e-5)
    x = notebook.names["x"]
    assert torch.allclose(net(x), notebook.names["here"](x), atol=1e-5)


def test_what_is_on_a_gpu_arrives_where_there_is_none(send: Sender) -> None:
    whole = torch.arange(100_000.0, device="cuda")
    source = "print(whole.device.type, whole[99_999].item())"
    job = send.over(source, {"whole": whole}, env={"CUDA_VISIBLE_DEVICES": ""})
    assert "".join(job.logs()).split() == ["cpu", "99999.0"]


def test_a_large_tensor_goes_to_the_gpu_of_a_job_and_back(send: Sender) -> None:
    whole = torch.rand(64 * 2**20, device="cuda")
    job = send.over("whole *= 2", {"whole": whole}, gpus=1, outputs=["whole"])
    assert job.phase is Phase.SUCCEEDED, job.reason
    assert torch.equal(job.outputs["whole"], whole * 2)


@pytest.mark.parametrize("library", ["cupy", "jax.numpy"])
def test_arrays_of_other_libraries_come_back_on_the_device(
    send: Sender, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # a job inherits it, or the second one had no memory
    arrays = pytest.importorskip(library, reason=f"gpu: {library} is not installed")
    whole = arrays.arange(1_000_000, dtype="float32")
    job = send.over(f"import {library}\nback = whole * 2", {"whole": whole}, gpus=1, outputs=["back"])
    assert job.phase is Phase.SUCCEEDED, job.reason
    back = job.outputs["back"]
    assert type(back) is type(whole)
    assert str(back.device) == str(whole.device)
    assert bool((back == whole * 2).all())


def test_who_asks_for_a_device_that_is_taken_waits_for_it(send: Sender) -> None:
    every = installed()
    first = send(HOLDS, gpus=every, name="first")
    running(first)
    second = send("print('mine')", gpus=1, name="second")
    until(lambda: second.phase is Phase.PENDING and second.reason, what="it waits")
    assert second.reason is not None
    assert "GPU" in f"{second.reason.what} {second.reason.why}"
    first.cancel()
    assert ended(second).phase is Phase.SUCCEEDED
    assert ended(first).phase is Phase.CANCELLED


def test_more_devices_than_there_are_are_refused_at_once(send: Sender) -> None:
    with pytest.raises(Refused, match="GPU"):
        send("pass", gpus=installed() + 1)


def test_the_memory_of_a_cancelled_job_is_free_again(send: Sender) -> None:
    before = used()
    job = send(f"import os\nprint(os.getpid(), flush=True)\n{HOLDS}", gpus=1)
    pid = int(running(job)[0])
    assert used() >= before + 1000
    job.cancel()
    ended(job)
    assert gone(pid)
    assert used() < before + 500


def test_a_gpu_that_runs_out_of_memory_says_what_to_do(send: Sender) -> None:
    job = send.over("import torch\nx = 1\nkept = torch.empty(2**50, device='cuda')", gpus=1)
    assert code(job) == "Exception"
    assert job.reason is not None
    assert job.reason.what.endswith("OutOfMemoryError in cell, line 3")
    assert "batches" in job.reason.next


def test_a_fault_of_a_kernel_on_the_device_is_the_users_own_error(send: Sender) -> None:
    source = (
        "import torch\ntable = torch.zeros(4, device='cuda')\nat = torch.tensor([9], device='cuda')\nprint(table[at])"
    )
    job = send.over(source, gpus=1)
    assert job.phase is Phase.FAILED
    assert job.reason is not None
    assert "device-side assert" in f"{job.reason.what} {job.reason.why}"
    assert send.over("import torch\nprint(torch.ones(3, device='cuda').sum())", gpus=1).phase is Phase.SUCCEEDED


def test_nccl_starts_from_the_variables_of_a_rank(send: Sender) -> None:
    source = """
import os, torch, torch.distributed as dist
dist.init_process_group("nccl")
torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
one = torch.ones(1, device="cuda")
dist.all_reduce(one)
print(dist.get_backend(), dist.get_world_size(), one.item())
dist.destroy_process_group()
"""
    job = send.over(source, gpus=installed(), procs=installed())
    assert job.phase is Phase.SUCCEEDED, job.reason
    assert f"nccl {installed()} {float(installed())}" in "".join(job.logs())


def test_the_doctor_counts_the_devices(send: Sender) -> None:
    free, total = send.client.backend.capacity().gpus["nvidia.com/gpu"]
    assert (free, total) == (installed(), installed())
