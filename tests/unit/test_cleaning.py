"""What a store's own tool tells, and what Jobs there are, decide what may go; what is sent elsewhere is kept here."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from kube_nb.backends.kubernetes import names
from kube_nb.backends.kubernetes.cleaning import entries
from kube_nb.backends.kubernetes.snapshot import Snapshot
from kube_nb.store import bundles
from kube_nb.store.directory import link, surplus

NOW = 1_000_000.0
DAY = 86400.0


def job(id: str, *, age: float, ended: bool) -> Snapshot:
    from datetime import UTC, datetime

    stamp = datetime.fromtimestamp(NOW - age, UTC).isoformat(timespec="seconds")
    conditions = [{"type": "Complete", "status": "True", "lastTransitionTime": stamp}] if ended else []
    meta = {"name": id, "labels": {names.JOB: id}, "creationTimestamp": stamp}
    made: dict[str, Any] = {"metadata": meta, "spec": {}, "status": {"conditions": conditions}}
    made["status"] |= {"completionTime": stamp} if ended else {}
    return Snapshot(made)


def usage(jobs: dict[str, float], environments: dict[str, float]) -> dict[str, dict[str, dict[str, float]]]:
    """Ages by name; each takes a byte."""

    def told(ages: dict[str, float]) -> dict[str, dict[str, float]]:
        return {name: {"bytes": 1, "changed": NOW - age} for name, age in ages.items()}

    return {"jobs": told(jobs), "environments": told(environments)}


def going(
    told: dict[str, dict[str, dict[str, float]]], *jobs: Snapshot, live: frozenset[str] = frozenset()
) -> set[str]:
    found = surplus(entries(told, jobs, set(live), NOW), max_bytes=100, max_age=7 * DAY, now=NOW)
    return {entry.path.name for entry in found}


def test_of_a_live_job_nothing_goes_however_old_it_is():
    told = usage({"lives": 30 * DAY, "gone": 30 * DAY, "waits": 30 * DAY}, {})
    assert going(told, job("lives", age=30 * DAY, ended=False), live=frozenset({"waits"})) == {"gone"}


def test_a_job_that_ended_is_as_old_as_its_end():
    told = usage({"a": 30 * DAY, "b": 30 * DAY}, {})
    assert going(told, job("a", age=DAY, ended=True), job("b", age=8 * DAY, ended=True)) == {"b"}


def test_a_new_folder_without_a_job_belongs_to_a_submit_under_way():
    found = list(entries(usage({"new": 60.0}, {}), (), set(), NOW))
    assert [entry.busy for entry in found] == [True]


def test_an_environment_stays_that_was_used_since_the_oldest_live_job_was_made():
    told = usage({}, {"a" * 40: 20 * DAY, "b" * 40: 9 * DAY, ".leaving-c": 90 * DAY})
    assert going(told, job("lives", age=10 * DAY, ended=False)) == {"a" * 40}
    assert going(told) == {"a" * 40, "b" * 40}


def test_a_bundle_that_is_still_sent_is_kept(tmp_path: Path):
    for name in ("old", "sent"):
        folder = tmp_path / "bundles" / name / "objects"
        folder.mkdir(parents=True)
        for path in (folder, folder.parent):
            os.utime(path, (0, 0))

    def gone() -> list[str]:
        return [one.path.name for one in surplus(bundles.kept(tmp_path, NOW), max_bytes=1e9, max_age=DAY, now=NOW)]

    with bundles.sending(tmp_path / "bundles" / "sent"):
        assert gone() == ["old"]
    assert sorted(gone()) == ["old", "sent"]


def test_what_was_brought_here_goes_in_time_too(tmp_path: Path):
    folder = tmp_path / "results" / "old"
    folder.mkdir(parents=True)
    (folder / "object").write_bytes(bytes(10_000))
    os.utime(folder, (0, 0))
    (one,) = surplus(bundles.kept(tmp_path, NOW), max_bytes=1e9, max_age=DAY, now=NOW)
    assert (one.kind, one.path) == ("result", folder)
    assert one.size >= 10_000


def test_a_file_that_cannot_be_linked_is_copied_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, "another file system")

    monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "there").write_bytes(b"x")
    link(tmp_path / "there", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"x"
    with pytest.raises(FileNotFoundError):
        link(tmp_path / "gone", tmp_path / "empty")
    assert sorted(os.listdir(tmp_path)) == ["copy", "there"]
