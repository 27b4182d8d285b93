"""A program that sends jobs from children and kills them: `python killed_submits.py TARGET STATE`.

It reads one JSON object a line: `name`, `options` of the job, `size` of what it carries, and `step`, `moment` and
`delay`. A child sends a job of that name. What it asks of the cluster are its steps, each told by its place: how many have
made something by then, and how many came since. It dies at the one of that place (null: at none): `before` it asks,
`during` that step, `delay` seconds after it began to ask, or `after` it was answered. One line answers with another
object: the `steps` that the child had begun, and its `end`: `sent`, `killed` or `failed`.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any, TypeVar

from kube_nb.backends.kubernetes.api import Api
from kube_nb.backends.kubernetes.exec import Exec
from kube_nb.client import Client
from kube_nb.config import Settings

_T = TypeVar("_T")
Step = tuple[int, int]


def main() -> None:
    target, state = sys.argv[1:]
    settings = Settings.load(environ=dict(os.environ, KUBE_NB_STATE_DIR=state))
    for line in sys.stdin:
        order = json.loads(line)
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(read)
            send(target, settings, order, write)
        os.close(write)
        with os.fdopen(read) as told:
            steps = told.read().splitlines()
        _, status = os.waitpid(child, 0)
        end = "killed" if os.WIFSIGNALED(status) else "failed" if status else "sent"
        print(json.dumps({"end": end, "steps": steps}), flush=True)


def makes(words: str) -> bool:
    """Whether a step makes something on the cluster; reviews make nothing."""
    return words.startswith("POST ") and not words.endswith("reviews")


def following(step: Step, words: str) -> Step:
    """The place of the step that comes after another. How often somebody looks while he waits is left to chance: what is
    made, and in which order, is not."""
    return (step[0] + 1, 0) if makes(words) else (step[0], step[1] + 1)


def carried(name: str, size: int) -> bytes:
    """The same for everybody who knows the job's name."""
    return random.Random(name).randbytes(size)


def send(target: str, settings: Settings, order: dict[str, Any], told: int) -> None:
    status = 1
    try:
        Steps(order["step"] and tuple(order["step"]), order["moment"], order["delay"], told).install()
        name = order["name"]
        client = Client(target, settings=settings, cpu="10m", memory="96Mi", name=name, **order["options"])
        source = f"import hashlib\nprint({name!r}, hashlib.sha256(data).hexdigest())"
        client.cell(source, {"__name__": "__main__", "data": carried(name, order["size"])})
        status = 0
    except Exception:
        traceback.print_exc()
    finally:
        os._exit(status)


class Steps:
    """Counts what this process asks of the cluster, and kills it at one of these steps.

    Args:
        told: a descriptor to which each step is written as it begins.
    """

    def __init__(self, at: Step | None, moment: str, delay: float, told: int) -> None:
        self._at = at
        self._moment = moment
        self._delay = delay
        self._told = told
        self._reached: Step = (0, 0)

    def install(self) -> None:
        transport, start = Api._transport, Exec.start

        def asked(api: Api, method: str, path: str, *rest: Any) -> Any:
            return self._step(f"{method} {path.partition('?')[0]}", lambda: transport(api, method, path, *rest))

        def started(api: Api, pod: str, command: Any, **how: Any) -> Any:
            return self._step(f"EXEC {pod}", lambda: start(api, pod, command, **how))

        Api._transport, Exec.start = asked, started

    def _step(self, words: str, ask: Callable[[], _T]) -> _T:
        self._reached = following(self._reached, words)
        moment = self._moment if self._reached == self._at else ""
        os.write(self._told, f"{words}\n".encode())
        if moment == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        elif moment == "during":
            signal.setitimer(signal.ITIMER_REAL, self._delay)  # SIGALRM, which nobody handles, ends a process as well
        answer = ask()
        if moment == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        return answer


if __name__ == "__main__":
    main()
