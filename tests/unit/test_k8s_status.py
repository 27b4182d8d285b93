"""From recorded objects of clusters to phases and reasons: what a live test cannot bring about, and what must not differ
between versions of Kubernetes.
"""

from __future__ import annotations

import json

import hypothesis.strategies as st
import pytest
import yaml
from hypothesis import given

from kube_nb.backends.kubernetes import names
from kube_nb.backends.kubernetes.api import Object
from kube_nb.backends.kubernetes.api_error import ApiError
from kube_nb.backends.kubernetes.kinds import EVENTS, JOBS, PODS, Kind
from kube_nb.backends.kubernetes.mirror import Mirror
from kube_nb.backends.kubernetes.patch import patched
from kube_nb.backends.kubernetes.reasons.refusals import reason_of_refusal, refusal
from kube_nb.backends.kubernetes.snapshot import (
    DISRUPTIONS,
    FAILURES,
    INDEX,
    QUEUE_LABEL,
    Snapshot,
    age_order,
    seconds_of,
    slim,
)
from kube_nb.backends.kubernetes.status import status_of
from kube_nb.runner.ending import end, shorten
from kube_nb.spec import Gpu, Phase, Resources

ID = "train-4kq8z2pd"
BORN = "2026-11-23T01:30:55Z"
NOW = (seconds_of(BORN) or 0) + 1
WORKLOADS = Kind("workloads", "kueue.x-k8s.io/v1beta1")


def a_job(*conditions: Object, nodes: int = 1, retries: int = 0, **status: object) -> Object:
    meta = {"name": ID, "uid": "j", "labels": {names.JOB: ID}, "creationTimestamp": BORN, "resourceVersion": "1"}
    meta["annotations"] = {names.NAME: "train", names.LABEL: "Cell In[5]", names.USER: "ada"}
    spec = {"completions": nodes, "backoffLimitPerIndex": retries, "suspend": False}
    return {"metadata": meta, "spec": spec, "status": {"conditions": list(conditions), **status}}


def true(kind: str, reason: str = "", message: str = "") -> Object:
    return {"type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": BORN}


def false(kind: str, reason: str = "", message: str = "") -> Object:
    return true(kind, reason, message) | {"status": "False"}


SCHEDULED = true("PodScheduled")


def a_pod(
    *conditions: Object, node: int = 0, failures: int = 0, disruptions: int = 0, phase: str = "Pending", **more: object
) -> Object:
    """A pod; `state` of its container, `meta`, `status` and `spec` may be added."""
    attempt = failures + disruptions
    annotations = {INDEX: str(node), FAILURES: str(failures), DISRUPTIONS: str(disruptions)}
    name = f"{ID}-{node}-abcd{attempt}"
    meta = {"name": name, "uid": f"{node}{attempt}", "labels": {names.JOB: ID}, "creationTimestamp": BORN}
    meta |= {"annotations": annotations, "resourceVersion": "1"} | dict(more.get("meta", {}))
    status: Object = {"phase": phase, "conditions": list(conditions), **dict(more.get("status", {}))}
    if "state" in more:
        container = {"name": "job", "image": "image:1", "state": more["state"], "ready": "running" in more["state"]}
        status["containerStatuses"] = [container]
    spec = {"nodeName": "gpu-1", "containers": [{"name": "job"}], **dict(more.get("spec", {}))}
    return {"metadata": meta, "spec": spec, "status": status}


def unscheduled(message: str) -> Snapshot:
    return Snapshot(a_job(), (a_pod(false("PodScheduled", "Unschedulable", message)),))


def waiting(reason: str, message: str = "", image: str = "image:1") -> Snapshot:
    pod = a_pod(SCHEDULED, state={"waiting": {"reason": reason, "message": message}})
    pod["status"]["containerStatuses"][0]["image"] = image
    return Snapshot(a_job(), (pod,))


def ended(status: int, *conditions: Object, record: Object | None = None, reason: str = "Error", **more) -> Object:
    """A pod whose container has ended, with the runner's last word."""
    message = {"message": shorten(record).decode()} if record else {}
    terminated = {"exitCode": status, "reason": reason, "startedAt": BORN, "finishedAt": BORN, **message}
    phase = "Failed" if status else "Succeeded"
    return a_pod(SCHEDULED, *conditions, phase=phase, state={"terminated": terminated}, **more)


def event(kind: str, name: str, reason: str, message: str) -> Object:
    return {
        "involvedObject": {"kind": kind, "name": name},
        "reason": reason,
        "message": message,
        "lastTimestamp": BORN,
        "metadata": {"name": f"{name}.{reason}", "uid": f"{name}.{reason}", "creationTimestamp": BORN},
    }


RUNNING = {"running": {"startedAt": BORN}}


def reason(snapshot: Snapshot, now: float = NOW):
    found = status_of(snapshot, now).reason
    assert found is not None
    assert found.what
    assert not found.what.endswith(".")
    return found


# Where a job stands -------------------------------------------------------------------------------------------------


def uploaded(*pods: Object, nodes: int = 1, who_has_it: str = "") -> Snapshot:
    """A job whose bundle is uploaded, and the pods that have it."""
    job = a_job(nodes=nodes, retries=1)
    job["metadata"]["annotations"] |= {names.TRANSPORT: "upload", names.UPLOADED: who_has_it}
    return Snapshot(job, pods)


FIRST, SECOND = (f"{ID}-0-abcd{attempt}" for attempt in range(2))
UNPLACED = false("PodScheduled", "Unschedulable", "0/2 nodes are available")
TWO = (a_pod(SCHEDULED, state=RUNNING), a_pod(SCHEDULED, state=RUNNING, node=1))
AGAIN = (ended(1), a_pod(SCHEDULED, state=RUNNING, failures=1))


