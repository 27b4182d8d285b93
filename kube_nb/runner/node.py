"""Process 1 of a node: checks the bundle, makes the environment, runs the ranks, writes the stream, says how it ended.

Runs isolated (`-I -S`), apart from the user's packages, with the standard library alone. What is slow to import is
imported when the ranks have been started, or only where it is needed: a job begins when its first rank begins. So
`typing` is imported only for type checkers, in all modules that this one needs.
"""

from __future__ import annotations

import hmac
import json
import os
import signal
import sys
import time
from _socket import socket  # without what `socket` imports

from . import ending, processes, verify
from .alone import Alone
from .loop import Interrupted, Signals
from .ranks import Gang, canonical
from .stream import Copy, Output, Stream

TYPE_CHECKING = False  # without importing `typing`: see node.py
if TYPE_CHECKING:
    from typing import Any, NoReturn

_RANK = "import sys; sys.path.insert(0, sys.argv.pop(1)); from _kube_nb_job.runner.rank import main; main()"
_REQUIRED = ("bundle", "out", "work", "key", "end", "node", "attempt")
_OPTIONAL = ("checkpoints", "env-store", "parent", "log", "service", "first", "control", "join", "silence")
_LONGEST_FOLDER = 80
"""Of a folder with a socket in it, whose path may have 104 bytes (macOS) or 108."""
_INDEX_CREDENTIALS = "KUBE_NB_INDEX_CREDENTIALS"
_INDEX_PROXIES = "KUBE_NB_INDEX_PROXIES"
"""For the installer alone (`installer.py`, which is slow to import)."""
_WORTH_SAYING = 64 << 20
"""Bytes that take a noticeable time to check."""


class Arguments:
    """What the backend says: see `main`. All paths are absolute."""

    def __init__(self, argv: list[str]) -> None:
        given = dict(zip(argv[::2], argv[1::2], strict=True))
        values = {name: given.pop(f"--{name}") for name in _REQUIRED}
        values |= {name: given.pop(f"--{name}") for name in _OPTIONAL if f"--{name}" in given}
        if given:
            raise ValueError(f"unknown arguments: {' '.join(given)}")
        self.bundle = os.path.abspath(values["bundle"])
        self.out = os.path.abspath(values["out"])
        self.work = os.path.abspath(values["work"])
        self.key = os.path.abspath(values["key"])
        self.end = os.path.abspath(values["end"])
        self.node = int(values["node"])
        self.attempt = int(values["attempt"])
        self.checkpoints = os.path.abspath(values["checkpoints"]) if "checkpoints" in values else None
        self.env_store = os.path.abspath(values["env-store"]) if "env-store" in values else None
        self.parent = int(values["parent"]) if "parent" in values else None
        self.log = os.path.abspath(values["log"]) if "log" in values else None
        self.service = values.get("service", "")
        self.first = values.get("first", "")
        self.control = values.get("control", "")
        self.join = float(values["join"]) if "join" in values else None
        self.silence = float(values["silence"]) if "silence" in values else None


def main() -> NoReturn:
    """Run one attempt on one node and exit with the status of its end (`ending.CODES`).

    Arguments: --bundle DIR --out DIR --work DIR --key FILE --end FILE --node I --attempt A [--checkpoints DIR]
    [--env-store DIR] [--parent PID] [--log FILE].

    Where the nodes of a job have a headless Service and no supervisor (`nodes.py`): --service DNS [--first NAME]
    [--join SECONDS] [--silence SECONDS] [--control HOST:PORT]. The first node is `<job>-0.<service>`, or NAME instead
    of `<job>-0`; its runner is there too, or at HOST:PORT.
    """
    signals = Signals()
    try:
        signals.install()
        arguments = Arguments(sys.argv[1:])
    except (Interrupted, KeyError, ValueError) as error:
        _report(error)
        os._exit(ending.CODES["RunnerFault"])
    os._exit(Node(arguments, signals).run())


