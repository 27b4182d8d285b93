"""The preflight against a real API server: each cause that can be known before a submit, and its harmless twin."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from kube_nb.backends.base import Finding
from kube_nb.backends.kubernetes import addons, preflight
from kube_nb.backends.kubernetes.api import Api, Object
from kube_nb.backends.kubernetes.capacity import capacity, nodes
from kube_nb.backends.kubernetes.image import platform_of
from kube_nb.backends.kubernetes.kinds import CLAIMS, JOBS, NODES, PODS, QUOTAS, SECRETS
from kube_nb.backends.kubernetes.plan import JobPlan
from kube_nb.spec import Environment, JobSpec, Placement, Resources, SecretUse, VolumeUse, new_job_id
from tests.cluster.conftest import Made


def planned(image: str = "python:3.11-slim", memory: int = 64 * 2**20, **spec: Any) -> JobPlan:
    known = {key: spec.pop(key) for key in ("pull_secret", "patches", "tolerations", "affinity") if key in spec}
    return JobPlan(
        spec=JobSpec(id=new_job_id("t"), name="t", **spec),
        namespace="",
        user="u",
        image=image,
        memory=memory,
        **known,
    )


def asking(**resources: Any) -> JobPlan:
    return planned(resources=Resources.parse(**resources))


def placed(**placement: Any) -> JobPlan:
    return planned(placement=Placement(**placement))


def said(api: Api, plan: JobPlan) -> dict[str, str]:
    """Code -> level of what a fresh look finds, without what the tenant may not read."""
    return {found.reason.code: found.level for found in looked(api, plan) if found.level != "unknown"}


def looked(api: Api, plan: JobPlan) -> list[Finding]:
    return preflight.check(replace(api), plan)


def test_an_ordinary_job_has_nothing_against_it(cluster):
    assert said(cluster, planned()) == {}


def test_what_the_tenant_may_not_read_is_unknown_and_names_the_right(cluster):
    [found] = looked(cluster, asking(cpu=10_000))
    assert found.level == "unknown"
    assert "`list nodes`" in found.reason.why


@pytest.mark.lab
def test_who_may_read_nodes_knows_what_no_node_can_give(admin):
    assert said(admin, asking(cpu=10_000)) == {"TooLarge": "error"}
    assert said(admin, asking(cpu=0.1)) == {}
    assert said(admin, asking(gpus="1:amd.com/gpu")) == {"NoGpu": "error"}
    assert said(admin, asking(gpus=1000)) == {"TooLarge": "error"}
    assert said(admin, asking(gpus=1)) == {}
    assert said(admin, asking(gpus=1, gpu_product=["H100"])) == {"NoSuchNode": "error"}
    assert said(admin, asking(gpus=1, gpu_product=["Lab-GPU"])) == {}
    assert said(admin, placed(node_selector={"no": "such"})) == {"NoSuchNode": "error"}


@pytest.mark.lab
def test_the_nodes_of_the_cluster_are_read_as_they_are(admin):
    known = {node.name: node for node in nodes(replace(admin)) or ()}
    for node in admin.list(NODES)[0]:
        assert known[node["metadata"]["name"]].labels == node["metadata"]["labels"]
    free = capacity(replace(admin), "admin")
    assert free.cpu is not None
    assert 0 < free.cpu[0] <= free.cpu[1]
    assert free.gpus["nvidia.com/gpu (Lab-GPU)"][1] > 0


def test_a_patch_counts(admin):
    patch = {"spec": {"template": {"spec": {"nodeSelector": {"no": "such"}}}}}
    assert said(admin, planned(patches=(patch,))) == {"NoSuchNode": "error"}


def test_a_name_that_is_no_image_is_refused(cluster):
    assert said(cluster, planned(image="Not/An Image")) == {"BadImageName": "error"}


def test_another_python_in_the_image_is_refused_before_anything_is_pulled(cluster):
    assert said(cluster, planned(image="python:3.9-slim")) == {"PythonMismatch": "error"}
    assert said(cluster, planned(image="my/own:tag")) == {}


def test_what_is_in_an_image_is_unknown_where_its_name_does_not_tell(cluster):
    never = Environment(install="never")
    version = f"{sys.version_info.major}.{sys.version_info.minor}"

    def unknown(plan: JobPlan) -> list[str]:
        told = [found.reason.what for found in looked(cluster, plan) if found.level == "unknown"]
        return [what for what in told if plan.image in what]

    assert unknown(planned(image=f"python:{version}-slim")) == unknown(planned(image=f"my/own:py{version}")) == []
    assert f"Python {version}" in "".join(unknown(planned(image="my/own:tag")))
    assert "packages" in "".join(unknown(planned(image=f"my/own:py{version}", environment=never)))


def test_secrets_and_claims_must_exist(cluster, made: Made, unique: Callable[[str], str]):
    name = unique("pre")
    plan = placed(secrets=(SecretUse.parse(name),), volumes=(VolumeUse.parse(f"{name}:/data"),))
    assert said(cluster, plan) == {"SecretMissing": "error", "ClaimMissing": "error"}
    made(SECRETS, {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}})
    made(CLAIMS, claim(name))
    assert said(cluster, plan) == {}
    assert said(cluster, planned(pull_secret=f"{name}-x")) == {"SecretMissing": "error"}
    assert said(cluster, planned(pull_secret=name)) == {}


def test_a_volume_of_one_node_for_several_is_seen(cluster, made: Made, unique: Callable[[str], str]):
    name = unique("pre")
    made(CLAIMS, claim(name, "ReadWriteOnce"))
    use = (VolumeUse.parse(f"{name}:/data"),)
    two = planned(resources=Resources.parse(nodes=2), placement=Placement(volumes=use))
    assert said(cluster, placed(volumes=use)) == {}
    assert said(cluster, two) == {"OneNodeVolume": "warning"}

    shared = unique("pre")
    made(CLAIMS, claim(shared, "ReadWriteMany"))
    several = Placement(volumes=(VolumeUse.parse(f"{shared}:/data"),))
    assert said(cluster, planned(resources=Resources.parse(nodes=2), placement=several)) == {}


def claim(name: str, mode: str = "ReadWriteOnce") -> Object:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name},
        # nobody serves this class, so that no volume is made for the test
        "spec": {"accessModes": [mode], "storageClassName": "none", "resources": {"requests": {"storage": "1Mi"}}},
    }


def test_a_quota_is_told_with_its_numbers(cluster, made_by_admin: Made, unique: Callable[[str], str]):
    # A class of its own keeps the quota from everybody else's pods.
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": unique("quota")},
        "spec": {
            "hard": {"requests.cpu": "2"},
            "scopeSelector": {
                "matchExpressions": [{"scopeName": "PriorityClass", "operator": "In", "values": ["t-nobody"]}]
            },
        },
    }
    made_by_admin(QUOTAS, quota)
    of_class = Placement(priority_class="t-nobody")

    def job(cpu: float, nodes: int = 1) -> JobPlan:
        return planned(resources=Resources.parse(cpu=cpu, nodes=nodes), placement=of_class)

    assert said(cluster, job(2)) == {}
    assert said(cluster, job(3)) == {"QuotaTooSmall": "error"}
    assert said(cluster, job(2, nodes=2)) == {"QuotaTooSmall": "error"}
    assert said(cluster, asking(cpu=3)) == {}
    [found] = [one for one in looked(cluster, job(3)) if one.level == "error"]
    assert "2 cores" in found.reason.why
    assert "3 cores" in found.reason.what


def test_a_queue_needs_kueue_and_must_exist(cluster):
    queues = addons.kind(replace(cluster), "kueue.x-k8s.io", "localqueues")
    if queues is None:
        [found] = [one for one in looked(cluster, placed(queue="nobodys")) if one.level == "error"]
        assert found.reason.code == "QueueMissing"
        assert "Kueue" in found.reason.why
        return
    [found] = [one for one in looked(cluster, placed(queue="nobodys")) if one.level == "error"]
    assert found.reason.code == "QueueMissing"
    for queue in cluster.list(queues)[0]:
        assert queue["metadata"]["name"] in found.reason.why
        assert said(cluster, placed(queue=queue["metadata"]["name"])) == {}


def test_via_an_add_on_that_is_not_there_is_refused(cluster):
    there = addons.kind(replace(cluster), "trainer.kubeflow.org", "trainjobs") is not None
    assert said(cluster, placed(via="trainjob")) == ({} if there else {"AddOnMissing": "error"})


def test_the_preflight_makes_nothing_and_asks_little(cluster, monkeypatch):
    api, asked = replace(cluster), []
    send = Api._transport

    def counted(self: Api, method: str, path: str, *rest: Any) -> Any:
        asked.append((method, path))
        return send(self, method, path, *rest)

    monkeypatch.setattr(Api, "_transport", counted)
    before = [job["metadata"]["name"] for job in cluster.list(JOBS)[0]]
    plan = planned()
    asked.clear()
    preflight.check(api, plan)
    first = len(asked)
    preflight.check(api, plan)
    assert first <= 2  # rights and quotas; nobody asks for nodes in vain
    assert len(asked) - first <= 1  # quotas change with each job; the rest is remembered
    assert all(method == "GET" or "selfsubject" in path for method, path in asked)
    assert plan.spec.id not in before
    assert cluster.find(JOBS, plan.spec.id) is None
    assert cluster.find(PODS, plan.spec.id) is None


def test_a_cluster_is_a_linux_of_its_nodes_kind(admin, cluster):
    assert platform_of(replace(admin), "python:3.11-slim").system == "Linux"
    assert platform_of(replace(cluster), "python:3.13-slim").python.startswith("3.13.")


@pytest.mark.parametrize("present", ["Kueue", "metrics-server"])
def test_add_ons_are_found_as_the_cluster_offers_them(cluster, present):
    one = next(one for one in addons.ADD_ONS if one.name == present)
    groups = {group["name"] for group in cluster.raw("/apis")["groups"]}
    assert addons.present(replace(cluster))[present] is (one.group in groups)