@pytest.mark.parametrize(
    ("snapshot", "phase", "uploading"),
    [
        (uploaded(), "Pending", True),
        (uploaded(a_pod(SCHEDULED)), "Pending", True),
        (uploaded(a_pod(SCHEDULED, state=RUNNING)), "Pending", True),
        (uploaded(a_pod(SCHEDULED, state=RUNNING), who_has_it=FIRST), "Running", False),
        (uploaded(*TWO, nodes=2, who_has_it=FIRST), "Pending", True),
        (uploaded(*TWO, nodes=2, who_has_it=f"{FIRST},{ID}-1-abcd0"), "Running", False),
        (uploaded(*AGAIN, who_has_it=FIRST), "Starting", True),
        (uploaded(*AGAIN, who_has_it=f"{FIRST},{SECOND}"), "Running", False),
    ],
)
def test_a_job_is_not_running_before_each_of_its_pods_has_been_sent_what_it_needs(snapshot, phase, uploading):
    status = status_of(snapshot, NOW)
    assert status.phase == phase
    assert (status.reason is not None) == uploading
    if status.reason is not None:
        assert status.reason.code == "Uploading"
        assert "keep the kernel that sent it alive" in status.reason.next


def test_what_keeps_a_job_from_its_place_comes_before_what_it_has_yet_to_be_sent():
    alone, also = status_of(Snapshot(a_job(), (a_pod(UNPLACED),)), NOW).reason, reason(uploaded(a_pod(UNPLACED)))
    assert alone is not None
    assert (also.code, also.what, also.why) == (alone.code, alone.what, alone.why)
    assert also.next.startswith(alone.next)
    assert "keep the kernel that sent it alive" in also.next


def test_what_each_pod_was_given_is_read_off_the_job():
    job = a_job(nodes=2)
    given = {"requests": {"cpu": "500m", "memory": "2Gi"}, "limits": {"memory": "2Gi", "nvidia.com/gpu": "2"}}
    job["spec"]["template"] = {"spec": {"containers": [{"name": "sidecar"}, {"name": "job", "resources": given}]}}
    asks = status_of(Snapshot(job), NOW).asks
    assert asks == Resources(cpu=0.5, memory=2 << 30, gpu=Gpu(count=2), nodes=2)


def test_what_submit_knew_is_read_from_the_job():
    status = status_of(Snapshot(a_job()), NOW)
    assert (status.id, status.name, status.label, status.owner) == (ID, "train", "Cell In[5]", "ada")
    assert (status.phase, status.created, status.started, status.ended) == (Phase.PENDING, seconds_of(BORN), None, None)


@pytest.mark.parametrize(
    ("pods", "phase"),
    [
        ((), "Pending"),
        ((a_pod(),), "Pending"),
        ((a_pod(SCHEDULED),), "Starting"),
        ((a_pod(SCHEDULED, state={"waiting": {"reason": "ContainerCreating"}}),), "Starting"),
        ((a_pod(SCHEDULED, phase="Running", state=RUNNING),), "Running"),
        ((ended(1), a_pod(failures=1)), "Starting"),
    ],
    ids=["no pod", "no node", "no container", "creating", "running", "again"],
)
def test_the_phase_of_one_node(pods, phase):
    assert status_of(Snapshot(a_job(retries=1), pods), NOW).phase == phase


def test_the_phase_of_a_gang_is_that_of_its_last_node():
    runs = a_pod(SCHEDULED, phase="Running", state=RUNNING)
    waits = a_pod(false("PodScheduled", "Unschedulable"), node=1)
    creates = a_pod(SCHEDULED, node=1)
    done = ended(0, node=1)
    phases = [status_of(Snapshot(a_job(nodes=2), (runs, other)), NOW).phase for other in (waits, creates, done)]
    assert phases == ["Pending", "Starting", "Running"]


def test_pods_that_ended_well_without_a_word_are_a_success_before_the_job_says_so():
    assert status_of(Snapshot(a_job(retries=1), (ended(0),)), NOW).phase == "Succeeded"
    assert status_of(Snapshot(a_job(nodes=2), (ended(0), ended(0, node=1))), NOW).phase == "Succeeded"


def test_attempts_are_failures_and_disruptions_together():
    pods = (ended(1), a_pod(SCHEDULED, failures=1, disruptions=2, phase="Running", state=RUNNING))
    assert status_of(Snapshot(a_job(retries=1), pods), NOW).attempt == 3


@pytest.mark.parametrize(
    ("code", "status", "failures", "retries", "phase"),
    [
        ("Succeeded", 0, 0, 3, "Succeeded"),
        ("Exception", 1, 0, 0, "Failed"),
        ("Exception", 1, 1, 1, "Failed"),
        ("Exception", 1, 0, 1, "Starting"),
        ("OutOfMemory", 85, 0, 1, "Starting"),
        ("OutOfMemory", 85, 0, 0, "Failed"),
        ("TimedOut", 80, 0, 3, "Failed"),
        ("Cancelled", 81, 0, 3, "Cancelled"),
        ("Stopped", 82, 0, 0, "Starting"),
        ("Again", 88, 0, 0, "Starting"),
        ("Disrupted", 87, 0, 3, "Failed"),
        ("RendezvousBlocked", 89, 0, 3, "Failed"),
    ],
)
def test_the_runners_word_decides_before_the_job_does(code, status, failures, retries, phase):
    pod = ended(status, record=end(code, 0, ended=NOW), failures=failures)
    found = status_of(Snapshot(a_job(retries=retries), (pod,)), NOW)
    assert found.phase == phase
    assert found.end["code"] == code
    assert found.ended == (NOW if found.phase.final else None)


