"""A kubelet that cannot follow a log says so behind the log's own bytes, with a status of 200."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from kube_nb.backends.kubernetes import log
from kube_nb.backends.leaving import Leaving
from kube_nb.events import Encoder

REFUSAL = b"failed to create fsnotify watcher: too many open files"


class Kubelet:
    """Answers with these pieces."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = pieces

    @contextmanager
    def stream(self, *_: Any, **__: Any) -> Iterator[None]:
        yield

    def pieces(self, _: None) -> Iterator[bytes]:
        yield from self._pieces


def heard(*pieces: bytes, follow: bool = True) -> bytes:
    kubelet: Any = Kubelet(*pieces)
    return b"".join(
        data for _, data in log.from_kubelet(kubelet, "pod", follow=follow, bounded=False, leaving=Leaving())
    )


@pytest.fixture
def said() -> bytes:
    encoder = Encoder()
    return encoder.event("state", 0, phase="Running") + encoder.text(0, b"half a line")


@pytest.mark.parametrize("apart", [True, False])
def test_what_the_kubelet_says_of_itself_is_no_part_of_the_log(said: bytes, apart: bool):
    pieces = (said, REFUSAL) if apart else (said + REFUSAL,)
    assert heard(*pieces) == said


def test_the_same_words_of_the_code_are(said: bytes):
    assert heard(said, REFUSAL, b"\nmore\n") == said + REFUSAL + b"\nmore\n"
    assert heard(said, REFUSAL, follow=False) == said + REFUSAL
