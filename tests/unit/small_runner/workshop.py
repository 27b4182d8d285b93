"""A local backend in an empty directory, and jobs for it whose code is a plain Python script."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

from kube_nb import events
from kube_nb.backends.base import Bundle, Chunk, Cursor, JobStatus
from kube_nb.backends.local import LocalBackend, lock
from kube_nb.events import Decoder, Text
from kube_nb.spec import Digest, JobId, JobSpec, Policy, Resources, new_job_id

PATIENCE = 60.0
FOREVER = "import os, time\nprint(os.getpid(), flush=True)\nwhile True: time.sleep(1)"
"""A job that says its process and does not end."""


class Workshop:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.state = root / "state"
        self.backend = LocalBackend(self.state)
        self.runner = self.state / "runners" / "small"
        self.runner.mkdir(parents=True)
        shutil.copy(Path(__file__).with_name("main.py"), self.runner / "main.py")
        shutil.copy(str(events.__file__), self.runner / "events.py")

    def __enter__(self) -> Workshop:
        return self

    def __exit__(self, *_: object) -> None:
        for status in self.backend.list():
            if not status.phase.final:
                self.backend.delete(status.id)

    def bundle(self, source: str, env: dict[str, str] | None = None) -> Bundle:
        directory = self.root / "bundles" / new_job_id("b")
        (directory / "objects").mkdir(parents=True)
        (directory / "rank.py").write_text(source)
        return Bundle(digest=Digest("0" * 64), directory=directory, runner=self.runner, key=b"k" * 32, env=env or {})

    def submit(
        self,
        source: str,
        *,
        id: str = "",
        env: dict[str, str] | None = None,
        resources: Resources | None = None,
        retries: int = 0,
        grace: float = 5.0,
    ) -> JobId:
        spec = JobSpec(
            id=JobId(id) if id else new_job_id("t"),
            name="t",
            resources=resources or Resources(),
            policy=Policy(retries=retries, grace=grace),
        )
        return self.backend.submit(spec, self.bundle(source, env))

    def directory(self, id: str) -> Path:
        return self.state / "jobs" / id

    def status(self, id: JobId) -> JobStatus:
        return self.backend.list(frozenset({id}))[0]

    def until(self, id: JobId, condition: Callable[[JobStatus], bool]) -> JobStatus:
        """The first status that fulfils the condition; a failure shows the last one and the supervisor's log."""
        reached = threading.Event()
        seen: list[JobStatus] = []

        def look(status: JobStatus) -> None:
            if status.id == id and not reached.is_set():
                seen.append(status)
                if condition(status):
                    reached.set()

        subscription = self.backend.subscribe(look)
        try:
            log = self.directory(id) / "supervisor.log"
            assert reached.wait(PATIENCE), (seen, log.read_text() if log.exists() else "")
        finally:
            subscription.close()
        return seen[-1]

    def end(self, id: JobId) -> JobStatus:
        return self.until(id, lambda status: status.phase.final)

    def chunks(self, id: JobId, *, node: int = 0, cursor: Cursor = Cursor(), follow: bool = True) -> list[Chunk]:
        return list(self.backend.stream(id, node, cursor, follow=follow))

    def text(self, id: JobId, *, node: int = 0, attempt: int | None = None) -> str:
        """What the job printed, all of it."""
        decoders: dict[int, Decoder] = {}
        text = b""
        for chunk in self.chunks(id, node=node):
            for item in decoders.setdefault(chunk.at.attempt, Decoder()).feed(chunk.data):
                if isinstance(item, Text) and attempt in (None, chunk.at.attempt):
                    text += item.data
        return text.decode()

    def first_line(self, id: JobId, *, node: int = 0) -> str:
        """The first line the job prints, as soon as it is there."""
        decoder = Decoder()
        text = b""
        for chunk in self.backend.stream(id, node):
            for item in decoder.feed(chunk.data):
                if isinstance(item, Text):
                    text += item.data
            if b"\n" in text:
                return text.partition(b"\n")[0].decode()
        raise AssertionError(f"the job printed no line: {text!r}")

    def supervisor(self, id: JobId) -> int:
        return lock.recorded(str(self.directory(id) / "lock"))[0].pid

    def have_finished(self, count: int) -> None:
        """As many jobs that ended, all but one of them long ago."""
        (self.state / "swept").touch()  # or the end of the first one clears the others away
        job = self.submit("")
        self.end(job)
        pattern = json.loads((self.directory(job) / "state.json").read_text())
        for number in range(count - 1):
            place = self.directory(f"old-{number}")
            place.mkdir()
            (place / "lock").write_text("")
            made = pattern | {"id": place.name, "created": number + 1.0, "ended": number + 1.0}
            (place / "state.json").write_text(json.dumps(made))