class Node:
    """One attempt on one node."""

    def __init__(self, arguments: Arguments, signals: Signals) -> None:
        self._arguments = arguments
        self._signals = signals
        self._manifest: dict[str, Any] = {}
        self._key = b""
        copy = Copy(arguments.log) if arguments.log is not None else None
        self._stream = Stream(Output(1, copy), 0, arguments.attempt)
        self._gang: Gang | None = None
        self._others = Alone()
        self._scratch: str | None = None
        self._began = time.time()

    def run(self) -> int:
        """Do all of it, whatever happens; the exit status."""
        try:
            record = self._attempt()
        except Exception as error:  # noqa: BLE001 - whatever it is, the ranks end and an END is written
            self._signals.raising = False
            if self._gang is not None:
                self._gang.kill()
            record = self._others.unable(self._why(error))
        self._signals.raising = False
        processes.kill_children()
        status = self._say_end(record)
        self._others.part(status, record["code"])
        self._clean()
        return status

    def _attempt(self) -> dict[str, Any]:
        arguments = self._arguments
        parent = processes.Parent(arguments.parent)
        if parent.dead:
            raise Interrupted(signal.SIGHUP)
        processes.adopt_orphans()
        with open(arguments.key, "rb") as file:
            self._key = file.read()
        manifest = self._manifest = verify.read_manifest(arguments.bundle, self._key)
        self._stream.rank = arguments.node * manifest["procs"]
        self._others = self._other_nodes()
        verify.check_interpreter(manifest)
        if sum(manifest["sizes"].values()) > _WORTH_SAYING:
            self._stream.state("Starting", "verify", "checking what was sent")
        verify.check_objects(arguments.bundle, manifest)
        self._scratch = _private_folder([arguments.out, arguments.work])
        modules = self._place()
        env_path = self._install()
        gang = self._gang = Gang(
            self._stream,
            self._signals,
            parent,
            self._sign,
            filename=manifest["task"]["filename"],
            timeout=manifest["timeout"] if self._others.judges else None,
            grace=manifest["grace"],
            others=self._others,
        )
        attempt = arguments.attempt = self._others.join(self._stream, arguments.attempt)
        self._stream.belongs_to(attempt)
        self._start(gang, modules, env_path)
        self._stream.state("Starting", "load", "starting Python" if manifest["procs"] == 1 else "starting all ranks")
        record = gang.run()
        gang.close()
        return record

    def _other_nodes(self) -> Alone:
        """The job's other nodes, where no supervisor on this machine looks after all of them."""
        manifest, arguments = self._manifest, self._arguments
        if manifest["nodes"] == 1 or not (arguments.service or arguments.control):
            return Alone()
        from . import lead, member, nodes

        host, _, port = arguments.control.rpartition(":")
        terms = nodes.Terms(
            self._key,
            manifest["job"],
            manifest["nodes"],
            manifest["procs"],
            (host, int(port)) if host else (self._first_host, nodes.PORT),
            join=arguments.join or nodes.JOIN,
            silence=arguments.silence or nodes.SILENCE,
            grace=manifest["grace"],
            report=nodes.REPORT if arguments.service else 0.0,
        )
        if arguments.node == 0:
            return lead.Lead(terms, self._signals)
        return member.Member(terms, self._signals, arguments.node)

    @property
    def _first_host(self) -> str:
        """The name of node 0 in the cluster's DNS."""
        name = self._arguments.first or f"{self._manifest['job']}-0"
        return f"{name}.{self._arguments.service}"

    def _place(self) -> str | None:
        """Make the work folder and what belongs into it; where the local modules lie."""
        arguments, manifest = self._arguments, self._manifest
        verify.make_work(arguments.work, used_before=arguments.attempt > 0)
        verify.place_files(arguments.bundle, manifest["files"], arguments.work)
        os.makedirs(os.path.join(arguments.out, "objects"), mode=0o700, exist_ok=True)
        if arguments.checkpoints is not None:
            os.makedirs(arguments.checkpoints, mode=0o700, exist_ok=True)
        if manifest["modules"] is None:
            return None
        modules = os.path.join(self._folder, "modules")
        verify.extract_modules(arguments.bundle, manifest["modules"], modules)
        return modules

    @property
    def _folder(self) -> str:
        assert self._scratch is not None
        return self._scratch

    def _install(self) -> list[str]:
        """What must be on sys.path besides what the interpreter has."""
        packages = self._manifest["packages"]
        if not (packages["pins"] or packages["requires_ipython"] or packages.get("wished")):
            return []
        from pathlib import Path

        from . import environment

        store = self._arguments.env_store or os.path.join(self._arguments.out, "environments")
        try:
            return environment.prepare(
                packages, Path(store), lambda text: self._stream.state("Starting", "install", text)
            )
        except environment.EnvironmentFailed as error:
            detail = {"what": error.what, "why": error.why, "next": error.next, "code": error.code}
            code = "OutOfDisk" if error.code == "OutOfDisk" else "EnvironmentFailed"
            raise ending.CannotGoOn(code, error.what, detail) from error

    def _start(self, gang: Gang, modules: str | None, env_path: list[str]) -> None:
        """Start every rank of this node."""
        manifest, arguments = self._manifest, self._arguments
        procs = manifest["procs"]
        first = arguments.node * procs
        tokens = {os.urandom(24).hex(): first + local for local in range(procs)}
        socket_path = os.path.join(self._folder, "socket")
        gang.listen(socket_path, tokens)
        shared = self._shared_environment(socket_path)
        runner = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        for token, rank in tokens.items():
            spec = os.path.join(self._folder, f"rank.{rank}.json")
            self._write_spec(
                spec,
                bundle=arguments.bundle,
                out=arguments.out,
                work=arguments.work,
                modules=modules,
                env_path=env_path,
                runner=runner,
                rank=rank,
                attempt=arguments.attempt,
                notebook=manifest["task"]["kind"] == "notebook",
            )
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank - first), "KUBE_NB_TOKEN": token}
            command = [sys.executable, "-c", _RANK, runner]
            gang.start(rank, command, cwd=arguments.work, env=shared | own | {"KUBE_NB_RANK_SPEC": spec})

    @staticmethod
    def _write_spec(path: str, **spec: Any) -> None:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(fd, "w", encoding="utf-8") as file:
            json.dump(spec, file)

    def _shared_environment(self, socket_path: str) -> dict[str, str]:
        """The variables that all ranks of this node have: the job's own, torchrun's, ours."""
        manifest, arguments = self._manifest, self._arguments
        procs, nodes = manifest["procs"], manifest["nodes"]
        env = dict(os.environ)
        env.pop("KUBE_NB_CHECKPOINTS", None)  # of a job around this one
        env.pop(_INDEX_CREDENTIALS, None)
        env.pop(_INDEX_PROXIES, None)
        env |= {
            "WORLD_SIZE": str(nodes * procs),
            "LOCAL_WORLD_SIZE": str(procs),
            "GROUP_RANK": str(arguments.node),
            "NODE_RANK": str(arguments.node),
            "KUBE_NB_JOB": manifest["job"],
            "KUBE_NB_ATTEMPT": str(arguments.attempt),
            "KUBE_NB_SOCKET": socket_path,
            "KUBE_NB_OUT": arguments.out,
        }
        if nodes == 1:
            env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
        elif arguments.service:
            from .nodes import MASTER_PORT

            env |= {"MASTER_ADDR": self._first_host, "MASTER_PORT": str(MASTER_PORT)}
        if arguments.checkpoints is not None:
            env["KUBE_NB_CHECKPOINTS"] = arguments.checkpoints
        env.setdefault("MPLBACKEND", "module://matplotlib_inline.backend_inline")
        return env

    def _sign(self, record: dict[str, Any]) -> str:
        """The signature of what a rank sent: it belongs to this job and attempt."""
        whole = {"job": self._manifest["job"], "attempt": self._arguments.attempt} | record
        return hmac.digest(self._key, canonical(whole), "sha256").hex()

    def _why(self, error: Exception) -> dict[str, Any]:
        """The end of an attempt whose ranks never ended by themselves."""
        rank = self._stream.rank
        if isinstance(error, ending.CannotGoOn):
            return ending.end(error.code, rank, evalue=error.evalue, detail=error.detail)
        if isinstance(error, ending.Ended):
            return error.end
        if isinstance(error, Interrupted):
            code = "Cancelled" if error.signum == signal.SIGINT else "Stopped"
            return ending.end(code, rank, evalue="before the code was started")
        if isinstance(error, OSError) and ending.disk_is_full(error):
            return ending.end("OutOfDisk", rank, evalue=str(error))
        _report(error)
        return ending.end("RunnerFault", rank, ename=type(error).__name__, evalue=str(error))

    def _say_end(self, record: dict[str, Any]) -> int:
        """Write the last account, the termination message and the end event: who sees the last finds the others."""
        gang = self._gang
        record |= {
            "account": self._stream.account(),
            "where": self._manifest.get("task", {}).get("label", ""),
            "result": gang.result if gang is not None else None,
            "started": (gang.started if gang is not None else 0.0) or self._began,
            "ended": time.time(),
        }
        written = self._write_end(record)
        end = {name: value for name, value in record.items() if name != "rank"}  # the event itself has one
        self._stream.event("end", record["rank"], **end)
        output = self._stream.output
        if output.copy is not None:
            output.copy.finish()
        output.finish()
        if record["code"] == "Succeeded" and (output.broken is not None or output.waiting):
            full = output.broken is not None and ending.disk_is_full(output.broken)
            record |= {"code": "OutOfDisk" if full else "RunnerFault", "evalue": "the job's output cannot be written"}
            written = self._write_end(record)
        status = ending.status_of(record)
        # Only the higher statuses say by themselves how it ended.
        return status if written or status > 1 else ending.CODES["OutOfDisk"]

    def _write_end(self, record: dict[str, Any]) -> bool:
        """False: there is no room for it, which the exit status then tells."""
        try:
            ending.write_end(self._arguments.end, record)
        except OSError as error:  # the exit status and the stream still tell
            _report(error)
            return not ending.disk_is_full(error)
        return True

    def _clean(self) -> None:
        if self._scratch is None:
            return
        for entry in os.listdir(self._scratch):
            path = os.path.join(self._scratch, entry)
            if os.path.isdir(path):
                import shutil

                shutil.rmtree(path, ignore_errors=True)
            else:
                os.unlink(path)
        os.rmdir(self._scratch)


def _report(error: Exception) -> None:
    """A fault of our own, for developers; where the disk is full nobody hears of it."""
    import traceback
    from contextlib import suppress

    with suppress(OSError):
        traceback.print_exception(error)


def _private_folder(others: list[str]) -> str:
    """A new folder for this user alone, whose path is short enough for a socket.

    Args:
        others: where to make it if the usual places cannot be written (a read-only image) or lie too deep.
    """
    name = f"kube-nb-{os.urandom(6).hex()}"
    failure: OSError | None = None
    for place in (os.environ.get("TMPDIR", "/tmp"), "/tmp", "/dev/shm", *others):
        path = os.path.join(place, name)
        if len(os.fsencode(path)) > _LONGEST_FOLDER:
            continue
        try:
            os.mkdir(path, 0o700)
            return path
        except OSError as error:
            failure = error
    raise failure or OSError("there is no place for a socket: all temporary folders have too long a path")


def _free_port() -> int:
    probe = socket()
    try:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
    finally:
        probe.close()
