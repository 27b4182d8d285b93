"""`kube-nb notebook` here against papermill by itself: interleaved pairs of fresh interpreters, medians.

`python benchmarks/notebooks.py` prints a table; the last one stands in docs/notebooks.md.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import nbformat
from core import Row, pairs, run, table
from nbformat import v4

MB = 1_000_000
PAPERMILL = """
import json, resource, sys, time
began = time.perf_counter()
import papermill
papermill.execute_notebook(sys.argv[1], sys.argv[2], progress_bar=False)
took = time.perf_counter() - began
print()
print(json.dumps({"took": took, "client": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))
"""
OURS = """
import json, resource, sys, time
began = time.perf_counter()
from kube_nb.cli import main
status = main(["notebook", sys.argv[1], "--output", sys.argv[2], "--on", "local"])
took = time.perf_counter() - began
assert status == 0, status
from kube_nb import Client
usage = Client(on="local").job().record["usage"]
print(json.dumps({"took": took, "client": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, **usage}))
"""


def notebook(path: Path, sources: list[str]) -> Path:
    made = v4.new_notebook(cells=[v4.new_code_cell(source) for source in sources])
    made.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    made.metadata.language_info = {"name": "python"}
    nbformat.write(made, path)
    return path


def printed(path: Path) -> list[str]:
    """What each cell printed and showed, however a kernel has cut it."""
    cells = nbformat.read(path, as_version=4).cells
    return ["".join(out.get("text") or out.data["text/plain"] for out in cell.outputs) for cell in cells]


def compare(state: Path, path: Path, count: int, what: str, limit: float) -> list[Row]:
    """The wall time of both, and what the processes need at their largest."""
    seen: dict[str, dict[str, float]] = {}

    def one(name: str, code: str) -> float:
        seen[name] = run(code, str(path), str(state / f"{name}.ipynb"), state=state)
        return seen[name]["took"]

    ours, other = pairs(count, lambda: one("ours", OURS), lambda: one("papermill", PAPERMILL))
    ratio = statistics.median(a / b for a, b in zip(ours, other, strict=True))
    assert printed(state / "ours.ipynb") == printed(state / "papermill.ipynb"), "the outputs are not the same"
    mine, theirs = seen["ours"], seen["papermill"]
    return [
        Row(
            what,
            f"{statistics.median(ours):.2f} s",
            f"{statistics.median(other):.2f} s papermill",
            f"{ratio:.2f} x",
            f"at most {limit:g} x",
            ratio <= limit,
        ),
        Row(
            "memory for it at its largest: client, what executes the cells, kernel",
            f"{mine['client'] / MB:.0f} + {mine['executor_memory'] / MB:.0f} + {mine['peak_memory'] / MB:.0f} MB",
            f"{theirs['client'] / MB:.0f} MB papermill, without its kernel",
            f"{mine['client'] / theirs['client']:.2f} x for the client",
            "stated",
            True,
        ),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=5)
    args = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="kn-bench-", ignore_cleanup_errors=True) as place:
        state = Path(place)
        small = notebook(state / "small.ipynb", [f"x = {n}\nprint(x)\nx" for n in range(30)])
        wide = "import random\nrandom.seed({n})\nfor _ in range(1000):\n    print('%0100d' % random.getrandbits(300))"
        large = notebook(state / "large.ipynb", [wide.format(n=n) for n in range(200)])
        rows = compare(state, small, args.count, "a notebook of 30 cells", 1.1)
        rows += compare(state, large, max(1, args.count // 3), "a notebook of 200 cells and 20 MB of outputs", 1.2)
    print(table(rows), f"\n\nin {time.monotonic() - began:.0f} s")
    return 0 if all(row.met for row in rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
