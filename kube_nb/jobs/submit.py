"""From an act of a person to a job: look, pack, write it down, create."""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from kube_nb.backends.base import Backend, Bundle, Carried, Finding, Rehearsal, refuse
from kube_nb.capture.bundle import Progress, pack, repack
from kube_nb.capture.cargo import Cargo, load_cargo
from kube_nb.capture.work import Choice, Work
from kube_nb.config import Settings
from kube_nb.errors import BadValue, NotFound, Refused, StorageFailed
from kube_nb.jobs.assign import ABSENT, BEFORE, JOURNAL, fingerprints
from kube_nb.jobs.card import asked_text
from kube_nb.jobs.job import Job
from kube_nb.jobs.journal import Entry, Journal
from kube_nb.jobs.outputs import kernel_namespace, size_text
from kube_nb.jobs.yaml_text import yaml_of
from kube_nb.options import Options
from kube_nb.spec import JobSpec, new_job_id, spec_from


@dataclass(frozen=True, kw_only=True)
class DryRun:
    """What a submit would do.

    Attributes:
        rows: what would run where, what travels, what it asks for, what stands against it: each a word and a text.
        manifests: the objects that it would make, as YAML for `kubectl apply`; empty where the target makes none.
    """

    rows: list[tuple[str, str]]
    manifests: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A submit that has not happened yet.

    Attributes:
        spec: what would run.
        cargo: what would travel.
        findings: what the target says; none is an error.
        env: the job's variables; secret.
    """

    backend: Backend
    spec: JobSpec
    cargo: Cargo
    settings: Settings
    findings: list[Finding]
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    progress: Progress | None = None

    @classmethod
    def make(
        cls,
        backend: Backend,
        options: Options,
        settings: Settings,
        work: Work,
        progress: Progress | None,
    ) -> Plan:
        """Look at everything that can be known before anything is written.

        Raises:
            SyntaxError, MissingName, CannotRunThere, BadValue, BadFlag, Refused.
        """
        env = options.variables(settings)
        spec = options.spec(work.task, settings, default_name=work.name, env_names=env)
        findings = backend.check(spec)
        refuse(findings)
        choice = Choice(
            send=None if options.send is None else frozenset(options.send),
            keep=frozenset(options.keep),
            outputs=() if work.task.kind in ("script", "notebook") else options.outputs,
            include=options.include,
            collect=options.collect,
            packages=spec.environment.packages,
            install=spec.environment.install,
            index=settings.get("index"),
            target=backend.platform(spec),
            limit=settings.get("return_limit"),
            budget=settings.get("compare_budget"),
        )
        return cls(
            backend=backend,
            spec=spec,
            cargo=load_cargo(work, choice),
            settings=settings,
            findings=findings,
            env=env,
            progress=progress,
        )

    @property
    def notes(self) -> list[str]:
        """Sentences that go with the job: warnings, and what has no effect on this target.

        What could not be known before the submit is told by `dry_run` alone: the job itself will show it.
        """
        return _notes(self.findings, self.cargo.notes)

    def submit(self, *, detached: bool = False) -> Job:
        """Pack, write it down, create.

        Args:
            detached: the kernel goes on meanwhile, so changes of its values have to be noticed afterwards.

        Raises:
            CannotTravel: a value cannot be sent; the path to what hinders it is named.
            StorageFailed, Refused, Unreachable: as the target says.
        """
        bundle = self._packed()
        may_return = (
            {*self.cargo.assigned, *self.cargo.check}
            if self.cargo.choice.outputs is None
            else {*self.cargo.choice.outputs}
        )
        before = {name: self.cargo.work.namespace.get(name, ABSENT) for name in may_return}
        entry = Entry(
            id=self.spec.id,
            name=self.spec.name,
            target=self.backend.name,
            label=self.spec.task.label,
            created=time.time(),
            key=bundle.key.hex(),
            nodes=self.spec.resources.nodes,
            procs=self.spec.resources.procs,
            notebook=self.cargo.work.notebook,
            before=fingerprints(before) if detached else {n: None if v is ABSENT else "" for n, v in before.items()},
            notes=[*self.notes, *bundle.notes],
            spec=asdict(self.spec),
            sent=[*self.cargo.values, *self.cargo.remote],
            shipped=bundle.size,
            returns=self.cargo.work.returns,
            run=self._record(bundle) if self.cargo.work.record else {},
        )
        journal = Journal(Path(self.settings.get("state_dir")))
        job = _create(self.backend, self.spec, bundle, entry, journal, self._carried)
        job.shared |= {BEFORE: before, JOURNAL: journal, "detached": detached}
        return job

    def _packed(self) -> Bundle:
        state, key = Path(self.settings.get("state_dir")), secrets.token_bytes(32)
        bundle = pack(self.cargo, self.spec, state=state, key=key, progress=self.progress)
        return replace(bundle, env={**self.env, **bundle.env})

    def _carried(self, done: int, total: int) -> None:
        if self.progress is not None:
            self.progress(done, total, f"{size_text(done)} sent")

    def _record(self, bundle: Bundle) -> dict[str, Any]:
        """What a person needs to tell this run from others, and to do it again."""
        packages = self.cargo.packages.manifest
        lock = {key: list(packages[key]) for key in ("pins", "constraints")}
        image = self.spec.environment.image
        return {**self.cargo.work.record, "bundle": bundle.digest, "lock": lock, "image": image}

    def dry_run(self) -> DryRun:
        """What `submit` would do, with nothing sent: it is packed, as its size decides much, and thrown away.

        Raises:
            CannotTravel: a value cannot be sent; the path to what hinders it is named.
            StorageFailed, Refused, Unreachable: as the target would say.
        """
        bundle = self._packed()
        try:
            rehearsal = self.backend.rehearse(self.spec, bundle)
        finally:
            shutil.rmtree(bundle.directory, ignore_errors=True)
        refuse(rehearsal.findings)
        notes = _notes(rehearsal.findings, (*self.cargo.notes, *bundle.notes))
        unknown = [_sentence(finding) for finding in rehearsal.findings if finding.level == "unknown"]
        rows = self._described(rehearsal) + [("note", note) for note in notes]
        made = rehearsal.objects
        return DryRun(rows=rows + [("unknown", text) for text in unknown], manifests=yaml_of(made) if made else "")

    def _described(self, rehearsal: Rehearsal) -> list[tuple[str, str]]:
        """What would run where, what travels, what it asks for."""
        environment = self.spec.environment
        rows = [("what", self.spec.task.label), ("where", self.backend.where)]
        rows.append(("sends", ", ".join(self.cargo.describe()) or "no names"))
        if self.cargo.modules.names:
            rows.append(("modules", ", ".join(sorted(self.cargo.modules.names))))
        if self.cargo.files:
            rows.append(("files", ", ".join(self.cargo.files)))
        rows += rehearsal.rows
        rows.append(("asks", asked_text(rehearsal.resources) or "whatever is free"))
        packages = self.cargo.packages.manifest
        installed = [*packages["pins"], *packages.get("wished", ())]
        if installed:
            rows.append(("packages", ", ".join(installed)))
        if environment.env_names:
            rows.append(("variables", ", ".join(environment.env_names) + " (values are never shown)"))
        outputs = self.cargo.choice.outputs
        back = "what the cell assigns or changes" if outputs is None else ", ".join(outputs) or "nothing"
        return [*rows, ("returns", back)]


def rerun(job: Job, backend: Backend, settings: Settings, environ: Mapping[str, str] = os.environ) -> Job:
    """Submit the bundle of a job once more, under a new id; the values of its variables are those of this kernel.

    Raises:
        NotFound: the bundle was removed, or the job was submitted from elsewhere.
        BadValue: a variable that it had is not set here.
    """
    if job.entry is None:
        raise NotFound(
            what=f"job {job.id} cannot be run again from here",
            why="it was submitted from another machine",
            next="run its cell again",
        )
    old = job.entry
    spec = spec_from(old.spec)
    spec = replace(spec, id=new_job_id(spec.name))
    absent = [name for name in spec.environment.env_names if name not in environ]
    if absent:
        raise BadValue(
            what=f"job {job.id} had the variable `{absent[0]}`, which is not set here",
            next=f"set os.environ[{absent[0]!r}] first",
        )
    state, key = Path(settings.get("state_dir")), secrets.token_bytes(32)
    bundle = repack(backend.bundle(job.id), spec, state=state, key=key, index=settings.get("index"))
    own = {name: environ[name] for name in spec.environment.env_names}
    bundle = replace(bundle, env={**own, **bundle.env})
    before = {name: kernel_namespace().get(name, ABSENT) for name in old.before}
    run = old.run | {"bundle": bundle.digest} if old.run else {}
    entry = replace(old, id=spec.id, created=time.time(), key=key.hex(), before=fingerprints(before), run=run)
    again = _create(backend, spec, bundle, entry, Journal(state))
    again.shared |= {BEFORE: before, "detached": True}
    return again


def _create(
    backend: Backend,
    spec: JobSpec,
    bundle: Bundle,
    entry: Entry,
    journal: Journal,
    progress: Carried | None = None,
) -> Job:
    """Write it down, then create: a job that is nowhere written down is a job that may be lost."""
    journal.write(entry)
    try:
        backend.submit(spec, bundle, progress)
    except (Refused, StorageFailed):
        _forget(spec, bundle, journal)
        raise
    except KeyboardInterrupt:
        # Nobody has seen this job yet, so nobody would look for it.
        try:
            backend.cancel(spec.id)
        except NotFound:
            _forget(spec, bundle, journal)
        raise
    return Job(backend, spec.id, entry)


def _forget(spec: JobSpec, bundle: Bundle, journal: Journal) -> None:
    journal.remove(spec.id)
    shutil.rmtree(bundle.directory, ignore_errors=True)


def _sentence(finding: Finding) -> str:
    reason = finding.reason
    return ". ".join(part.rstrip(".") for part in (reason.what, reason.why, reason.next) if part)


def _notes(findings: Iterable[Finding], others: Iterable[str]) -> list[str]:
    return [*(_sentence(finding) for finding in findings if finding.level != "unknown"), *others]
