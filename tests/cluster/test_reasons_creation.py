"""What keeps the cluster from making a job's pods: quota, limits, Pod Security, policies, webhooks, missing names."""

from __future__ import annotations

import pytest
import yaml

from kube_nb.backends.kubernetes.api import Api
from kube_nb.backends.kubernetes.kinds import JOBS, LIMITS, SERVICE_ACCOUNTS, Kind
from kube_nb.backends.kubernetes.patch import patched
from kube_nb.backends.kubernetes.reasons.refusals import refusal
from tests.cluster.handmade import FOREVER, Seen, job, submit
from tests.cluster.made import set_quota
from tests.cluster.webhooks import SENTENCE

pytestmark = pytest.mark.slow

PRIORITIES = Kind("priorityclasses", "scheduling.k8s.io/v1", namespaced=False)
RUNTIMES = Kind("runtimeclasses", "node.k8s.io/v1", namespaced=False)
POLICIES = Kind("validatingadmissionpolicies", "admissionregistration.k8s.io/v1", namespaced=False)
BINDINGS = Kind("validatingadmissionpolicybindings", "admissionregistration.k8s.io/v1", namespaced=False)
LATER = 60.0
"""Seconds after which the Job controller may try again."""


def needs(**resources: str) -> dict:
    return {"resources": {"requests": resources, "limits": {"memory": "64Mi"}}}


@pytest.fixture
def here(own_tenant, own_watch, unique):
    """Makes a Job by hand, as the tenant, in a namespace of the test's own."""

    def make(stem: str, code: str = "", **changes):
        return submit(own_tenant, own_watch, job(unique(stem), code, **changes))

    return make


def refusals(seen: Seen) -> str:
    """Why the cluster makes no pods, in its own words; there are none."""
    snapshot = seen.snapshot()
    assert not snapshot.pods
    return " ".join(event["message"] for event in snapshot.events if event["reason"] == "FailedCreate")


def test_a_quota_that_is_used_up_is_waited_for(here, own_namespace):
    set_quota(own_namespace, "one-pod", pods="1")
    holder = here("holds", FOREVER)
    holder.running()
    waits = here("waits")
    status = waits.reason("QuotaExceeded")
    assert status.phase == "Pending"
    assert "one-pod" in status.reason.why
    assert "pods: 1 is asked for, 1 of 1 is used" in status.reason.why
    assert "exceeded quota" in refusals(waits)
    holder.remove()
    assert waits.final(LATER).phase == "Succeeded"


def test_a_quota_that_is_too_small_for_ever_is_told_apart(here, own_namespace):
    set_quota(own_namespace, "small", **{"requests.cpu": "100m"})
    large = here("large", container=needs(cpu="200m"))
    status = large.reason("QuotaTooSmall")
    assert "requests.cpu: 200m is asked for, 0 of 100m is used" in status.reason.why
    assert "exceeded quota: small" in refusals(large)
    assert "--cpu" in status.reason.next
    assert here("fits", container=needs(cpu="50m")).final().phase == "Succeeded"


def test_a_quota_that_wants_a_number_names_the_flag(here, own_namespace):
    set_quota(own_namespace, "counted", **{"requests.cpu": "1"})
    silent = here("silent", container=needs(memory="32Mi"))
    assert "--cpu" in silent.reason("QuotaWantsRequest").reason.next
    assert "must specify requests.cpu" in refusals(silent)
    assert here("says", container=needs(cpu="10m")).final().phase == "Succeeded"


def test_a_quota_of_the_limit_of_cores_is_met_by_the_patch_that_is_named_and_by_a_default(
    here, own_namespace, own_tenant, own_watch, unique
):
    set_quota(own_namespace, "counted", **{"limits.cpu": "1"})
    silent = here("silent", container=needs(cpu="10m"))
    advice = silent.reason("QuotaWantsRequest").reason.next
    assert "must specify limits.cpu" in refusals(silent)
    assert "--cpu" not in advice
    says = patched(job(unique("says"), container=needs(cpu="10m")), yaml.safe_load(advice.split("`")[1]))
    assert submit(own_tenant, own_watch, says).final().phase == "Succeeded"
    assert "LimitRange with a default" in advice
    set_limits(own_namespace, default={"cpu": "500m"})
    assert here("given", container=needs(cpu="10m")).final().phase == "Succeeded"


def test_a_limit_for_one_pod_is_quoted(here, own_namespace):
    set_limits(own_namespace, max={"memory": "48Mi"})
    large = here("large", container=needs(cpu="10m"))
    assert "maximum memory usage per Container is 48Mi" in large.reason("LimitRange").reason.why
    assert "but limit is 64Mi" in refusals(large)
    small = {"resources": {"limits": {"memory": "40Mi"}}}
    assert here("small", container=small).final().phase == "Succeeded"


