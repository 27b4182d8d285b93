"""What a person writes behind `--` reaches the code that runs on the cluster."""

from __future__ import annotations

import pytest

from kube_nb.backends.kubernetes.api_error import ApiError
from kube_nb.backends.kubernetes.kinds import CLAIMS, JOBS, NODES, SECRETS
from kube_nb.backends.kubernetes.manifests.claim import shared_claim
from kube_nb.client import Client
from kube_nb.config import Settings
from kube_nb.errors import Refused
from tests.cluster.conftest import ours
from tests.conformance.backends import CLUSTER

LOOK = """
import os, shutil
open("/data/written", "w").write("x")
try:
    open("/again/more", "w")
    protected = False
except OSError:
    protected = True
seen = {
    "variable": os.environ["COLOUR"],
    "file": open("/colours/COLOUR").read(),
    "volume": os.listdir("/again"),
    "protected": protected,
    "shm": shutil.disk_usage("/dev/shm").total,
    "given": os.environ["GIVEN"],
    "token": os.path.exists("/var/run/secrets/kubernetes.io/serviceaccount/token"),
}
"""


@pytest.fixture
def settings(tmp_path):
    (tmp_path / "pyproject.toml").write_text(
        f"""
        [tool.kube-nb.targets.small]
        context = "{CLUSTER.on}"
        cpu = 0.01
        memory = "64Mi"
        store = "none"
        shm = "8Mi"
        """
    )
    return Settings.load(cwd=tmp_path, environ={"KUBE_NB_STATE_DIR": str(tmp_path / "state")})


@pytest.fixture
def stuff(cluster, unique, made):
    """A Secret and a claim of one name."""
    name = unique()
    kept = {"name": name, "labels": ours(name)}
    made(SECRETS, {"apiVersion": "v1", "kind": "Secret", "metadata": kept, "stringData": {"COLOUR": "blue"}})
    made(CLAIMS, shared_claim({}, size=1 << 20) | {"metadata": kept})
    return name


def test_what_only_a_cluster_knows_reaches_the_code(cluster, settings, stuff):
    client = Client(
        f"small/{cluster.namespace}",
        settings=settings,
        secret=[stuff, f"{stuff}:/colours"],
        volume=f"{stuff}:/data,{stuff}:/again:ro",
        node_selector="kubernetes.io/os=linux",
        env={"GIVEN": "1"},
        service_account="default",
    )
    job = client.cell(LOOK, {})
    try:
        assert job.wait(90).outputs["seen"] == {
            "variable": "blue",
            "file": "blue",
            "volume": ["written"],
            "protected": True,
            "shm": 8 << 20,
            "given": "1",
            "token": True,
        }, "".join(job.logs())
    finally:
        client.delete(job)


def test_a_job_with_gpus_runs_where_their_product_is(cluster, admin, settings):
    try:
        nodes = admin.list(NODES)[0]
    except ApiError:
        pytest.skip("cluster: nobody here may read its nodes")
    label = "nvidia.com/gpu.product"
    products = {node["metadata"]["labels"].get(label) for node in nodes} - {None}
    if not products:
        pytest.skip("cluster: it has no GPUs")
    client = Client("small", settings=settings, gpus=1, gpu_product=["No-Such-GPU", *products])
    job = client.cell("where = 1", {})
    try:
        assert job.wait(90).outputs["where"] == 1, "".join(job.logs())
    finally:
        client.delete(job)


def test_a_patch_of_a_file_reaches_the_code(cluster, settings, tmp_path):
    patch = tmp_path / "patch.yaml"
    patch.write_text(
        "spec: {template: {spec: {containers: [{name: job, env: [{name: COLOUR, value: red}]}]}}}\n"
        "---\n"
        "metadata: {annotations: {team: research}}\n"
    )
    client = Client("small", settings=settings, patch=[str(patch)])
    job = client.cell("import os; colour = os.environ['COLOUR']", {})
    try:
        assert job.wait(90).outputs["colour"] == "red", "".join(job.logs())
        assert cluster.get(JOBS, job.id)["metadata"]["annotations"]["team"] == "research"
    finally:
        client.delete(job)


def test_what_the_cluster_does_not_admit_is_refused_before_the_submit(cluster, settings):
    client = Client("small", settings=settings, priority_class="no-such-class")
    with pytest.raises(Refused) as refused:
        client.cell("1", {})
    errors = [finding for finding in refused.value.findings if finding.level == "error"]
    assert [finding.reason.code for finding in errors] == ["PriorityClassMissing"]
    assert "--priority-class" in str(refused.value)
    assert client.journal.ids() == []
