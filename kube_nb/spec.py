"""What a job is: frozen values, checked where they are made, without behaviour.

Text such as "4Gi", "2:amd.com/gpu" or "1h30m" is parsed once, at the edge (`Resources.parse`, `seconds`), so that
nothing further down ever sees it. Standard library only: this file is imported on every submit.
"""

from __future__ import annotations

import posixpath
import re
import secrets
from collections.abc import Iterable, Mapping
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
_RESOURCE = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?/[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
_OBJECT = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_LABEL_VALUE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
SECRETS_AT = "/kube-nb/secrets"
"""Where the files of a Secret lie that names no path of its own."""
_OURS = "/kube-nb"
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


def _name(text: str, pattern: re.Pattern[str], what: str, like: str) -> str:
    if not pattern.fullmatch(text):
        raise BadValue(what=f"`{text}` is not {what}", next=f"write it like {like}")
    return text


def object_name(text: str, what: str) -> str:
    """The name of an object of the cluster, e.g. `object_name("gpu-high", "a priority class")`.

    Raises:
        BadValue: no object can have that name.
    """
    return _name(text.strip(), _OBJECT, f"the name of {what}", "my-name: small letters, digits, - and .")


def _mount(text: str) -> str:
    """A folder in the container that the code may have for itself."""
    path = posixpath.normpath("/" + text.lstrip("/")) if text.startswith("/") else "/"
    if path == "/" or ":" in path:
        raise BadValue(what=f"`{text}` is not a folder for a volume", next="write an absolute path, e.g. /data")
    if path == _OURS or (path.startswith(f"{_OURS}/") and not path.startswith(f"{SECRETS_AT}/")):
        raise BadValue(what=f"nothing can be mounted at `{path}`", why=f"{_OURS} holds what the job runs with")
    return path


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """Devices of one kind.

    Attributes:
        resource: as the cluster calls it: any extended resource, e.g. "nvidia.com/mig-1g.5gb".
        products: models of which one will do, as the nodes' labels call them; empty: any.
    """

    count: int
    resource: str = DEFAULT_GPU
    products: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str | int, products: Iterable[str] = ()) -> Gpu | None:
        """`2`, `"2"` or `"2:amd.com/gpu"`; 0 is none.

        Raises:
            BadValue: it is no number, or the resource or a product is no name.
        """
        number, colon, resource = str(text).strip().partition(":")
        devices = count(number, "GPUs", least=0)
        if colon and not _RESOURCE.fullmatch(resource):
            raise BadValue(
                what=f"`{resource}` is not a name of a resource",
                next="write it like 1:amd.com/gpu or 1:nvidia.com/mig-1g.5gb",
            )
        found = tuple(_name(product, _LABEL_VALUE, "a GPU's product", "NVIDIA-A100-SXM4-80GB") for product in products)
        return cls(count=devices, resource=resource or DEFAULT_GPU, products=found) if devices else None


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What one node of a job asks for, and how many nodes and processes there are.

    Attributes:
        cpu: cores, e.g. 0.5; None: the target's default.
        memory: bytes; None: the target's default.
        gpu: devices of one kind; None: none.
        shm: bytes of /dev/shm; None: as much as the memory.
        disk: bytes of the node's own disk; None: not limited by the job.
        nodes: machines (or pods), each with the resources above.
        procs: ranks on each node.
    """

    cpu: float | None = None
    memory: int | None = None
    gpu: Gpu | None = None
    shm: int | None = None
    disk: int | None = None
    nodes: int = 1
    procs: int = 1

    @classmethod
    def parse(
        cls,
        *,
        cpu: str | float | None = None,
        memory: str | int | None = None,
        gpus: str | int | None = None,
        gpu_product: Iterable[str] | None = None,
        shm: str | int | None = None,
        disk: str | int | None = None,
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
            gpu=None if gpus is None else Gpu.parse(gpus, gpu_product or ()),
            shm=None if shm is None else bytes_of(shm),
            disk=None if disk is None else bytes_of(disk),
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
class SecretUse:
    """A Secret of the cluster that the code sees.

    Attributes:
        path: a folder with a file for each entry; empty: the entries are environment variables.
    """

    name: str
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> SecretUse:
        """`NAME`: as environment variables; `NAME:/path`: as files; `NAME:`: as files in a folder of that name.

        Raises:
            BadValue: it is none of these.
        """
        name, colon, path = text.strip().partition(":")
        name = _name(name, _OBJECT, "the name of a Secret", "NAME, NAME:/path or NAME:")
        return cls(name=name, path=_mount(path or f"{SECRETS_AT}/{name}") if colon else "")


@dataclass(frozen=True, kw_only=True)
class VolumeUse:
    """A claim of the cluster and where it is mounted."""

    claim: str
    path: str
    read_only: bool = False

    @classmethod
    def parse(cls, text: str) -> VolumeUse:
        """`CLAIM:/path`, or `CLAIM:/path:ro` to read it only.

        Raises:
            BadValue: it is neither.
        """
        claim, colon, rest = text.strip().partition(":")
        path, _, mode = rest.partition(":")
        if not colon or mode not in ("", "ro", "rw"):
            raise BadValue(what=f"`{text}` names no volume", next="write CLAIM:/path or CLAIM:/path:ro")
        claim = _name(claim, _OBJECT, "the name of a claim", "CLAIM:/path")
        return cls(claim=claim, path=_mount(path), read_only=mode == "ro")


@dataclass(frozen=True, kw_only=True)
class Platform:
    """Where packages are installed that are not the kernel's own.

    Attributes:
        system: "Linux", "Darwin" or "Windows". machine: as `platform.machine()` says it there.
        python: full version, e.g. "3.11.7".
        needs: modules that the target itself needs beside the code, e.g. to reach its store.
    """

    system: str = "Linux"
    machine: str = "x86_64"
    python: str = "3.11.0"
    needs: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Placement:
    """What only a cluster knows; a target without it says for each that it has no effect.

    Attributes:
        namespace: where; None: the target's own.
        secrets: Secrets, as environment or files.
        volumes: claims and where they are mounted.
        node_selector: labels that a node must have.
        priority_class, runtime_class, service_account: names of the cluster's; None: its default.
        queue: of the cluster's job queueing.
        via: another kind of object that runs the job, e.g. "trainjob".
        patches: files with a patch for what a platform team insists on.
    """

    namespace: str | None = None
    secrets: tuple[SecretUse, ...] = ()
    volumes: tuple[VolumeUse, ...] = ()
    node_selector: Mapping[str, str] = field(default_factory=dict[str, str])
    priority_class: str | None = None
    runtime_class: str | None = None
    service_account: str | None = None
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
    placement = tuples(record["placement"])
    placement["secrets"] = tuple(SecretUse(**one) for one in placement["secrets"])
    placement["volumes"] = tuple(VolumeUse(**one) for one in placement["volumes"])
    return JobSpec(
        id=JobId(record["id"]),
        name=record["name"],
        task=Task(**record["task"]),
        resources=Resources(**resources, gpu=Gpu(**tuples(gpu)) if gpu else None),
        environment=Environment(**tuples(record["environment"])),
        policy=Policy(**record["policy"]),
        placement=Placement(**placement),
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