def test_pod_security_names_what_is_too_much(by_hand):
    seen = by_hand("free", container={"securityContext": {"privileged": True}})
    status = seen.reason("PodSecurity")
    assert status.phase == "Pending"
    assert "privileged" in status.reason.why
    assert "restricted" in status.reason.why
    assert "violates PodSecurity" in refusals(seen)
    assert by_hand("confined").final().reason is None


@pytest.mark.parametrize(
    ("kind", "more", "field", "code"),
    [
        (SERVICE_ACCOUNTS, {}, "serviceAccountName", "ServiceAccountMissing"),
        (PRIORITIES, {"value": 0}, "priorityClassName", "PriorityClassMissing"),
        (RUNTIMES, {"handler": "runc"}, "runtimeClassName", "RuntimeClassMissing"),
    ],
    ids=["service account", "priority class", "runtime class"],
)
def test_a_name_that_the_cluster_does_not_know_and_one_that_it_knows(
    by_hand, made_by_admin, unique, kind, more, field, code
):
    name = unique("named")
    seen = by_hand("unknown", pod={field: f"{name}-none"})
    status = seen.reason(code)
    assert status.phase == "Pending"
    assert f"{name}-none" in status.reason.what
    assert f"{name}-none" in refusals(seen)
    made_by_admin(kind, {"apiVersion": kind.version, "metadata": {"name": name}} | more)
    assert by_hand("known", pod={field: name}).final().phase == "Succeeded"


@pytest.mark.xdist_group("webhook")
def test_a_webhook_that_denies_pods_is_quoted(by_hand, webhook):
    seen = by_hand("denied", spec=in_reach_of(webhook("pods")))
    status = seen.reason("AdmissionDenied")
    assert SENTENCE in status.reason.why
    assert "denied.kube-nb.test" in status.reason.why
    assert SENTENCE in refusals(seen)
    assert by_hand("apart").final().phase == "Succeeded"


@pytest.mark.xdist_group("webhook")
def test_a_webhook_that_denies_the_job_itself_is_quoted(cluster, unique, webhook):
    name = unique("denied")
    mark = webhook("jobs")
    with pytest.raises(Exception, match=SENTENCE) as caught:
        cluster.create(JOBS, job(name, meta={"labels": {mark: "yes"}}))
    refused = refusal(caught.value, cluster.namespace)
    assert refused.findings[0].reason.code == "AdmissionDenied"
    assert SENTENCE in str(refused)
    cluster.create(JOBS, job(name))


@pytest.mark.xdist_group("webhook")
def test_a_webhook_that_does_not_answer_is_waited_for(by_hand, webhook):
    mark = webhook("pods", answers=False)
    seen = by_hand("waits", spec=in_reach_of(mark))
    status = seen.reason("WebhookUnavailable")
    assert status.phase == "Pending"
    assert "denied.kube-nb.test" in status.reason.why
    assert "failed calling webhook" in refusals(seen)
    assert by_hand("apart").final().phase == "Succeeded"


def test_a_policy_that_denies_is_quoted(by_hand, made_by_admin, unique):
    mark = f"kube-nb.test/{unique('policy')}"
    policy(made_by_admin, unique("policy"), mark)
    # A new policy is heard of a moment after it is made.
    seen = by_hand("denied", spec=in_reach_of(mark) | {"completions": 50, "parallelism": 1, "maxFailedIndexes": 50})
    status = seen.reason("AdmissionDenied")
    assert "not on Mondays" in status.reason.why
    words = [event["message"] for event in seen.snapshot().events if event["reason"] == "FailedCreate"]
    assert "not on Mondays" in str(words)
    assert by_hand("apart").final().phase == "Succeeded"


def set_limits(api: Api, **limits: dict) -> None:
    spec = {"limits": [{"type": "Container", **limits}]}
    api.create(LIMITS, {"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "l"}, "spec": spec})


def in_reach_of(mark: str) -> dict:
    """For a Job whose pods carry a label that a webhook or a policy looks for."""
    template = job("x")["spec"]["template"]
    return {"template": {"metadata": {"labels": {mark: "yes"}}, "spec": template["spec"]}}


def policy(made, name: str, mark: str) -> None:
    rules = [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}]
    made(
        POLICIES,
        {
            "apiVersion": POLICIES.version,
            "kind": "ValidatingAdmissionPolicy",
            "metadata": {"name": name},
            "spec": {
                "failurePolicy": "Ignore",
                "matchConstraints": {
                    "resourceRules": rules,
                    "objectSelector": {"matchExpressions": [{"key": mark, "operator": "Exists"}]},
                },
                "validations": [{"expression": "false", "message": "not on Mondays"}],
            },
        },
    )
    made(
        BINDINGS,
        {
            "apiVersion": BINDINGS.version,
            "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": {"name": name},
            "spec": {"policyName": name, "validationActions": ["Deny"]},
        },
    )
