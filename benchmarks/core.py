"""The speed of the job core here: interleaved pairs in one run, medians, one file system, fsync on both sides.

`python benchmarks/core.py` prints a table; `--write` puts it into docs/benchmarks.md. Figures are ratios of two things
measured in turn; where the budget is in seconds, the seconds are stated beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
GIB = 1024**3
LINES = 1_000_000


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    what: str
    ours: str
    other: str
    figure: str
    budget: str
    met: bool


def run(code: str, *arguments: str, state: Path) -> dict[str, float]:
    """Run `code` in a fresh interpreter; it prints one JSON object last."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=os.environ | {"KUBE_NB_STATE_DIR": str(state)},
        capture_output=True,
        text=True,
        check=False,
        cwd=state,
    )
    if done.returncode:
        raise SystemExit(f"a benchmark failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def pairs(count: int, ours: Callable[[], float], other: Callable[[], float]) -> tuple[list[float], list[float]]:
    """Both in turn, `count` times, after one of each that does not count."""
    ours(), other()
    measured = [(ours(), other()) for _ in range(count)]
    return [a for a, _ in measured], [b for _, b in measured]


SHELL = """
import json, sys, time
began = time.perf_counter()
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
if sys.argv[1] == "with":
    shell.run_line_magic("load_ext", "kube_nb")
took = time.perf_counter() - began
heavy = [m for m in ("kubernetes", "kfp", "mlflow", "torch", "pandas", "pydantic") if m in sys.modules]
assert not heavy, heavy
print(json.dumps({"took": took}))
"""


def load_ext(state: Path, count: int) -> Row:
    """A fresh interpreter with IPython, with and without the extension."""
    ours, other = pairs(
        count, lambda: run(SHELL, "with", state=state)["took"], lambda: run(SHELL, "bare", state=state)["took"]
    )
    extra = statistics.median(a - b for a, b in zip(ours, other, strict=True)) * 1000
    return Row(
        "`%load_ext kube_nb` in a fresh interpreter",
        ms(ours),
        f"{ms(other)} bare IPython",
        f"+{extra:.0f} ms",
        "at most +100 ms; none of kubernetes, kfp, mlflow, torch, pandas, pydantic imported",
        extra <= 100,
    )


FIRST_LINE = """
import json, sys, time
from kube_nb.client import Client
client = Client(on="local")
client.cell("pass", {}).wait()
took = []
for _ in range(int(sys.argv[1])):
    began = time.perf_counter()
    job = client.cell("import numpy, pandas\\nprint('ready')", {})
    next(job.logs(follow=True))
    took.append(time.perf_counter() - began)
    job.wait()
print(json.dumps({"took": sorted(took)[len(took) // 2]}))
"""


def first_line(state: Path, count: int) -> Row:
    """From the submit to the first line, against an interpreter that runs the same script."""

    def plain() -> float:
        began = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-c", "import numpy, pandas\nprint('ready')"], stdout=subprocess.PIPE, cwd=state
        )
        assert process.stdout is not None
        process.stdout.readline()
        took = time.perf_counter() - began
        process.wait()
        return took

    ours, other = pairs(count, lambda: run(FIRST_LINE, "1", state=state)["took"], plain)
    a, b = statistics.median(ours), statistics.median(other)
    ratio = statistics.median((x - 0.06) / y for x, y in zip(ours, other, strict=True))
    return Row(
        "submit to first line, importing numpy and pandas",
        ms(ours),
        f"{ms(other)} `python -c`",
        f"{ratio:.2f} x + 60 ms ({a / b:.2f} x in all)",
        "at most 1.3 x + 60 ms",
        ratio <= 1.3,
    )


ARRAY = """
import json, os, resource, sys, time
from pathlib import Path
import numpy as np
from kube_nb.runner import graph
from kube_nb.runner.objects import Objects
mode, place, size = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
place.mkdir(exist_ok=True)
objects = Objects(place)
def out(array):
    began = time.perf_counter()
    ref = graph.dump({"a": array}, namespace={}, objects=objects)
    took = time.perf_counter() - began
    (place / "ref").write_text(json.dumps(ref))
    return took
def plain_out(array):
    began = time.perf_counter()
    with open(place / "plain", "wb") as file:
        file.write(memoryview(array).cast("B"))
        file.flush()
        os.fsync(file.fileno())
    return time.perf_counter() - began
if mode in ("out", "plain-out"):
    array = np.random.default_rng(0).integers(0, 255, size, dtype="u1").view("f8")
    os.sync()  # what the last run left behind is not this run's
    before = peak()
    took = out(array) if mode == "out" else plain_out(array)
    print(json.dumps({"took": took, "peak": 1 + (peak() - before) / size}))
elif mode == "back":
    ref = json.loads((place / "ref").read_text())
    before = peak()
    began = time.perf_counter()
    array = graph.load(ref, namespace={}, objects=objects)["a"]
    print(json.dumps({"took": time.perf_counter() - began, "peak": (peak() - before) / size}))
else:
    buffer = bytearray(size)
    del buffer
    began = time.perf_counter()
    buffer = bytearray(size)
    with open(place / "plain", "rb", buffering=0) as file:
        view, at = memoryview(buffer), 0
        while at < size:
            at += file.readinto(view[at:])
    print(json.dumps({"took": time.perf_counter() - began}))
"""


