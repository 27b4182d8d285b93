"""Every manifest passes a strict dry run as the restricted user, and means in a pod what it says."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace

import pytest

from kube_nb.backends.kubernetes import addons, submit
from kube_nb.backends.kubernetes.api import Object
from kube_nb.backends.kubernetes.kinds import CLAIMS, JOBS, PODS, SECRETS, SERVICES
from kube_nb.backends.kubernetes.manifests.claim import own_claim, shared_claim
from kube_nb.backends.kubernetes.manifests.trainjob import RUNTIMES
from kube_nb.backends.kubernetes.names import STORE_CLAIM
from kube_nb.backends.kubernetes.plan import Store
from kube_nb.jobs.yaml_text import yaml_of
from kube_nb.spec import Placement, Policy, SecretUse, VolumeUse
from tests.cluster.conftest import ours
from tests.cluster.small_jobs import bundle, ended, fitting, logs, plan, pod_when
from tests.conformance.sending import until

EVERYTHING = Placement(
    secrets=(SecretUse.parse("one"), SecretUse.parse("two:/two"), SecretUse.parse("three:")),
    volumes=(VolumeUse.parse("data:/data"), VolumeUse.parse("data:/again:ro"), VolumeUse.parse("more:/more")),
    node_selector={"kubernetes.io/os": "linux", "topology.kubernetes.io/zone": "a"},
    queue="default",
)
AFFINITY = {
    "nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [
                {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a", "b"]}]},
                {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n"]}]},
            ]
        }
    },
    "podAntiAffinity": {},
}
PLANS = {
    "plain": {},
    "a time-out": {"policy": Policy(timeout=60.5, retries=3)},
    "nodes": {"resources": {"nodes": 3, "procs": 2}},
    "sizes": {"resources": {"shm": "64Mi", "disk": "1Gi", "cpu": 0.001}},
    "a GPU": {"resources": {"gpus": 1}},
    "a product": {"resources": {"gpus": "1", "gpu_product": ["NVIDIA-H100", "NVIDIA-H200"]}},
    "a product beside an affinity": {"resources": {"gpus": "1", "gpu_product": ["X"]}, "affinity": AFFINITY},
    "an AMD GPU": {"resources": {"gpus": "2:amd.com/gpu", "gpu_product": ["AMD_Instinct_MI300X"]}},
    "a slice of a GPU": {"resources": {"gpus": "2:nvidia.com/mig-1g.5gb"}},
    "any resource": {"resources": {"gpus": "1:example.org/tpu-v9"}},
    "placement": {"placement": EVERYTHING},
    "a claim for what is large for a while": {"placement": Placement(volumes=(VolumeUse.parse("scratch:/tmp"),))},
    "settings": {
        "labels": {"team": "a", "example.org/cost-center": "42", "kube-nb/job": "hidden"},
        "tolerations": ({"key": "gpu", "operator": "Exists", "effect": "NoSchedule"},),
        "pull_secret": "registry",
        "store": Store(kind="shared", claim=STORE_CLAIM),
    },
    "a strange name": {
        "user": "https://issuer.example#user@example.org",
        "image": "registry:5000/a/b@sha256:" + 64 * "0",
    },
}


@pytest.mark.parametrize("what", PLANS)
def test_the_api_server_takes_the_job_and_its_pod(cluster, unique, what):
    assert submit.dry_run(cluster, plan(cluster, unique(), **PLANS[what])) == []


@pytest.mark.parametrize("what", PLANS)
def test_what_is_shown_can_be_applied(cluster, unique, what):
    shown = submit.objects(plan(cluster, unique(), **PLANS[what]))
    done = applied(*shown)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("created") == len(shown)


@pytest.mark.parametrize("nodes", [1, 3])
def test_what_is_shown_of_a_trainjob_can_be_applied(cluster, unique, made, nodes):
    if addons.kind(cluster, "trainer.kubeflow.org", "trainjobs") is None:
        pytest.skip("cluster: it has no Kubeflow Trainer")
    given = plan(cluster, unique(), resources={"nodes": nodes}, placement=Placement(via="trainjob", queue="default"))
    assert submit.dry_run(cluster, given) == []
    runtime, *others = submit.objects(given)
    assert [one["kind"] for one in (runtime, *others)] == ["TrainingRuntime", "TrainJob", "Secret"]
    assert "created" in applied(runtime).stdout
    made(RUNTIMES, runtime)
    # Trainer takes no TrainJob, not even on trial, before it has heard of its runtime.
    done = until(lambda: None if "must be created before" in (tried := applied(*others)).stderr else tried)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("created") == len(others)


def applied(*shown: Object) -> subprocess.CompletedProcess[str]:
    """What kubectl says of a server's dry run of the YAML that a person sees."""
    if shutil.which("kubectl") is None:
        pytest.skip("cluster: kubectl is not installed")
    command = ["kubectl", "apply", "--dry-run=server", "--validate=strict", "-f", "-"]
    return subprocess.run(command, input=yaml_of(shown), text=True, capture_output=True)


