"""The speed of jobs on a cluster: interleaved pairs in one run, medians, the same node, image and work on both sides.

`python -m benchmarks.cluster [PART ...]` prints a table; `--write` puts it into docs/benchmarks.md. It uses the cluster
of KUBECONFIG's current context, as its user. What is asked is counted in the API server's audit log, which lies beside
LAB_ADMIN_KUBECONFIG in the lab; without it those rows say so.

(Not named after the package that it measures: a script's folder comes first on sys.path.)
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import yaml

from benchmarks.core import Row, keep, ms, pairs, rate, table
from benchmarks.reasons import delays
from kube_nb.backends.kubernetes import names
from kube_nb.backends.kubernetes.api import Api
from kube_nb.backends.kubernetes.api_error import ApiError
from kube_nb.backends.kubernetes.connect import Place, connect
from kube_nb.backends.kubernetes.kinds import JOBS, PODS, SECRETS, Kind
from kube_nb.backends.kubernetes.snapshot import state
from kube_nb.backends.kubernetes.transfer import Container, get_objects, put_objects
from kube_nb.client import Client
from kube_nb.config import Settings
from kube_nb.events import Event
from kube_nb.jobs.job import Job
from kube_nb.runner.objects import Objects
from kube_nb.spec import Phase
from tests.cluster.audit import Audit, Request, audited

IMAGE = "python:3.11-slim"
CPU, MEMORY = "100m", "256Mi"
WORK = "total = sum(range(1_000_000))\nprint(total)"
PACKAGE = "iniconfig"
WAITS = "import time\nprint('ready')\ntime.sleep({seconds})"
MOST_REQUESTS = 12


@dataclass
class Bench:
    """The cluster, a client that is warm, and how often things are measured.

    Attributes:
        api: a connection of the benchmark's own; what it asks does not count.
        client: made with the smallest pods that do.
        audit: what the client asks; None: nobody writes it down where it can be read.
    """

    api: Api
    target: str
    state: Path
    count: int
    size: int
    followed: int
    audit: Audit | None
    made: list[Job] = field(default_factory=list[Job])

    def client(self, **options: Any) -> Client:
        settings = Settings.load(environ={**os.environ, "KUBE_NB_STATE_DIR": str(self.state)}, cwd=self.state)
        return Client(on=self.target, settings=settings, image=IMAGE, **({"cpu": CPU, "memory": MEMORY} | options))

    def send(self, client: Client, source: str, values: Mapping[str, Any] | None = None) -> Job:
        self.made.append(client.cell(source, {"__name__": "__main__", **(values or {})}))
        return self.made[-1]

    def remove(self) -> None:
        """All jobs that were made."""
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda job: self.api.delete(JOBS, job.id), self.made))
        self.made.clear()


def kubectl(*words: str, given: str | None = None) -> str:
    done = subprocess.run(["kubectl", *words], input=given, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"kubectl {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


def handwritten(name: str, source: str) -> str:
    """The Job that a person would write for the same work, with nothing of ours."""
    container = {
        "name": "main",
        "image": IMAGE,
        "command": ["python3", "-c", source],
        "resources": {"requests": {"cpu": CPU, "memory": MEMORY}, "limits": {"memory": MEMORY}},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    security = {"runAsNonRoot": True, "runAsUser": names.UID, "seccompProfile": {"type": "RuntimeDefault"}}
    pod = {"restartPolicy": "Never", "securityContext": security, "containers": [container]}
    spec = {"backoffLimit": 0, "template": {"spec": pod}}
    return json.dumps({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": spec})


# Submit to result ---------------------------------------------------------------------------------------------------


def submit(bench: Bench) -> list[Row]:
    """A cell's value in the kernel's hands, against a hand-written Job's log read to its end."""
    client = bench.client()

    def ours() -> float:
        began = time.perf_counter()
        job = bench.send(client, WORK)
        lines = list(job.logs(follow=True))
        assert job.result() == {"total": 499999500000}, job.result()
        took = time.perf_counter() - began
        assert lines == ["499999500000\n"], lines
        return took

    def other() -> float:
        name = f"bench-{uuid4().hex[:8]}"
        began = time.perf_counter()
        kubectl("apply", "-f", "-", given=handwritten(name, WORK))
        log = kubectl("logs", "-f", started(name))
        took = time.perf_counter() - began
        assert log == "499999500000\n", log
        kubectl("delete", "job", name, "--wait=false")
        return took

    a, b = pairs(bench.count, ours, other)
    ratio = statistics.median(x / y for x, y in zip(a, b, strict=True))
    return [
        Row(
            "submit to result on a cluster",
            ms(a),
            f"{ms(b)} `kubectl apply`, `get --watch`, `logs -f` of an equal Job",
            f"{ratio:.2f} x",
            "at most 1.1 x",
            ratio <= 1.1,
        )
    ]


