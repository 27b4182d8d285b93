"""Packages in real pods: installed by what the image has, once for all jobs of a store."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kube_nb.backends.kubernetes.api import Api
from kube_nb.backends.kubernetes.manifests.pod import container_security
from kube_nb.backends.kubernetes.names import JOB
from kube_nb.backends.kubernetes.network import POLICIES
from tests.cluster.conftest import ours
from tests.cluster.handmade import program
from tests.cluster.made import Made
from tests.cluster.pods import HandMade, make_claim
from tests.unit.pod_files import Attempt, make_bundle

pytestmark = pytest.mark.timeout(300)
WITH_UV = "lab/python:3.11"
IMAGES = ["python:3.11-slim", pytest.param(WITH_UV, marks=pytest.mark.lab)]  # pip and no uv; uv
SOURCE = "import iniconfig; print(iniconfig.__name__, iniconfig.__file__.split('/')[1:3])"
TRY = """
import os, socket
try:
    place = os.environ["KUBERNETES_SERVICE_HOST"], int(os.environ["KUBERNETES_SERVICE_PORT"])
    socket.create_connection(place, timeout=2).close()
    route = "a route"
except OSError:
    route = "no route"
"""
"""Whether the pod reaches anybody: the API server, which every pod is told of."""
UNTIL_CUT_OFF = f"""
import time
for _ in range(20):
    exec({TRY!r})
    if route == "no route": break
    time.sleep(0.5)
