"""A program that sends jobs from children and kills them: `python killed_submits.py TARGET STATE`.

It reads lines `NAME NODES WINDOW DELAY`. A child sends a job of that name; DELAY seconds after its start (WINDOW `any`),
or after it began to make objects on the cluster (WINDOW `making`), it is killed. One line answers: `sent` where the
submit had returned before that, else `killed`. A DELAY of 0 lets it be; the answer then is how long it took.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time

from kube_nb.backends.kubernetes import submit
from kube_nb.client import Client
from kube_nb.config import Settings

BEGAN, MAKING, SENT = b"b", b"m", b"s"


def main() -> None:
    target, state = sys.argv[1:]
    settings = Settings.load(environ={"KUBE_NB_STATE_DIR": state, "KUBE_NB_STORE": "none"})
    for line in sys.stdin:
        name, nodes, window, delay = line.split()
        read, write = os.pipe()
        began = time.monotonic()
        child = os.fork()
        if child == 0:
            os.close(read)
            send(target, settings, name, int(nodes), write)
        os.close(write)
        said = watch(child, read, MAKING if window == "making" else BEGAN, float(delay))
        os.close(read)
        os.waitpid(child, 0)
        took = time.monotonic() - began
        print(f"{took:.4f}" if delay == "0" else "sent" if SENT in said else "killed", flush=True)


def send(target: str, settings: Settings, name: str, nodes: int, told: int) -> None:
    create = submit.create

    def making(*args, **details):
        os.write(told, MAKING)
        return create(*args, **details)

    submit.create = making
    os.write(told, BEGAN)
    status = 1
    try:
        client = Client(target, settings=settings, cpu="10m", memory="64Mi", name=name, nodes=nodes)
        client.cell(f"print('done', {name!r})", {})
        os.write(told, SENT)
        status = 0
    finally:
        os._exit(status)


def watch(child: int, read: int, since: bytes, delay: float) -> bytes:
    """What the child told until it was killed, or had ended."""
    said = b""
    kill_at = None
    while True:
        left = None if kill_at is None else max(0.0, kill_at - time.monotonic())
        if not select.select([read], [], [], left)[0]:
            os.kill(child, signal.SIGKILL)
            kill_at = None
            continue
        piece = os.read(read, 16)
        if not piece:
            return said
        said += piece
        if delay and kill_at is None and since in said:
            kill_at = time.monotonic() + delay


if __name__ == "__main__":
    main()
