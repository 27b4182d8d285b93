"""What is asked once for all who use one connection."""

from __future__ import annotations

import threading
from typing import Any

from kube_nb.backends.kubernetes.api import Api


def test_of_those_who_want_to_know_at_the_same_time_one_asks() -> None:
    nobody: Any = None
    api = Api(nobody, "team-a")
    asked: list[int] = []
    entered, answer = threading.Event(), threading.Event()
    found: list[object] = []

    def ask() -> object:
        asked.append(1)
        entered.set()
        assert answer.wait(10)
        return object()

    readers = [threading.Thread(target=lambda: found.append(api.remember("watch", ask))) for _ in range(8)]
    readers[0].start()
    assert entered.wait(10)
    for reader in readers[1:]:
        reader.start()
    threading.Event().wait(0.1)  # long enough for one who does not wait to ask too
    answer.set()
    for reader in readers:
        reader.join(10)
    assert len(asked) == 1
    assert len(found) == 8
    assert len(set(map(id, found))) == 1