def started(job: str) -> str:
    """The name of a Job's pod once its container runs or has run, which one watch tells as soon as anybody knows."""
    what = "jsonpath={.metadata.name} {.status.phase}{'\\n'}"
    watch = subprocess.Popen(
        ["kubectl", "get", "pods", "-l", f"job-name={job}", "--watch", "-o", what], stdout=subprocess.PIPE, text=True
    )
    assert watch.stdout is not None
    try:
        for line in watch.stdout:
            name, _, phase = line.strip().partition(" ")
            if phase in ("Running", "Succeeded"):
                return name
    finally:
        watch.kill()
        watch.wait()
    raise SystemExit(f"kubectl stopped watching the pods of {job}")


# Requests -----------------------------------------------------------------------------------------------------------


LARGE = 2_000_000
"""Bytes that no Secret holds; they go through the store."""
IDLE = 150
"""Seconds after which the pod that carries them has ended by itself."""


def requests(bench: Bench) -> list[Row]:
    """What a submit asks, what the watch asks that all jobs share, and what etcd keeps of a job."""
    if bench.audit is None:
        return [Row("requests of a submit", "not counted: no audit log", "", "", f"at most {MOST_REQUESTS}", False)]
    client = bench.client()
    bench.audit.begin()
    job = bench.send(client, "x = 1")
    kept = stored(bench.api, job.id)
    job.wait(120)  # by now it is watched
    first = bench.audit.requests()
    watch = sum(_is_of_the_watch(request) for request in first)
    mine = [request for request in first if not _is_of_the_watch(request)]
    again = _asked_by_submit(bench, client, b"")
    time.sleep(IDLE)
    carried = [_asked_by_submit(bench, client, os.urandom(LARGE)) for _ in range(2)]
    text = ", ".join(f"{size / 1000:.1f} kB {kind}" for kind, size in kept.items())
    most = max(_of_submit(mine), again)
    return [
        Row(
            "requests of a submit",
            f"{_of_submit(mine)}, the next {again}; with what is too large for a Secret {carried[0]}, the next "
            f"{carried[1]}",
            "",
            str(most),
            f"at most {MOST_REQUESTS}",
            most <= MOST_REQUESTS,
        ),
        Row("requests of the watch that all jobs of a process share, once", str(watch), "", str(watch), "stated", True),
        Row(
            "etcd for a job: until it ends, the Secret too",
            text,
            "",
            f"{sum(kept.values()) / 1000:.1f} kB",
            "stated",
            True,
        ),
    ]


def _is_of_the_watch(request: Request) -> bool:
    return request.verb in ("list", "watch") and request.resource in ("jobs", "pods", "events")


def _asked_by_submit(bench: Bench, client: Client, data: bytes) -> int:
    """Requests until a submit returns, with the watch open already."""
    assert bench.audit is not None
    bench.audit.begin()
    job = bench.send(client, "n = len(data)", {"data": data} if data else {"data": b"few"})
    asked = len(bench.audit.requests())
    job.wait(120)
    job.result()
    return asked


def _of_submit(asked: list[Request]) -> int:
    """Those up to the one that makes the Secret, which a submit makes last."""
    made = [at for at, request in enumerate(asked) if str(request) == "create secrets"]
    return made[-1] + 1 if made else len(asked)


def stored(api: Api, id: str) -> dict[str, int]:
    """Bytes of a job's objects as etcd keeps them: Kubernetes' own binary form."""
    pods = [pod["metadata"]["name"] for pod in _pods(api, id)]
    found = {"Job": _bytes(api, JOBS, id), "Secret": _bytes(api, SECRETS, id)}
    return found | {"pod": sum(_bytes(api, PODS, pod) for pod in pods)}


