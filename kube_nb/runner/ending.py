"""How an attempt ended: the codes, and the termination message (END) that says so in at most 4 KiB.

Standard library only, and little of it: the runner writes what the backends read.
"""

from __future__ import annotations

import errno
import json
import os
import signal

TYPE_CHECKING = False  # without importing `typing`: see node.py
if TYPE_CHECKING:
    from typing import Any

CODES: dict[str, int] = {
    "Succeeded": 0,
    "Exception": 1,
    "SystemExit": 1,
    "Exited": 1,
    "Signal": 1,
    "RankLost": 1,
    "TimedOut": 80,
    "Cancelled": 81,
    "Stopped": 82,
    "BundleCorrupted": 83,
    "EnvironmentFailed": 84,
    "OutOfMemory": 85,
    "OutOfDisk": 86,
    "Disrupted": 87,
    "NotUploaded": 87,
    "RunnerFault": 87,
    "Again": 88,
    "RendezvousBlocked": 89,
}
"""Every code an attempt can end with, and the runner's exit status that goes with it."""

ENVIRONMENT = frozenset({"PythonMismatch", "InstallForbidden", "NoInstaller", "PackageNotFound", "Conflict"})
ENVIRONMENT |= {"BuildFailed", "IndexUnreachable", "IndexRefused", "StoreFailed", "InstallFailed"}
"""What is wrong where the code is EnvironmentFailed: `code` in the END's detail, and so the code of the reason."""

LIMIT = 4096
"""Bytes that a kubelet takes of a termination message."""
_EVALUE = 500
_FROM_RANK = frozenset({"BundleCorrupted", "EnvironmentFailed", "OutOfMemory", "OutOfDisk", "TimedOut"})
_NUMBER = (int, float)
_MAYBE = (int, type(None))
_KINDS: dict[str, tuple[type, ...]] = {
    "v": _NUMBER,
    "code": (str,),
    "rank": (int,),
    "exit": _MAYBE,
    "signal": _MAYBE,
    "ename": (str,),
    "evalue": (str,),
    "line": _MAYBE,
    "where": (str,),
    "account": (dict,),
    "result": (str, type(None)),
    "started": _NUMBER,
    "ended": _NUMBER,
    "detail": (dict,),
}
"""What each part of an END is."""
_LARGEST = 1e12
_DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class CannotGoOn(Exception):
    """The attempt ends here; `code` and `evalue` go into its END."""

    def __init__(self, code: str, evalue: str, detail: dict[str, Any] | None = None) -> None:
        super().__init__(code, evalue)
        self.code = code
        self.evalue = evalue
        self.detail = detail or {}


class Ended(Exception):
    """The attempt ends here, and how is known already, e.g. from another node.

    Attributes:
        end: the END.
    """

    def __init__(self, end: dict[str, Any]) -> None:
        super().__init__(end["code"])
        self.end = end


def disk_is_full(error: OSError) -> bool:
    return error.errno in _DISK_FULL


def end(code: str, rank: int, **known: Any) -> dict[str, Any]:
    """An END with every key; what is not `known` is null or empty."""
    blank: dict[str, Any] = {
        "v": 1,
        "code": code,
        "rank": rank,
        "exit": None,
        "signal": None,
        "ename": "",
        "evalue": "",
    }
    blank |= {"line": None, "where": "", "account": {}, "result": None, "started": 0.0, "ended": 0.0, "detail": {}}
    return blank | known


def of_rank(
    rank: int,
    waited: int,
    bye: dict[str, Any] | None,
    error: dict[str, Any] | None,
    *,
    filename: str,
    out_of_memory: bool,
) -> dict[str, Any]:
    """The END of one rank by what it said and how its process ended.

    Args:
        waited: the process's exit status; negative: the signal that killed it.
        bye: its goodbye, or None where it ended without one.
        error: the last ERROR it sent.
        filename: of the sent code, to find the line.
        out_of_memory: the kernel has killed a process of this job for memory.
    """
    how: dict[str, Any] = {"exit": waited, "signal": None} if waited >= 0 else {"exit": None, "signal": -waited}
    if bye is None and error is None:
        return _without_goodbye(rank, how, out_of_memory)
    if bye is not None and bye.get("status") == "died":  # not the rank itself, but the process that did its work
        died = _without_goodbye(rank, {"exit": bye.get("exit"), "signal": bye.get("signal")}, out_of_memory)
        return died | {"detail": died["detail"] | {"place": str(bye.get("place", ""))}}
    bye = bye or {"status": "error"}  # it told of its failure, and something ended it before it could say goodbye
    status = bye.get("status")
    if status == "ok" or (status == "exit" and not bye.get("exit")):
        # What happens after the goodbye (a crash while libraries unload) no more changes what the code did.
        return end("Succeeded", rank, exit=0, detail={"after": how} if waited else {})
    said = (error or {}) | {key: bye[key] for key in ("ename", "evalue", "line") if bye.get(key) is not None}
    known: dict[str, Any] = {"ename": str(said.get("ename", "")), "evalue": str(said.get("evalue", ""))}
    line = said.get("line")
    known["line"] = line if isinstance(line, int) else _line(said, filename)
    if status == "exit":
        code = bye["exit"] if isinstance(bye["exit"], int) else 1
        return end("SystemExit", rank, **(known | {"exit": code, "ename": known["ename"] or "SystemExit"}))
    code = bye.get("code")
    if code not in _FROM_RANK:
        code = "OutOfDisk" if _says_disk_full(known["ename"], known["evalue"]) else "Exception"
    detail = bye.get("detail")
    return end(code, rank, **known, **how, detail=detail if isinstance(detail, dict) else {})


