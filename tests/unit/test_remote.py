"""The script that moves a pod's files to and from a URL, and the kernel's side of it, on this machine's disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from kube_nb.errors import Corrupted, NotFound, Refused
from kube_nb.runner import remote
from kube_nb.runner.objects import Objects
from kube_nb.store.url import UrlStore, needs_of

pytest.importorskip("fsspec", reason="store: fsspec is not installed")


@pytest.fixture(autouse=True)
def folders_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the bucket of an object store, which has none."""
    monkeypatch.setenv("FSSPEC_FILE", json.dumps({"auto_mkdir": True}))
    from fsspec.config import conf, set_conf_env

    monkeypatch.setitem(conf, "file", {})
    set_conf_env(conf)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"file://{tmp_path}/far"


def written(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_a_folder_is_the_same_there_whatever_happened_here(tmp_path, url):
    here, state = written(tmp_path / "checkpoints", a="1", deep__b="2"), str(tmp_path / "state")
    assert remote.put(url, {"checkpoints": str(here)}, state) == 2
    (here / "a").unlink()
    written(here, deep__b="33")
    assert remote.put(url, {"checkpoints": str(here)}, state) == 2
    far = tmp_path / "far" / "checkpoints"
    assert {path.relative_to(far).as_posix(): path.read_text() for path in far.rglob("*") if path.is_file()} == {
        "deep/b": "33"
    }


def test_what_did_not_change_is_not_sent_again_by_the_next_attempt_either(tmp_path, url):
    here = written(tmp_path / "checkpoints", a="1", deep__b="2")
    remote.put(url, {"checkpoints": str(here)}, str(tmp_path / "first"))
    back = tmp_path / "other" / "checkpoints"
    assert remote.restore(f"{url}/checkpoints", str(back), str(tmp_path / "second")) == 2
    assert (back / "deep" / "b").read_text() == "2"
    assert remote.put(url, {"checkpoints": str(back)}, str(tmp_path / "second")) == 0
    (back / "a").unlink()
    remote.put(url, {"checkpoints": str(back)}, str(tmp_path / "second"))
    assert not (tmp_path / "far" / "checkpoints" / "a").exists()


def test_a_file_that_is_still_written_waits_for_the_next_time(tmp_path, url):
    here = written(tmp_path / "checkpoints", old="1", new="2")
    os.utime(here / "old", (time.time() - 60,) * 2)
    order = {"verb": "keep", "path": sys.path, "url": url, "folders": {"checkpoints": str(here)}}
    order |= {"state": str(tmp_path / "state"), "every": 0.2}
    (here / "new").touch()
    os.utime(here / "new", (time.time() + 60,) * 2)
    keeper = subprocess.Popen([sys.executable, "-P", remote.__file__], stdin=subprocess.PIPE, text=True)
    assert keeper.stdin is not None
    keeper.stdin.write(json.dumps(order))
    keeper.stdin.close()
    far, give_up = tmp_path / "far" / "checkpoints", time.monotonic() + 30
    try:
        while not (tmp_path / "state").exists():
            assert time.monotonic() < give_up
            time.sleep(0.05)
        assert [path.name for path in far.iterdir()] == ["old"]
    finally:
        keeper.kill()
        keeper.wait()


def test_a_failure_is_told_in_words(tmp_path):
    order: dict[str, Any] = {"verb": "put", "path": [], "url": "no-such://x/y", "folders": {"a": str(tmp_path)}}
    ran = subprocess.run(
        [sys.executable, "-P", remote.__file__], input=json.dumps(order), capture_output=True, text=True, check=True
    )
    failed = json.loads(ran.stdout.splitlines()[-1])["failed"]
    assert "no-such://x/y" in failed["what"]
    assert failed["why"]
    assert failed["next"]


def test_what_comes_back_is_verified(tmp_path, url):
    far = tmp_path / "far" / "objects"
    far.mkdir(parents=True)
    (far / ("0" * 64)).write_bytes(b"something else")
    store = UrlStore(url)
    with pytest.raises(Corrupted):
        store.get(f"objects/{'0' * 64}", "0" * 64, tmp_path / "x")
    with pytest.raises(NotFound):
        store.get(f"objects/{'1' * 64}", "1" * 64, tmp_path / "x")
    assert [path.name for path in tmp_path.iterdir() if "x" in path.name] == []


def test_two_who_fetch_the_same_object_at_once_both_get_it(tmp_path, url):
    data = os.urandom(1 << 20)
    objects = Objects(tmp_path / "far" / "objects")
    digest = objects.write(data)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: UrlStore(url).get(f"objects/{digest}", digest, tmp_path / "x"), range(32)))
    assert (tmp_path / "x").read_bytes() == data
    assert not list(tmp_path.glob(".part-*"))


def test_the_mark_of_an_empty_folder_is_no_job_whose_removal_takes_all(tmp_path, url, monkeypatch):
    written(tmp_path / "far" / "jobs" / "me", one__out="x", two__out="y")
    from fsspec.implementations.local import LocalFileSystem

    def find(self, path, **how):
        marks = {f"{path}/": {"size": 0, "mtime": 0.0}}  # as an object store lists what its console has made
        return marks | plain(self, path, **how)

    plain = LocalFileSystem.find
    monkeypatch.setattr(LocalFileSystem, "find", find)
    assert UrlStore(url).usage("jobs/me").keys() == {"one", "two"}
    for folder in ("jobs/me/", "jobs//one", ""):
        with pytest.raises(ValueError, match="no folder of one job"):
            UrlStore(url).remove(folder)
    assert (tmp_path / "far" / "jobs" / "me" / "one").exists()


def test_what_a_url_needs_are_modules(tmp_path):
    assert needs_of("s3://bucket/x") == ("fsspec", "s3fs")
    with pytest.raises(Refused):
        needs_of("no-such-protocol://x")
    with pytest.raises(Refused):
        needs_of(f"file://{tmp_path}")