def test_the_api_server_takes_what_a_store_needs(cluster, unique):
    given = plan(cluster, unique(), store=Store(kind="own", claim="mine", size=1 << 30, storage_class="fast"))
    cluster.create(CLAIMS, own_claim(given), dry_run=True)
    shared = shared_claim({"team": "a"}, size=1 << 30)
    shared["metadata"]["name"] = unique()
    cluster.create(CLAIMS, shared, dry_run=True)


# In a pod -------------------------------------------------------------------------------------------------------------

LOOK = """
import json, os
def writable(folder):
    try:
        open(folder + "/probe", "w").close()
        return True
    except OSError:
        return False
def text(path):
    try:
        return open(path).read()
    except OSError as error:
        return type(error).__name__
shm = os.statvfs("/dev/shm")
print(json.dumps({
    "uid": os.getuid(), "gid": os.getgid(), "cwd": os.getcwd(), "home": os.environ["HOME"],
    "node": os.environ["KUBE_NB_NODE"], "failures": os.environ["KUBE_NB_FAILURES"],
    "disruptions": os.environ["KUBE_NB_DISRUPTIONS"],
    "writable": [f for f in ("/", "/tmp", "/dev/shm", "/kube-nb/run", "/kube-nb/secret", "/data", "/again") if writable(f)],
    "shm": shm.f_blocks * shm.f_frsize,
    "secret": sorted(name for name in os.listdir("/kube-nb/secret") if not name.startswith(".")),
    "variable": os.environ.get("COLOUR"), "files": [text("/two/COLOUR"), text("/kube-nb/secrets/" + os.environ.get("SECRET", "") + "/COLOUR")],
    "token": os.path.exists("/var/run/secrets/kubernetes.io/serviceaccount/token"),
    "services": [name for name in os.environ if name.startswith("KUBERNETES_SERVICE")],
}))
"""


@pytest.mark.parametrize("read_only", [False, True], ids=["", "read-only root"])
def test_what_a_job_finds_in_its_pod(cluster, unique, made, tmp_path, read_only):
    id, secret, claim = unique(), unique(), unique()
    made(
        SECRETS,
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": secret, "labels": ours(secret)},
            "stringData": {"COLOUR": "blue", "SECRET": secret},
        },
    )
    body = shared_claim({}, size=1 << 20)
    body["metadata"] = {"name": claim, "labels": ours(claim)}
    made(CLAIMS, body)
    patch = {
        "spec": {
            "template": {
                "spec": {"containers": [{"name": "job", "securityContext": {"readOnlyRootFilesystem": read_only}}]}
            }
        }
    }
    sent = bundle(tmp_path, LOOK)
    given = plan(
        cluster,
        id,
        resources={"shm": "16Mi"},
        placement=Placement(
            secrets=(SecretUse.parse(secret), SecretUse.parse(f"{secret}:/two"), SecretUse.parse(f"{secret}:")),
            volumes=(VolumeUse.parse(f"{claim}:/data"), VolumeUse.parse(f"{claim}:/again:ro")),
        ),
        patches=(patch,),
    )
    submit.create(cluster, fitting(given, sent), sent)
    ended(cluster, id)
    seen = json.loads(logs(cluster, id)[0])
    assert seen == {
        "uid": 1000,
        "gid": 1000,
        "cwd": "/kube-nb/run",
        "home": "/kube-nb/run/home",
        "node": "0",
        "failures": "0",
        "disruptions": "",
        "writable": ["/tmp", "/dev/shm", "/kube-nb/run", "/data"],
        "shm": 16 << 20,
        "secret": ["bundle.zip", "env.json", "key", "pod.json", "runner.zip"],
        "variable": "blue",
        "files": ["blue", "blue"],
        "token": False,
        "services": seen["services"],
    }


