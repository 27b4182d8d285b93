"""What a job mounts or reads and what is not there; once it is, the job starts by itself."""

from __future__ import annotations

import time

import pytest

from kube_nb.backends.kubernetes.kinds import CLAIMS, CONFIG_MAPS, SECRETS
from kube_nb.backends.kubernetes.snapshot import condition, state
from kube_nb.backends.kubernetes.status import status_of
from tests.cluster.handmade import PATIENCE, Seen, job, labels, submit

pytestmark = pytest.mark.slow

CODES = {"secret": "SecretMissing", "configMap": "ConfigMapMissing"}


def volume(source: dict) -> dict:
    return {
        "pod": {"volumes": [{"name": "v", **source}]},
        "container": {"volumeMounts": [{"name": "v", "mountPath": "/v"}]},
    }


def thing(name: str, kind: str) -> dict:
    body = {"apiVersion": "v1", "metadata": {"name": name, "labels": labels(name)}}
    text = (
        {"kind": "Secret", "stringData": {"k": "v"}} if kind == "secret" else {"kind": "ConfigMap", "data": {"k": "v"}}
    )
    return body | text


@pytest.mark.parametrize("kind", ["secret", "configMap"])
def test_a_missing_volume_of_text_is_named_and_once_it_is_made_the_job_runs(by_hand, cluster, unique, kind):
    name = unique("text")
    key = "secretName" if kind == "secret" else "name"
    seen = by_hand("mounts", "print(open('/v/k').read())", **volume({kind: {key: name}}))
    status = seen.reason(CODES[kind])
    assert status.phase == "Starting"
    assert name in status.reason.what
    told = [event["message"] for event in seen.snapshot().events if event["reason"] == "FailedMount"]
    assert any(f'"{name}" not found' in words for words in told), "the kubelet's own word, not a guess"
    cluster.create(SECRETS if kind == "secret" else CONFIG_MAPS, thing(name, kind))
    assert seen.final(timeout=90).phase == "Succeeded"


@pytest.mark.parametrize("kind", ["secret", "configMap"])
def test_missing_variables_are_named_and_a_missing_key_is_told_apart(by_hand, cluster, unique, kind):
    name = unique("env")
    environment = {"envFrom": [{f"{kind}Ref": {"name": name}}]}
    reads = by_hand("reads", container=environment)
    assert name in reads.reason(CODES[kind]).reason.what
    assert f'"{name}" not found' in cannot_be_made(reads)
    cluster.create(SECRETS if kind == "secret" else CONFIG_MAPS, thing(name, kind))
    by_key = {"env": [{"name": "X", "valueFrom": {f"{kind}KeyRef": {"name": name, "key": "other"}}}]}
    lacks = by_hand("key", container=by_key)
    assert "other" in lacks.reason(CODES[kind].replace("Missing", "KeyMissing")).reason.what
    assert "key other" in cannot_be_made(lacks)
    assert by_hand("fine", container=environment).final().phase == "Succeeded"


def cannot_be_made(seen: Seen) -> str:
    """What the kubelet says of a container that waits for its settings."""
    waiting = state(seen.snapshot().pods[0], "waiting") or {}
    assert waiting["reason"] == "CreateContainerConfigError"
    return waiting["message"]


def test_a_submit_that_was_broken_off_is_told_after_a_while_but_not_at_once(cluster, watch, unique):
    name = unique("half")  # our own Secret has the Job's name, and comes a moment after it
    seen = submit(cluster, watch, job(name, **volume({"secret": {"secretName": name}})))
    watch.wait(name, lambda snapshot: (snapshot and "FailedMount" in str(snapshot.events)) or None, PATIENCE)
    assert status_of(seen.snapshot()).reason is None
    later = status_of(seen.snapshot(), now=time.time() + 31)
    assert later.reason.code == "IncompleteSubmit"


def claim(name: str, storage_class: str) -> dict:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "labels": labels(name)},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": storage_class,
            "resources": {"requests": {"storage": "1Mi"}},
        },
    }


@pytest.mark.lab
def test_a_claim_that_does_not_bind_and_one_that_does(by_hand, cluster, unique):
    unbound, bound = unique("unbound"), unique("bound")
    cluster.create(CLAIMS, claim(unbound, "kube-nb-test-no-such-class"))
    cluster.create(CLAIMS, claim(bound, "standard"))
    waits = by_hand("waits", **volume({"persistentVolumeClaim": {"claimName": unbound}}))
    status = waits.reason("VolumeUnbound")
    assert cluster.get(CLAIMS, unbound)["status"]["phase"] == "Pending"
    assert status.phase == "Pending"
    assert unbound in status.reason.what
    assert "kube-nb-test-no-such-class" in status.reason.why, "the claim's own warning is the cause"
    fine = by_hand("runs", "print(1)", **volume({"persistentVolumeClaim": {"claimName": bound}}))
    assert fine.final().phase == "Succeeded"


def test_a_claim_that_is_not_there(by_hand, unique):
    name = unique("none")
    seen = by_hand("claim", **volume({"persistentVolumeClaim": {"claimName": name}}))
    status = seen.reason("ClaimMissing")
    assert status.phase == "Pending"
    assert name in status.reason.what
    unscheduled = condition(seen.snapshot().pods[0], "PodScheduled", "False")
    assert f'persistentvolumeclaim "{name}" not found' in unscheduled["message"]