def test_a_word_that_was_torn_is_none():
    pod = ended(1)
    pod["status"]["containerStatuses"][0]["state"]["terminated"]["message"] = '{"v":1,"code":"Exce'
    assert status_of(Snapshot(a_job(true("Failed", "BackoffLimitExceeded")), (pod,)), NOW).end == {}


def test_a_cancel_is_told_from_a_failure_by_what_asked_for_it():
    job = a_job(true("Failed", "DeadlineExceeded"))
    assert status_of(Snapshot(job), NOW).phase == "Failed"
    job["metadata"]["annotations"][names.CANCELLED] = BORN
    assert status_of(Snapshot(job), NOW).phase == "Cancelled"
    alive = a_job()
    alive["metadata"]["annotations"][names.CANCELLED] = BORN
    assert status_of(Snapshot(alive, deleted=True), NOW).phase == "Cancelled"
    assert reason(Snapshot(a_job(), deleted=True)).code == "JobDeleted"


# Why it waits -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "code", "word"),
    [
        (
            "0/2 nodes are available: 2 Insufficient cpu. no new claims to deallocate, preemption: 0/2 nodes are "
            "available: 2 Preemption is not helpful for scheduling.",
            "NeverFits",
            "cpu",
        ),
        (
            "0/2 nodes are available: 1 Insufficient nvidia.com/gpu, 1 node(s) didn't match Pod's node "
            "affinity/selector. no new claims to deallocate, preemption: 0/2 nodes are available: 1 No preemption "
            "victims found for incoming pod, 1 Preemption is not helpful for scheduling.",
            "WaitingForRoom",
            "nvidia.com/gpu",
        ),
        (
            "0/3 nodes are available: 1 node(s) had untolerated taint {dedicated: gpu}, 2 Insufficient memory. "
            "preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling.",
            "NeverFits",
            "dedicated: gpu",
        ),
        (
            "0/3 nodes are available: 1 node(s) had untolerated taint {node.kubernetes.io/not-ready: }, 2 node(s) "
            "didn't match Pod's node affinity/selector. preemption: 0/3 nodes are available: 3 Preemption is not "
            "helpful for scheduling.",
            "WaitingForRoom",
            "not-ready",
        ),
        (
            "0/2 nodes are available: 1 node(s) were unschedulable, 1 node(s) didn't match Pod's node "
            "affinity/selector. preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling.",
            "WaitingForRoom",
            "taken out of service",
        ),
        (
            "0/1 nodes are available: 1 Too many pods. preemption: 0/1 nodes are available: 1 No preemption victims "
            "found for incoming pod.",
            "WaitingForRoom",
            "no place for another pod",
        ),
        (
            "0/2 nodes are available: 2 Insufficient cpu. preemption: not eligible due to preemptionPolicy=Never.",
            "WaitingForRoom",
            "cpu",
        ),
        ("no nodes available to schedule pods", "NeverFits", "no node"),
        (
            '0/2 nodes are available: persistentvolumeclaim "data" not found. preemption: 0/2 nodes are available: 2 '
            "Preemption is not helpful for scheduling.",
            "ClaimMissing",
            "data",
        ),
        (
            "0/2 nodes are available: pod has unbound immediate PersistentVolumeClaims. preemption: 0/2 nodes are "
            "available: 2 Preemption is not helpful for scheduling.",
            "VolumeUnbound",
            "",
        ),
        (
            "0/2 nodes are available: 2 node(s) had volume node affinity conflict. preemption: 0/2 nodes are "
            "available: 2 Preemption is not helpful for scheduling.",
            "VolumeElsewhere",
            "",
        ),
        ("something that no version has said so far", "WaitingForRoom", ""),
    ],
)
def test_the_schedulers_words(message, code, word):
    found = reason(unscheduled(message))
    assert found.code == code
    assert word in f"{found.what} {found.why}"


def test_a_scheduling_gate_is_named():
    pod = a_pod(false("PodScheduled", "SchedulingGated"), spec={"schedulingGates": [{"name": "example.com/later"}]})
    found = reason(Snapshot(a_job(), (pod,)))
    assert (found.code, "example.com/later" in found.why) == ("SchedulingGated", True)


@pytest.mark.parametrize(
    ("cause", "message", "code"),
    [
        ("InvalidImageName", "couldn't parse image name", "InvalidImageName"),
        (
            "ErrImagePull",
            'failed to resolve reference "docker.io/library/x:1": docker.io/library/x:1: not found',
            "ImageNotFound",
        ),
        ("ErrImagePull", "rpc error: code = NotFound desc = manifest unknown", "ImageNotFound"),
        (
            "ImagePullBackOff",
            'Back-off pulling image "x": ErrImagePull: pull access denied, repository does not exist or may require '
            "authorization: server message: insufficient_scope: authorization failed",
            "ImagePullDenied",
        ),
        ("ErrImagePull", "unexpected status from HEAD request: 403 Forbidden", "ImagePullDenied"),
        ("ErrImagePull", "dial tcp 10.0.0.1:443: i/o timeout", "RegistryUnreachable"),
        ("ErrImagePull", "toomanyrequests: You have reached your pull rate limit", "ImagePullFailing"),
        ("ImagePullBackOff", 'Back-off pulling image "x"', "ImagePullFailing"),
        ("ErrImageNeverPull", "Container image is not present with pull policy of Never", "ImageNotFound"),
        ("CreateContainerConfigError", 'secret "token" not found', "SecretMissing"),
        ("CreateContainerConfigError", 'configmap "conf" not found', "ConfigMapMissing"),
        ("CreateContainerConfigError", "couldn't find key k in Secret team-a/token", "SecretKeyMissing"),
        ("CreateContainerConfigError", "container has runAsNonRoot and image will run as root", "CannotStart"),
        ("CreateContainerError", 'failed to generate container spec: exec: "x"', "CannotStart"),
    ],
)
def test_a_container_that_does_not_start_waits_and_says_why(cause, message, code):
    status = status_of(waiting(cause, message), NOW)
    assert (status.phase, status.reason and status.reason.code) == ("Starting", code)


