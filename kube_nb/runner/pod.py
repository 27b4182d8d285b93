"""Process 1 of a job's container: makes the bundle ready, runs the node, and stays until what it made is safe."""

from __future__ import annotations

import json
import os
import signal
import time
from contextlib import suppress

from . import arrival, ending, served, visits
from .loop import Interrupted, Signals
from .node import Arguments, Node
from .stream import KUBELET_KEEPS

TYPE_CHECKING = False  # without importing `typing`: see node.py
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    from .away import Away
    from .ranks import Gang

_DISRUPTIONS = 5
"""So often a node is started again after something that was not the code's fault."""
_SEE_OFF = 5.0
"""Seconds in which whoever reads the log by exec may come to its end, which would end with the container."""
_LONGEST_LINGER = 900.0


def main(base: str) -> NoReturn:
    """Run one attempt of one node of a job, as the files below `base` say, and exit with the status of its end.

    `secret/` holds `pod.json`, `env.json`, `key` and `bundle.zip`; `run/` is ours; `store/` may be mounted.
    """
    signals = Signals()
    end = os.environ.get("KUBE_NB_END", "/dev/termination-log")
    try:
        signals.install()
        place = Place(base)
        place.say_pid()
        node = PodNode(place, Arguments(place.arguments(end)), signals)
    except (Interrupted, OSError, KeyError, ValueError) as error:
        os._exit(_stillborn(error, end))
    os._exit(node.run())


class Place:
    """The folders of this pod, and what it was told.

    Raises:
        OSError, KeyError, ValueError: what the Secret holds cannot be read.
    """

    def __init__(self, base: str) -> None:
        self.secret = os.path.join(base, "secret")
        self.run = os.path.join(base, "run")
        with open(os.path.join(self.secret, "pod.json"), encoding="utf-8") as file:
            told: dict[str, Any] = json.load(file)
        self.job: str = told["job"]
        self.nodes = int(told["nodes"])
        self.procs = int(told.get("procs", 1))
        self.retries = int(told["retries"])
        self.transport: str = told["transport"]
        self.service: str = told.get("service", "")
        self.rendezvous = {name: str(told[name]) for name in ("first", "join", "silence") if name in told}
        self.linger = float(told["linger"])
        self.patience = float(told["patience"])
        self.store = os.path.join(base, "store") if told["store"] else None
        self.url: str = told.get("url", "")
        self.kept = os.path.join(self.store, told["place"]) if self.store else self.run
        """Where what the job makes lies."""
        self.node = int(os.environ.get("KUBE_NB_NODE") or 0)
        self.failures = int(os.environ.get("KUBE_NB_FAILURES") or 0)
        self.disruptions = int(os.environ.get("KUBE_NB_DISRUPTIONS") or 0)
        self.attempt = self.failures + self.disruptions
        self.bundle = os.path.join(self.run, "bundle")
        self.log = os.path.join(self.kept, "log", f"{self.node}.{self.attempt}")
        self._set_environment()

    def say_pid(self) -> None:
        """Let tools know whom to signal, now that signals are heard."""
        path = os.path.join(self.run, "pid")
        arrival.write(f"{path}.new", b"%d\n" % os.getpid())
        os.rename(f"{path}.new", path)

    def arguments(self, end: str) -> list[str]:
        """What the node is told."""
        environments = os.path.join(self.store or self.run, "environments")
        named = {
            "bundle": self.bundle,
            "out": os.path.join(self.kept, "out"),
            "work": os.path.join(self.run, "work"),
            "key": os.path.join(self.secret, "key"),
            "end": end,
            "node": str(self.node),
            "attempt": str(self.attempt),
            "checkpoints": os.path.join(self.kept, "checkpoints"),
            "env-store": environments,
            "log": self.log,
        }
        if self.service:
            named |= {"service": self.service} | self.rendezvous
        return [word for name, value in named.items() for word in (f"--{name}", value)]

    def _set_environment(self) -> None:
        """The job's own variables, and what libraries look for in an image that was made for another user."""
        environ = os.environ
        with open(os.path.join(self.secret, "env.json"), encoding="utf-8") as file:
            environ.update(json.load(file))
        for name in ("KUBE_NB_NODE", "KUBE_NB_FAILURES", "KUBE_NB_DISRUPTIONS", "KUBE_NB_BASE"):
            environ.pop(name, None)
        environ.setdefault("HOME", os.path.join(self.run, "home"))
        _make(environ["HOME"])
        if not _writable(environ.get("TMPDIR", "/tmp")):
            environ["TMPDIR"] = os.path.join(self.run, "tmp")
            _make(environ["TMPDIR"])
        if not _has_name():
            environ.setdefault("USER", "kube-nb")
            environ.setdefault("LOGNAME", environ["USER"])
        caches = os.path.join(self.store or self.run, "environments", "cache")
        # On the file system of the environments uv links files instead of copying them.
        environ.setdefault("UV_CACHE_DIR", os.path.join(caches, "uv"))
        if self.store:
            environ.setdefault("PIP_CACHE_DIR", os.path.join(caches, "pip"))
        else:
            environ.setdefault("PIP_NO_CACHE_DIR", "1")  # nobody would find it again