def _pods(api: Api, id: str) -> list[dict[str, Any]]:
    give_up = time.monotonic() + 60
    while not (found := api.list(PODS, labels=f"{names.JOB}={id}")[0]):
        if time.monotonic() > give_up:
            raise SystemExit(f"job {id} has no pod")
        time.sleep(0.05)
    return found


def _bytes(api: Api, kind: Kind, name: str) -> int:
    answer = api.client.rest_client.pool_manager.request(
        "GET",
        api.client.configuration.host + kind.path(api.namespace, name),
        headers={"Accept": "application/vnd.kubernetes.protobuf"}
        | ({"Authorization": token} if (token := api.authorization()) else {}),
    )
    return len(answer.data)


def following(bench: Bench) -> list[Row]:
    """Requests of a minute in which jobs run and are followed, with one job and with many."""
    if bench.audit is None:
        return [Row("requests while jobs are followed", "not counted: no audit log", "", "", "constant", False)]
    client = bench.client(cpu="10m", memory="64Mi")
    counted: dict[int, int] = {}
    begun: dict[int, int] = {}
    with ThreadPoolExecutor(bench.followed) as pool:
        for number in (1, bench.followed):
            bench.audit.begin()
            jobs = [bench.send(client, WAITS.format(seconds=3600)) for _ in range(number)]
            firsts = list(pool.map(_first, jobs))
            begun[number] = len(bench.audit.requests())
            bench.audit.begin()
            time.sleep(60)
            counted[number] = len(bench.audit.requests())
            for job in jobs:
                bench.api.delete(JOBS, job.id)
            for lines in firsts:
                pool.submit(list, lines)  # to the end, which comes by itself
    few, many = counted[1], counted[bench.followed]
    return [
        Row(
            f"requests in a minute of following {bench.followed} jobs",
            f"{many} (from submit to first line {begun[bench.followed] / bench.followed:.1f} for each)",
            f"{few} with one job",
            f"{many - few:+d}",
            "no more than with one",
            many <= few,
        )
    ]


def _first(job: Job) -> Iterator[str]:
    """Follow until the first line is there."""
    lines = job.logs(follow=True)
    next(lines)
    return lines


# The first line -----------------------------------------------------------------------------------------------------

SETTLED = 10
"""Lines that may have been printed before anybody followed."""
TICKS = """
import time
for _ in range({count}):
    print(time.time(), flush=True)
    time.sleep(0.2)
"""


def first_line(bench: Bench) -> list[Row]:
    """When a line is at the kernel: the first after the node shows it to anybody, others after they were printed."""
    client = bench.client()
    firsts, ours, theirs = [], [], []
    with ThreadPoolExecutor(2) as pool:
        for _ in range(bench.count):
            job = bench.send(client, TICKS.format(count=25))
            shown = pool.submit(_shown, bench.api, job.id)
            beside = pool.submit(_kubectl_delays, bench.api, job.id)
            stamps = [(float(line), time.time()) for line in job.logs(follow=True)]
            firsts.append(max(0.0, stamps[0][1] - shown.result()))
            ours += [seen - printed for printed, seen in stamps[SETTLED:]]
            theirs += beside.result()
    a, b = statistics.median(ours), statistics.median(theirs)
    first = statistics.median(firsts)
    return [
        Row(
            "first line at the kernel, after the node shows it to anybody",
            ms(firsts),
            "a reader that asks every 10 ms",
            f"{first * 1000:+.0f} ms",
            "at most +100 ms",
            first <= 0.1,
        ),
        Row(
            "a later line, from print to kernel",
            ms(ours),
            f"{ms(theirs)} `kubectl logs -f` of the same pod",
            f"{(a - b) * 1000:+.0f} ms",
            "at most +100 ms",
            a - b <= 0.1,
        ),
    ]