@pytest.mark.parametrize("cause", ["ContainerCreating", "PodInitializing"])
def test_a_container_that_is_being_made_says_nothing(cause):
    assert status_of(waiting(cause), NOW).reason is None


NAMED_LIKE_A_CAUSE = [
    "app:v403",
    "app:403",
    "denied",
    "team/denied:401",
    "registry.example.com:4010/unauthorized/app:x509",
    "registry.denied.example.com/app:eof",
    "quay.io/app@sha256:" + "403" * 21 + "4",
]
"""Images whose name is a word of a refusal, or whose digest holds its number."""


@pytest.mark.parametrize("image", NAMED_LIKE_A_CAUSE)
@pytest.mark.parametrize(
    ("said", "code"),
    [
        # containerd: after a 404 of the registry, and after another status
        (
            'failed to pull and unpack image "{full}": failed to resolve reference "{full}": {full}: not found',
            "ImageNotFound",
        ),
        (
            'failed to resolve reference "{full}": pulling from host {host} failed with status code '
            "[manifests {tag}]: 503 Service Unavailable",
            "ImagePullFailing",
        ),
        (
            'failed to resolve reference "{full}": pulling from host {host} failed with status code '
            "[manifests {tag}]: 401 Unauthorized",
            "ImagePullDenied",
        ),
        (
            'failed to resolve reference "{full}": failed to do request: Head "https://{host}/v2/{path}/manifests/{tag}":'
            " dial tcp: lookup {host} on 10.96.0.10:53: no such host",
            "RegistryUnreachable",
        ),
        ('failed to do request: Head "https://{host}/v2/{path}/manifests/{tag}": EOF', "RegistryUnreachable"),
        # CRI-O and Docker
        ("reading manifest {tag} in {host}/{path}: manifest unknown", "ImageNotFound"),
        ("initializing source docker://{full}: reading manifest {tag} in {host}/{path}: denied", "ImagePullDenied"),
        ("Error response from daemon: manifest for {image} not found: manifest unknown", "ImageNotFound"),
    ],
)
def test_the_name_of_an_image_is_no_cause(image, said, code):
    host, full = ("docker.io", f"docker.io/library/{image}") if "/" not in image else (image.split("/")[0], image)
    path, _, tag = full.removeprefix(f"{host}/").partition("@" if "@" in image else ":")
    words = said.format(image=image, full=full, host=host, path=path, tag=tag or "latest")
    assert reason(waiting("ErrImagePull", words, image)).code == code
    pauses = f'Back-off pulling image "{image}": ErrImagePull: {words}'
    assert reason(waiting("ImagePullBackOff", pauses, image)).code == code


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ('{"errors":[{"code":"DENIED","message":"requested access to the resource is denied"}]}', "ImagePullDenied"),
        ("status code 403", "ImagePullDenied"),
        ("rpc error: code = PermissionDenied desc = no", "ImagePullDenied"),
        ("unable to retrieve auth token: invalid username/password: unauthorized", "ImagePullDenied"),
        ("net/http: TLS handshake timeout", "RegistryUnreachable"),
        ("remote error: tls: bad certificate", "RegistryUnreachable"),
        ("unexpected EOF", "RegistryUnreachable"),
        ("the layer has 4030 parts and its geofence is off", "ImagePullFailing"),
    ],
)
def test_causes_are_whole_words(said, code):
    assert reason(waiting("ErrImagePull", said)).code == code


def test_a_pull_reads_the_same_while_the_kubelet_pauses():
    chain = 'failed to pull and unpack image "x:1": failed to resolve reference "x:1": x:1: not found'
    pulls, pauses = (
        waiting("ErrImagePull", chain),
        waiting("ImagePullBackOff", f'Back-off pulling image "x:1": ErrImagePull: {chain}'),
    )
    assert reason(pulls) == reason(pauses)


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ('MountVolume.SetUp failed for volume "v" : secret "token" not found', "SecretMissing"),
        ('MountVolume.SetUp failed for volume "v" : configmap "conf" not found', "ConfigMapMissing"),
        ('MountVolume.SetUp failed for volume "v" : references non-existent secret key: k', "SecretKeyMissing"),
    ],
)
def test_a_volume_that_is_not_there(message, code):
    pod = a_pod(SCHEDULED, state={"waiting": {"reason": "ContainerCreating"}})
    told = event("Pod", pod["metadata"]["name"], "FailedMount", message)
    assert reason(Snapshot(a_job(), (pod,), (told,))).code == code


def test_our_own_secret_is_given_a_moment_and_other_volumes_too():
    pod = a_pod(SCHEDULED, state={"waiting": {"reason": "ContainerCreating"}})
    name = pod["metadata"]["name"]
    half = Snapshot(a_job(), (pod,), (event("Pod", name, "FailedMount", f'... : secret "{ID}" not found'),))
    slow = Snapshot(a_job(), (pod,), (event("Pod", name, "FailedMount", "Unable to attach or mount volumes"),))
    assert status_of(half, NOW).reason is None
    assert status_of(slow, NOW).reason is None
    assert reason(half, NOW + 60).code == "IncompleteSubmit"
    assert reason(slow, NOW + 60).code == "VolumeNotMounted"