def _without_goodbye(rank: int, how: dict[str, Any], out_of_memory: bool) -> dict[str, Any]:
    if how["signal"] is None:
        return end("Exited", rank, evalue=f"the process ended with exit code {how['exit']} before its code did", **how)
    try:
        name = signal.Signals(how["signal"]).name
    except ValueError:
        name = f"signal {how['signal']}"
    if how["signal"] == signal.SIGKILL and out_of_memory:
        return end("OutOfMemory", rank, evalue="the process was killed because memory ran out", **how)
    return end("Signal", rank, evalue=f"the process was killed by {name}", detail={"name": name}, **how)


def _line(error: dict[str, Any], filename: str) -> int | None:
    """The line of the sent code where `error` came by: the innermost frame that lies in it."""
    frames = error.get("frames")
    for frame in reversed(frames if isinstance(frames, list) else []):
        if isinstance(frame, dict) and frame.get("file") == filename and isinstance(frame.get("line"), int):
            return frame["line"]
    return None


def _says_disk_full(ename: str, evalue: str) -> bool:
    return ename == "OSError" and any(evalue.startswith(f"[Errno {number}]") for number in _DISK_FULL)


def write_end(path: str, record: dict[str, Any]) -> None:
    """Write the termination message, in place: a kubelet mounts the file itself.

    Raises:
        OSError: it cannot be written; the exit status still says the code.
    """
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, shorten(record))
    finally:
        os.close(fd)


def read_end(path: str) -> dict[str, Any] | None:
    """The termination message; None where there is none, or a killed runner tore it."""
    try:
        with open(path, "rb") as file:
            return parse_end(file.read(LIMIT + 1))
    except OSError:
        return None


def parse_end(message: bytes | str) -> dict[str, Any] | None:
    """An END from its text, e.g. a pod's `terminated.message`; None where it is none."""
    try:
        return checked(json.loads(message))
    except (ValueError, RecursionError):
        return None


def checked(record: object) -> dict[str, Any] | None:
    """An END with every key; None where `record` is none. What is not of its kind is as if it was not said.

    A container can write what it likes to where its END is read; whoever looks at a list of jobs reads all of them.
    """
    if not isinstance(record, dict) or not isinstance(record.get("code"), str) or record["code"] not in CODES:
        return None
    blank = end(record["code"], 0)
    said = {name: value for name, value in record.items() if name not in blank or _fits(value, _KINDS[name])}
    return blank | said


def _fits(value: object, kinds: tuple[type, ...]) -> bool:
    if isinstance(value, (int, float)) and not abs(value) < _LARGEST:
        return False
    return isinstance(value, kinds)


def status_of(record: dict[str, Any]) -> int:
    """The exit status that goes with an END: what is a loss of the machine's counts for no failure of the code."""
    return CODES["Again" if record["detail"].get("disruption") else record["code"]]


def code_of(status: int) -> str | None:
    """The code behind a runner's exit status where its END was lost.

    None: the status tells nothing: it was killed, or says only that the code failed (1).
    """
    return {number: code for code, number in CODES.items() if number != 1}.get(status)


def shorten(record: dict[str, Any]) -> bytes:
    """The record as JSON of at most 4096 bytes: what a person wrote gives way, what programs read stays."""
    record = dict(record)
    for key in ("ename", "evalue", "where"):
        record[key] = str(record[key])[:_EVALUE]
    encoded = _encode(record)
    while len(encoded) > LIMIT:
        over = len(encoded) - LIMIT
        if record["detail"]:
            record["detail"] = _smaller(record["detail"])
        else:
            key = max(("evalue", "ename", "where"), key=lambda name: len(_encode(record[name])))
            keep = len(record[key]) - max(1, over // 6)
            record[key] = record[key][: max(0, keep)]
        encoded = _encode(record)
    return encoded


def _smaller(detail: dict[str, Any]) -> dict[str, Any]:
    """Its largest entry cut in half where it is a long text, dropped otherwise."""
    largest = max(detail, key=lambda name: len(_encode(detail[name])))
    value = detail[largest]
    if isinstance(value, str) and len(value) > _EVALUE:
        return detail | {largest: value[: len(value) // 2]}
    return {name: value for name, value in detail.items() if name != largest}


def _encode(value: Any) -> bytes:
    # A lone surrogate, which UTF-8 has no bytes for, becomes the escape that JSON knows.
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")
