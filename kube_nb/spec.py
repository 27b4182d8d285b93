"""What a job is: frozen values, checked where they are made, without behaviour.

Text such as "4Gi", "2:amd.com/gpu" or "1h30m" is parsed once, at the edge (`Resources.parse`, `seconds`), so that
nothing further down ever sees it. Standard library only: this file is imported on every submit.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, NewType, cast

from kube_nb.errors import BadValue

JobId = NewType("JobId", str)
Digest = NewType("Digest", str)
"""SHA-256 in hexadecimal."""

DEFAULT_GPU = "nvidia.com/gpu"
_SUFFIX = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15} | {
    f"{unit}i": 1024**power for power, unit in enumerate("KMGTP", start=1)
}
_QUANTITY = re.compile(r"(\d+(?:\.\d+)?(?:[eE]\d+)?)\s*([A-Za-z]*)")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}


class Phase(StrEnum):
    """Where a job stands. The last three are final."""

    PENDING = "Pending"
    STARTING = "Starting"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    CANCELLED = "Cancelled"

    @property
    def final(self) -> bool:
        return self in (Phase.SUCCEEDED, Phase.FAILED, Phase.CANCELLED)


def bytes_of(text: str | int) -> int:
    """A quantity of memory in bytes: `"4Gi"` (1024**3), `"4GB"` and `"4G"` (10**9), `"512MiB"`, or a number.

    Raises:
        BadValue: it is not positive, or has a unit nobody knows.
    """
    match = _QUANTITY.fullmatch(str(text).strip())
    unit = match[2] if match else None
    if unit is not None and unit not in _SUFFIX:
        unit = unit.removesuffix("B")
        unit = {"K": "k"}.get(unit, unit)
    if match is None or unit not in _SUFFIX or not 0 < float(match[1]) < 1e18:
        raise BadValue(
            what=f"`{text}` is not a quantity of memory", next="write it like 512Mi, 4Gi or 16G, larger than zero"
        )
    return int(float(match[1]) * _SUFFIX[unit])


def cores_of(text: str | float) -> float:
    """Cores: `"0.5"`, `"500m"` (thousandths, as Kubernetes writes them), `2`.

    Raises:
        BadValue: it is not positive or no number.
    """
    raw = str(text).strip()
    try:
        cores = float(raw[:-1]) / 1000 if raw.endswith("m") else float(raw)
    except ValueError:
        cores = 0.0
    if not 0 < cores < float("inf"):
        raise BadValue(what=f"`{text}` is not a number of cores", next="write it like 2, 0.5 or 500m")
    return cores


def seconds(text: str | float) -> float:
    """A duration in seconds: `"90"`, `"90s"`, `"15m"`, `"1h30m"`, `"2d"`.

    Raises:
        BadValue: it is not positive or has a unit nobody knows.
    """
    raw = str(text).strip()
    parts = _DURATION.findall(raw)
    if parts and "".join(n + u for n, u in parts) == raw:
        total = sum(float(n) * _SECONDS[u] for n, u in parts)
    else:
        try:
            total = float(raw)
        except ValueError:
            total = 0.0
    if not 0 < total < float("inf"):
        raise BadValue(what=f"`{text}` is not a duration", next="write it like 90s, 15m, 1h30m or 2d")
    return total


def count(text: str | int, what: str, least: int = 1) -> int:
    """A whole number of `what`, at least `least`."""
    try:
        number = int(str(text).strip())
    except ValueError:
        number = least - 1
    if number < least:
        raise BadValue(what=f"`{text}` is not a number of {what}", next=f"write a whole number, {least} or more")
    return number


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """Devices of one kind."""

    count: int
    resource: str = DEFAULT_GPU

    @classmethod
    def parse(cls, text: str | int) -> Gpu | None:
        """`2`, `"2"` or `"2:amd.com/gpu"`; 0 is none."""
        number, _, resource = str(text).strip().partition(":")
        devices = count(number, "GPUs", least=0)
        return cls(count=devices, resource=resource or DEFAULT_GPU) if devices else None


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What one node of a job asks for, and how many nodes and processes there are.

    Attributes:
        cpu: cores, e.g. 0.5; None: the target's default.
        memory: bytes; None: the target's default.
        gpu: devices of one kind; None: none.
        nodes: machines (or pods), each with the resources above.
        procs: ranks on each node.
    """

    cpu: float | None = None
    memory: int | None = None
    gpu: Gpu | None = None
    nodes: int = 1
    procs: int = 1

    @classmethod
    def parse(
        cls,
        *,
        cpu: str | float | None = None,
        memory: str | int | None = None,
        gpus: str | int | None = None,
        nodes: str | int = 1,
        procs: str | int = 1,
    ) -> Resources:
        """From what a person writes.

        Raises:
            BadValue: a quantity is not positive, or has a unit nobody knows.

        Example:
            >>> Resources.parse(gpus="2:amd.com/gpu", memory="4Gi").memory
            4294967296
        """
        return cls(
            cpu=None if cpu is None else cores_of(cpu),
            memory=None if memory is None else bytes_of(memory),
            gpu=None if gpus is None else Gpu.parse(gpus),
            nodes=count(nodes, "nodes"),
            procs=count(procs, "processes"),
        )

    @property
    def world_size(self) -> int:
        return self.nodes * self.procs