def test_what_names_the_cause_is_worth_more_than_a_time_out_after_it():
    pod = a_pod(SCHEDULED, state={"waiting": {"reason": "ContainerCreating"}})
    name = pod["metadata"]["name"]
    cause = event("Pod", name, "FailedMount", 'MountVolume.SetUp failed for volume "v" : secret "token" not found')
    later = event("Pod", name, "FailedMount", "failed to sync secret cache: timed out waiting for the condition")
    assert reason(Snapshot(a_job(), (pod,), (cause, later)), NOW + 60).code == "SecretMissing"


def test_a_volume_that_another_node_holds():
    pod = a_pod(SCHEDULED, state={"waiting": {"reason": "ContainerCreating"}})
    message = 'Multi-Attach error for volume "pvc-1" Volume is already used by pod(s) x-0'
    told = event("Pod", pod["metadata"]["name"], "FailedAttachVolume", message)
    assert reason(Snapshot(a_job(), (pod,), (told,))).code == "VolumeBusy"


def test_warnings_of_an_earlier_pod_are_not_those_of_this_one():
    told = event("Pod", f"{ID}-0-older", "FailedMount", 'secret "token" not found')
    assert status_of(Snapshot(a_job(), (a_pod(SCHEDULED),), (told,)), NOW).reason is None


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ('Error creating: pods "x" is forbidden: exceeded quota: q, requested: requests.cpu=1, used: requests.cpu=2, limited: requests.cpu=2', "QuotaExceeded"),
        ('Error creating: pods "x" is forbidden: exceeded quota: q, requested: requests.memory=5Gi,pods=1, used: requests.memory=0,pods=0, limited: requests.memory=4Gi,pods=5', "QuotaTooSmall"),
        ('Error creating: pods "x" is forbidden: failed quota: q: must specify limits.cpu for: job; limits.memory for: job', "QuotaWantsRequest"),
        ('Error creating: pods "x" is forbidden: [maximum cpu usage per Container is 500m, but limit is 1, maximum memory usage per Pod is 1Gi, but limit is 2Gi]', "LimitRange"),
        ('Error creating: pods "x" is forbidden: minimum memory usage per Container is 64Mi, but request is 32Mi', "LimitRange"),
        ('Error creating: pods "x" is forbidden: violates PodSecurity "restricted:latest": privileged (container "job" must not set securityContext.privileged=true)', "PodSecurity"),
        ('Error creating: admission webhook "validate.kyverno.svc-fail" denied the request: \n\nresource Pod was blocked: exceeded quota: no', "AdmissionDenied"),
        ('Error creating: admission webhook "deny.example.com" denied the request without explanation', "AdmissionDenied"),
        ("Error creating: pods \"x\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: no", "AdmissionDenied"),
        ('Error creating: Internal error occurred: failed calling webhook "w.example.com": failed to call webhook: Post "https://w": connect: connection refused', "WebhookUnavailable"),
        ('Error creating: pods "x" is forbidden: error looking up service account team-a/robot: serviceaccount "robot" not found', "ServiceAccountMissing"),
        ('Error creating: pods "x" is forbidden: no PriorityClass with name high was found', "PriorityClassMissing"),
        ('Error creating: pods "x" is forbidden: pod rejected: RuntimeClass "gvisor" not found', "RuntimeClassMissing"),
        ("Error creating: something new", "PodsNotCreated"),
    ],
)  # fmt: skip
def test_what_keeps_pods_from_being_made(message, code):
    status = status_of(Snapshot(a_job(), (), (event("Job", ID, "FailedCreate", message),)), NOW)
    assert (status.phase, status.reason and status.reason.code) == ("Pending", code)


@pytest.mark.parametrize(
    ("wanted", "flags"),
    [
        ("requests.cpu for: job", "--cpu"),
        ("requests.cpu for: job,proxy; limits.memory for: proxy", "--cpu and --memory"),
        ("cpu,memory", "--cpu and --memory"),
        ("limits.cpu for: job", "--patch"),
        ("limits.cpu for: job; requests.cpu for: job", "--cpu and --patch"),
    ],
)
def test_a_quota_that_wants_a_number_names_what_sets_it(wanted, flags):
    message = f'Error creating: pods "x" is forbidden: failed quota: q: must specify {wanted}'
    found = reason(Snapshot(a_job(), (), (event("Job", ID, "FailedCreate", message),)))
    assert found.next.partition(" (")[0] == f"say it with {flags}"


def test_a_quota_of_the_limit_of_cores_names_a_patch_that_sets_it():
    message = 'Error creating: pods "x" is forbidden: failed quota: q: must specify limits.cpu for: job'
    found = reason(Snapshot(a_job(), (), (event("Job", ID, "FailedCreate", message),)))
    own = {"name": names.CONTAINER, "image": "i", "resources": {"requests": {"cpu": "500m"}}}
    job = {"metadata": {"name": ID}, "spec": {"template": {"spec": {"containers": [own]}}}}
    changed = patched(job, yaml.safe_load(found.next.split("`")[1]))
    [container] = changed["spec"]["template"]["spec"]["containers"]
    assert container == own | {"resources": {"requests": {"cpu": "500m"}, "limits": {"cpu": 1}}}


def test_a_refusal_that_was_overcome_is_no_more_told():
    told = event("Job", ID, "FailedCreate", "Error creating: exceeded quota")
    pod = a_pod(SCHEDULED, phase="Running", state=RUNNING)
    assert status_of(Snapshot(a_job(), (pod,), (told,)), NOW).reason is None


