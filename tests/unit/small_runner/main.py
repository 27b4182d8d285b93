"""A runner as small as can be that keeps the contract: one rank, the bundle's `rank.py`, in a plain interpreter."""

import argparse
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from events import Encoder

STATUS = {"Succeeded": 0, "Cancelled": 81, "Stopped": 82}


def die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, int(signal.SIGKILL), 0, 0, 0)


def prepare_rank() -> None:
    die_with_parent()
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("bundle", "out", "work", "key", "end", "node", "attempt", "checkpoints", "env-store", "parent"):
        parser.add_argument(f"--{name}")
    args = parser.parse_args()
    die_with_parent()
    shutil.rmtree(args.work, ignore_errors=True)
    os.mkdir(args.work)
    asked: list[str] = []
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})  # until there is a rank to end
    encoder = Encoder(attempt=int(args.attempt))

    def emit(data: bytes) -> None:
        while data:
            data = data[os.write(1, data) :]

    emit(encoder.event("state", 0, phase="Starting", step="load", text="loading"))
    env = {
        **os.environ,
        "KUBE_NB_JOB": os.path.basename(os.path.dirname(args.key)),
        "KUBE_NB_ATTEMPT": args.attempt,
        "KUBE_NB_OUT": args.out,
        "NODE": args.node,
    }
    rank = subprocess.Popen(
        [sys.executable, "-u", "-I", f"{args.bundle}/rank.py"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=env,
        cwd=args.work,
        start_new_session=True,
        preexec_fn=prepare_rank,
    )
    emit(encoder.event("state", 0, phase="Running", step="run", text="running"))

    def ask(code: str) -> None:
        asked.append(code)
        os.killpg(rank.pid, signal.SIGTERM)

    signal.signal(signal.SIGINT, lambda *_: ask("Cancelled"))
    signal.signal(signal.SIGTERM, lambda *_: ask("Stopped"))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    while data := os.read(rank.stdout.fileno(), 1 << 16):
        emit(encoder.text(0, data))
    status = rank.wait()
    code = asked[0] if asked else "Succeeded" if status == 0 else "Exception" if status > 0 else "Signal"
    end = {"v": 1, "code": code, "rank": 0, "exit": status if status >= 0 else None}
    end |= {"signal": -status if status < 0 else None, "ename": "", "evalue": "", "ended": time.time(), "detail": {}}
    with open(args.end, "w") as file:
        json.dump(end, file)
    emit(encoder.event("end", 0, **{key: end[key] for key in ("code", "exit", "signal")}))
    sys.exit(STATUS.get(code, 1))


main()
