"""What a job's Secret holds: the same bytes for the same job, and never more than a cluster takes."""

from __future__ import annotations

import io
import json
import os
import shutil
import zipfile
from dataclasses import replace

from kube_nb.backends.kubernetes import payload
from kube_nb.backends.kubernetes.payload import LIMIT, fits, runner_zip, secret_data
from kube_nb.capture.runner_object import runner_object
from tests.unit.pod_files import make_bundle, plan_of


def names_in(data: bytes) -> set[str]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        return set(archive.namelist())


def test_the_same_runner_is_the_same_bytes(tmp_path):
    one = runner_zip(runner_object(tmp_path / "one"))
    payload._runner_zip.cache_clear()
    other = runner_zip(runner_object(tmp_path / "other"))
    assert one == other


def test_a_runner_is_packed_once(tmp_path, monkeypatch):
    runner = runner_object(tmp_path)
    first = runner_zip(runner)
    payload._runner_zip.cache_clear()  # as in a new kernel
    monkeypatch.setattr(payload, "_zip", lambda files: 1 / 0)
    assert runner_zip(runner) == first


def test_a_packed_runner_that_was_damaged_is_packed_anew(tmp_path):
    runner = runner_object(tmp_path)
    first = runner_zip(runner)
    for damage in (b"", first[:100], first[:-1] + b"x"):
        payload._runner_zip.cache_clear()
        (runner / "runner.zip").write_bytes(damage)
        assert runner_zip(runner) == first


def test_a_runner_is_packed_where_nothing_can_be_kept(tmp_path):
    runner = shutil.copytree(runner_object(tmp_path / "state"), tmp_path / "copy" / "x")
    runner.chmod(0o500)
    assert "__main__.py" in names_in(runner_zip(runner))


def test_the_runner_is_whole_and_without_byte_code(tmp_path):
    found = names_in(runner_zip(runner_object(tmp_path)))
    assert {"__main__.py", "files.txt", "_kube_nb_job/runner/pod.py", "vendor/cloudpickle/cloudpickle.py"} <= found
    assert not any(name.endswith(".pyc") or "__pycache__" in name for name in found)


def test_a_small_bundle_travels_whole(tmp_path):
    bundle = make_bundle(tmp_path, "pass", env={"A": "1"})
    data = secret_data(bundle, plan_of("t-1"))
    objects = {f"objects/{path.name}" for path in (bundle.directory / "objects").iterdir()}
    assert names_in(data["bundle.zip"]) == {"files.txt", "manifest.json", "manifest.hmac"} | objects
    assert set(data) == {"runner.zip", "bundle.zip", "key", "env.json", "pod.json"}
    assert json.loads(data["env.json"]) == {"A": "1"}
    assert data["key"] == bundle.key


def test_a_bundle_that_travels_otherwise_leaves_its_signed_list_here(tmp_path):
    data = secret_data(make_bundle(tmp_path, "pass"), plan_of("t-1", transport="store", claim="c"))
    assert names_in(data["bundle.zip"]) == {"files.txt", "manifest.json", "manifest.hmac"}
    assert json.loads(data["pod.json"])["store"] is True


def test_a_pod_is_told_where_the_others_are_if_there_are_any(tmp_path):
    bundle = make_bundle(tmp_path, "pass")
    alone = json.loads(secret_data(bundle, plan_of("t-1"))["pod.json"])
    several = json.loads(secret_data(bundle, plan_of("t-1", nodes=3, namespace="team"))["pod.json"])
    assert (alone["service"], alone["nodes"]) == ("", 1)
    assert (several["service"], several["nodes"]) == ("t-1.team.svc", 3)


def test_what_fits_is_never_more_than_the_limit(tmp_path):
    for number, count in enumerate((10_000, 700_000, 800_000, 845_000, 900_000, 2_000_000)):
        folder = tmp_path / str(number)
        bundle = make_bundle(folder, "pass", {"a": os.urandom(count)})
        total = sum(map(len, secret_data(bundle, plan_of("t-1")).values()))
        if fits(bundle):
            assert total <= LIMIT
        else:
            assert total > LIMIT - 10_000


def test_what_can_be_packed_small_fits_and_what_is_too_large_to_try_does_not(tmp_path):
    assert fits(make_bundle(tmp_path / "a", "pass", {"a": bytes(3_000_000)}))
    assert not fits(make_bundle(tmp_path / "b", "pass", {"a": bytes(30_000_000)}))


def test_variables_count(tmp_path):
    bundle = make_bundle(tmp_path, "pass")
    assert fits(bundle)
    assert not fits(replace(bundle, env={"LARGE": "x" * LIMIT}))
