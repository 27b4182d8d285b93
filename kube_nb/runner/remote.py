"""Files of a job to and from a store at a URL, by fsspec: a script of its own, which alone may import packages.

`python remote.py`, told on stdin as JSON: {"verb", "path": folders for sys.path, ...}, the rest are the verb's own
arguments. Its last line on stdout is {"done": ...}, or {"failed": {"what", "why", "next"}}. Credentials are those of
the environment, as each protocol's own library reads them. The kernel's side uses the same functions.
"""

from __future__ import annotations

import json
import os
import sys
import time

TYPE_CHECKING = False  # without importing `typing`: see node.py
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

_SETTLED = 2.0
"""Seconds after which a file that was not written any more is taken for whole, while the code still runs."""
_DENIED = ("NoCredentialsError", "PartialCredentialsError", "PermissionError", "ClientAuthenticationError")
_AWAY = ("ConnectionError", "EndpointConnectionError", "ConnectTimeoutError", "ClientConnectorError", "TimeoutError")


def main() -> None:
    order: dict[str, Any] = json.load(sys.stdin)
    sys.path[:0] = order.pop("path")
    verbs: dict[str, Callable[..., object]] = {"fetch": fetch, "restore": restore, "put": put, "keep": keep}
    try:
        answer = {"done": verbs[order.pop("verb")](**order)}
    except Exception as error:  # noqa: BLE001 - each protocol has errors of its own; all are told, none is swallowed
        answer = {"failed": words(error, order.get("url", ""))}
    print(json.dumps(answer), flush=True)


def opened(url: str) -> tuple[Any, str]:
    """The file system of a URL, with the credentials of this moment, and the path in it.

    Raises:
        ImportError: fsspec, or what it needs for this protocol, is not installed.
    """
    import fsspec

    system, path = fsspec.url_to_fs(url, skip_instance_cache=True)
    return system, path.rstrip("/")


def fetch(url: str, folder: str, objects: Mapping[str, int]) -> int:
    """Bring objects from `url` into `folder`; what is there with its size is not asked for again. The bytes that came.

    Nothing is verified here: whoever uses an object checks its digest.
    """
    system, place = opened(url)
    came = 0
    for name, size in objects.items():
        path = os.path.join(folder, os.path.basename(name))
        if os.path.exists(path) and os.stat(path).st_size == size:
            continue
        system.get_file(f"{place}/{name}", f"{path}.part")
        os.rename(f"{path}.part", path)
        came += size
    return came


def put(url: str, folders: Mapping[str, str], state: str = "") -> int:
    """Copy each folder, or file, to its place below `url`; what did not change since the last time is not sent again.

    Args:
        folders: local path by the place below the URL.
        state: file in which is kept what was sent, for the next call.
    """
    system, place = opened(url)
    return _put(system, place, folders, _known(state), state, settled=0.0)


def keep(url: str, folders: Mapping[str, str], state: str, every: float) -> int:
    """Do `put` again and again until this process is ended; what fails is tried again at the next turn."""
    system, place = opened(url)
    known = _known(state)
    while True:
        time.sleep(every)
        try:
            _put(system, place, folders, known, state, settled=_SETTLED)
        except Exception as error:  # noqa: BLE001 - the end of the job says whether the last time went well
            print(json.dumps({"failed": words(error, url)}), file=sys.stderr, flush=True)


def restore(url: str, folder: str, state: str) -> int:
    """Bring a folder back that an earlier attempt has put below `url`; how many files."""
    system, place = opened(url)
    known = _known(state)
    found = system.find(place) if system.exists(place) else []
    base = os.path.basename(folder)
    for remote in found:
        name = remote[len(place) + 1 :]
        path = os.path.normpath(os.path.join(folder, name))
        if not path.startswith(f"{folder}/"):
            continue
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        system.get_file(remote, path)
        known[f"{base}/{name}"] = _look(path)
    _write(state, known)
    return len(found)


def words(error: Exception, url: str) -> dict[str, str]:
    """What, why and next for a failure of a store."""
    names = {kind.__name__ for kind in type(error).__mro__}
    why = f"{type(error).__name__}: {error}".strip(": ")
    if isinstance(error, ImportError):
        next = "install it: pip install 'kube-nb[store]' and what the protocol needs, e.g. s3fs, gcsfs, adlfs"
    elif names & set(_DENIED) or "AccessKey" in why or "Signature" in why:
        next = "send the credentials with the job: --env, or the setting pass_env, e.g. AWS_*; and check that they may"
    elif isinstance(error, FileNotFoundError):
        next = "check that the bucket or folder exists, and that nobody removed what the job left there"
    elif names & set(_AWAY):
        next = "check the address, and that a NetworkPolicy or proxy lets the job reach it"
    else:
        next = "check the setting `store`, and what the protocol's library wants in variables"
    return {"what": f"the store {url} cannot be used", "why": why[:500], "next": next}


# Inside ---------------------------------------------------------------------------------------------------------------


def _put(
    system: Any, place: str, folders: Mapping[str, str], known: dict[str, list[float]], state: str, *, settled: float
) -> int:
    local: dict[str, str] = {}
    for name, path in folders.items():
        local |= _files(name, path)
    sent = 0
    for name, path in local.items():
        try:
            now = _look(path)
            if known.get(name) == now or time.time() - now[1] < settled:
                continue
            system.put_file(path, f"{place}/{name}")
        except FileNotFoundError:
            if os.path.exists(path):
                raise
            continue  # it was removed meanwhile
        known[name] = now
        sent += int(now[0])
    # What the code threw away, such as older checkpoints, goes there too.
    for name in [one for one in known if one.partition("/")[0] in folders and one not in local]:
        if system.exists(f"{place}/{name}"):
            system.rm_file(f"{place}/{name}")
        del known[name]
    _write(state, known)
    return sent


def _files(name: str, path: str) -> dict[str, str]:
    if not os.path.isdir(path):
        return {name: path} if os.path.exists(path) else {}
    found: dict[str, str] = {}
    for parent, _, files in os.walk(path):
        for file in files:
            full = os.path.join(parent, file)
            if not os.path.islink(full) and not file.startswith(".part-"):
                found[f"{name}/{os.path.relpath(full, path)}"] = full
    return found


def _look(path: str) -> list[float]:
    found = os.stat(path)
    return [found.st_size, found.st_mtime]


def _known(state: str) -> dict[str, list[float]]:
    try:
        with open(state, encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError):
        return {}


def _write(state: str, known: dict[str, list[float]]) -> None:
    if state:
        with open(f"{state}.{os.getpid()}", "w", encoding="utf-8") as file:
            json.dump(known, file)
        os.replace(f"{state}.{os.getpid()}", state)


if __name__ == "__main__":
    main()
