"""A pod's side of a store at a URL: what the script `remote.py` is told, and what its answers mean."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from contextlib import suppress

from . import remote

TYPE_CHECKING = False  # without importing `typing`: see node.py
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

EVERY = 30.0
"""Seconds between two copies of checkpoints and log while the code runs."""


class StoreFailed(Exception):
    """The store said no, or nobody answered.

    Attributes:
        words: what, why and next, for a person.
    """

    def __init__(self, words: dict[str, str]) -> None:
        super().__init__(words["what"])
        self.words = words


class Away:
    """Where a job's files lie at a URL.

    Args:
        url: of the job's own folder.
        path: folders for sys.path, fsspec in one of them.
        state: file in which is kept what was sent already.
        attend: waits until it can be read from a descriptor. What it raises ends what is under way.
    """

    def __init__(self, url: str, path: list[str], state: str, attend: Callable[[int], object]) -> None:
        self._url = url
        self._path = path
        self._state = state
        self._attend = attend

    def fetch(self, place: str, folder: str, objects: Mapping[str, int]) -> None:
        """Bring these objects from a place below the URL. Raises: StoreFailed."""
        self._run(verb="fetch", url=f"{self._url}/{place}", folder=folder, objects=dict(objects))

    def restore(self, folder: str) -> int:
        """Bring back what an earlier attempt put to where this folder belongs. Raises: StoreFailed."""
        url = f"{self._url}/{os.path.basename(folder)}"
        return self._run(verb="restore", url=url, folder=folder, state=self._state)

    def put(self, folders: Mapping[str, str]) -> None:
        """Copy these, by their places below the URL; what is there already is not sent again. Raises: StoreFailed."""
        self._run(verb="put", url=self._url, folders=dict(folders), state=self._state)

    def keep(self, folders: Mapping[str, str], errors: str) -> None:
        """Begin to do so again and again, until this process kills its children.

        Args:
            errors: a file for what fails meanwhile.
        """
        order = {"verb": "keep", "url": self._url, "folders": dict(folders), "state": self._state, "every": EVERY}
        with open(errors, "ab") as said:
            process = subprocess.Popen(_COMMAND, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=said)
        assert process.stdin is not None
        process.stdin.write(json.dumps(order | {"path": self._path}).encode())
        process.stdin.close()

    def _run(self, **order: Any) -> Any:
        with (
            tempfile.TemporaryFile(dir=os.path.dirname(self._state)) as said,
            subprocess.Popen(_COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said) as process,
        ):
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                with suppress(BrokenPipeError), process.stdin:  # what it said instead of listening is told below
                    process.stdin.write(json.dumps(order | {"path": self._path}).encode())
                self._attend(process.stdout.fileno())
                answered = process.stdout.read().decode(errors="replace")
            except BaseException:
                process.kill()
                raise
            status = process.wait()
            said.seek(0)
            errors = said.read().decode(errors="replace")
        try:
            answer: dict[str, Any] = json.loads(answered.splitlines()[-1])
        except (IndexError, ValueError):
            last = (errors.strip().splitlines() or [f"status {status}"])[-1]
            raise StoreFailed(remote.words(RuntimeError(last), self._url)) from None
        if "failed" in answer:
            raise StoreFailed(answer["failed"])
        return answer["done"]


_COMMAND = [sys.executable, "-P", remote.__file__]