def array(state: Path, count: int, size: int) -> list[Row]:
    """A contiguous array into a bundle and back, against plain files of the same bytes."""
    rows, peaks = [], {}
    for word, mode, plain, what in (
        ("into a bundle", "out", "plain-out", "fsynced write"),
        ("back", "back", "plain-back", "read"),
    ):
        memory: list[float] = []

        def ours(mode: str = mode, memory: list[float] = memory) -> float:
            if mode == "out":
                shutil.rmtree(state / "array", ignore_errors=True)
            found = run(ARRAY, mode, str(state / "array"), str(size), state=state)
            memory.append(found["peak"])
            return found["took"]

        def other(plain: str = plain) -> float:
            if plain == "plain-out":
                shutil.rmtree(state / "plain", ignore_errors=True)
            return run(ARRAY, plain, str(state / "plain"), str(size), state=state)["took"]

        a, b = pairs(count, ours, other)
        ratio = statistics.median(y / x for x, y in zip(a, b, strict=True))
        peaks[word] = statistics.median(memory)
        rows.append(
            Row(
                f"{size / GIB:g} GiB array {word}",
                rate(size, a),
                f"{rate(size, b)} plain {what}",
                f"{ratio:.2f} x",
                "at least 0.8 x",
                ratio >= 0.8,
            )
        )
        rows.append(
            Row(
                f"memory for it, {word}",
                f"{peaks[word]:.2f} x the array",
                "",
                f"{peaks[word]:.2f} x",
                "at most 1.1 x",
                peaks[word] <= 1.1,
            )
        )
    return rows


MANY = """
import json, sys, time
from kube_nb.client import Client
count = int(sys.argv[1])
client = Client(on="local")
client.cell("pass", {}).wait()
job = client.cell(f"for i in range({count}): print('line', i)", {})
lines = job.logs(follow=True)
first = next(lines)
assert first == "line 0\\n", first
began, seen = time.perf_counter(), 1
for line in lines:
    assert line == f"line {seen}\\n", (line, seen)
    seen += 1
took = time.perf_counter() - began
assert seen == count, seen
print(json.dumps({"took": took}))
"""


def lines(state: Path, count: int) -> Row:
    """A million lines from the job to `job.logs()`, each looked at."""
    found = [run(MANY, str(LINES), state=state)["took"] for _ in range(count)]
    speed = LINES / statistics.median(found)
    return Row(
        f"{LINES:,} log lines, none lost, none twice",
        f"{statistics.median(found):.1f} s",
        "",
        f"{speed:,.0f} lines/s",
        "at least 200,000 lines/s",
        speed >= 200_000,
    )


LIST = """
import json, sys, time
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
shell.run_line_magic("load_ext", "kube_nb")
began = time.perf_counter()
table = shell.run_line_magic("kube_jobs", "")
table.text(), table.html()
took = time.perf_counter() - began
assert len(table.rows) == 50 and "950" in table.after, table.after
print(json.dumps({"took": took}))
"""
PREPARE = """
import json, shutil
from pathlib import Path
from kube_nb.client import Client
client = Client(on="local")
job = client.cell("x = 1", {}).wait()
jobs = Path(client.settings.get("state_dir")) / "jobs"
for number in range(999):
    copy = f"{job.id[:-4]}{number:04}"
    shutil.copytree(jobs / job.id, jobs / copy)
    for path in (jobs / copy).rglob("*.json"):
        path.write_text(path.read_text().replace(job.id, copy))
print(json.dumps({"took": 0}))
"""


def listing(state: Path, count: int) -> Row:
    """`%kube_jobs` in a fresh kernel with a thousand finished jobs in the directory."""
    place = state / "thousand"
    place.mkdir()
    run(PREPARE, state=place)
    found = [run(LIST, state=place)["took"] for _ in range(count)]
    took = statistics.median(found)
    return Row("`%kube_jobs` with 1,000 finished jobs", ms(found), "", f"{took:.2f} s", "at most 0.3 s", took <= 0.3)


def ms(found: list[float]) -> str:
    """The median in milliseconds."""
    return f"{statistics.median(found) * 1000:.0f} ms"


def rate(size: int, found: list[float]) -> str:
    """The median rate."""
    return f"{size / statistics.median(found) / 1e9:.2f} GB/s"


def table(rows: list[Row]) -> str:
    """The rows as Markdown."""
    out = ["| what | kube-nb | beside it | figure | budget | met |", "|---|---|---|---|---|---|"]
    for row in rows:
        met = "yes" if row.met else "**no**"
        out.append(f"| {row.what} | {row.ours} | {row.other} | {row.figure} | {row.budget} | {met} |")
    return "\n".join(out)


def keep(mark: str, text: str) -> None:
    """Put a table into docs/benchmarks.md, in place of the last one between the same marks."""
    page = HERE.parent / "docs" / "benchmarks.md"
    head, begin, rest = page.read_text().partition(f"<!-- {mark} -->\n")
    _, end, tail = rest.partition(f"<!-- end of {mark} -->\n")
    if not (begin and end):
        raise SystemExit(f"{page} has no place for `{mark}`")
    page.write_text(f"{head}{begin}{text}\n{end}{tail}")


def main() -> None:
    """Measure everything and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=5, help="counted runs of each (default 5)")
    parser.add_argument("--size", type=int, default=GIB, help="bytes of the array (default 1 GiB)")
    parser.add_argument("--write", action="store_true", help="keep the table in docs/benchmarks.md")
    args = parser.parse_args()
    state = Path(tempfile.mkdtemp(prefix="bench-", dir=HERE))
    try:
        rows = [load_ext(state, args.n), first_line(state, args.n)]
        rows += array(state, args.n, args.size)
        rows += [lines(state, max(3, args.n // 2)), listing(state, args.n)]
    finally:
        shutil.rmtree(state, ignore_errors=True)
    text = table(rows)
    print(text)
    if args.write:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
        system = f"Python {platform.python_version()}, {platform.system()}"
        machine = f"{os.cpu_count()} cores, {memory:.0f} GiB of memory, {system}"
        keep("here", f"Measured on {machine}; medians of {args.n}.\n\n{text}")


if __name__ == "__main__":
    main()