@pytest.mark.parametrize(
    ("workload", "code"),
    [
        ({"status": {"conditions": [false("QuotaReserved", "Pending", "couldn't assign flavors to pod set main: insufficient unused quota for cpu in flavor f, 100m more needed")]}}, "WaitingForQuota"),
        ({"status": {"conditions": [false("QuotaReserved", "Pending", "couldn't assign flavors to pod set main: insufficient quota for cpu in flavor f, request > maximum capacity (900m > 200m)")]}}, "QueueTooSmall"),
        ({"status": {"conditions": [false("QuotaReserved", "Inadmissible", "LocalQueue none doesn't exist")]}}, "QueueMissing"),
        ({"status": {"conditions": [false("QuotaReserved", "Inadmissible", "ClusterQueue lab is inactive")]}}, "QueueStopped"),
        ({"status": {"conditions": [true("Evicted", "Preempted", "Preempted to accommodate a workload")]}}, "Preempted"),
        ({"spec": {"active": False}}, "QueueDeactivated"),
        ({}, "WaitingForQuota"),
    ],
)  # fmt: skip
def test_what_kueue_says_of_a_suspended_job(workload, code):
    job = a_job()
    job["spec"]["suspend"] = True
    job["metadata"]["labels"][QUEUE_LABEL] = "default"
    found = Snapshot(job, workloads=({"metadata": {"name": "w", "creationTimestamp": BORN}, **workload},))
    status = status_of(found, NOW)
    assert (status.phase, status.reason and status.reason.code) == ("Pending", code)


def test_who_may_not_read_workloads_hears_of_the_queue_by_its_warnings():
    job = a_job()
    job["spec"]["suspend"] = True
    job["metadata"]["labels"][QUEUE_LABEL] = "default"
    told = event("Workload", f"job-{ID}-1a2b3", "Pending", "LocalQueue default doesn't exist")
    assert reason(Snapshot(job, (), (told,))).code == "QueueMissing"


def test_a_job_that_is_suspended_without_a_queue():
    job = a_job()
    job["spec"]["suspend"] = True
    assert reason(Snapshot(job)).code == "Suspended"


# Why it failed ------------------------------------------------------------------------------------------------------

FAILED = true("Failed", "MaxFailedIndexesExceeded", "Job has exceeded the specified maximal number of failed indexes")


def test_a_kubelet_that_runs_short_puts_a_pod_out():
    """As recorded of a kubelet whose node had no memory left; the lab's kubelets cannot do this."""
    status = {
        "reason": "Evicted",
        "message": "The node was low on resource: memory. Threshold quantity: 100Mi, available: 90Mi.",
    }
    disrupted = true("DisruptionTarget", "TerminationByKubelet", status["message"])
    pod = a_pod(SCHEDULED, disrupted, phase="Failed", status=status)
    found = reason(Snapshot(a_job(FAILED), (pod,)))
    assert (found.code, "memory" in found.why, "--memory" in found.next) == ("Evicted", True, True)
    assert reason(Snapshot(a_job(), (pod,))).code == "Evicted", "and between two attempts"


def test_a_full_scratch_disk_puts_a_pod_out():
    status = {"reason": "Evicted", "message": 'Usage of EmptyDir volume "tmp" exceeds the limit "1Gi". '}
    found = reason(Snapshot(a_job(FAILED), (a_pod(SCHEDULED, phase="Failed", status=status),)))
    assert (found.code, "disk" in found.next) == ("Evicted", True)


@pytest.mark.parametrize(
    ("cause", "code"),
    [
        ("PreemptionByScheduler", "Preempted"),
        ("EvictionByEvictionAPI", "Evicted"),
        ("DeletionByTaintManager", "NodeLost"),
        ("DeletionByPodGC", "NodeLost"),
    ],
)
def test_what_ended_a_pod_from_outside(cause, code):
    found = reason(Snapshot(a_job(FAILED), (ended(137, true("DisruptionTarget", cause)),)))
    assert (found.code, "%kube_rerun" in found.next) == (code, True)


@pytest.mark.parametrize(
    ("cause", "code"), [("PreemptionByScheduler", "Preempted"), ("EvictionByEvictionAPI", "Evicted")]
)
def test_a_job_that_starts_again_by_itself_is_not_to_be_sent_again(cause, code):
    leaving = a_pod(
        SCHEDULED, true("DisruptionTarget", cause), phase="Running", state=RUNNING, meta={"deletionTimestamp": BORN}
    )
    for pod in (leaving, ended(137, true("DisruptionTarget", cause))):
        found = reason(Snapshot(a_job(), (pod,)))
        assert (found.code, found.next) == (code, "wait for it")
        assert found.what.endswith("another attempt follows")


def test_a_pod_that_somebody_deletes_is_waited_for_while_its_code_may_end_in_time():
    leaving = a_pod(SCHEDULED, phase="Running", state=RUNNING, meta={"deletionTimestamp": BORN})
    found = reason(Snapshot(a_job(), (leaving,)))
    assert (found.code, found.next.startswith("wait")) == ("PodDeleted", True)
    killed = reason(Snapshot(a_job(FAILED), (ended(137, meta={"deletionTimestamp": BORN}),)))
    assert (killed.code, killed.next.startswith("send it again")) == ("PodDeleted", True)


def test_a_node_that_is_not_heard_of_is_waited_for():
    """As recorded 12 s after a kubelet was stopped: its pods are marked, and no kubelet says otherwise."""
    unheard = a_pod(SCHEDULED, false("Ready"), true("ContainersReady"), phase="Running", state=RUNNING)
    status = status_of(Snapshot(a_job(), (unheard,)), NOW)
    assert (status.phase, status.reason and status.reason.code) == ("Running", "NodeLost")
    tainted = true("DisruptionTarget", "DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint")
    leaving = a_pod(SCHEDULED, tainted, phase="Running", state=RUNNING, meta={"deletionTimestamp": BORN})
    assert reason(Snapshot(a_job(), (leaving,))).code == "NodeLost"
    healthy = a_pod(SCHEDULED, true("Ready"), true("ContainersReady"), phase="Running", state=RUNNING)
    assert status_of(Snapshot(a_job(), (healthy,)), NOW).reason is None


