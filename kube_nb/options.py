"""The options of everything that submits, as a person gives them, and the spec they make."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from typing import Any

from kube_nb.config import Settings
from kube_nb.errors import BadFlag, BadValue
from kube_nb.settings import table_of
from kube_nb.spec import (
    Environment,
    JobSpec,
    Placement,
    Policy,
    Resources,
    SecretUse,
    Task,
    VolumeUse,
    count,
    new_job_id,
    seconds,
)

_SETTINGS = (
    *("cpu", "memory", "gpus", "gpu_product", "shm", "disk", "image", "namespace", "node_selector"),
    *("priority_class", "runtime_class", "service_account", "queue", "via", "on_interrupt"),
)
"""Options that are settings too, whose strongest layer is the flag."""
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, kw_only=True)
class Options:
    """One field for each flag of INTERFACE: text or plain values, None where the setting or the target decides.

    Attributes:
        on: target, or target/namespace.
        send: send only these names; keep: keep these here.
        outputs: bring back exactly these; empty: nothing; None: what was assigned or changed.
        env: NAME=VALUE, or NAME for the kernel's own value; a mapping, where None is the kernel's own, or such texts.
    """

    on: str | None = None
    namespace: str | None = None
    name: str | None = None
    send: tuple[str, ...] | None = None
    keep: tuple[str, ...] = ()
    outputs: tuple[str, ...] | None = None
    include: tuple[str, ...] = ()
    collect: tuple[str, ...] = ()
    gpus: str | int | None = None
    cpu: str | float | None = None
    memory: str | int | None = None
    gpu_product: tuple[str, ...] | None = None
    shm: str | int | None = None
    disk: str | int | None = None
    nodes: str | int = 1
    procs: str | int = 1
    image: str | None = None
    packages: tuple[str, ...] = ()
    env: Mapping[str, str | None] | tuple[str, ...] = field(default=(), repr=False)
    secret: tuple[str, ...] = ()
    volume: tuple[str, ...] = ()
    node_selector: Mapping[str, str] | None = None
    priority_class: str | None = None
    runtime_class: str | None = None
    service_account: str | None = None
    queue: str | None = None
    via: str | None = None
    patch: tuple[str, ...] = ()
    retries: str | int = 0
    timeout: str | float | None = None
    on_interrupt: str | None = None
    dry_run: bool = False
    session: str | None = None

    def having(self, **changes: Any) -> Options:
        """A copy with these options; a text stands for a list of one, None for `not given`.

        Raises:
            BadFlag: there is no such option; the nearest one is named.
        """
        known = {f.name: f for f in fields(self)}
        for name in changes:
            if name not in known:
                near = get_close_matches(name, known, n=1)
                raise BadFlag(
                    what=f"there is no option `{name}`",
                    next=f"did you mean `{near[0]}`?" if near else "the options are: " + ", ".join(known),
                )
        many = {"send", "keep", "outputs", "include", "collect", "packages", "gpu_product", "secret", "volume", "patch"}
        given = {
            name: _names(value) if name in many else tuple(value) if isinstance(value, list) else value
            for name, value in changes.items()
            if value is not None
        }
        if given.get("outputs") == ("none",):
            given["outputs"] = ()
        if "node_selector" in given:
            given["node_selector"] = _table(given["node_selector"])
        return replace(self, **given)

    def variables(self, settings: Settings, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
        """The job's environment variables with their values, which are secrets.

        Raises:
            BadValue: a name without a value is not set here, or is no name.
        """
        patterns: Iterable[str] = settings.get("pass_env") or ()
        found = {k: v for k, v in environ.items() if any(fnmatch.fnmatchcase(k, p) for p in patterns)}
        for name, value in self.env.items() if isinstance(self.env, Mapping) else map(_pair, self.env):
            if not _ENV_NAME.fullmatch(name):
                raise BadValue(
                    what=f"`{name}` is not a name of a variable", next="write --env NAME or --env NAME=VALUE"
                )
            if value is None:
                if name not in environ:
                    raise BadValue(
                        what=f"the variable `{name}` is not set in this kernel",
                        next=f"write --env {name}=VALUE, or set os.environ[{name!r}] first",
                    )
                value = environ[name]
            found[name] = str(value)
        return found

    def spec(self, task: Task, settings: Settings, *, default_name: str, env_names: Iterable[str] = ()) -> JobSpec:
        """What is submitted: parsed, with the settings where an option was not given.

        Raises:
            BadValue: a quantity, duration or count means nothing.
            BadFlag: an option that is not yet built.
        """
        if self.session:
            raise BadFlag(
                what="`--session` is reserved: cells cannot yet share one live process",
                next="leave it out; every cell starts a job of its own",
            )
        name = self.name or default_name
        settings = settings.with_layer("flag", {key: getattr(self, key) for key in _SETTINGS})
        if self.gpu_product and settings.get("gpus") in (None, "0"):
            raise BadFlag(
                what=f"`--gpu-product {','.join(self.gpu_product)}` names a model, but the job asks for no GPU",
                next=f"write --gpus 1 --gpu-product {','.join(self.gpu_product)}",
            )
        return JobSpec(
            id=new_job_id(name),
            name=name,
            task=task,
            resources=Resources.parse(
                cpu=settings.get("cpu"),
                memory=settings.get("memory"),
                gpus=settings.get("gpus"),
                gpu_product=settings.get("gpu_product"),
                shm=settings.get("shm"),
                disk=settings.get("disk"),
                nodes=self.nodes,
                procs=self.procs,
            ),
            environment=Environment(
                image=settings.get("image"),
                packages=self.packages,
                install=settings.get("install"),
                env_names=tuple(sorted(env_names)),
            ),
            policy=Policy(
                retries=count(self.retries, "retries", least=0),
                timeout=None if self.timeout is None else seconds(self.timeout),
            ),
            placement=Placement(
                namespace=settings.get("namespace"),
                secrets=tuple(map(SecretUse.parse, self.secret)),
                volumes=tuple(map(VolumeUse.parse, self.volume)),
                node_selector=settings.get("node_selector"),
                priority_class=settings.get("priority_class"),
                runtime_class=settings.get("runtime_class"),
                service_account=settings.get("service_account"),
                queue=settings.get("queue"),
                via=settings.get("via"),
                patches=self.patch,
            ),
        )


def _pair(text: str) -> tuple[str, str | None]:
    name, equals, value = text.partition("=")
    return name, value if equals else None


def _table(value: Any) -> Mapping[str, str]:
    """A mapping, or texts `name=value`."""
    return table_of(value if isinstance(value, (str, Mapping)) else ",".join(value))


def _names(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return tuple(str(item) for item in value)
