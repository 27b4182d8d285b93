"""Why a job ended, in words: from the END record to a `Reason`. One place for all backends."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from typing import Any

from kube_nb.backends.base import Reason
from kube_nb.errors import KubeNbError, Refused
from kube_nb.runner.ending import ENVIRONMENT

End = Mapping[str, Any]
SEND_AGAIN = (
    "send it again with %kube_rerun, which begins anew: only a job's own attempts (--retries) share kn.checkpoint_dir()"
)


def reason_of(end: End) -> Reason:
    """What happened, why, and what to do next, for the END record of a job (`runner/ending.py`).

    Example:
        >>> reason_of({"code": "SystemExit", "exit": 3, "where": "Cell In[5]", "line": 2}).what
        'the code called sys.exit(3) in Cell In[5], line 2'
    """
    code = str(end.get("code") or "Unknown")
    words = _WORDS.get(code)
    if words is None:
        return Reason(code=code, what=f"the job ended with {code}", why=_error(end), next="look at %kube_logs")
    what, why, next = words(end)
    detail = _detail(end)
    if detail.get("what"):  # who met the failure knew better
        what, why, next = (str(detail.get(key) or "") for key in ("what", "why", "next"))
    cause = str(detail.get("code"))
    if code == "EnvironmentFailed" and cause in ENVIRONMENT:
        code = cause
    return Reason(code=code, what=what, why=why, next=next)


def unheard(error: KubeNbError) -> Reason:
    """Why nothing newer is known of a job that has not ended: its target answers with this error, or not at all.

    Example:
        >>> unheard(KubeNbError("the cluster cannot be reached")).what
        'the cluster cannot be reached; this is how the job was last seen, and there it goes on'
    """
    refused = error.findings[0].reason.code if isinstance(error, Refused) and error.findings else ""
    return Reason(
        code=refused or type(error).__name__,
        what=f"{error.what}; this is how the job was last seen, and there it goes on",
        why=error.why,
        next=error.next,
    )


def size_text(size: float) -> str:
    """Bytes for a person: `1.5 GiB`."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.3g} {unit}" if unit != "bytes" else f"{size:.0f} bytes"
        size /= 1024
    return f"{size:.3g} TiB"


