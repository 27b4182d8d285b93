"""An exception of the sent code, as a record that travels: the person's frames, none of ours."""

from __future__ import annotations

import json
import linecache
import os
import sys
import traceback
from collections.abc import Callable, Collection
from typing import Any

Pickled = dict[str, Any]
"""The reference of a graph `{"exception": ...}`."""

_HERE = os.path.dirname(os.path.abspath(__file__))
# In a job everything below the runner object is ours; in the kernel's own package only this folder is.
_OURS = os.path.dirname(os.path.dirname(_HERE)) if __name__.startswith("_kube_nb_job.") else _HERE
_EXECUTE = os.path.join(_HERE, "execute.py")
_MADE_UP = ("<decorator-gen-", "<frozen importlib", "<frozen runpy")
_FRAMES = 100
_TEXT = 256 * 1024
_WORDS = 32 * 1024
_CHAIN = 8
_MEMBERS = 32
_RECORD = 1024 * 1024


def describe(
    exception: BaseException,
    *,
    pickled: Callable[[BaseException], Pickled | None] = lambda _: None,
    sources: Collection[str] = (),
) -> dict[str, Any]:
    """The ERROR record of an exception, with what caused it.

    Args:
        pickled: gives the exception as a graph, or None where it cannot travel.
        sources: file names of sent code: a syntax error in one of them has its line as a frame.
    """
    try:
        record = _describe(exception, pickled, sources, set(), _CHAIN)
    except Exception:  # noqa: BLE001 - an exception may be made so that even looking at it raises
        record = _bare(exception)
    if len(json.dumps(record)) > _RECORD:  # thousands of causes and members: the exception itself says most
        record |= {"cause": None, "context": None, "group": []}
    return record


def text(exception: BaseException) -> str:
    """The traceback as Python prints it, without our frames."""
    return "".join(_trimmed(exception).format()).rstrip("\n")


def _bare(exception: BaseException) -> dict[str, Any]:
    """The record of an exception of which only its class can be told."""
    kind = type(exception)
    empty: dict[str, Any] = {"frames": [], "cause": None, "context": None, "group": [], "notes": [], "pickle": None}
    return empty | {"ename": kind.__name__, "evalue": "", "qualified": kind.__qualname__, "text": kind.__name__}


def _describe(
    exception: BaseException,
    pickled: Callable[[BaseException], Pickled | None],
    sources: Collection[str],
    seen: set[int],
    deep: int,
) -> dict[str, Any]:
    seen.add(id(exception))
    kind = type(exception)
    own = _trimmed(exception)

    def other(one: BaseException | None) -> dict[str, Any] | None:
        if one is None or id(one) in seen or not deep:
            return None
        return _describe(one, pickled, sources, seen, deep - 1)

    members = exception.exceptions[:_MEMBERS] if isinstance(exception, BaseExceptionGroup) else ()
    hidden = exception.__suppress_context__ or exception.__cause__ is not None
    return {
        "ename": kind.__name__,
        "evalue": _cut(_words(exception), _WORDS),
        "qualified": kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}",
        "text": _cut("".join(own.format()).rstrip("\n"), _TEXT),
        "frames": _frames(own, exception, sources),
        "cause": other(exception.__cause__),
        "context": None if hidden else other(exception.__context__),
        "group": [found for found in map(other, members) if found is not None],
        "notes": _notes(exception),
        "pickle": pickled(exception),
    }


def _trimmed(exception: BaseException) -> traceback.TracebackException:
    """The exception and its causes for printing, each with the frames that are the person's."""
    whole = traceback.TracebackException.from_exception(exception)
    pending, seen = [whole], set()
    while pending:
        one = pending.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        one.stack = traceback.StackSummary.from_list(_persons(one.stack))
        for frame in one.stack:
            _drop_foreign_columns(frame)
        pending += [link for link in (one.__cause__, one.__context__, *(one.exceptions or ())) if link is not None]
    return whole


def _persons(stack: traceback.StackSummary) -> list[traceback.FrameSummary]:
    """Frames from where the sent code begins, without ours, those of IPython between them, and of `import`."""
    frames = list(stack)
    begins = max((number for number, frame in enumerate(frames) if frame.filename == _EXECUTE), default=-1)
    modules = [getattr(sys.modules.get(name), "__file__", None) for name in ("IPython", "kube_nb")]
    folders = (_OURS + os.sep, *(os.path.dirname(file) + os.sep for file in modules if file), *_MADE_UP)
    return [frame for frame in frames[begins + 1 :] if not frame.filename.startswith(folders)]


def _drop_foreign_columns(frame: traceback.FrameSummary) -> None:
    """A line such as `!ls` runs as other Python than the person sees: columns of the one would underline the other."""
    line = linecache.getline(frame.filename, frame.lineno or 0).lstrip()
    if line.startswith(("!", "%", "?")) or "= !" in line or "= %" in line:
        frame.colno = frame.end_colno = None


def _frames(
    own: traceback.TracebackException, exception: BaseException, sources: Collection[str]
) -> list[dict[str, Any]]:
    frames = [
        {
            "file": frame.filename,
            "line": frame.lineno or 0,
            "name": frame.name,
            "code": frame.line or "",
            "end": frame.end_lineno,
        }
        for frame in own.stack
    ]
    if isinstance(exception, SyntaxError) and exception.filename in sources and exception.lineno:
        code = (exception.text or "").strip()
        where = {"file": exception.filename, "line": exception.lineno, "name": "<module>", "code": code}
        frames.append(where | {"end": exception.end_lineno})
    if len(frames) > _FRAMES:  # recursion without end
        frames = frames[: _FRAMES // 2] + frames[-_FRAMES // 2 :]
    return frames


def _words(exception: BaseException) -> str:
    try:
        return str(exception)
    except Exception:  # noqa: BLE001 - a __str__ of foreign code
        return "<exception str() failed>"


def _notes(exception: BaseException) -> list[str]:
    notes = getattr(exception, "__notes__", None)
    return [_cut(note, _WORDS) for note in notes if isinstance(note, str)] if isinstance(notes, (list, tuple)) else []


def _cut(words: str, most: int) -> str:
    if len(words) <= most:
        return words
    return f"{words[: most // 2]}\n… {len(words) - most} characters left out …\n{words[-most // 2 :]}"
