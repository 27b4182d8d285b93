"""A notebook that was sent: a job whose executed notebook grows at its output path and is kept with it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kube_nb.backends.base import Backend
from kube_nb.errors import KubeNbError, NotFound
from kube_nb.events import Event, Text
from kube_nb.jobs.job import Job
from kube_nb.jobs.journal import Entry
from kube_nb.jobs.lines import Lines
from kube_nb.jobs.patience import outages_told
from kube_nb.notebooks.executed import with_markers, with_record
from kube_nb.notebooks.growth import Growth, Live, replace_file
from kube_nb.notebooks.literals import plain
from kube_nb.spec import JobId, Phase

_LAST_WORD = 30.0
_IN_METADATA = 64 * 1024
"""Characters of an output's value that the executed notebook's metadata holds."""


class NotebookJob(Job):
    """A job that runs a notebook.

    Example:
        >>> job = Client().notebook("train.ipynb", parameters={"lr": 0.1}, output="out.ipynb")  # doctest: +SKIP
        >>> job.outputs["accuracy"]  # doctest: +SKIP
        0.93
    """

    def __init__(self, backend: Backend, id: JobId, entry: Entry | None = None, *, key: bytes | None = None) -> None:
        super().__init__(backend, id, entry, key=key)
        self._mine = False
        self._growing: threading.Thread | None = None
        self._saved = False
        self._trouble: KubeNbError | None = None

    @classmethod
    def of(cls, job: Job, *, mine: bool) -> NotebookJob:
        """The job, as one that runs a notebook.

        Args:
            mine: this process has just sent it, so its output path is this job's from now on.
        """
        made = cls(job._backend, job.id, job.entry)
        made.shared = job.shared
        made._mine = mine
        return made

    @property
    def output(self) -> str:
        """Where its executed notebook goes; empty: it is kept with the job alone."""
        return str(self._entry.run.get("output", "")) if self._entry else ""

    @property
    def record(self) -> dict[str, Any]:
        """What ran: source and its digest, parameters, versions, commit, lock, bundle; then what it used and gave."""
        record = dict(self._entry.run) if self._entry else {}
        if self.status().phase.final:
            read = self._read()
            index = read.result[1].get("index", {}) if read.result else {}
            record |= {"usage": dict(index.get("usage", {})), "outputs": self.outputs_in_brief()}
        return record

    # What it gives --------------------------------------------------------------------------------------------------

    def notebook(self) -> str:
        """The executed notebook as JSON: whole, or, where the job failed, as far as it came. Waits for the end.

        Raises:
            NotFound: the job ended before it could give one.
            Corrupted: it is not what the job signed.
        """
        self.wait()
        text = self.executed()
        status = self.status()
        if status.phase is Phase.FAILED:
            text = with_markers(text)
        return with_record(text, self.mark | {"outputs": self.outputs_in_brief()})

    def executed(self) -> str:
        """The executed notebook exactly as the job wrote it.

        Raises:
            NotFound, Corrupted: as `notebook`.
        """
        return self._object("notebook").decode()

    def html(self) -> str:
        """Its rendering, where it was asked for. Waits for the end.

        Raises:
            NotFound: there is none.
        """
        self.wait()
        return self._object("html").decode()

    def save(self, path: str | Path | None = None) -> Path | str:
        """Write the executed notebook to `path`, or to the output path that was given at the submit.

        Raises:
            NotFound: the job gave none, or no path is known.
            StorageFailed: it cannot be written.
        """
        target = str(path) if path is not None else self.output
        if not target:
            raise NotFound(what=f"job {self.id} has no output path", next="write job.save('out.ipynb')")
        text = self.notebook()
        if _elsewhere(target):
            from papermill.iorw import papermill_io

            papermill_io.write(text, target)
            return target
        replace_file(Path(target), [text])
        if self._entry and self._entry.run.get("html"):
            replace_file(Path(target).with_suffix(".html"), [self.html()])
        return Path(target)

    def result(self) -> dict[str, Any]:
        """What the notebook named with `kn.output`, by name. Waits for the end of the job.

        Raises:
            JobFailed: the job failed; the cell's exception is the cause.
        """
        self.wait()
        self.raise_if_failed()
        return dict(self.outputs)

    def _object(self, name: str) -> bytes | bytearray:
        read = self._read()
        if read.result is None:
            raise NotFound(
                what=f"job {self.id} gave no executed notebook",
                why="it ended before it could write one" if self.status().phase.final else "it is still running",
                next="look at %kube_logs " + self.id,
            )
        index = self._verified(*read.result, "index")
        if name not in index:
            raise NotFound(what=f"job {self.id} has no {name}", next="ask for it with --html" if name == "html" else "")
        return self.read_object(index[name]["object"], index[name]["size"])

    def outputs_in_brief(self) -> dict[str, Any]:
        """Named outputs as JSON holds them: values, and for files and objects where they are."""
        brief = {}
        for name, (_, record) in self._read().produced.items():
            if "value" in record and len(json.dumps(record["value"])) <= _IN_METADATA:
                brief[name] = plain(record["value"])
            elif "object" in record:
                brief[name] = {"file": record.get("path", ""), "sha256": record["object"], "size": record.get("size")}
            else:
                brief[name] = {"object": f"job.outputs[{name!r}]"}
        return brief

    @property
    def has_notebook(self) -> bool:
        """Whether it gave an executed notebook, whole or in part; a job that never ran gives none."""
        return self._read().result is not None

    @property
    def mark(self) -> dict[str, Any]:
        """What the executed notebook's metadata says of its job."""
        return self._mark(str(self.status().phase))

    def _mark(self, state: str) -> dict[str, Any]:
        return {"job": str(self.id), "target": self.target, "state": state}

    # Growing --------------------------------------------------------------------------------------------------------

    def follow(self, *, wait: bool = True) -> Iterator[list[Any]]:
        """Batches of text and events; while they come, the notebook at the output path grows with them."""
        growth = self._grow_here() if wait and self._growing is None else None
        if growth is None:
            yield from super().follow(wait=wait)
            return
        whole = False
        try:
            for batch in super().follow(wait=wait):
                growth.take(batch)
                yield batch
            whole = True
        finally:
            growth.close()
            if whole:
                # A cluster's own word comes a little after the last of the stream.
                if self.wait(_LAST_WORD).phase.final:
                    self._save_once(growth)
            else:
                self.grow()  # who followed looks away, and the job goes on

    def lines(self) -> Iterator[tuple[bool, str]]:
        """What it prints, line by line, and between that, marked with True, which cell runs."""
        lines, said = Lines(prefixed=False, only=None), ""
        with outages_told(self):
            for batch in self.follow():
                for item in batch:
                    if isinstance(item, Text):
                        yield from ((False, line) for line in lines.add(item.rank, item.data))
                    elif isinstance(item, Event) and item.kind == "progress":
                        now = str(item.data.get("text", ""))
                        if now not in ("", said):
                            said = now
                            yield True, said
            yield from ((False, line) for line in lines.close())

    def wait(self, timeout: float | None = None) -> NotebookJob:
        """Return when the job has ended and its notebook is written, or after `timeout` seconds.

        Raises:
            NotFound: the job was deleted.
            StorageFailed: the executed notebook cannot be written.
        """
        self.grow()
        super().wait(timeout)
        growing = self._growing
        if growing is not None and growing is not threading.current_thread() and self.status().phase.final:
            growing.join(timeout)
        if self._trouble is not None:
            trouble, self._trouble = self._trouble, None
            raise trouble
        return self

    def grow(self) -> None:
        """Let the notebook at the output path grow from now on, from the background."""
        if self._growing is not None or not self.output or self._saved or not self._may_write():
            return

        def run() -> None:
            try:
                self._follow_to_the_end()
            except KubeNbError as error:
                self._trouble = error

        self._growing = threading.Thread(target=run, name=f"follow-{self.id}", daemon=True)
        self._growing.start()

    def _follow_to_the_end(self) -> None:
        growth = self._grow_here()
        try:
            for batch in super().follow():
                if growth is not None:
                    growth.take(batch)
        finally:
            if growth is not None:
                growth.close()
        self._save_once(growth)

    def _grow_here(self) -> Growth | None:
        if not self.output or self._saved or _elsewhere(self.output) or not self._may_write():
            return None
        if not Path(self.output).parent.is_dir():
            return None
        return Growth(Live(self._sent(), self.read_object, self._mark("Running")), Path(self.output))

    def _save_once(self, growth: Growth | None) -> None:
        """Put the executed notebook in the place of the one that grew."""
        if self._saved or not self.output:
            return
        self._saved = True
        if self.has_notebook:
            self.save()
        elif growth is not None:  # it never came so far as to give one
            growth.end(str(self.status().phase))

    def _may_write(self) -> bool:
        """Whether what lies at the output path is this job's: a later run may have written there since."""
        if self._mine or _elsewhere(self.output):
            return self._mine
        try:
            there = json.loads(Path(self.output).read_bytes())
        except FileNotFoundError:
            return True
        except (OSError, ValueError):
            return False
        return there.get("metadata", {}).get("kube_nb", {}).get("job") == self.id

    def _sent(self) -> Mapping[str, Any]:
        """The notebook that was sent."""
        bundle = self._backend.bundle(self.id)
        manifest = json.loads((bundle / "manifest.json").read_bytes())
        return json.loads((bundle / "objects" / manifest["task"]["source"]).read_bytes())


def _elsewhere(path: str) -> bool:
    """Whether it is no file of this machine."""
    return "://" in path or path == "-"