def signal_text(number: int) -> str:
    """`SIGSEGV` for 11."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _detail(end: End) -> Mapping[str, Any]:
    detail = end.get("detail")
    return detail if isinstance(detail, Mapping) else {}


def _error(end: End) -> str:
    parts = [str(end.get(key) or "") for key in ("ename", "evalue")]
    return ": ".join(part for part in parts if part)


def _place(end: End) -> str:
    where, line = end.get("where"), end.get("line")
    if where and line:
        return f" in {where}, line {line}"
    return f" in line {line}" if line else ""


def _who(end: End) -> str:
    if _detail(end).get("place"):
        return "the notebook's kernel"
    return f"rank {end['rank']}" if end.get("rank") else "the process"


def _where_in_it(end: End) -> str:
    """The cell of a notebook in which its kernel ended."""
    place = _detail(end).get("place")
    return f" in {place}" if place else ""


def _succeeded(end: End) -> tuple[str, str, str]:
    return "the job succeeded", "", ""


def _exception(end: End) -> tuple[str, str, str]:
    name = str(end.get("ename") or "an exception")
    next = "mend the code and send it again"
    if name.rpartition(".")[2] == "OutOfMemoryError":  # of torch and of cupy: the memory of a device
        next = "make the batches or the model smaller, or ask for a GPU with more memory (--gpu-product on a cluster)"
    return f"the code raised {name}{_place(end)}", str(end.get("evalue") or ""), next


def _system_exit(end: End) -> tuple[str, str, str]:
    value = end.get("exit")
    call = f"sys.exit({value})" if value is not None else "sys.exit"
    why = str(end.get("evalue") or "") or "an exit status other than 0 is a failure"
    return f"the code called {call}{_place(end)}", why, "mend what it exits for, or leave with sys.exit(0)"


def _exited(end: End) -> tuple[str, str, str]:
    value = end.get("exit")
    status = f" with status {value}" if value is not None else ""
    return (
        f"{_who(end)} ended{status} before the code did{_where_in_it(end)}",
        "something called os._exit, or a library ended the process without an exception",
        "look at the last lines with %kube_logs",
    )


def _signal(end: End) -> tuple[str, str, str]:
    name = signal_text(int(end.get("signal") or 0))
    if name in ("SIGSEGV", "SIGBUS", "SIGILL", "SIGABRT", "SIGFPE"):
        why, next = (
            "compiled code of a library crashed",
            "set --env PYTHONFAULTHANDLER=1 and see the Python line in the log",
        )
    elif name == "SIGKILL":
        why, next = "somebody killed it; that memory ran out is not known", "look at the last lines with %kube_logs"
    else:
        why, next = "something on the machine sent it", "look at the last lines with %kube_logs"
    return f"{_who(end)} was killed by {name}{_where_in_it(end)}", why, next


def _rank_lost(end: End) -> tuple[str, str, str]:
    return (
        f"{_who(end)} was lost, and one rank's end ends all",
        _error(end) or "its process or its connection broke off",
        f"look at what it wrote last: %kube_logs --rank {end.get('rank') or 0}",
    )


def _rendezvous_blocked(end: End) -> tuple[str, str, str]:
    return (
        "the job's nodes could not reach each other",
        _error(end),
        "ask the platform team for a NetworkPolicy that lets the pods of one job talk to each other",
    )


def _again(end: End) -> tuple[str, str, str]:
    return "this node ended with the others", _error(end), "node 0 tells how the job ended"


def _disrupted(end: End) -> tuple[str, str, str]:
    return (
        "the job was interrupted too often",
        str(end.get("evalue") or "its nodes were drained, preempted or lost again and again"),
        "ask who runs the cluster why, and send it again, to other nodes where that is possible",
    )


def _not_uploaded(end: End) -> tuple[str, str, str]:
    return (
        "what the job needs never came",
        str(end.get("evalue") or "") or "the kernel that was sending it has ended, or its network",
        "send it again and keep the kernel until the job has started, or configure a store (`store`)",
    )


def _timed_out(end: End) -> tuple[str, str, str]:
    limit = _detail(end).get("timeout")
    after = f" after {limit:g} s" if isinstance(limit, (int, float)) else ""
    what = f"the job was stopped{_where_in_it(end)}: its time was over{after}"
    why = str(end.get("evalue") or "") or "the code ran longer than --timeout allows"
    return what, why, "give it more time with --timeout, or less to do"


def _cancelled(end: End) -> tuple[str, str, str]:
    return "the job was cancelled", str(end.get("evalue") or "somebody asked for it"), ""


def _stopped(end: End) -> tuple[str, str, str]:
    return (
        "the job was stopped from outside",
        str(end.get("evalue") or "the machine, or what runs it, asked the job's processes to end"),
        SEND_AGAIN,
    )


def _bundle_corrupted(end: End) -> tuple[str, str, str]:
    return (
        "what was sent did not arrive as it was sent",
        _error(end) or "a file is not what its digest says",
        "send it again; if it happens again, the disk or whoever can write there is at fault",
    )


def _environment_failed(end: End) -> tuple[str, str, str]:
    detail = _detail(end)
    return (
        str(detail.get("what") or "the packages of the job could not be made ready"),
        str(detail.get("why") or end.get("evalue") or "the installer failed; %kube_logs shows what it said"),
        str(detail.get("next") or "check --packages and the package index, or use an image that has them"),
    )


def _out_of_memory(end: End) -> tuple[str, str, str]:
    detail = _detail(end)
    limit, peak = detail.get("limit"), detail.get("peak")
    if isinstance(limit, (int, float)):
        used = f"it used {size_text(peak)}" if isinstance(peak, (int, float)) else "it wanted more"
        why = f"{used}, its limit is {size_text(limit)}"
    else:
        why = "the machine had no memory left, and the system killed it"
    what = f"{_who(end)} ran out of memory{_where_in_it(end)}"
    return what, why, "give it more with --memory, or work on smaller pieces"


def _out_of_disk(end: End) -> tuple[str, str, str]:
    why = str(end.get("evalue") or "") or "no space is left where the job writes"
    return "the job ran out of disk space", why, "free some space (kube-nb clean removes old jobs) and send it again"


def _runner_fault(end: End) -> tuple[str, str, str]:
    detail = _detail(end)
    said = str(detail.get("log") or "").strip().splitlines()
    if end.get("signal"):
        why = f"it was killed by {signal_text(int(end['signal']))}"
    else:
        why = _error(end) or (said[-1] if said else "") or f"it ended with status {end.get('exit')} and no last word"
    return (
        "the process that runs the job failed",
        why,
        "send it again; if it fails again, report it with the job's supervisor.log",
    )


def _supervisor_lost(end: End) -> tuple[str, str, str]:
    detail = _detail(end)
    if detail.get("rebooted"):
        why = "the machine was started anew while the job was running"
    else:
        number = f" (process {detail['supervisor']})" if detail.get("supervisor") else ""
        said = str(detail.get("log") or "").strip().splitlines()
        ended = f"with the words `{said[-1]}`" if said else "without a word: killed, or out of memory"
        why = f"its supervisor{number} ended {ended}"
    return "the job was lost", why, SEND_AGAIN


def _supervisor_fault(end: End) -> tuple[str, str, str]:
    return (
        "the job could not be looked after",
        str(end.get("evalue") or ""),
        "check that the job's directory can be written and send it again; supervisor.log there tells more",
    )


_WORDS: Mapping[str, Callable[[End], tuple[str, str, str]]] = {
    "Succeeded": _succeeded,
    "Exception": _exception,
    "SystemExit": _system_exit,
    "Exited": _exited,
    "Signal": _signal,
    "RankLost": _rank_lost,
    "RendezvousBlocked": _rendezvous_blocked,
    "Again": _again,
    "Disrupted": _disrupted,
    "NotUploaded": _not_uploaded,
    "TimedOut": _timed_out,
    "Cancelled": _cancelled,
    "Stopped": _stopped,
    "BundleCorrupted": _bundle_corrupted,
    "EnvironmentFailed": _environment_failed,
    "OutOfMemory": _out_of_memory,
    "OutOfDisk": _out_of_disk,
    "RunnerFault": _runner_fault,
    "SupervisorLost": _supervisor_lost,
    "SupervisorFault": _supervisor_fault,
}
