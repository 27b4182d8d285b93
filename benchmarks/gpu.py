"""A training on a GPU of this machine, sent by kube-nb and run by Python itself: the same script, in turn.

`python -m benchmarks.gpu` prints a table. The script times its own training loop between two synchronisations, so the
first row is what a job costs a step of training; the second is the whole way, from the call to the result.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.core import Row, ms, table
from benchmarks.training import script as training
from kube_nb.client import Client
from kube_nb.spec import Phase

SETUP = """
import time
import torch
from torch import nn

torch.manual_seed(7)
inputs, targets = torch.randn(4096, 1024, device="cuda"), torch.randn(4096, 1, device="cuda")
layers = nn.Linear(1024, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 1)
model = nn.Sequential(*layers).cuda()
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
"""


def by_a_job(client: Client, script: str) -> tuple[float, float]:
    """Seconds of the loop and of all."""
    began = time.perf_counter()
    job = client.cell(script, {}).wait()
    seconds = job.outputs["seconds"] if job.phase is Phase.SUCCEEDED else None
    whole = time.perf_counter() - began
    if seconds is None:
        raise SystemExit(f"the benchmark failed: {job.reason}\n{''.join(job.logs())[-3000:]}")
    client.delete(job)
    return seconds, whole


def by_python(script: Path) -> tuple[float, float]:
    """The same of a process."""
    began = time.perf_counter()
    said = subprocess.run([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, check=True).stdout
    return float(said.split()[-1]), time.perf_counter() - began


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=7, help="counted pairs (default 7)")
    parser.add_argument("--steps", type=int, default=300, help="steps of the measured loop (default 300)")
    args = parser.parse_args()
    source = training(SETUP, args.steps, sync="torch.cuda.synchronize()")
    ours: list[tuple[float, float]] = []
    other: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "train.py"
        script.write_text(source)
        client = Client(on="local", gpus=1, outputs=["seconds"])
        for number in range(args.n + 1):  # the first pair warms caches
            both = [lambda: ours.append(by_a_job(client, source)), lambda: other.append(by_python(script))]
            for run in both if number % 2 else reversed(both):
                run()
    rows: list[Row] = []
    for part, what, most in (
        (0, f"{args.steps} steps of training on a GPU", 1.02),
        (1, "the same, from call to result", 1.2),
    ):
        a, b = ([pair[part] for pair in side[1:]] for side in (ours, other))
        paired = statistics.median(x / y for x, y in zip(a, b, strict=True))
        rows.append(Row(what, ms(a), f"{ms(b)} python", f"{paired:.3f} x", f"at most {most} x", paired <= most))
    print(table(rows))


if __name__ == "__main__":
    main()
