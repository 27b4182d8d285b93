"""A store at a URL: bundles, results, logs and checkpoints go through an S3 API, and outlive pods and kernels."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kube_nb.backends.kubernetes.api import Api, Object
from kube_nb.backends.kubernetes.kinds import JOBS, PODS, SECRETS, Kind
from kube_nb.backends.kubernetes.names import JOB
from kube_nb.client import Client
from kube_nb.config import Settings
from kube_nb.errors import BadValue, Refused, StorageFailed
from kube_nb.jobs.job import Job
from kube_nb.spec import Phase
from tests.cluster.bucket import Bucket, serving
from tests.cluster.conftest import ours
from tests.conformance.backends import CLUSTER
from tests.conformance.gate import Gate
from tests.conformance.sending import code, remove_sent, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400), pytest.mark.lab]

SIZE = int(os.environ.get("KUBE_NB_TEST_MB", "64")) * 1_000_000
ADDRESS = CLUSTER.address
IMAGE = "lab/python:3.11"
DIES = """
import os, sys
from pathlib import Path
from tests.cluster.test_url_store import client_of
job = client_of(sys.argv[1], Path(sys.argv[2])).cell(
    "total = sum(data)\\nback = data[::-1]", {"__name__": "__main__", "data": bytes(5_000_000)}
)
print(job.id, flush=True)
os._exit(0)
"""


@pytest.fixture(scope="module")
def bucket() -> Iterator[Bucket]:
    with serving(ADDRESS) as found:
        yield found


@pytest.fixture
def env(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    for name, value in bucket.env.items():
        monkeypatch.setenv(name, value)
    return bucket


def client_of(url: str, state: Path, *, pass_env: str = "AWS_*", **options: Any) -> Client:
    told = {"KUBE_NB_STATE_DIR": str(state), "KUBE_NB_STORE": url, "KUBE_NB_PASS_ENV": pass_env}
    settings = Settings.load(environ=told)
    given = {"image": IMAGE, "cpu": "0.2", "memory": "3Gi", **options}
    return Client(CLUSTER.on, settings=settings, **given)


@pytest.fixture
def client(cluster: Api, env: Bucket, tmp_path: Path) -> Iterator[Client]:
    made = client_of(env.url, tmp_path)
    yield made
    remove_sent(made)


def files(bucket: Bucket, id: str) -> set[str]:
    """What lies there of a job, by the last parts of the names."""
    import fsspec

    system, path = fsspec.url_to_fs(bucket.url)
    system.invalidate_cache()
    found = system.find(f"{path}/jobs")
    return {one.partition(f"/{id}/")[2] for one in found if f"/{id}/" in one}


def test_a_large_value_goes_both_ways_and_outlives_its_pod(client: Client, cluster: Api, env: Bucket, tmp_path: Path):
    data = os.urandom(SIZE)
    source = "import hashlib\nprint(hashlib.sha256(data).hexdigest())\nback = bytes(reversed(data[:1000])) + data"
    names: dict[str, Any] = {"__name__": "__main__", "data": data}
    job = client.options(outputs=["back"]).cell(source, names).wait(300)
    assert job.phase is Phase.SUCCEEDED, job.reason
    assert any(name.startswith("bundle/objects/") for name in files(env, job.id))
    for pod in cluster.list(PODS, labels=f"{JOB}={job.id}")[0]:
        cluster.delete(PODS, pod["metadata"]["name"], grace=0)
    assert "log/0.0" in files(env, job.id)
    later = client_of(env.url, tmp_path).job(job.id)
    assert len("".join(later.logs()).strip()) == 64
    assert later.outputs["back"] == bytes(reversed(data[:1000])) + data
    annotations = cluster.get(JOBS, job.id)["metadata"]["annotations"]
    assert not [value for value in annotations.values() if env.secret in value]
    client.delete(job)
    assert files(env, job.id) == set()


def test_a_kernel_that_dies_after_its_submit_costs_nothing(client: Client, env: Bucket, tmp_path: Path):
    words = [sys.executable, "-c", DIES, env.url, str(tmp_path)]
    ran = subprocess.run(words, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert ran.returncode == 0, ran.stderr
    job = client.job(ran.stdout.strip()).wait(200)
    assert job.phase is Phase.SUCCEEDED, job.reason
    assert job.outputs["back"] == bytes(5_000_000)


def test_a_checkpoint_is_found_by_the_next_attempt(client: Client):
    source = (
        "import kube_nb as kn, os\n"
        "place = kn.checkpoint_dir() / 'deep' / 'step'\n"
        "if place.exists(): print('found', place.read_text())\n"
        "else:\n"
        "    place.parent.mkdir(); place.write_text('7'); print('kept', flush=True); os._exit(1)\n"
    )
    job: Job = client.options(retries=1).cell(source, {"__name__": "__main__"}).wait(300)
    assert job.phase is Phase.SUCCEEDED, job.reason
    assert "found 7" in "".join(job.logs())


def test_credentials_of_a_secret_of_the_namespace_are_the_jobs(
    env: Bucket, tmp_path: Path, unique: Callable[[], str], made: Callable[[Kind, Object], object]
):
    name = unique()
    metadata = {"name": name, "labels": ours(name)}
    made(SECRETS, {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": env.env})
    client = client_of(env.url, tmp_path, pass_env="", secret=[name])
    try:
        job = client.cell("back = data[::-1]", {"__name__": "__main__", "data": bytes(3_000_000)}).wait(200)
        assert job.phase is Phase.SUCCEEDED, job.reason
        assert job.outputs["back"] == bytes(3_000_000)
        assert "log/0.0" in files(env, job.id)
    finally:
        remove_sent(client)


def test_wrong_credentials_are_told_with_the_way_out(client: Client, env: Bucket):
    wrong = client.options(env=["AWS_SECRET_ACCESS_KEY=wrong", "AWS_ACCESS_KEY_ID=AKIAWRONG"])
    job = wrong.cell("print(1)", {"__name__": "__main__"}).wait(200)
    assert job.phase is Phase.FAILED
    assert job.reason is not None
    assert env.url in job.reason.what
    assert "pass_env" in job.reason.next
    assert "wrong" not in job.reason.why


def test_a_store_that_is_gone_at_the_end_is_told_and_who_follows_has_the_result(
    cluster: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    gate = Gate(ADDRESS)
    with serving(ADDRESS) as own:
        for name, value in own.env.items():
            monkeypatch.setenv(name, value)
        client = client_of(own.url, tmp_path, outputs=["data"])
        job = client.cell(f"data = bytes(5_000_000)\nprint('ready', flush=True)\n{gate.wait}", {"__name__": "__main__"})
        lines = job.logs(follow=True)
        assert "ready" in next(lines)
    gate.open()
    try:
        list(lines)
        assert job.outputs["data"] == bytes(5_000_000)
        assert job.wait(250).phase is Phase.SUCCEEDED, job.reason
        until(lambda: code(job) == "NotStored", what="the cluster's word")
        assert job.reason is not None
        assert own.url in job.reason.what
    finally:
        gate.close()
        cluster.delete(JOBS, job.id)


def test_what_is_left_at_the_url_goes_in_time(client: Client, env: Bucket):
    job = client.cell("back = list(range(10))", {"__name__": "__main__"}).wait(200)
    assert files(env, job.id)
    assert job.id not in {one.name for one in client.clean(dry_run=True)}
    cleaning = client.backend._cleaning  # not all of `clean`: others send jobs in this namespace too
    assert job.id in {one.name for one in cleaning._sweep_url(env.url, 0, dry_run=True)}
    assert job.id in {one.name for one in cleaning._sweep_url(env.url, 0, dry_run=False)}
    assert files(env, job.id) == set()
    assert job.id not in {status.id for status in client.statuses()}
    with pytest.raises(Refused, match="s3://"):
        client.clean_store()


def test_a_pod_that_is_told_to_go_leaves_its_checkpoint(client: Client, cluster: Api):
    source = (
        "import kube_nb as kn, time\n"
        "place = kn.checkpoint_dir() / 'step'\n"
        "if place.exists(): print('found', place.read_text())\n"
        "else:\n"
        "    place.write_text('7'); print('kept', flush=True); time.sleep(300)\n"
    )
    job: Job = client.cell(source, {"__name__": "__main__"})
    assert next(line for line in job.logs(follow=True) if "kept" in line)
    (pod,) = cluster.list(PODS, labels=f"{JOB}={job.id}")[0]
    cluster.delete(PODS, pod["metadata"]["name"])
    job.wait(200)
    assert job.phase is Phase.SUCCEEDED, job.reason
    assert "found 7" in "".join(job.logs())


def test_what_the_kernel_may_not_store_is_told_before_there_is_a_job(client: Client, monkeypatch: pytest.MonkeyPatch):
    before = {status.id for status in client.statuses()}
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(StorageFailed, match="s3://") as failed:
        client.cell("print(len(data))", {"__name__": "__main__", "data": os.urandom(3_000_000)})
    assert "pass_env" in failed.value.next
    assert not [status for status in client.statuses() if status.id not in before and status.id in client.journal.ids()]


def test_a_url_with_a_password_is_refused(tmp_path: Path):
    with pytest.raises(BadValue, match="password"):
        client_of("s3://somebody:secret@bucket/x", tmp_path).settings.get("store")