def test_memory_is_told_by_the_limit_of_the_container():
    spec = {"containers": [{"name": "job", "resources": {"limits": {"memory": "2Gi"}}}]}
    found = reason(Snapshot(a_job(FAILED), (ended(137, reason="OOMKilled", spec=spec),)))
    assert (found.code, found.why) == ("OutOfMemory", "its limit is 2Gi")
    assert reason(Snapshot(a_job(FAILED), (ended(137),))).code == "RunnerKilled"


def test_the_runners_word_is_better_than_the_clusters():
    said = ended(85, record=end("OutOfMemory", 3, detail={"limit": 1 << 30, "peak": 1 << 30}))
    assert "rank 3" in reason(Snapshot(a_job(FAILED), (said,))).what
    killed = ended(1, record=end("Signal", 0, signal=9), reason="OOMKilled")
    assert reason(Snapshot(a_job(FAILED), (killed,))).code == "OutOfMemory"


@pytest.mark.parametrize(
    ("status", "code"),
    [(80, "TimedOut"), (84, "EnvironmentFailed"), (85, "OutOfMemory"), (1, "RunnerFault"), (127, "CannotStart")],
)
def test_without_a_word_the_exit_status_speaks(status, code):
    assert reason(Snapshot(a_job(FAILED), (ended(status),))).code == code


def test_what_happened_to_another_node_is_the_cause_of_a_lost_rank():
    lost = ended(1, record=end("RankLost", 1))
    starved = ended(137, node=1, reason="OOMKilled")
    again = ended(88, node=1, record=end("Again", 1))
    assert reason(Snapshot(a_job(FAILED, nodes=2), (lost, starved))).code == "OutOfMemory"
    assert reason(Snapshot(a_job(FAILED, nodes=2), (lost, again))).code == "RankLost"
    absent = a_job(FAILED, nodes=2, failedIndexes="1")
    assert reason(Snapshot(absent, (lost,))).code == "PodDeleted"


def test_a_node_that_failed_for_good_is_the_reason_before_the_job_says_so_whatever_goes_with_it():
    killed = ended(137, node=1)
    goes = a_pod(SCHEDULED, phase="Running", state=RUNNING, meta={"deletionTimestamp": BORN})
    found = reason(Snapshot(a_job(nodes=2), (goes, killed)))
    assert (found.code, "node 1" in found.what, "another attempt" in found.what) == ("RunnerKilled", True, False)
    stays = a_pod(SCHEDULED, phase="Running", state=RUNNING)
    again = reason(Snapshot(a_job(nodes=2, retries=1), (stays, killed)))
    assert (again.code, "another attempt follows" in again.what) == ("RunnerKilled", True)


@pytest.mark.parametrize(
    "pod",
    [
        ended(137, true("DisruptionTarget", "EvictionByEvictionAPI"), node=1),
        ended(88, node=1, record=end("Again", 1)),
        ended(88, node=1),
        ended(82, node=1),
    ],
    ids=["disrupted", "again", "again without a word", "stopped without a word"],
)
def test_a_node_whose_end_is_not_counted_has_not_failed_for_good(pod):
    stays = a_pod(SCHEDULED, phase="Running", state=RUNNING)
    assert "another attempt follows" in reason(Snapshot(a_job(nodes=2), (stays, pod))).what


def test_a_job_that_the_cluster_ended_says_so_in_its_words():
    assert reason(Snapshot(a_job(true("Failed", "DeadlineExceeded")))).code == "DeadlineExceeded"
    found = reason(Snapshot(a_job(true("Failed", "BackoffLimitExceeded", "Job has reached the limit"))))
    assert (found.code, found.why) == ("BackoffLimitExceeded", "Job has reached the limit")


def test_a_container_beside_the_runner():
    pod = a_pod(SCHEDULED, phase="Running", state={"terminated": {"exitCode": 0, "finishedAt": BORN}})
    pod["status"]["containerStatuses"].append({"name": "proxy", "state": RUNNING})
    assert "proxy" in reason(Snapshot(a_job(), (pod,))).what


# Refusals -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "cause", "message", "code"),
    [
        (401, "Unauthorized", "Unauthorized", "Unauthorized"),
        (403, "Forbidden", 'jobs.batch is forbidden: User "system:anonymous" cannot list resource "jobs"', "Unauthorized"),
        (403, "Forbidden", 'pods "x-0" is forbidden: User "ada" cannot create resource "pods/exec" in API group "" in the namespace "team-a"', "Forbidden"),
        (403, "Forbidden", 'secrets "x" is forbidden: exceeded quota: q, requested: secrets=1, used: secrets=5, limited: secrets=5', "QuotaExceeded"),
        (404, "NotFound", 'namespaces "team-b" not found', "NamespaceNotFound"),
        (413, "RequestEntityTooLarge", "Request entity too large: limit is 3145728", "TooLarge"),
        (422, "Invalid", 'Secret "x" is invalid: data: Too long: may not be more than 1048576 bytes', "TooLarge"),
        (422, "Invalid", 'Job.batch "x" is invalid: spec.template: Required value', "InvalidObject"),
        (429, "TooManyRequests", "The apiserver is busy", "ClusterBusy"),
        (500, "InternalError", 'Internal error occurred: failed calling webhook "w": EOF', "WebhookUnavailable"),
        (500, "InternalError", "etcdserver: leader changed", "InternalError"),
    ],
)  # fmt: skip
def test_refusals(status, cause, message, code):
    error = ApiError(status=status, cause=cause, message=message, verb="create", resource="secrets", name="x")
    found = reason_of_refusal(error, "team-a")
    assert found.code == code
    assert refusal(error, "team-a").findings[0].reason == found


