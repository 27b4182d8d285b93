"""The facade: one method for each verb. Whatever a magic or the command line does, it does through here."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, overload

from kube_nb.backends import open_backend
from kube_nb.capture.work import Work
from kube_nb.config import Settings
from kube_nb.errors import KubeNbError, NotFound
from kube_nb.jobs.interrupts import Terminated, ending, interrupted, somebody_watches, watched
from kube_nb.jobs.job import Job
from kube_nb.jobs.journal import Journal
from kube_nb.jobs.outputs import kernel_namespace, kernel_settings
from kube_nb.options import Options
from kube_nb.spec import JobId, Phase, Task

if TYPE_CHECKING:
    from kube_nb.backends.base import Backend, Finding, JobStatus, Removed
    from kube_nb.jobs.submit import Plan, Progress
    from kube_nb.notebooks.job import NotebookJob
    from kube_nb.notebooks.send import NotebookPlan

P = ParamSpec("P")
R = TypeVar("R")
_BEING_MADE = 600
"""Seconds that a submit may take, from the line in the journal to the job."""
CALL = "__kube_nb_call__"
_CALL_SOURCE = f"{CALL}[0](*{CALL}[1], **{CALL}[2])"


class Client:
    """Sends work to one target and finds it again.

    Args:
        on: target, e.g. "local"; None: the setting `on`.
        options: any flag of `%%kube_train` by its long name, e.g. `gpus=1, timeout="1h"`.

    Raises:
        NotFound: there is no such target.
        BadFlag: there is no such option.

    Example:
        >>> client = Client(on="local", timeout="10m")  # doctest: +SKIP
        >>> client.train(fit, X, epochs=3).result()  # doctest: +SKIP
    """

    def __init__(self, on: str | None = None, *, settings: Settings | None = None, **options: Any) -> None:
        self._settings = settings or Settings.load(kernel=kernel_settings())
        self._options = Options().having(on=on, **options)

    def options(self, **options: Any) -> Client:
        """A client with these options added; the functions' own arguments stay apart from them."""
        client = Client(settings=self._settings)
        client._options = self._options.having(**options)
        return client

    @functools.cached_property
    def backend(self) -> Backend:
        """Where this client's jobs run."""
        return open_backend(self._target, self.settings.with_layer("flag", {"namespace": self._options.namespace}))

    @property
    def _target(self) -> str:
        if self._options.on is not None:
            return self._options.on
        # A job inside a job stays on its machine unless a target is named.
        return "local" if "KUBE_NB_JOB" in os.environ else str(self._settings.get("on"))

    @functools.cached_property
    def settings(self) -> Settings:
        """What decides where an option was not given; a named target's own defaults are among it."""
        return self._settings.for_target(self._target)

    @property
    def on_interrupt(self) -> str:
        """What the first interrupt of one who waits does: "detach" or "cancel"."""
        return self._options.on_interrupt or str(self._settings.get("on_interrupt"))

    # Sending --------------------------------------------------------------------------------------------------------

    def train(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Job:
        """Run `function(*args, **kwargs)` as a job; all arguments are the function's own.

        Returns:
            the job, at once; `.result()` waits for the value.

        Raises:
            CannotTravel: an argument, or what the function reads, cannot be sent.
            Refused: the target says no; `.findings` tells why.
        """
        label = getattr(function, "__qualname__", type(function).__qualname__)
        work = Work(
            source=_CALL_SOURCE,
            namespace=kernel_namespace(),
            task=Task(kind="function", label=label),
            values={CALL: (function, args, kwargs)},
            name=label.rpartition(".")[2].strip("<>"),
            filename="<kube-nb call>",
            returns=True,
        )
        return self.plan(work).submit()

    def cell(self, source: str, namespace: dict[str, Any] | None = None, **details: Any) -> Job:
        """Run the source of a cell as a job, with the names of `namespace` that it reads.

        Args:
            source: Python as a notebook cell has it, magics and `!commands` included.
            namespace: the kernel's names; None: this process's.
            details: further fields of `Work`, e.g. `filename`.

        Raises:
            SyntaxError: it is not Python.
            MissingName: it reads a name that does not exist.
            CannotRunThere, CannotTravel, Refused: as they say.
        """
        names = kernel_namespace() if namespace is None else namespace
        return self.plan(Work(source=source, namespace=names, **details)).submit()

    def script(self, path: str | Path) -> Job:
        """Run a Python file as a job. Modules beside it travel; it gives back only files (`collect`).

        Raises:
            NotFound: the file cannot be read.
            SyntaxError: it is not Python.
        """
        return self.plan_script(path).submit()

    def plan_script(self, path: str | Path) -> Plan:
        """What `script` would do, with nothing sent yet."""
        file = Path(path)
        try:
            source = file.read_text()
        except OSError as error:
            raise NotFound(what=f"`{path}` cannot be read", why=str(error.strerror), next="check the path") from error
        work = Work(
            source=source,
            namespace={},
            task=Task(kind="script", label=file.name),
            name=file.stem,
            filename=file.name,
            root=file.resolve().parent,
        )
        return self.plan(work)

    def notebook(
        self,
        path: str | Path,
        parameters: Mapping[str, Any] | None = None,
        *,
        output: str | Path | None = None,
        **how: Any,
    ) -> NotebookJob:
        """Run a notebook as a job. While it runs, the executed notebook grows at `output`.

        Args:
            path: of the notebook. Modules beside it travel; files do with the option `include`.
            parameters: by name, checked against the notebook's own; each arrives exactly as it is.
            output: `{name}` in it stands for a parameter, as with papermill; None: it is kept with the job alone.
            how: further arguments of `plan_notebook`.

        Raises:
            NotFound, BadValue: there is no such notebook, or it has no such parameter.
            Refused: the target says no; `.findings` tells why.
        """
        job = self.plan_notebook(path, parameters, output=output, **how).submit()
        job.grow()
        return job

    def plan_notebook(
        self,
        path: str | Path,
        parameters: Mapping[str, Any] | None = None,
        *,
        output: str | Path | None = None,
        kernel: str | None = None,
        report_mode: bool = False,
        html: bool = False,
        cell_timeout: str | float | None = None,
        start_timeout: str | float = 60,
        session: str = "",
    ) -> NotebookPlan:
        """What `notebook` would do, with nothing sent yet.

        Args:
            kernel: instead of the one that the notebook names.
            report_mode: hide the source of all cells.
            html: keep a rendering with the job, and beside `output`.
            cell_timeout: the most that a cell may take; start_timeout: that its kernel may take to start.
            session: of the kernel that sends it.
        """
        try:
            from kube_nb.notebooks.prepare import prepare
        except ImportError as error:
            raise NotFound(
                what="notebooks cannot be sent from here",
                why=f"{error.name or 'papermill'} is not installed: {error}",
                next="pip install 'kube-nb[notebooks]'",
            ) from error
        from kube_nb.notebooks.send import NotebookPlan, Running

        prepared = prepare(path, parameters, output=output, kernel=kernel, report_mode=report_mode)
        running = Running.parse(html=html, cell_timeout=cell_timeout, start_timeout=start_timeout)
        plan = self.for_notebook(prepared.settings).plan
        return NotebookPlan.make(plan, prepared, running, session=session)

    def for_notebook(self, metadata: Mapping[str, Any]) -> Client:
        """This client with what a notebook's metadata sets, which is weaker than variables and flags.

        Raises:
            BadValue, Locked: it sets what does not exist, or what the site has locked.
        """
        client = Client(settings=self._settings.with_layer("notebook", metadata))
        client._options = self._options
        return client

    def plan(self, work: Work, *, progress: Progress | None = None) -> Plan:
        """What a submit would do, with nothing sent yet: what travels, how large it is, what stands against it.

        Args:
            work: what a person wants to run.
            progress: called with (done, total, words) while it is packed.

        Raises:
            SyntaxError, MissingName, CannotRunThere, BadValue, BadFlag, Refused: as they say.
        """
        from kube_nb.jobs.submit import Plan

        # The target first: it may give the namespace, and what is no target is said before anything is packed.
        backend = self.backend
        return Plan.make(backend, self._options, backend.site(self.settings), work, progress)

    # Finding --------------------------------------------------------------------------------------------------------

    @functools.cached_property
    def journal(self) -> Journal:
        """What was submitted from this machine."""
        return Journal(Path(self._settings.get("state_dir")))

    def statuses(self, *, all_users: bool = False) -> list[JobStatus]:
        """What the target says of each job, newest first. A submit from here that was cut off is completed."""
        statuses = self.backend.list(all_users=all_users)
        return self.backend.list(all_users=all_users) if self._complete(statuses) else statuses

    def _complete(self, statuses: list[JobStatus]) -> bool:
        """Submit again what was cut off half-way; True: something has changed."""
        from kube_nb.jobs.settle import complete, cut_off

        changed = False
        for id in cut_off(statuses):
            with contextlib.suppress(KubeNbError):  # the job's own reason still tells how it stands
                changed |= complete(id, self.backend, self.journal, self.backend.site(self.settings))
        return changed

    def jobs(self, *, all_users: bool = False) -> list[Job]:
        """One's own jobs on this target, newest first."""
        return [self._job(status.id) for status in self.statuses(all_users=all_users)]

    def job(self, id: str | None = None) -> Job:
        """A job by its id, its name (the newest with that name), a unique prefix of its id, or the last one.

        Raises:
            NotFound: there is none, or the prefix fits several, which are named.
        """
        if id is None:
            return self._last()
        statuses = self.statuses(all_users=True)
        by_id = {status.id: status for status in statuses}
        if id in by_id:
            return self._job(JobId(id))
        named = [status for status in statuses if status.name == id]
        if named:
            return self._job(named[0].id)
        begun = [status.id for status in statuses if status.id.startswith(id)]
        if len(begun) == 1:
            return self._job(begun[0])
        if begun:
            raise NotFound(
                what=f"`{id}` fits {len(begun)} jobs", why=", ".join(begun[:5]), next="write one more letter or two"
            )
        raise NotFound(what=f"there is no job `{id}` on {self.backend.name}", next="list your jobs with %kube_jobs")

    def _last(self) -> Job:
        known = set(self.journal.ids()[:1])
        found = self.backend.list(frozenset(known)) if known else []
        statuses = found or self.statuses()
        if not statuses:
            raise NotFound(what=f"there is no job on {self.backend.name} yet", next="send a cell with %%kube_train")
        return self._job(statuses[0].id)

    def _job(self, id: JobId) -> Job:
        try:
            entry = self.journal.read(id)
        except NotFound:
            entry = None  # submitted from another machine: it is shown, but nothing of it is loaded
        return self._as_it_is(Job(self.backend, id, entry), mine=False)

    @staticmethod
    def _as_it_is(job: Job, *, mine: bool) -> Job:
        """A notebook's job can do more than others."""
        if job.entry is None or not job.entry.run:
            return job
        from kube_nb.notebooks.job import NotebookJob

        return NotebookJob.of(job, mine=mine)

    def rerun(self, job: Job) -> Job:
        """Submit what a job was sent with once more; variables are those of this process.

        Raises:
            NotFound: what it was sent with is gone, or it was submitted from elsewhere.
            BadValue: a variable that it had is not set here.
        """
        from kube_nb.jobs.submit import rerun

        return self._as_it_is(rerun(job, self.backend, self.backend.site(self.settings)), mine=True)

    def delete(self, job: Job) -> None:
        """Remove a job, what is left of it and its line in the journal."""
        job.delete()
        self.journal.remove(job.id)

    def clean(self, *, older_than: float | None = None, dry_run: bool = False) -> list[Removed]:
        """Remove one's own jobs that ended more than `older_than` seconds ago (default: the retention of the settings).

        Jobs whose submit was cut off, and cannot be completed from here, go too, and what else the target keeps of
        one's own beyond that age and the retention's size; of live jobs nothing.

        Returns:
            what was, or with `dry_run` would be, removed.
        """
        from kube_nb.backends.base import Removed

        age = float(self._settings.get("retention_days")) * 86400 if older_than is None else older_than
        limit = time.time() - age
        from kube_nb.jobs.settle import cut_off

        statuses = self.statuses()
        old = [s.id for s in statuses if s.phase.final and (s.ended or s.created) < limit] + cut_off(statuses)
        if not dry_run:
            for id in old:
                self.delete(self._job(id))
        gone = [Removed(kind="job", name=id) for id in old]
        left = self.backend.clean(max_age=age, dry_run=dry_run)
        if not dry_run:
            self._forget_what_is_gone()
        return gone + [one for one in left if one.kind != "job" or one.name not in old]

    def clean_store(self, *, dry_run: bool = False) -> list[Removed]:
        """Remove the store that all jobs of the target share.

        Raises:
            Refused: live jobs need it.
        """
        return self.backend.clean_store(dry_run=dry_run)

    def _forget_what_is_gone(self) -> None:
        """Lines of the journal whose job this target no longer has; a line is written before its job is made."""
        there = {status.id for status in self.statuses()}
        for id in self.journal.ids():
            entry = self.journal.read(id)
            gone = id not in there and entry.created < time.time() - _BEING_MADE
            if gone and entry.target == self.backend.name:
                self.journal.remove(id)

    def check(self) -> list[Finding]:
        """What stands against a job with these options, before one is sent."""
        settings = self.backend.site(self.settings)
        return self.backend.check(self._options.spec(Task(), settings, default_name="check"))

    def grant(self) -> str:
        """The least that one must be allowed on this target, as YAML for whoever grants it."""
        return self.backend.grant() or f"# {self.backend.name}: nobody has to allow anything\n"


def on(target: str | None = None, **options: Any) -> Client:
    """A client for a target: `on("gpu", gpus=1).train(fit, X)`."""
    return Client(on=target, **options)


class Remote(Generic[P, R]):
    """A function whose calls run as jobs. Made by `@remote`.

    Calling it prints what the job prints and returns what the function returns; `.submit(...)` returns the Job at
    once; `.local(...)` is the function itself.
    """

    def __init__(self, function: Callable[P, R], options: dict[str, Any]) -> None:
        functools.update_wrapper(self, function)
        self.local = function
        self._options = options

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run it as a job and wait. An interrupt detaches, or cancels where nobody watches.

        Raises:
            what the function raised, or JobFailed where it was not the function that failed.
        """
        client = Client(**self._options)
        job = client.train(self.local, *args, **kwargs)
        interactive = somebody_watches()
        try:
            with watched(interactive=interactive):
                for line in job.logs(follow=True):
                    sys.stdout.write(line)
                job.wait()
        except (KeyboardInterrupt, Terminated):
            said = interrupted(job, interactive=interactive, on_interrupt=client.on_interrupt)
            raise ending(said or f"job {job.id} goes on, detached") from None
        if job.phase is not Phase.SUCCEEDED:
            exception = job.exception()
            if exception is not None:
                raise exception
        return job.result()

    def submit(self, *args: P.args, **kwargs: P.kwargs) -> Job:
        """Start it and return the job."""
        return Client(**self._options).train(self.local, *args, **kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        # Inside a job the function is itself: a job does not start another one unasked.
        return (_identity, (self.local,))


def _identity(value: Any) -> Any:
    return value


@overload
def remote(function: Callable[P, R], /) -> Remote[P, R]: ...
@overload
def remote(**options: Any) -> Callable[[Callable[P, R]], Remote[P, R]]: ...
def remote(function: Callable[P, R] | None = None, /, **options: Any) -> Any:
    """Make a function's calls run as jobs: `@remote` or `@remote(on="gpu", gpus=1)`.

    Raises:
        BadFlag: there is no such option.
    """
    Options().having(**options)  # a wrong option is said where it is written, not at the first call
    return Remote(function, {}) if function is not None else lambda f: Remote(f, options)