def test_the_nodes_of_a_job_find_each_other_by_name(cluster, unique, tmp_path):
    id = unique()
    program = """
import os, socket, time
name = "{0}-0.{0}".format(os.environ["HOSTNAME"].rpartition("-")[0])
if os.environ["KUBE_NB_NODE"] == "0":
    server = socket.create_server(("", 4000))
    server.settimeout(60)
    print(server.accept()[0].recv(5).decode())
else:
    give_up = time.monotonic() + 60
    while True:
        try:
            socket.create_connection((name, 4000)).sendall(b"hello")
            break
        except OSError:
            if time.monotonic() > give_up:
                raise
            time.sleep(0.2)
"""
    sent = bundle(tmp_path, program)
    submit.create(cluster, fitting(plan(cluster, id, resources={"nodes": 2}), sent), sent)
    assert ended(cluster, id)["status"]["succeeded"] == 2
    assert "hello\n" in logs(cluster, id)


# How often ------------------------------------------------------------------------------------------------------------

COUNTING = """
import json, os, sys
tries = (int(os.environ["KUBE_NB_FAILURES"] or 0), int(os.environ["KUBE_NB_DISRUPTIONS"] or 0))
print(*tries)
sys.exit(%s.get(tries, 0))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("retries", "statuses", "tries", "end"),
    [
        (0, {(0, 0): 1}, ["0 0"], "Failed"),
        (1, {(0, 0): 1}, ["0 0", "1 0"], "Complete"),
        (1, {(0, 0): 1, (1, 0): 85}, ["0 0", "1 0"], "Failed"),
        (0, {(0, 0): 82, (0, 1): 88}, ["0 0", "0 1", "0 2"], "Complete"),
        (5, {(0, 0): 80}, ["0 0"], "Failed"),
        (5, {(0, 0): 81}, ["0 0"], "Failed"),
        (5, {(0, 0): 84}, ["0 0"], "Failed"),
    ],
    ids=["no retries", "one retry", "retries used up", "disruptions", "time-out", "cancelled", "environment"],
)
def test_what_is_tried_again(cluster, unique, tmp_path, retries, statuses, tries, end):
    id = unique()
    sent = bundle(tmp_path, COUNTING % statuses)
    given = plan(cluster, id, policy=Policy(retries=retries, grace=1))
    submit.create(cluster, fitting(given, sent), sent)
    job = ended(cluster, id, 180)
    assert end in [condition["type"] for condition in job["status"]["conditions"] if condition["status"] == "True"]
    assert sorted(text.strip() for text in logs(cluster, id)) == tries


def test_a_pod_that_is_taken_away_is_a_disruption(cluster, unique, tmp_path):
    id = unique()
    program = """
import os, signal, sys, time
if os.environ["KUBE_NB_DISRUPTIONS"]:
    sys.exit(0)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(82))
print("ready", flush=True)
time.sleep(120)
"""
    sent = bundle(tmp_path, program)
    submit.create(cluster, fitting(plan(cluster, id), sent), sent)
    pod = pod_when(cluster, id, lambda pod: pod["status"].get("containerStatuses", [{}])[0].get("ready"))
    cluster.delete(PODS, pod["metadata"]["name"])
    assert ended(cluster, id)["status"]["succeeded"] == 1


def test_the_service_and_the_secret_are_the_jobs_own(cluster, unique, tmp_path):
    id = unique()
    sent = bundle(tmp_path)
    given = fitting(plan(cluster, id, resources={"nodes": 2}), sent)
    job = submit.create(cluster, replace(given, image="nowhere.invalid/x:1"), sent)
    for kind in (SECRETS, SERVICES):
        owners = cluster.get(kind, id)["metadata"]["ownerReferences"]
        assert [owner["uid"] for owner in owners] == [job["metadata"]["uid"]]
    assert cluster.get(JOBS, id)["spec"]["ttlSecondsAfterFinished"] == 7 * 86400
