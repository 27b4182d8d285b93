"""The notebook that grows: what a stream's records make of it, whole at every moment, and how much writing it costs."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest

from kube_nb.errors import NotFound
from kube_nb.events import Event, Text
from kube_nb.jobs.follow import Attempt
from kube_nb.notebooks.executed import with_record
from kube_nb.notebooks.growth import Growth, Live, replace_file


def base(cells: int) -> dict:
    made = [
        {"cell_type": "code", "source": f"x = {n}", "metadata": {}, "outputs": [], "id": str(n)} for n in range(cells)
    ]
    return {"cells": made, "metadata": {"papermill": {}}, "nbformat": 4, "nbformat_minor": 5}


def live(cells: int = 2, read=None) -> Live:
    return Live(base(cells), read or (lambda digest, size: pytest.fail("nothing is read")), {"job": "a"})


def said(kind: str, **data) -> Event:
    return Event(kind, data=data)


def made(live: Live) -> dict:
    return json.loads("".join(live.pieces()))


def done(at: int, text: str = "done") -> Event:
    cell = base(at + 1)["cells"][at] | {"outputs": [{"output_type": "stream", "name": "stdout", "text": text}]}
    return said("cell", at=at, status="completed", cell=cell)


def test_nothing_has_run_at_first():
    whole = made(live())
    assert [cell["metadata"]["papermill"]["status"] for cell in whole["cells"]] == ["pending", "pending"]
    assert whole["metadata"]["kube_nb"] == {"job": "a"}


def test_text_belongs_to_the_running_cell_until_it_ends():
    growing = live()
    growing.take([Text(0, b"before"), said("cell", at=0, status="running"), Text(0, b"a\n"), Text(0, b"b\n")])
    assert made(growing)["cells"][0]["outputs"][0]["text"] == "a\nb\n"
    growing.take([done(0, "exact"), Text(0, b"after")])
    assert made(growing)["cells"][0]["outputs"][0]["text"] == "exact"


def test_displays_are_updated_and_cleared_in_place():
    growing = live()
    growing.take([said("cell", at=0, status="running"), said("display", id="d", data={"text/plain": "1"}, metadata={})])
    growing.take([said("display", id="d", update=True, data={"text/plain": "2"}, metadata={})])
    assert made(growing)["cells"][0]["outputs"][0]["data"] == {"text/plain": "2"}
    growing.take([said("clear", wait=True)])
    assert made(growing)["cells"][0]["outputs"]
    growing.take([Text(0, b"next")])
    assert [one["output_type"] for one in made(growing)["cells"][0]["outputs"]] == ["stream"]


def test_another_try_begins_anew():
    growing = live()
    growing.take([said("cell", at=0, status="running"), done(0), Attempt(1)])
    assert made(growing)["cells"][0]["outputs"] == []


def test_a_large_cell_is_read_and_one_that_cannot_be_had_is_left_out():
    def read(digest: str, size: int) -> bytes:
        if digest == "gone":
            raise NotFound(what="gone")
        return json.dumps({"cell_type": "code", "read": True}).encode()

    growing = live(read=read)
    growing.take([said("cell", at=0, status="completed", object="there", size=1)])
    growing.take([said("cell", at=1, status="completed", object="gone", size=1)])
    assert made(growing)["cells"][0] == {"cell_type": "code", "read": True}
    assert made(growing)["cells"][1]["metadata"]["papermill"]["status"] == "pending"


@pytest.mark.parametrize("data", [{}, {"at": 7}, {"at": "0"}, {"at": -1}])
def test_records_that_mean_nothing_change_nothing(data):
    assert not live().take([said("cell", status="running", **data)])


@pytest.mark.slow
def test_the_file_is_whole_whenever_it_is_read(tmp_path):
    path = tmp_path / "out.ipynb"
    growing, stop, broken = Growth(live(50), path), threading.Event(), []

    def look() -> None:
        while not stop.is_set():
            try:
                json.loads(path.read_bytes())
            except FileNotFoundError:
                continue
            except ValueError as error:
                broken.append(error)

    reader = threading.Thread(target=look)
    reader.start()
    try:
        for at in range(50):
            growing.take([said("cell", at=at, status="running"), Text(0, b"x" * 10_000), done(at, "y" * 20_000)])
            time.sleep(0.02)
    finally:
        growing.close()
        stop.set()
        reader.join()
    assert broken == []
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.slow
def test_writing_takes_a_small_share_of_the_time(tmp_path, monkeypatch):
    """However often something is said: a write that takes long is not repeated soon."""
    writes = []

    def slow(path: Path, pieces) -> None:
        time.sleep(0.05)
        writes.append(time.monotonic())

    monkeypatch.setattr("kube_nb.notebooks.growth.replace_file", slow)
    growing, began = Growth(live(100), tmp_path / "out.ipynb"), time.monotonic()
    for at in range(100):
        growing.take([done(at)])
        time.sleep(0.01)
    growing.close()
    assert 1 <= len(writes) <= 1 + (time.monotonic() - began) / (0.05 / 0.03)


def test_the_record_stands_in_the_metadata_and_nothing_else_changes():
    import nbformat
    from nbformat import v4

    notebook = v4.new_notebook(cells=[v4.new_code_cell("x = '\\n ],\\n \"metadata\": '")])
    notebook.cells[0].outputs = [v4.new_output("stream", text='\n ],\n "metadata": {')]
    text = v4.writes(notebook)
    changed = with_record(text, {"job": "a"})
    assert nbformat.reads(changed, 4).cells == notebook.cells
    assert nbformat.reads(changed, 4).metadata == {"kube_nb": {"job": "a"}}
    assert changed == v4.writes(nbformat.reads(changed, 4))


def test_a_file_that_cannot_be_written_is_said(tmp_path):
    with pytest.raises(OSError, match="cannot be written"):
        replace_file(tmp_path / "nowhere" / "out.ipynb", ["{}"])