class PodNode(Node):
    """A node whose bundle has to be made ready first, and whose work must not be lost with its container."""

    def __init__(self, place: Place, arguments: Arguments, signals: Signals) -> None:
        super().__init__(arguments, signals)
        self._pod = place
        self._hall = visits.Hall(place.run, signals)
        self._lingers = 0.0
        self._useless = False
        self._packages: list[str] | None = None
        """Folders with what the job needed; None: they are not ready."""

    def run(self) -> int:
        status = super().run()
        if self._pod.url:
            self._put_log()
        if self._lingers and not served.all_taken(self._pod.run):
            visits.wait_until_left(self._hall, self._lingers, _LONGEST_LINGER)
        elif self._useless:
            self._remove()
        visits.see_off(self._hall, _SEE_OFF)
        return status

    def _attempt(self) -> dict[str, Any]:
        pod = self._pod
        self._stream.rank = pod.node * pod.procs
        self._stream.state("Starting", "start", "the container has started")
        # Other nodes end with a status that does not count whenever node 0 fails: their number tells nothing.
        if pod.node == 0 and pod.disruptions > _DISRUPTIONS:
            what = f"the job was interrupted {pod.disruptions} times"
            raise ending.CannotGoOn("Disrupted", what, {"disruptions": pod.disruptions})
        arrival.unpack(pod)
        if pod.transport == "upload":
            arrival.wait_for_upload(pod, self._stream, self._hall)
        if pod.transport == "store" and pod.url:
            self._fetch_bundle()
        return super()._attempt()

    def _install(self) -> list[str]:
        if self._packages is None:  # else they were needed to fetch the bundle
            self._packages = super()._install()
        return self._packages

    def _start(self, gang: Gang, modules: str | None, env_path: list[str]) -> None:
        """As a node does; checkpoints of earlier attempts come from the store at a URL, and go there from now on."""
        away = self._away()
        if away is not None:
            if self._pod.attempt:
                self._try(lambda: away.restore(self._checkpoints))
            # Before hours are spent on results that could not be kept.
            self._try(lambda: away.put({self._log_place: self._pod.log}))
            away.keep(self._kept_meanwhile, os.path.join(self._pod.run, "keep.log"))
        super()._start(gang, modules, env_path)

    def _say_end(self, record: dict[str, Any]) -> int:
        """As a node does, with `stored`: whether the store has log and objects; and `lingers`: seconds in which the
        container waits for somebody to fetch them."""
        pod = self._pod
        worth = self._worth_keeping()
        stored = self._put_away(record) if pod.url else pod.store is not None
        if pod.store is not None:
            self._useless = not worth and not pod.attempt and not self._tried_again(record)
        elif not stored and worth and record["code"] != "Stopped":  # who stops it from outside waits for it to end
            self._lingers = pod.linger
        record |= {"stored": stored and not self._useless, "lingers": self._lingers}
        copy = self._stream.output.copy
        if copy is not None and copy.broken is not None:
            lost = copy.bytes - copy.kept
            record["detail"]["log"] = {"kept": copy.kept, "lost": lost, "why": str(copy.broken.strerror)}
        return super()._say_end(record)

    # Before ---------------------------------------------------------------------------------------------------------

    def _fetch_bundle(self) -> None:
        """The bundle's objects from the store at a URL; what reaches it is installed first.

        Raises:
            CannotGoOn: BundleCorrupted, EnvironmentFailed.
        """
        from . import verify

        with open(self._arguments.key, "rb") as file:
            self._key = file.read()
        self._manifest = verify.read_manifest(self._pod.bundle, self._key)
        self._install()
        away = self._away()
        assert away is not None
        sizes: dict[str, int] = self._manifest["sizes"]
        self._stream.state("Starting", "fetch", f"{arrival.size_text(sum(sizes.values()))} from the store")
        objects = {os.path.basename(name): size for name, size in sizes.items()}
        self._try(lambda: away.fetch("bundle/objects", os.path.join(self._pod.bundle, "objects"), objects))

    def _away(self) -> Away | None:
        """The store at a URL; None: there is none, or what reaches it is not installed."""
        if not self._pod.url or self._packages is None:
            return None
        from .away import Away

        state = os.path.join(self._pod.run, "sent.json")
        return Away(self._pod.url, self._packages, state, lambda fd: self._others.attend(fd, self._signals))

    @staticmethod
    def _try(act: Callable[[], object]) -> None:
        from .away import StoreFailed

        try:
            act()
        except StoreFailed as failed:
            raise ending.CannotGoOn("EnvironmentFailed", failed.words["what"], dict(failed.words)) from failed

    @property
    def _checkpoints(self) -> str:
        return os.path.join(self._pod.kept, "checkpoints")

    @property
    def _log_place(self) -> str:
        return f"log/{os.path.basename(self._pod.log)}"

    @property
    def _kept_meanwhile(self) -> dict[str, str]:
        return {"checkpoints": self._checkpoints, self._log_place: self._pod.log}

    # After ----------------------------------------------------------------------------------------------------------

    def _put_away(self, record: dict[str, Any]) -> bool:
        """Put what the job made where it is found later; where that fails, `record` tells why."""
        from .away import StoreFailed

        away = self._away()
        if away is None:
            return False
        # Should the pod's grace be over before all is there, this is its last word.
        self._write_end(record | {"stored": False, "lingers": 0.0})
        objects = os.path.join(self._pod.kept, "out", "objects")
        try:
            away.put({"out/objects": objects, "checkpoints": self._checkpoints})
        except StoreFailed as failed:
            record["detail"]["store"] = failed.words
            self._stream.state("Running", "store", f"{failed.words['what']}: {failed.words['why']}")
            return False
        except Interrupted:
            record |= {"code": "Cancelled", "evalue": "while what it made was put into the store"}
            return False
        return True

    def _put_log(self) -> None:
        """All of it, now that its last word is written."""
        from .away import StoreFailed

        away = self._away()
        if away is not None:
            with suppress(StoreFailed, Interrupted):  # nobody hears of it any more; the kubelet has the log, too
                away.put({self._log_place: self._pod.log})

    def _worth_keeping(self) -> bool:
        """Whether there is anything that nobody finds any more once the container is gone."""
        copy = self._stream.output.copy
        if copy is not None and copy.kubelet_bytes >= KUBELET_KEEPS:
            return True
        names = ["out/objects"] if self._pod.store is None else ["out/objects", "checkpoints"]
        return any(_holds_something(os.path.join(self._pod.kept, name)) for name in names)

    def _tried_again(self, record: dict[str, Any]) -> bool:
        """Whether another attempt follows this end, which finds what is in the store."""
        status = ending.status_of(record)
        again = status in (ending.CODES["Stopped"], ending.CODES["Again"])
        return again or (status in (1, ending.CODES["OutOfMemory"]) and self._pod.failures < self._pod.retries)

    def _remove(self) -> None:
        """Leave nothing in the store of a job that made nothing; other nodes of it may still be at work."""
        pod = self._pod
        for name in (pod.log, f"{pod.log}.end", f"{pod.log}.live"):
            with suppress(OSError):
                os.unlink(name)
        if pod.nodes == 1:
            import shutil

            shutil.rmtree(pod.kept, ignore_errors=True)
            return
        for name in ("log", "out/objects", "out", "checkpoints", ""):
            with suppress(OSError):  # not empty: another node's
                os.rmdir(os.path.join(pod.kept, name))


def _stillborn(error: Exception, end: str) -> int:
    """An end without a stream: what the runner was told cannot be read, or it was stopped before it read it."""
    code = "RunnerFault"
    if isinstance(error, Interrupted):
        code = "Cancelled" if error.signum == signal.SIGINT else "Stopped"
    elif isinstance(error, OSError) and ending.disk_is_full(error):
        code = "OutOfDisk"
    else:
        import traceback

        traceback.print_exception(error)
    now = time.time()
    record = ending.end(code, 0, evalue=f"{type(error).__name__}: {error}", started=now, ended=now)
    with suppress(OSError):  # the exit status tells
        ending.write_end(end, record)
    return ending.CODES[code]


def _make(folder: str) -> None:
    with suppress(OSError):  # the person named it; what needs it will say so
        os.makedirs(folder, mode=0o700, exist_ok=True)


def _writable(folder: str) -> bool:
    return os.access(folder, os.W_OK | os.X_OK)


def _has_name() -> bool:
    """Whether this user has a name; most images know nothing of the number that a cluster gives."""
    import pwd

    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        return False
    return True


def _holds_something(folder: str) -> bool:
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is not None
    except OSError:
        return False
