"""The `__main__.py` of runner.zip: process 1 of a pod, and every tool that is started beside it, begin here.

Python runs the zip where the Secret is mounted (`python3 -I -S runner.zip`). The runner itself needs files, so process
1 unpacks them first; a tool runs from what is unpacked, or straight from the zip where nothing is.
"""

import errno
import json
import os
import signal
import sys

BASE = os.environ.get("KUBE_NB_BASE", "/kube-nb")
_OLDEST = (3, 11)
"""This file is read by whatever Python an image has, so it is written for older ones, too."""


def main() -> None:
    """Be a tool where the first argument says so, else process 1."""
    if sys.version_info < _OLDEST:
        _too_old()
    runner = os.path.join(BASE, "run", "runner")
    if sys.argv[1:2] == ["tool"]:
        if os.path.isdir(runner):
            sys.path.insert(0, runner)
        from _kube_nb_job.runner.tool import main as tool  # pyright: ignore[reportMissingImports]

        tool(sys.argv[2:])
    # A signal that comes before its handler is there must wait: the first process of a container never sees it else.
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
    try:
        unpack(runner)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        code, status = ("OutOfDisk", 86) if full else ("RunnerFault", 87)
        _give_up(code, status, f"the runner cannot be unpacked: {error}")
    sys.path.insert(0, runner)
    from _kube_nb_job.runner.pod import main as pod  # pyright: ignore[reportMissingImports]

    pod(BASE)


def unpack(runner: str) -> None:
    """Write the files of this zip into the folder `runner`, which is there whole or not at all.

    Raises:
        OSError: the folder cannot be written.
    """
    if os.path.isdir(runner):
        return
    draft = f"{runner}.{os.getpid()}"
    archive = __loader__
    made = set()
    for name in archive.get_data("files.txt").decode().splitlines():
        path = os.path.join(draft, name)
        folder = os.path.dirname(path)
        if folder not in made:
            os.makedirs(folder, exist_ok=True)
            made.add(folder)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        try:
            rest = archive.get_data(name)
            while rest:  # a disk that is nearly full takes a part
                rest = rest[os.write(fd, rest) :]
        finally:
            os.close(fd)
    os.rename(draft, runner)


def _too_old() -> None:
    here, least = (".".join(map(str, version)) for version in (sys.version_info[:2], _OLDEST))
    what = f"the image has Python {here}, a job needs Python {least} or newer"
    next = "use an image with the kernel's Python: --image, or `image_map`"
    detail = {"what": what, "why": "", "next": next, "code": "PythonMismatch"}
    _give_up("EnvironmentFailed", 84, what, detail)


def _give_up(code: str, status: int, why: str, detail: object = None) -> None:
    """End with a termination message although nothing is there that could make a stream, or read more than this."""
    sys.stderr.write(f"{why}\n")
    record = {"v": 1, "code": code, "rank": 0, "evalue": why, "detail": detail or {}}
    try:
        with open(os.environ.get("KUBE_NB_END", "/dev/termination-log"), "w", encoding="utf-8") as file:
            json.dump(record, file)
    except OSError:
        pass  # the exit status tells
    os._exit(status)


if __name__ == "__main__":
    main()
