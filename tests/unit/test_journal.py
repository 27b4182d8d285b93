"""What this machine remembers of each submit."""

from __future__ import annotations

import os
import stat
from dataclasses import replace

import pytest

from kube_nb.errors import NotFound, StorageFailed
from kube_nb.jobs.journal import Entry, Journal

ENTRY = Entry(id="a-1", name="a", target="local", label="Cell In[1]", created=1.0, key="00ff", before={"x": None})


def test_an_entry_is_read_back_as_it_was_written(tmp_path):
    journal = Journal(tmp_path)
    journal.write(ENTRY)
    assert journal.read("a-1") == ENTRY


def test_only_its_owner_can_read_an_entry(tmp_path):
    Journal(tmp_path).write(ENTRY)
    assert stat.S_IMODE((tmp_path / "journal" / "a-1.json").stat().st_mode) == 0o600


def test_the_key_is_not_shown():
    assert "00ff" not in repr(ENTRY)


def test_the_last_job_comes_first(tmp_path):
    journal = Journal(tmp_path)
    for number, id in enumerate(("a-1", "b-2", "c-3")):
        journal.write(replace(ENTRY, id=id))
        os.utime(tmp_path / "journal" / f"{id}.json", (number, number))
    assert journal.ids() == ["c-3", "b-2", "a-1"]
    journal.remove("c-3")
    assert journal.ids() == ["b-2", "a-1"]


@pytest.mark.parametrize("id", ["../a-1", "a/../../x", "", "A", "a" * 70])
def test_an_id_is_never_a_path(tmp_path, id):
    with pytest.raises(NotFound):
        Journal(tmp_path).read(id)


def test_what_a_later_version_wrote_is_passed_over(tmp_path):
    journal = Journal(tmp_path)
    journal.write(ENTRY)
    path = tmp_path / "journal" / "a-1.json"
    path.write_text(path.read_text().replace("{", '{"colour": "red", ', 1))
    assert journal.read("a-1") == ENTRY


def test_a_directory_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "journal").write_text("in the way")
    with pytest.raises(StorageFailed, match="state_dir"):
        Journal(tmp_path).write(ENTRY)