def _shown(api: Api, id: str) -> float:
    """When the node first shows a line that the job printed."""
    pod = _pods(api, id)[0]["metadata"]["name"]
    give_up = time.monotonic() + 60
    while time.monotonic() < give_up:
        try:
            with api.stream("GET", PODS, pod, "log", query={"container": names.CONTAINER}) as response:
                if any(line[:1].isdigit() for line in response.read().splitlines()):
                    return time.time()
        except ApiError:
            pass  # it has not started
        time.sleep(0.01)
    raise SystemExit(f"the node never showed a line of {pod}")


def _kubectl_delays(api: Api, id: str) -> list[float]:
    """The same of `kubectl logs -f`, begun as soon as there is a container."""
    pod = _pods(api, id)[0]["metadata"]["name"]
    while not state(api.get(PODS, pod), "running"):
        time.sleep(0.02)
    reader = subprocess.Popen(["kubectl", "logs", "-f", pod], stdout=subprocess.PIPE, text=True)
    assert reader.stdout is not None
    with reader:
        return [time.time() - float(line) for line in reader.stdout if line[:1].isdigit()][SETTLED:]


# An array -----------------------------------------------------------------------------------------------------------


def array(bench: Bench) -> list[Row]:
    """Bytes to the pod and back, verified at both ends, against a bare pipe through the same exec."""
    job = bench.send(bench.client(memory="1Gi"), WAITS.format(seconds=3600))
    pod = _pods(bench.api, job.id)[0]["metadata"]["name"]
    lines = job.logs(follow=True)
    next(lines)
    container = Container(bench.api, pod)
    objects = Objects(bench.state / "objects")
    with objects.writer() as writer:
        for _ in range(bench.size // 1_000_000):
            writer.write(os.urandom(1_000_000))
        digest = writer.finish()
    here = bench.state / "objects" / digest
    back = bench.state / "back"
    back.mkdir(exist_ok=True)
    counter = iter(range(1000))
    folders: list[str] = []

    def put() -> float:
        folders.append(f"{names.RUN}/bench-{next(counter)}")
        return timed(lambda: put_objects(container, folders[-1], {digest: here}))

    def pipe_in() -> float:
        clear(pod, folders[:-1])
        command = ["kubectl", "exec", "-i", pod, "--", "sh", "-c", f"cat > {names.RUN}/plain"]

        def send() -> None:
            with open(here, "rb") as file:
                subprocess.run(command, stdin=file, check=True)

        return timed(send)

    def get() -> float:
        (back / digest).unlink(missing_ok=True)
        return timed(lambda: get_objects(container, folders[-1], {digest: back / digest}))

    def pipe_out() -> float:
        def fetch() -> None:
            with open(back / "plain", "wb") as file:
                subprocess.run(["kubectl", "exec", pod, "--", "cat", f"{names.RUN}/plain"], stdout=file, check=True)

        return timed(fetch)

    rows = []
    count = max(2, bench.count // 2)
    for word, ours, other in (("to the pod", put, pipe_in), ("back", get, pipe_out)):
        a, b = pairs(count, ours, other)
        ratio = statistics.median(y / x for x, y in zip(a, b, strict=True))
        rows.append(
            Row(
                f"a file of {bench.size / 1e6:.0f} MB {word}, verified",
                rate(bench.size, a),
                f"{rate(bench.size, b)} `kubectl exec` and a pipe",
                f"{ratio:.2f} x",
                "at least 0.7 x",
                ratio >= 0.7,
            )
        )
    bench.api.delete(JOBS, job.id)
    return rows


def timed(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def clear(pod: str, folders: list[str]) -> None:
    """A container's disk is not without end."""
    if folders:
        kubectl("exec", pod, "--", "rm", "-rf", *folders)


# Packages -----------------------------------------------------------------------------------------------------------


def packages(bench: Bench) -> list[Row]:
    """A job whose packages another job has installed, against one that needs none."""
    client = bench.client()
    installed: list[str] = []

    def first(source: str) -> tuple[float, str]:
        began = time.perf_counter()
        job = bench.send(client, source)
        lines = job.logs(follow=True)
        line = next(lines, "")
        took = time.perf_counter() - began
        assert job.wait(120).phase is Phase.SUCCEEDED, job.reason
        installed.extend(_installs(job))
        return took, line

    needs = f"import {PACKAGE}\nprint({PACKAGE}.__file__)"
    installing, line = first(needs)
    installed.clear()
    a, b = pairs(bench.count, lambda: first(needs)[0], lambda: first("print('none')")[0])
    extra = statistics.median(x - y for x, y in zip(a, b, strict=True))
    where = "in the store" if names.STORE_MOUNT in line else line.strip()
    return [
        Row(
            "second job with the same packages: work for its environment",
            f"{ms(a)} to the first line ({installing * 1000:.0f} ms the first time here; {where})",
            f"{ms(b)} without packages",
            f"{extra * 1000:+.0f} ms",
            "at most +1000 ms, no install",
            extra <= 1.0 and not installed,
        )
    ]


def _installs(job: Job) -> Iterator[str]:
    """What the runner said while it installed something."""
    for batch in job.follow(wait=False):
        for item in batch:
            if isinstance(item, Event) and item.kind == "state" and item.data.get("step") == "install":
                yield item.data.get("text", "")


# Reasons ------------------------------------------------------------------------------------------------------------

SOON = 5.0
"""Seconds after the cluster in which a person is to know."""


def reasons(bench: Bench) -> list[Row]:
    """What goes wrong, told to the kernel, after the cluster shows it to anybody."""
    measured = delays(bench.api, bench.client().backend, bench.count)
    worst = max((max(times), code) for code, times in measured.items())
    middle = statistics.median(time for times in measured.values() for time in times)
    return [
        Row(
            f"a reason at the kernel, after the cluster knows it ({len(measured)} kinds of trouble)",
            f"{middle * 1000:+.0f} ms; the slowest, {worst[1]}, {worst[0] * 1000:+.0f} ms",
            "a watch of its own",
            f"{worst[0] * 1000:+.0f} ms",
            f"at most +{SOON * 1000:.0f} ms",
            worst[0] <= SOON,
        )
    ]


PARTS: dict[str, Callable[[Bench], list[Row]]] = {
    "requests": requests,  # first: what this process has asked once, it remembers
    "submit": submit,
    "following": following,
    "first-line": first_line,
    "array": array,
    "packages": packages,
    "reasons": reasons,
}


@contextmanager
def benches(args: argparse.Namespace) -> Iterator[Bench]:
    """What the parts need; what they made is removed."""
    path = os.environ.get("KUBECONFIG") or str(Path.home() / ".kube" / "config")
    target = yaml.safe_load(Path(path).read_text())["current-context"]
    api = connect(Place("bench", target, kubeconfig=path))
    with ExitStack() as stack:
        state = stack.enter_context(tempfile.TemporaryDirectory(prefix="kube-nb-bench-", ignore_cleanup_errors=True))
        try:
            audit = stack.enter_context(audited(f"kube-nb-bench-{uuid4().hex[:8]}"))
        except LookupError:
            audit = None
        bench = Bench(api, target, Path(state), args.n, args.size, args.followed, audit)
        stack.callback(bench.remove)
        yield bench


def main() -> int:
    """Measure the parts that are named, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", nargs="*", help=f"of {', '.join(PARTS)}; none: all")
    parser.add_argument("-n", type=int, default=5, help="counted runs of each (default 5)")
    parser.add_argument("--size", type=int, default=500_000_000, help="bytes of the array (default 500 MB)")
    parser.add_argument(
        "--followed", type=int, default=100, help="jobs that run and are followed at once (default 100)"
    )
    parser.add_argument("--write", action="store_true", help="keep the table in docs/benchmarks.md")
    args = parser.parse_args()
    unknown = set(args.part) - set(PARTS)
    if unknown:
        parser.error(f"no part {', '.join(sorted(unknown))}: there are {', '.join(PARTS)}")
    rows: list[Row] = []
    began = time.monotonic()
    with benches(args) as bench:
        for name in args.part or PARTS:
            rows += PARTS[name](bench)
            bench.remove()
    text = table(rows)
    print(text, f"\n\nin {time.monotonic() - began:.0f} s")
    if args.write:
        machine = (
            f"{os.cpu_count()} cores for cluster and client, Python {platform.python_version()}, {platform.system()}"
        )
        keep("cluster", f"Measured on {machine}; medians of {args.n}.\n\n{text}")
    return 0 if all(row.met for row in rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
