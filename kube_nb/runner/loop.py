"""One thread that waits for everything: pipes, sockets, signals and the time."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

CAUGHT = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD)


class Interrupted(Exception):
    """A signal came while nothing was running yet that would have to be stopped."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


class Signals:
    """The signals the runner got. They wake the loop; before there is one they end what is going on."""

    def __init__(self) -> None:
        self.raising = True
        self._caught: list[int] = []
        self.fd, self._wake = os.pipe()
        os.set_blocking(self.fd, False)
        os.set_blocking(self._wake, False)

    def install(self) -> None:
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        for signum in CAUGHT:
            signal.signal(signum, self._catch)
        # A parent that blocked them would make this node unstoppable.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, CAUGHT)

    def _catch(self, signum: int, _frame: FrameType | None) -> None:
        if self.raising and signum != signal.SIGCHLD:
            self.raising = False
            raise Interrupted(signum)
        self._caught.append(signum)

    def take(self) -> list[int]:
        """What came since the last call, in order."""
        caught, self._caught = self._caught, []
        return caught

    def came(self, signum: int) -> bool:
        """Whether it came since the last `take`."""
        return signum in self._caught

    def quiet(self) -> None:
        """Empty the pipe that woke the loop."""
        with suppress(BlockingIOError):
            while os.read(self.fd, 4096):
                pass


class Loop:
    """File descriptors and what to do when they are ready. `urgent` ones are served even while the rest is held up."""

    def __init__(self) -> None:
        self._all = select.poll()
        self._few = select.poll()
        self._handlers: dict[int, Callable[[], object]] = {}

    def watch(self, fd: int, ready: Callable[[], object], *, write: bool = False, urgent: bool = False) -> None:
        mask = select.POLLOUT if write else select.POLLIN
        self._handlers[fd] = ready
        self._all.register(fd, mask)
        if urgent:
            self._few.register(fd, mask)

    def forget(self, fd: int) -> None:
        if self._handlers.pop(fd, None) is None:
            return
        self._all.unregister(fd)
        with suppress(KeyError):  # it was not urgent
            self._few.unregister(fd)

    def rest(self, fd: int) -> None:
        """Do not look for input on `fd` (its end is still seen) until `resume`."""
        self._all.modify(fd, 0)

    def resume(self, fd: int) -> None:
        self._all.modify(fd, select.POLLIN)

    def turn(self, seconds: float | None, *, urgent_only: bool) -> None:
        """Wait at most `seconds`, then serve what is ready."""
        milliseconds = None if seconds is None else max(0, int(seconds * 1000) + 1)
        for fd, _ in (self._few if urgent_only else self._all).poll(milliseconds):
            handler = self._handlers.get(fd)
            if handler is not None:  # an earlier handler of this turn may have forgotten it
                handler()
