"""How one who follows a stream leaves it, while others wait on their behalf for whatever comes next."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Leaving:
    """Ends what waits for one who follows. Any thread may use it.

    Example:
        >>> leaving = Leaving()
        >>> with leaving.ends(lambda: print("cut")):
        ...     leaving.leave()
        cut
        >>> leaving.gone
        True
    """

    def __init__(self) -> None:
        self._left = threading.Event()
        self._lock = threading.RLock()  # what ends a wait may end another one by the way
        self._waits: list[Callable[[], None]] = []

    @property
    def gone(self) -> bool:
        return self._left.is_set()

    def leave(self) -> None:
        """Nobody wants to hear more."""
        self._left.set()
        with self._lock:
            for end in tuple(self._waits):
                end()

    @contextmanager
    def ends(self, end: Callable[[], None]) -> Iterator[None]:
        """`end` is called if they leave in here, or have left already; never later."""
        with self._lock:
            self._waits.append(end)
            if self.gone:
                end()
        try:
            yield
        finally:
            with self._lock:
                self._waits.remove(end)

    def pause(self, seconds: float) -> None:
        """Wait so long, or until they leave."""
        self._left.wait(seconds)
