"""A patch means to a job what it means to the API server, which is asked here."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kube_nb.backends.kubernetes.api import Object
from kube_nb.backends.kubernetes.kinds import Kind
from kube_nb.backends.kubernetes.manifests.job import indexed_job
from kube_nb.backends.kubernetes.patch import merged
from kube_nb.spec import Placement, SecretUse
from tests.cluster.conftest import ours
from tests.cluster.small_jobs import plan

TEMPLATES = Kind("podtemplates")


def container(**fields: Any) -> Object:
    return {"spec": {"containers": [{"name": "job", **fields}]}}


PATCHES = (
    {"metadata": {"annotations": {"sidecar.istio.io/inject": "false"}}},
    {"spec": {"priorityClassName": "high", "schedulerName": "other"}},
    {"spec": {"nodeSelector": {"zone": "a"}}},
    {"spec": {"nodeSelector": {"pool": None}}},
    {"spec": {"securityContext": {"runAsUser": 2000, "fsGroup": None}}},
    {"spec": {"imagePullSecrets": [{"name": "second"}]}},
    {"spec": {"hostAliases": [{"ip": "10.0.0.1", "hostnames": ["a"]}]}},
    {"spec": {"volumes": [{"name": "ca", "configMap": {"name": "ca"}}]}},
    {"spec": {"volumes": [{"name": "run", "emptyDir": {"sizeLimit": "1Gi"}}]}},
    {"spec": {"volumes": [{"name": "tmp", "emptyDir": None, "persistentVolumeClaim": {"claimName": "scratch"}}]}},
    {"spec": {"volumes": [{"name": "shm", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/x"}}]}},
    {"spec": {"initContainers": [{"name": "first", "image": "busybox"}]}},
    {"spec": {"containers": [{"name": "proxy", "image": "envoy", "ports": [{"containerPort": 80}]}]}},
    container(env=[{"name": "HTTP_PROXY", "value": "http://proxy"}, {"name": "HOME", "value": "/home/me"}]),
    container(env=[{"name": "KUBE_NB_NODE", "$patch": "delete"}]),
    {"spec": {"imagePullSecrets": [{"$patch": "replace"}, {"name": "alone"}]}},
    container(envFrom=[{"configMapRef": {"name": "proxy"}}]),
    container(image="other:1", imagePullPolicy="Always"),
    container(resources={"limits": {"cpu": "2", "memory": "1Gi"}}),
    container(resources={"$patch": "replace", "limits": {"cpu": "1"}}),
    container(volumeMounts=[{"mountPath": "/etc/ssl", "name": "tmp", "readOnly": True}]),
    container(volumeMounts=[{"mountPath": "/tmp", "name": "tmp", "subPath": "deep"}]),
    container(volumeMounts=[{"mountPath": "/dev/shm", "$patch": "delete"}]),
    container(securityContext={"readOnlyRootFilesystem": True, "capabilities": {"drop": ["NET_RAW"]}}),
    container(ports=[{"containerPort": 8080, "name": "metrics"}]),
    container(args=["a", "b"]),
    container(terminationMessagePath=None),
)


def together(patches: list[Object]) -> Object:
    """One patch that says what all of them say: maps joined, lists one after the other."""
    whole: Object = {}
    for patch in patches:
        _join(whole, patch)
    return whole


def _join(into: Object, patch: Object) -> None:
    for key, value in patch.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _join(into[key], value)
        elif key == "containers" and key in into:
            for item in value:
                same = [one for one in into[key] if one["name"] == item["name"]]
                _join(same[0], item) if same else into[key].append(_copy(item))
        elif isinstance(value, list) and isinstance(into.get(key), list):
            into[key] = into[key] + _copy(value)
        else:
            into[key] = _copy(value)


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copy(inner) for key, inner in value.items()}
    return [_copy(inner) for inner in value] if isinstance(value, list) else value


@pytest.fixture
def template(cluster, unique, made_by_admin):
    """The template of a job's pods, as the API server keeps it without running anything."""
    name = unique()
    given = plan(
        cluster,
        name,
        placement=Placement(node_selector={"pool": "gpu"}, secrets=(SecretUse.parse("one"),)),
        pull_secret="first",
    )
    body = {
        "apiVersion": "v1",
        "kind": "PodTemplate",
        "metadata": {"name": name, "labels": ours(name)},
        "template": indexed_job(given)["spec"]["template"],
    }
    return made_by_admin(TEMPLATES, body)


@pytest.mark.slow
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(patches=st.lists(st.sampled_from(PATCHES), min_size=1, max_size=4, unique_by=repr))
def test_the_merge_is_the_api_servers(admin, template, patches):
    patch = together(patches)
    name = template["metadata"]["name"]
    theirs = admin.patch(TEMPLATES, name, {"template": patch}, how="strategic", query={"dryRun": "All"})
    by_us = template | {"metadata": {"generateName": name}, "template": merged(template["template"], patch)}
    ours = admin.create(TEMPLATES, by_us, dry_run=True)  # with what the API server fills in
    assert unordered(ours["template"]) == unordered(theirs["template"])


def unordered(value: Any) -> Any:
    """The order of what is merged by key means nothing here."""
    if isinstance(value, dict):
        return {key: unordered(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return sorted(map(unordered, value), key=lambda inner: json.dumps(inner, sort_keys=True))
    return value