def test_a_missing_right_is_named_as_a_role_names_it():
    message = 'User "ada" cannot create resource "pods/exec" in API group "" in the namespace "team-a"'
    found = reason_of_refusal(ApiError(status=403, cause="Forbidden", message=message), "team-a")
    assert found.what == "you may not create pods/exec in namespace team-a"


# Laws ---------------------------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.text(max_size=200))
def test_no_sentence_of_a_cluster_breaks_it(text):
    for snapshot in (
        unscheduled(text),
        unscheduled(f"0/2 nodes are available: {text}. preemption: {text}"),
        *(waiting(cause, text) for cause in ("ErrImagePull", "CreateContainerConfigError", "CreateContainerError")),
        Snapshot(a_job(), (), (event("Job", ID, "FailedCreate", text),)),
        Snapshot(a_job(), (), (event("Job", ID, "FailedCreate", f"exceeded quota: {text}, requested: {text}, used: {text}, limited: {text}"),)),
        Snapshot(a_job(true("Failed", text, text))),
    ):  # fmt: skip
        assert status_of(snapshot, NOW).phase in Phase


@given(JSON)
def test_no_termination_message_breaks_it(said):
    pod = ended(1)
    pod["status"]["containerStatuses"][0]["state"]["terminated"]["message"] = json.dumps(said)
    assert status_of(Snapshot(a_job(FAILED), (pod,)), NOW).phase == "Failed"


# The mirror ---------------------------------------------------------------------------------------------------------


def test_what_is_slim_says_the_same():
    pod = ended(
        137,
        reason="OOMKilled",
        spec={"containers": [{"name": "job", "resources": {"limits": {"memory": "1Gi"}}, "env": []}]},
    )
    whole = Snapshot(a_job(FAILED), (pod,))
    assert status_of(Snapshot(slim(whole.job), (slim(pod),)), NOW) == status_of(whole, NOW)


def test_an_answer_that_was_overtaken_changes_nothing():
    mirror = Mirror()
    new, old = a_job(true("Complete")), a_job()
    new["metadata"]["resourceVersion"] = "20"
    old["metadata"]["resourceVersion"] = "9"
    assert mirror.put(JOBS, new) == {ID}
    assert mirror.put(JOBS, old) == set()
    assert mirror.drop(JOBS, ID) == {ID}
    assert mirror.put(JOBS, old) == set(), "it is gone"
    assert mirror.snapshot(ID) is None


def test_a_list_removes_what_was_there_before_it_was_asked_for_and_nothing_younger():
    mirror = Mirror()
    mirror.put(JOBS, a_job())
    assert mirror.replace(JOBS, [], begun=0.0) == set(), "asked for before the job was made"
    assert mirror.replace(JOBS, [], begun=float("inf")) == {ID}
    gone = mirror.take_deleted(ID)
    assert gone is not None
    assert gone.deleted
    assert mirror.take_deleted(ID) is None


def test_warnings_find_their_job_in_any_order():
    mirror = Mirror()
    pod = a_pod(SCHEDULED, spec={"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]})
    early = event("Pod", pod["metadata"]["name"], "FailedMount", "m")
    claim = event("PersistentVolumeClaim", "data", "ProvisioningFailed", "p")
    foreign = event("Deployment", "web", "FailedCreate", "x")
    for told in (early, claim, foreign):
        mirror.put(EVENTS, told)
    mirror.put(JOBS, a_job())
    assert mirror.put(PODS, pod) == {ID}
    queue = event("Workload", f"job-{ID}-1a2b3", "Pending", "q")
    assert mirror.put(EVENTS, queue) == {ID}
    snapshot = mirror.snapshot(ID)
    assert snapshot is not None
    assert {told["message"] for told in snapshot.events} == {"m", "p", "q"}


def test_a_workload_finds_its_job_by_its_owner():
    mirror = Mirror()
    mirror.put(JOBS, a_job())
    owner = {"kind": "Job", "name": ID}
    assert mirror.put(WORKLOADS, {"metadata": {"name": "w", "ownerReferences": [owner]}}) == {ID}
    snapshot = mirror.snapshot(ID)
    assert snapshot is not None
    assert len(snapshot.workloads) == 1
    assert mirror.drop(WORKLOADS, "w") == {ID}


def test_jobs_of_one_second_are_in_the_order_of_their_submits():
    first, second = a_job(), a_job()
    first["metadata"]["annotations"][names.SUBMITTED] = "7.25"
    second["metadata"]["annotations"][names.SUBMITTED] = "7.5"
    assert sorted([second, first], key=age_order) == [first, second]


@pytest.mark.parametrize("written", ["", "soon", "1e999x"])
def test_a_time_of_submit_that_is_none_is_left_out(written):
    job = a_job()
    job["metadata"]["annotations"][names.SUBMITTED] = written
    assert age_order(job) == age_order(a_job())


@pytest.mark.parametrize(("stamp", "ended"), [(BORN, NOW - 1), ("some time", None)])
def test_what_was_cancelled_in_its_queue_has_ended(stamp, ended):
    job = a_job()
    job["spec"] |= {"suspend": True, "parallelism": 0}
    job["metadata"]["annotations"][names.CANCELLED] = stamp
    status = status_of(Snapshot(job), NOW)
    assert (status.phase, status.ended) == (Phase.CANCELLED, ended)
    assert status.reason is not None


def test_a_job_that_was_suspended_while_it_was_cancelled_is_not_over():
    """Its pods were told to end, it was not: who cancels it again, does."""
    job = a_job()
    job["spec"] |= {"suspend": True, "parallelism": 1}
    job["metadata"]["annotations"][names.CANCELLED] = BORN
    assert status_of(Snapshot(job), NOW).phase is Phase.PENDING
