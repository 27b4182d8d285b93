"""An image that is not there: each cause told apart, and waited for as long as the kubelet tries again."""

from __future__ import annotations

import base64
import json
import random
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from kube_nb.backends.kubernetes.kinds import PODS, SECRETS
from kube_nb.backends.kubernetes.snapshot import state
from tests.cluster import small_registry
from tests.cluster.handmade import IMAGE, Seen, labels
from tests.cluster.made import Made, wait_until_ready

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("registry")]


@dataclass(frozen=True)
class Registry:
    """The small registry, and how a job gets on the node that it serves."""

    address: str
    node: str

    def job(self, reference: str, **pod: object) -> dict:
        node = {"nodeSelector": {"kubernetes.io/hostname": self.node}}
        return {"container": {"image": f"{self.address}/{reference}"}, "pod": node | pod}


@pytest.fixture(scope="module")
def registry(admin):
    """A registry on some node's own network."""
    everywhere = replace(admin, namespace="default")
    port = random.randrange(20000, 30000)
    made = Made(everywhere)
    pod = made(PODS, registry_pod(port))
    yield Registry(f"127.0.0.1:{port}", wait_until_ready(everywhere, pod)["spec"]["nodeName"])
    made.remove()


def registry_pod(port: int) -> dict:
    source = Path(small_registry.__file__).read_text()
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"t-registry-{port}"},
        "spec": {
            "hostNetwork": True,
            "terminationGracePeriodSeconds": 1,
            "containers": [
                {
                    "name": "registry",
                    "image": IMAGE,
                    "imagePullPolicy": "IfNotPresent",
                    "command": ["python3", "-c", source, str(port)],
                    "readinessProbe": {"tcpSocket": {"host": "127.0.0.1", "port": port}, "periodSeconds": 1},
                }
            ],
        },
    }


def image(name: str) -> dict:
    return {"container": {"image": name}}


def waits_for(seen: Seen) -> str:
    """What the cluster itself says that the container waits for, cause and words."""
    waiting = state(seen.snapshot().pods[0], "waiting") or {}
    return f"{waiting.get('reason')}: {waiting.get('message')}"


def test_a_malformed_name(by_hand):
    seen = by_hand("name", **image("Not/A Name"))
    status = seen.reason("InvalidImageName")
    assert status.phase == "Starting"
    assert "--image" in status.reason.next
    assert "InvalidImageName" in str(seen.snapshot().pods[0]["status"])


def test_an_image_that_does_not_exist_is_told_and_waited_for(by_hand, registry):
    seen = by_hand("missing", **registry.job("missing/image:1"))
    status = seen.reason("ImageNotFound")
    assert status.phase == "Starting", "the kubelet tries again: it may be pushed yet"
    assert "missing/image:1" in status.reason.what
    later = seen.until(lambda status: "ImagePullBackOff" in str(seen.snapshot().pods[0]["status"]))
    assert later.reason == status.reason, "one cause, whether the kubelet pulls or pauses"


@pytest.mark.parametrize(
    "reference", ["missing/denied:v403", f"missing/image@sha256:{'403' * 21}4"], ids=["by tag", "by digest"]
)
def test_a_missing_image_whose_name_is_like_a_refusal_is_not_taken_for_one(by_hand, registry, reference):
    seen = by_hand("missing", **registry.job(reference))
    assert reference in seen.reason("ImageNotFound").reason.what
    assert "403" in waits_for(seen)
    assert "not found" in waits_for(seen)


def test_an_image_that_is_kept_from_us_is_told_and_waited_for(by_hand, registry):
    seen = by_hand("denied", **registry.job("denied/image:1"))
    assert seen.reason("ImagePullDenied").phase == "Starting"
    assert "403 Forbidden" in waits_for(seen)


def test_a_registry_that_wants_a_password_is_told_apart_and_a_pull_secret_helps(by_hand, cluster, unique, registry):
    seen = by_hand("denied", **registry.job("secret/image:1"))
    denied = seen.reason("ImagePullDenied")
    assert denied.phase == "Starting"
    assert "pull_secret" in denied.reason.next
    assert "401 Unauthorized" in waits_for(seen)
    secret = unique("pull")
    cluster.create(SECRETS, pull_secret(secret, registry.address))
    allowed = by_hand("allowed", **registry.job("secret/image:1", imagePullSecrets=[{"name": secret}]))
    assert allowed.final().reason.code == "CannotStart", "it was pulled, and there is nothing in it"


def test_an_image_without_python(by_hand, registry):
    status = by_hand("bare", **registry.job("bare/image:1")).final()
    assert (status.phase, status.reason.code) == ("Failed", "CannotStart")
    assert "python3" in status.reason.what
    assert "--image" in status.reason.next


def test_a_registry_that_cannot_be_reached(by_hand):
    seen = by_hand("away", **image("registry.invalid/a:1"))
    assert seen.reason("RegistryUnreachable").phase == "Starting"
    assert "registry.invalid" in waits_for(seen)


def test_an_image_that_may_not_be_pulled(by_hand):
    seen = by_hand("never", container={"image": "kube-nb-test/nowhere:1", "imagePullPolicy": "Never"})
    assert "imagePullPolicy" in seen.reason("ImageNotFound").reason.next
    assert waits_for(seen).startswith("ErrImageNeverPull")


def test_an_image_that_is_there_starts_without_a_word(by_hand):
    assert by_hand("there", "print(1)").final().reason is None


def pull_secret(name: str, address: str) -> dict:
    auth = base64.b64encode(f"{small_registry.USER}:{small_registry.PASSWORD}".encode()).decode()
    config = json.dumps({"auths": {address: {"auth": auth}}})
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "labels": labels(name)},
        "type": "kubernetes.io/dockerconfigjson",
        "stringData": {".dockerconfigjson": config},
    }
