"""What a person writes behind `--` reaches the code that runs on the cluster."""

from __future__ import annotations

import pytest

from kube_nb.backends.kubernetes import names, site
from kube_nb.backends.kubernetes.api import Api, Object
from kube_nb.backends.kubernetes.api_error import ApiError
from kube_nb.backends.kubernetes.kinds import CLAIMS, CONFIG_MAPS, JOBS, NODES, PODS, SECRETS, Kind
from kube_nb.backends.kubernetes.manifests.claim import shared_claim
from kube_nb.client import Client
from kube_nb.config import Settings
from kube_nb.errors import Refused
from kube_nb.jobs.job import Job
from tests.cluster.conftest import ours
from tests.cluster.test_reasons_creation import PRIORITIES, RUNTIMES
from tests.conformance.backends import CLUSTER

DISK = "ephemeral-storage"
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


def pod_of(api: Api, job: Job) -> Object:
    """The only one, as the cluster has it."""
    (pod,) = api.list(PODS, labels=names.selector(job=job.id))[0]
    return pod


@pytest.fixture
def nodes(admin):
    """The names of several; the first has disk to give, of which the kubelets of the lab do not tell."""
    found = [node for node in admin.list(NODES)[0] if not node["spec"].get("taints")]
    if len(found) < 2:
        pytest.skip("cluster: it has one node")
    names = [node["metadata"]["name"] for node in found]
    silent = DISK not in found[0]["status"]["allocatable"]

    def disk(size: str | None) -> None:
        status = {"status": {key: {DISK: size} for key in ("capacity", "allocatable")}}
        admin.patch(Kind(f"nodes/{names[0]}", namespaced=False), "status", status)

    if silent:
        disk("1Gi")
    yield names
    if silent:
        disk(None)


def test_where_a_pod_runs_and_as_what_is_as_it_was_asked_for(cluster, nodes, settings, made_by_admin, unique):
    name = unique("class")
    for kind, more in ((PRIORITIES, {"value": 7}), (RUNTIMES, {"handler": "runc"})):
        made_by_admin(kind, {"apiVersion": kind.version, "metadata": {"name": name}} | more)
    here, *others = nodes
    apart = {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "NotIn", "values": others}]}
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [apart]}}}
    client = Client(
        "small",
        settings=settings.with_layer("kernel", {"affinity": affinity}),
        node_selector={"kubernetes.io/hostname": here},
        priority_class=name,
        runtime_class=name,
        disk="300Mi",
    )
    job = client.cell("ran = 1", {})
    try:
        assert job.wait(90).outputs["ran"] == 1, "".join(job.logs())
        spec = pod_of(cluster, job)["spec"]
        assert (spec["nodeName"], spec["affinity"]) == (here, affinity)
        assert (spec["priorityClassName"], spec["priority"], spec["runtimeClassName"]) == (name, 7, name)
        (resources,) = [one["resources"] for one in spec["containers"] if one["name"] == names.CONTAINER]
        assert resources["limits"][DISK] == resources["requests"][DISK] == str(300 << 20)
    finally:
        client.delete(job)


@pytest.mark.lab
def test_a_job_that_says_nothing_is_as_its_namespace_says(own_tenant, tmp_path):
    said = """
        image = "lab/python:3.11"
        cpu = 0.02
        memory = "96Mi"
        store = "none"
        tolerations = [{key = "kube-nb.test/any", operator = "Exists"}]
        node_selector = {"kubernetes.io/os" = "linux"}
        labels = {team = "ds"}
        """
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": site.CONFIG_MAP}, "data": {site.KEY: said}}
    own_tenant.create(CONFIG_MAPS, body)
    settings = Settings.load(cwd=tmp_path, environ={"KUBE_NB_STATE_DIR": str(tmp_path / "state")})
    client = Client(f"{CLUSTER.on}/{own_tenant.namespace}", settings=settings)
    job = client.options(memory="80Mi").cell("ran = 1", {})
    assert job.wait(90).outputs["ran"] == 1, "".join(job.logs())
    pod = pod_of(own_tenant, job)
    (container,) = pod["spec"]["containers"]
    assert container["image"] == "lab/python:3.11"
    assert container["resources"]["requests"]["cpu"] == "20m"
    assert container["resources"]["limits"]["memory"] == str(80 << 20), "what a person says is stronger"
    assert pod["spec"]["nodeSelector"] == {"kubernetes.io/os": "linux"}
    assert {"key": "kube-nb.test/any", "operator": "Exists"} in pod["spec"]["tolerations"]
    assert pod["metadata"]["labels"]["team"] == "ds"


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
