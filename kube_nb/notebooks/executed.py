"""The executed notebook as a person gets it: what the job wrote, what it gave, and where it failed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

_SEAM = '\n ],\n "metadata": '
"""Between the cells and the rest, as nbformat writes it; no text in a notebook holds a newline of its own."""


def with_record(text: str, record: Mapping[str, Any]) -> str:
    """The notebook with this under `kube_nb` in its metadata; its cells stay as they are, byte for byte.

    Example:
        >>> text = '{\\n "cells": [\\n ],\\n "metadata": {},\\n "nbformat": 4,\\n "nbformat_minor": 5\\n}'
        >>> json.loads(with_record(text, {"job": "a"}))["metadata"]
        {'kube_nb': {'job': 'a'}}
    """
    seam = text.rfind(_SEAM)
    if seam < 0:  # a notebook without cells
        whole = json.loads(text)
        _record(whole, record)
        return json.dumps(whole, indent=1, sort_keys=True, ensure_ascii=False)
    rest = json.loads('{\n "metadata": ' + text[seam + len(_SEAM) :])
    _record(rest, record)
    return text[:seam] + "\n ],\n" + json.dumps(rest, indent=1, sort_keys=True, ensure_ascii=False).removeprefix("{\n")


def _record(notebook: dict[str, Any], record: Mapping[str, Any]) -> None:
    metadata = notebook["metadata"]
    metadata["kube_nb"] = {**metadata.get("kube_nb", {}), **record}


def with_markers(text: str) -> str:
    """A notebook that failed, with papermill's two cells that lead to where it did; unchanged where no cell failed."""
    import nbformat
    from papermill.execute import ERROR_ANCHOR_MSG, ERROR_MARKER_TAG, ERROR_MESSAGE_TEMPLATE

    notebook = nbformat.v4.reads(text)
    failed = [at for at, cell in enumerate(notebook.cells) if cell.metadata.get("papermill", {}).get("exception")]
    if not failed:
        return text
    at = failed[0]
    count = notebook.cells[at].get("execution_count")
    for place, words in ((at, ERROR_ANCHOR_MSG), (0, ERROR_MESSAGE_TEMPLATE % str(count))):
        notebook.cells.insert(place, nbformat.v4.new_markdown_cell(words, metadata={"tags": [ERROR_MARKER_TAG]}))
    return nbformat.v4.writes(notebook)