@dataclass(frozen=True, kw_only=True)
class Task:
    """What runs.

    Attributes:
        kind: which verb's work it is.
        label: how a person calls it, e.g. "Cell In[5]" or "fit".
    """

    kind: Literal["cell", "function", "script", "notebook"] = "cell"
    label: str = ""


@dataclass(frozen=True, kw_only=True)
class Environment:
    """What the code finds around it.

    Attributes:
        image: container image; None: the target's default. Without effect on a target that runs no containers.
        packages: requirements that are installed before the code starts, e.g. ("lightgbm==4.5.0",).
        install: "missing" installs what is not there, "never" refuses instead.
        env_names: names of the variables that are set; their values are secrets and travel in the bundle alone.
    """

    image: str | None = None
    packages: tuple[str, ...] = ()
    install: Literal["missing", "never"] = "missing"
    env_names: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Placement:
    """What only a cluster knows; a target without it says for each that it has no effect.

    Attributes:
        namespace: where; None: the target's own.
        secrets: names of Secrets, as environment or files.
        volumes: claims and where they are mounted, `CLAIM:/path`.
        queue: of the cluster's job queueing.
        via: another kind of object that runs the job, e.g. "trainjob".
        patches: files with a patch for what a platform team insists on.
    """

    namespace: str | None = None
    secrets: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    queue: str | None = None
    via: str | None = None
    patches: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Policy:
    """How long, how often.

    Attributes:
        retries: failures of the user's code that are tried again.
        timeout: seconds from the start of the code; None: no limit.
        grace: seconds between SIGTERM and SIGKILL.
    """

    retries: int = 0
    timeout: float | None = None
    grace: float = 10.0


@dataclass(frozen=True, kw_only=True)
class JobSpec:
    """One act of a person: run this, there, with that."""

    id: JobId
    name: str
    task: Task = field(default_factory=Task)
    resources: Resources = field(default_factory=Resources)
    environment: Environment = field(default_factory=Environment)
    policy: Policy = field(default_factory=Policy)
    placement: Placement = field(default_factory=Placement)


def spec_from(record: dict[str, Any]) -> JobSpec:
    """The spec that `dataclasses.asdict` turned into plain values, read back from JSON.

    Raises:
        TypeError: it is none.
    """

    def tuples(values: dict[str, Any]) -> dict[str, Any]:
        return {key: tuple(cast("list[Any]", one)) if isinstance(one, list) else one for key, one in values.items()}

    resources = dict(record["resources"])
    gpu = resources.pop("gpu")
    return JobSpec(
        id=JobId(record["id"]),
        name=record["name"],
        task=Task(**record["task"]),
        resources=Resources(**resources, gpu=Gpu(**gpu) if gpu else None),
        environment=Environment(**tuples(record["environment"])),
        policy=Policy(**record["policy"]),
        placement=Placement(**tuples(record["placement"])),
    )


def new_job_id(name: str) -> JobId:
    """A DNS label that nobody else has: the name, cut and cleaned, and 40 random bits.

    Example:
        >>> new_job_id("Train the model!")  # doctest: +SKIP
        'train-the-model-4kq8z2pd'
    """
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40].strip("-") or "job"
    if not slug[0].isalpha():
        slug = f"job-{slug}"
    alphabet = "abcdefghijkmnpqrstuvwxyz23456789"
    return JobId(f"{slug}-{''.join(secrets.choice(alphabet) for _ in range(8))}")
