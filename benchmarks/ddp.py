"""A training on two nodes of a cluster, sent by kube-nb and started by torchrun: in turn, in the same two pods.

`python benchmarks/ddp.py --on CONTEXT --image IMAGE` sends one job of two nodes to an image with torch. Its ranks run a
script themselves and start torchrun with the same script, in turn; who goes first changes. The script measures its own
training loop.
"""

from __future__ import annotations

import argparse
import statistics

from core import Row, ms, table
from training import script as training

from kube_nb.client import Client
from kube_nb.spec import Phase

SETUP = """
import time
import torch
import torch.distributed as dist
from torch import nn

torch.set_num_threads(1)
torch.manual_seed(7)
dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
inputs, targets = torch.randn(64, 128), torch.randn(64, 1)
layers = nn.Linear(128, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 1)
device = "cuda" if torch.cuda.is_available() else "cpu"
inputs, targets = inputs.to(device), targets.to(device)
model = nn.parallel.DistributedDataParallel(nn.Sequential(*layers).to(device))
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
"""

CELL = """
import os, runpy, subprocess, sys
from pathlib import Path

Path("train.py").write_text(script)
first_port, node = int(os.environ["MASTER_PORT"]) + 1, os.environ["GROUP_RANK"]
bare = {name: value for name, value in os.environ.items() if not name.startswith("KUBE_NB_")}
ours, other = [], []

def by_rank(port):
    os.environ["MASTER_PORT"] = str(port)
    ours.append(runpy.run_path("train.py")["seconds"])

def by_torchrun(port):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc_per_node=1"]
    torchrun += [f"--node_rank={node}", f"--master_addr={os.environ['MASTER_ADDR']}", f"--master_port={port}"]
    # Of a local rank that does not exist: torch 1.13 cannot read its own defaults of these under Python 3.11.
    torchrun += ["--redirects=1:1", "--tee=1:1", "train.py"]
    said = subprocess.run(torchrun, env=bare, stdout=subprocess.PIPE, text=True, check=True).stdout
    other.append(float(said.split()[-1]))

for number in range(count + 1):
    turns = [by_rank, by_torchrun] if number % 2 else [by_torchrun, by_rank]
    for place, turn in enumerate(turns):
        turn(first_port + 2 * number + place)
"""


def measure(on: str, image: str, count: int, steps: int) -> tuple[list[float], list[float]]:
    """Seconds of the training loop by kube-nb and by torchrun, without the first pair."""
    script = training(SETUP, steps, sync="dist.barrier()", end="dist.destroy_process_group()\n")
    client = Client(on=on, image=image, nodes=2, cpu="0.5", memory="1Gi", name="ddp", outputs=["ours", "other"])
    job = client.cell(CELL, {"script": script, "count": count}).wait()
    if job.phase is not Phase.SUCCEEDED:
        raise SystemExit(f"the benchmark failed: {job.reason}\n{''.join(job.logs())[-3000:]}")
    found = job.outputs["ours"][1:], job.outputs["other"][1:]
    client.delete(job)
    return found


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--on", required=True, help="a context or a named target")
    parser.add_argument("--image", required=True, help="an image with torch")
    parser.add_argument("-n", type=int, default=7, help="counted pairs (default 7)")
    parser.add_argument("--steps", type=int, default=200, help="steps of the measured loop (default 200)")
    args = parser.parse_args()
    ours, other = measure(args.on, args.image, args.n, args.steps)
    ratio = statistics.median(ours) / statistics.median(other)
    paired = statistics.median(a / b for a, b in zip(ours, other, strict=True))
    what = f"{args.steps} steps of DistributedDataParallel on two nodes"
    figure = f"{ratio:.3f} x (pairs: {paired:.3f} x)"
    print(table([Row(what, ms(ours), f"{ms(other)} torchrun", figure, "at most 1.02 x", ratio <= 1.02)]))


if __name__ == "__main__":
    main()
