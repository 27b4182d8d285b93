"""What holds a container that lingers: all that nobody has taken yet."""

from __future__ import annotations

from pathlib import Path

import pytest

from kube_nb.runner import served


@pytest.fixture
def run(tmp_path: Path) -> Path:
    for folder in ("log", "out/objects"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("a", "b"):
        (tmp_path / "out" / "objects" / name).write_bytes(b"x")
    (tmp_path / "log" / "0.0").write_bytes(b"short")
    return tmp_path


def take(run: Path, *names: str) -> None:
    for name in names:
        served.note(str(run), str(run / "out" / "objects" / name))


def end(run: Path) -> None:
    (run / "log" / "0.0.end").touch()


def test_a_job_that_has_ended_is_held_by_what_nobody_has_taken(run: Path) -> None:
    end(run)
    take(run, "a")
    assert not served.all_taken(str(run))
    take(run, "b")
    assert served.all_taken(str(run))


def test_what_was_taken_before_the_end_counts(run: Path) -> None:
    """Who reads the last word may fetch at once, before the log is closed."""
    take(run, "a", "b")
    assert not served.all_taken(str(run)), "it may write more"
    end(run)
    assert served.all_taken(str(run))


def test_a_long_log_is_waited_for_too(run: Path) -> None:
    (run / "log" / "0.0").write_bytes(bytes(served._LONG_LOG))
    end(run)
    take(run, "a", "b")
    assert not served.all_taken(str(run))
    served.note(str(run), str(run / "log" / "0.0"))
    assert served.all_taken(str(run))