"""
"""What enforces a policy hears of a new pod a moment after the pod has begun."""
READ_ONLY = {
    "spec": {
        "template": {
            "spec": {"containers": [{"name": "job", "securityContext": {"readOnlyRootFilesystem": True}}]},
        }
    }
}


def needs(*pins: str, **more: Any) -> dict[str, Any]:
    """What a manifest says of these packages, with the certificates that this machine trusts."""
    if not pins:
        return {}
    path = next(filter(None, (os.environ.get(name) for name in ("PIP_CERT", "SSL_CERT_FILE"))), None)
    return {"pins": list(pins), "index": {"ca": Path(path).read_text()} if path else {}, **more}


def nowhere(job: str) -> dict[str, Any]:
    """A NetworkPolicy by which the pods of a job reach nobody."""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": job, "labels": ours(job)},
        "spec": {"podSelector": {"matchLabels": {JOB: job}}, "policyTypes": ["Egress"], "egress": []},
    }


def first(code: str) -> dict[str, Any]:
    """A patch by which this runs in the pod before the job does."""
    container = {
        "name": "first",
        "image": IMAGES[0],
        "command": program(code),
        "securityContext": container_security(),
        "resources": {"requests": {"cpu": "10m"}, "limits": {"memory": "64Mi"}},
    }
    return {"spec": {"template": {"spec": {"initContainers": [container]}}}}


@pytest.fixture
def claim(cluster: Api, unique: Callable[[str], str]) -> str:
    return make_claim(cluster, unique("claim"))


@pytest.fixture
def run(cluster: Api, unique: Callable[[str], str], made: Made, tmp_path: Path) -> Callable[..., HandMade]:
    def start(source: str, packages: dict[str, Any], *, cut_off: bool = False, **plan: Any) -> HandMade:
        job = unique("pkg")
        if cut_off:  # before there is a pod: a policy is judged when a connection begins
            made(POLICIES, nowhere(job))
            plan["patches"] = (first(UNTIL_CUT_OFF),)
        bundle = make_bundle(tmp_path / job, source, job=job, packages=packages, outputs=[])
        return HandMade(cluster, job, bundle, **plan)

    return start


def said(ran: Attempt) -> list[str]:
    return [state["text"] for state in ran.of("state") if state["step"] == "install"]


@pytest.mark.parametrize("image", IMAGES)
@pytest.mark.parametrize("patches", [(), (READ_ONLY,)], ids=["root", "read-only"])
def test_a_missing_package_is_installed_by_what_the_image_has(run, image, patches):
    ran = run(SOURCE, needs("iniconfig==2.0.0"), image=image, patches=patches).attempt(seconds=120)
    assert ran.end["code"] == "Succeeded", (ran.end, said(ran))
    assert ran.text.startswith(b"iniconfig")


@pytest.mark.parametrize("image", IMAGES)
def test_the_second_job_finds_what_the_first_has_installed(run, claim, image):
    first = run(SOURCE, needs("iniconfig==2.0.0"), image=image, claim=claim).attempt(seconds=120)
    assert first.end["code"] == "Succeeded", (first.end, said(first))
    # How long process 1 took to get here, in hundredths of a second; both clocks begin when the machine does.
    timed = (
        "import os; up = float(open('/proc/uptime').read().split()[0])\n"
        "began = int(open('/proc/1/stat').read().rpartition(')')[2].split()[19]) / os.sysconf('SC_CLK_TCK')\n"
        "print(up - began)"
    )
    plain = run(timed, needs(), image=image, claim=claim).attempt()
    second = run(timed, needs("iniconfig==2.0.0"), image=image, claim=claim).attempt()
    assert said(second) == []
    assert float(second.text) - float(plain.text) <= 1, "the environment's share of the start"
    print(float(plain.text), float(second.text))


@pytest.mark.lab
def test_what_uv_has_fetched_is_in_the_store_once(run, claim):
    source = "import iniconfig, os; print(os.stat(iniconfig.__file__).st_nlink)"
    ran = run(source, needs("iniconfig==2.0.0"), image=WITH_UV, claim=claim).attempt(seconds=120)
    assert int(ran.text) > 1, "the environment shares its files with the cache"


def test_two_jobs_at_once_on_two_nodes_install_once(run, claim):
    jobs = [run(SOURCE, needs("iniconfig==2.0.0"), claim=claim) for _ in range(2)]
    rans = [job.attempt(seconds=120) for job in jobs]
    assert [ran.end["code"] for ran in rans] == ["Succeeded"] * 2
    installed = [ran for ran in rans if any("Successfully installed" in text for text in said(ran))]
    assert len(installed) <= 1


def test_nothing_is_installed_where_that_is_forbidden(run):
    ran = run(SOURCE, needs("iniconfig==2.0.0", install="never")).attempt()
    assert (ran.status, ran.end["code"]) == (84, "EnvironmentFailed")
    assert ran.end["detail"]["code"] == "InstallForbidden"


@pytest.mark.slow
@pytest.mark.parametrize("image", IMAGES)
def test_an_index_that_cannot_be_reached_is_told_from_a_package_that_is_not_there(run, image):
    cut_off = run(SOURCE, needs("iniconfig==2.0.0"), image=image, cut_off=True).attempt(seconds=240)
    if cut_off.end["code"] == "Succeeded":
        pytest.skip("cluster: it does not enforce NetworkPolicies")
    assert (cut_off.end["code"], cut_off.end["detail"]["code"]) == ("EnvironmentFailed", "IndexUnreachable")
    absent = run(SOURCE, needs("iniconfig==0.0.999"), image=image).attempt(seconds=120)
    assert (absent.end["code"], absent.end["detail"]["code"]) == ("EnvironmentFailed", "PackageNotFound")
    assert "iniconfig" in absent.end["detail"]["what"]


def test_without_any_network_what_the_image_has_is_enough(run):
    source = f"{TRY}import pip; print('pip is there,', route)"
    assert run(source, {}).attempt().text == b"pip is there, a route\n"
    ran = run(source, needs("pip", install="never"), cut_off=True).attempt()
    if b"a route" in ran.text:
        pytest.skip("cluster: it does not enforce NetworkPolicies")
    assert (ran.end["code"], ran.text) == ("Succeeded", b"pip is there, no route\n")
