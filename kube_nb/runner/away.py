"""A pod's side of a store at a URL: what the script `remote.py` is told, and what its answers mean."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from . import remote

TYPE_CHECKING = False  # without importing `typing`: see node.py
if TYPE_CHECKING:
    from collections.abc import Mapping
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
        url: of the job's own folder. path: folders for sys.path, fsspec in one of them. state: file in which is kept
            what was sent already.
    """

    def __init__(self, url: str, path: list[str], state: str) -> None:
        self._url = url
        self._path = path
        self._state = state

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
        ran = subprocess.run(
            _COMMAND, input=json.dumps(order | {"path": self._path}), capture_output=True, text=True, check=False
        )
        try:
            answer: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
        except (IndexError, ValueError):
            last = (ran.stderr.strip().splitlines() or [f"status {ran.returncode}"])[-1]
            raise StoreFailed(remote.words(RuntimeError(last), self._url)) from None
        if "failed" in answer:
            raise StoreFailed(answer["failed"])
        return answer["done"]


_COMMAND = [sys.executable, "-P", remote.__file__]
