"""A submit makes one job, whole or not at all, whatever happens to it; and all of the job goes again."""

from __future__ import annotations

import base64
import json
from dataclasses import replace

import pytest

from kube_nb.backends.kubernetes import addons, ending, names, submit
from kube_nb.backends.kubernetes.api import Api
from kube_nb.backends.kubernetes.api_error import ApiError, Forbidden
from kube_nb.backends.kubernetes.kinds import CLAIMS, JOBS, PODS, SECRETS, SERVICES
from kube_nb.backends.kubernetes.plan import Store
from kube_nb.backends.kubernetes.reconcile import Reconciling
from kube_nb.backends.kubernetes.snapshot import Snapshot, condition, node_of, state
from kube_nb.backends.kubernetes.watch import Watch, read
from kube_nb.client import Client
from kube_nb.config import Settings
from kube_nb.errors import NotFound, Refused, Unreachable
from kube_nb.jobs.settle import complete
from kube_nb.spec import Phase, Placement, Policy, SecretUse
from tests.cluster.small_jobs import bundle, ended, fitting, logs, plan, pod_when, pods
from tests.conformance.backends import CLUSTER

KINDS = (JOBS, PODS, SECRETS, SERVICES, CLAIMS)
NOWHERE = Placement(node_selector={"example.org/no-such-node": "true"})


def left(api: Api, id: str) -> list[str]:
    """Everything in the namespace that is of this job."""
    return [
        f"{kind.plural}/{found['metadata']['name']}"
        for kind in KINDS
        for found in api.list(kind, labels=f"{names.JOB}={id}")[0]
    ]


class Losing(Api):
    """An API whose answers to some requests of a job are lost, before or after the server did what was asked; `failed
    before` and `failed after`: a gateway, or the server, answers in the place of it that it has failed; `refused`: a quota
    is used up, as it may be by this very job."""

    def __init__(self, api: Api, lost: dict[str, list[str]]) -> None:
        super().__init__(api.client, api.namespace, api.server)
        self.lost = lost
        self.asked: list[str] = []

    def create(self, kind, body, *, dry_run=False):
        of_a_job = (body.get("metadata") or {}).get("labels", {}).get(names.ROLE) == "job"
        if dry_run or not of_a_job:
            return super().create(kind, body, dry_run=dry_run)
        self.asked.append(kind.plural)
        when = self.lost.get(kind.plural, [])
        what = when.pop(0) if when else ""
        if what == "before":
            raise Unreachable(what="it was never sent")
        if what == "failed before":
            raise ApiError(status=503, cause="", message="upstream connect error", verb="create", resource=kind.plural)
        if what == "refused":
            raise Forbidden(status=403, cause="Forbidden", message="exceeded quota: small", resource=kind.plural)
        made = super().create(kind, body, dry_run=dry_run)
        if what == "after":
            raise Unreachable(what="the answer was lost")
        if what == "failed after":
            message = "Timeout: request did not complete within the allotted timeout"
            raise ApiError(status=504, cause="Timeout", message=message, verb="create", resource=kind.plural)
        return made


@pytest.fixture
def of_two(cluster, unique, tmp_path):
    """Id, bundle and plan of a job of two nodes that finds no place."""
    id = unique()
    sent = bundle(tmp_path)
    return id, sent, fitting(plan(cluster, id, resources={"nodes": 2}, placement=NOWHERE), sent)


# Making -----------------------------------------------------------------------------------------------------------------


def test_a_submit_makes_a_job_that_runs(cluster, unique, tmp_path):
    id = unique()
    program = "import json; print(json.load(open('/kube-nb/secret/env.json'))['COLOUR'])"
    sent = bundle(tmp_path, program, env={"COLOUR": "blue"})
    job = submit.create(cluster, fitting(plan(cluster, id), sent), sent)
    assert job["metadata"]["name"] == id
    ended(cluster, id)
    assert logs(cluster, id) == ["blue\n"]


def test_a_second_submit_finds_the_first(cluster, of_two):
    id, sent, given = of_two
    first = submit.create(cluster, given, sent)
    there = left(cluster, id)
    assert submit.create(cluster, given, sent)["metadata"]["uid"] == first["metadata"]["uid"]
    assert sorted(set(left(cluster, id)) - set(there)) in (
        [],
        [f"pods/{pod['metadata']['name']}" for pod in pods(cluster, id)],
    )
    assert len(cluster.list(JOBS, labels=f"{names.JOB}={id}")[0]) == 1


@pytest.mark.parametrize("gone", [SECRETS, SERVICES], ids=["secret", "service"])
def test_a_second_submit_makes_what_the_first_had_not_yet_made(cluster, of_two, gone):
    id, sent, given = of_two
    job = submit.create(cluster, given, sent)
    cluster.delete(gone, id)
    submit.create(cluster, given, sent)
    assert cluster.get(gone, id)["metadata"]["ownerReferences"][0]["uid"] == job["metadata"]["uid"]


def test_a_job_that_has_ended_gets_no_new_secret(cluster, unique, tmp_path):
    id = unique()
    sent = bundle(tmp_path)
    given = fitting(plan(cluster, id), sent)
    first = submit.create(cluster, given, sent)
    ended(cluster, id)
    (snapshot,) = read(cluster, ids=[id])
    assert ending.tidy(cluster, snapshot)
    assert not ending.tidy(cluster, snapshot)
    assert submit.create(cluster, given, sent)["metadata"]["uid"] == first["metadata"]["uid"]
    assert cluster.find(SECRETS, id) is None


def test_the_id_of_another_job_is_refused(cluster, unique, tmp_path):
    id = unique()
    sent = bundle(tmp_path)
    given = fitting(plan(cluster, id, placement=NOWHERE), sent)
    submit.create(cluster, given, sent)
    with pytest.raises(Refused):
        submit.create(cluster, replace(given, digest="another"), sent)
    assert cluster.find(SECRETS, id) is not None


@pytest.mark.parametrize("when", ["before", "after", "failed before", "failed after"])
@pytest.mark.parametrize("what", ["jobs", "services", "secrets"])
def test_a_lost_answer_makes_one_job_all_the_same(cluster, of_two, what, when):
    id, sent, given = of_two
    submit.create(Losing(cluster, {what: [when]}), given, sent)
    assert {name for name in left(cluster, id) if not name.startswith("pods/")} == {
        f"jobs/{id}",
        f"secrets/{id}",
        f"services/{id}",
    }


@pytest.mark.parametrize("what", ["jobs", "services", "secrets"])
def test_after_a_lost_connection_the_next_submit_completes_the_job(cluster, of_two, what):
    id, sent, given = of_two
    with pytest.raises(Unreachable):
        submit.create(Losing(cluster, {what: ["after", "before"]}), given, sent)
    submit.create(cluster, given, sent)
    assert {name for name in left(cluster, id) if not name.startswith("pods/")} == {
        f"jobs/{id}",
        f"secrets/{id}",
        f"services/{id}",
    }


@pytest.mark.parametrize("lost", ["after", "failed after"])
@pytest.mark.parametrize("what", ["jobs", "secrets"])
def test_who_does_not_know_whether_a_job_was_made_is_told_its_id_and_not_to_send_it_twice(
    cluster, unique, tmp_path, what, lost
):
    id = unique()
    sent = bundle(tmp_path)
    given = fitting(plan(cluster, id, placement=NOWHERE), sent)
    with pytest.raises(Unreachable) as told:
        submit.create(Losing(cluster, {what: [lost, "failed before"]}), given, sent)
    assert id in told.value.what
    assert "do not send it again" in told.value.next
    assert f"%kube_attach {id}" in told.value.next
    assert cluster.find(JOBS, id) is not None


@pytest.mark.lab
@pytest.mark.slow
def test_a_job_whose_submit_ended_with_a_failure_of_the_server_is_completed_later(
    cluster, unique, state_dir, monkeypatch
):
    settings = Settings.load(environ={"KUBE_NB_STATE_DIR": str(state_dir), "KUBE_NB_STORE": "none"})
    client = Client(CLUSTER.on, settings=settings, image="lab/python:3.11", cpu="0.05", memory="128Mi")
    create = Api.create

    def failing(self, kind, body, *, dry_run=False):
        if kind is SECRETS:
            raise ApiError(status=500, cause="InternalError", message="etcdserver: request timed out")
        return create(self, kind, body, dry_run=dry_run)

    monkeypatch.setattr(Reconciling, "start", lambda *_: None)  # as if that kernel had died
    with monkeypatch.context() as patch:
        patch.setattr(Api, "create", failing)
        with pytest.raises(Unreachable, match="whether job"):
            client.cell("print('whole')", {"__name__": "__main__"})
    (id,) = client.journal.ids()
    try:
        assert cluster.find(JOBS, id) is not None
        assert complete(id, client.backend, client.journal, settings)
        job = client.job(id)
        assert job.wait(90).phase is Phase.SUCCEEDED, job.reason
        assert "whole" in "".join(job.logs())
    finally:
        client.delete(client.job(id))


def test_what_the_server_refuses_while_it_fails_for_others_is_a_refusal(cluster, unique, tmp_path):
    """A webhook that does not answer: the API server fails, and has made nothing."""
    id = unique()
    sent = bundle(tmp_path)
    message = 'Internal error occurred: failed calling webhook "w": EOF'

    class Webhook(Api):
        def create(self, kind, body, *, dry_run=False):
            raise ApiError(status=500, cause="InternalError", message=message, verb="create", resource=kind.plural)

    with pytest.raises(ApiError):
        submit.create(Webhook(cluster.client, cluster.namespace), fitting(plan(cluster, id), sent), sent)


def test_a_job_that_somebody_else_deletes_meanwhile_is_not_found(cluster, unique, tmp_path, monkeypatch):
    id = unique()
    sent = bundle(tmp_path)
    submit.create(cluster, fitting(plan(cluster, id, placement=NOWHERE), sent), sent)
    (seen,) = read(cluster, ids=[id])
    cluster.delete(JOBS, id)
    wait_until_nothing_is_left(cluster, id)
    backend = Client(CLUSTER.on).backend
    monkeypatch.setattr(type(backend), "_snapshot", lambda self, id: seen)
    with pytest.raises(NotFound, match=id):
        backend.delete(id)


SHARED = Store(kind="shared", claim=names.STORE_CLAIM)


@pytest.mark.parametrize(
    ("first", "now"),
    [
        ((Store(), "upload"), (SHARED, "store")),
        ((SHARED, "store"), (Store(), "upload")),
        ((Store(), "secret"), (SHARED, "secret")),
        ((Store(kind="url", url="s3://bucket/dir"), "secret"), (Store(), "secret")),
    ],
    ids=["upload to store", "store to upload", "none to shared", "url to none"],
)
def test_a_submit_that_was_cut_off_is_completed_with_the_store_that_its_pods_mount(
    cluster, unique, tmp_path, first, now
):
    id = unique()
    sent = bundle(tmp_path)
    begun, later = (
        fitting(plan(cluster, id, placement=NOWHERE, store=store, transport=transport), sent)
        for store, transport in (first, now)
    )
    with pytest.raises(Unreachable):
        submit.create(Losing(cluster, {"secrets": ["before", "before"]}), begun, sent)
    made = submit.begun(cluster, later)
    assert made is not None
    found = submit.as_begun(later, made)
    assert (found.store.mark, found.transport) == (begun.store.mark, begun.transport)
    submit.create(cluster, later, sent)
    told = json.loads(base64.b64decode(cluster.get(SECRETS, id)["data"]["pod.json"]))
    mounts = [
        volume for volume in cluster.get(JOBS, id)["spec"]["template"]["spec"]["volumes"] if volume["name"] == "store"
    ]
    assert told["transport"] == begun.transport
    assert told["store"] == bool(mounts) == bool(begun.store.claim)
    assert bool(told["url"]) == bool(begun.store.url)


def test_a_job_that_is_whole_stays_where_its_completion_is_refused(cluster, of_two):
    id, sent, given = of_two
    job = submit.create(cluster, given, sent)
    there = left(cluster, id)
    with pytest.raises(Forbidden):
        submit.complete(Losing(cluster, {"secrets": ["refused"]}), given, sent, job)
    assert left(cluster, id) == there


def test_a_job_that_was_made_is_not_lost_where_the_second_try_is_refused(cluster, unique, tmp_path):
    id = unique()
    sent = bundle(tmp_path)
    given = fitting(plan(cluster, id, placement=NOWHERE), sent)
    with pytest.raises(submit.Unsure):
        submit.create(Losing(cluster, {"jobs": ["after", "refused"]}), given, sent)
    assert cluster.find(JOBS, id) is not None
    assert cluster.find(SECRETS, id) is None
    submit.create(Losing(cluster, {"jobs": ["refused"]}), given, sent)
    assert f"secrets/{id}" in left(cluster, id)


def test_nothing_is_left_where_the_secret_is_refused(cluster, unique, tmp_path):
    id = unique()
    sent = bundle(tmp_path, env={"MUCH": "x" * (3 << 20)})
    with pytest.raises(ApiError) as refused:
        submit.create(cluster, fitting(plan(cluster, id, resources={"nodes": 2}), sent), sent)
    assert refused.value.resource == "secrets"
    wait_until_nothing_is_left(cluster, id)


def test_nothing_is_left_where_the_claim_cannot_be_filled(cluster, unique, tmp_path):
    id = unique()
    sent = bundle(tmp_path)
    store = Store(kind="own", claim=id, size=1 << 20)
    seen = []

    def fill(job):
        assert cluster.find(SECRETS, id) is None
        seen.append(cluster.get(CLAIMS, store.claim)["metadata"]["ownerReferences"][0]["uid"] == job["metadata"]["uid"])
        raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        submit.create(cluster, fitting(plan(cluster, id, store=store), sent), sent, fill=fill)
    assert seen == [True]
    wait_until_nothing_is_left(cluster, id)


def wait_until_nothing_is_left(api: Api, id: str) -> None:
    selector = f"{names.JOB}={id}"
    for kind in KINDS:
        found, version = api.list(kind, labels=selector)
        there = {one["metadata"]["name"] for one in found}
        if not there:
            continue
        with api.watching(kind, version=version, labels=selector, seconds=60) as changes:
            for change in changes:
                if change["type"] == "DELETED":
                    there.discard(change["object"]["metadata"]["name"])
                if not there:
                    break
    assert left(api, id) == []


def test_a_submit_takes_few_requests(cluster, unique, tmp_path, monkeypatch):
    id = unique()
    asked: list[str] = []
    send = Api._transport

    def counted(self, method, path, *rest):
        asked.append(f"{method} {path}")
        return send(self, method, path, *rest)

    monkeypatch.setattr(Api, "_transport", counted)
    sent = bundle(tmp_path)
    given = fitting(plan(cluster, id, resources={"nodes": 2}, placement=NOWHERE), sent)
    submit.dry_run(cluster, given)
    submit.create(cluster, given, sent)
    assert len(asked) == 5, asked


# Before -----------------------------------------------------------------------------------------------------------------


def patch_of(**spec: object) -> dict[str, object]:
    return {"spec": {"template": {"spec": spec}}}


@pytest.mark.parametrize(
    ("details", "code", "said"),
    [
        ({"placement": Placement(priority_class="no-such")}, "PriorityClassMissing", "no-such"),
        ({"placement": Placement(service_account="no-such")}, "ServiceAccountMissing", "no-such"),
        ({"placement": Placement(runtime_class="no-such")}, "RuntimeClassMissing", "no-such"),
        ({"patches": (patch_of(hostNetwork=True),)}, "PodSecurity", "hostNetwork"),
        ({"patches": (patch_of(securityContext={"runAsUser": 0}),)}, "PodSecurity", "runAsUser=0"),
        ({"patches": (patch_of(no_such_field=1),)}, "BadRequest", 'unknown field "spec.template.spec.no_such_field"'),
        ({"patches": ({"spec": {"backoffLimit": "three"}},)}, "BadRequest", "backoffLimit"),
        ({"patches": (patch_of(restartPolicy="Sometimes"),)}, "InvalidObject", "restartPolicy"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_admission_refuses_is_found_before_anything_is_made(cluster, unique, details, code, said):
    id = unique()
    (finding,) = submit.dry_run(cluster, plan(cluster, id, **details))
    assert (finding.level, finding.reason.code) == ("error", code)
    assert said in finding.reason.what + finding.reason.why
    assert left(cluster, id) == []


def test_what_is_shown_holds_no_secret(cluster, unique):
    given = plan(cluster, unique(), placement=Placement(secrets=(SecretUse.parse("one"),)), resources={"nodes": 2})
    shown = submit.objects(given)
    assert [one["kind"] for one in shown] == ["Job", "Secret", "Service"]
    secret = shown[1]
    assert set(secret["stringData"].values()) == {"<filled in by kube-nb at the submit>"}
    assert "data" not in secret


def test_values_of_variables_are_in_the_secret_alone(cluster, unique, tmp_path):
    id = unique()
    sent = bundle(tmp_path, env={"TOKEN": "hush-8346"})
    submit.create(cluster, fitting(plan(cluster, id), sent), sent)
    secret = cluster.get(SECRETS, id)
    assert json.loads(base64.b64decode(secret["data"]["env.json"])) == {"TOKEN": "hush-8346"}
    ended(cluster, id)
    for kind in (JOBS, PODS):
        assert "hush-8346" not in json.dumps(cluster.list(kind, labels=f"{names.JOB}={id}")[0])


# Ending -----------------------------------------------------------------------------------------------------------------

WAITING = """
import os, signal, sys, time
if sys.argv[1:] == ["tool", "signal", "INT"]:
    os.kill(1, signal.SIGINT)
    sys.exit()
def ended(*_):
    print("interrupted", flush=True)
    sys.exit(81)
signal.signal(signal.SIGINT, ended)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(82))
print("ready", flush=True)
time.sleep(300)
"""


def running(pod):
    return state(pod, "running")


def test_a_job_that_runs_is_cancelled_by_its_runner(cluster, unique, tmp_path):
    id = unique()
    sent = bundle(tmp_path, WAITING)
    submit.create(cluster, fitting(plan(cluster, id, resources={"nodes": 2}), sent), sent)
    wait_until_ready(cluster, id, 2)
    ending.cancel(cluster, read(cluster, ids=[id])[0])
    job = ended(cluster, id)
    assert condition(job, "Failed")
    assert job["metadata"]["annotations"][names.CANCELLED]
    assert any("interrupted" in text for text in logs(cluster, id))


def wait_until_ready(api: Api, id: str, nodes: int) -> None:
    """Each node's program has said so."""
    for node in range(nodes):
        pod = pod_when(api, id, lambda pod, node=node: running(pod) and node_of(pod) == node)
        with api.stream("GET", PODS, pod["metadata"]["name"], "log", query={"follow": "true"}) as response:
            assert any(b"ready" in piece for piece in api.pieces(response))


def test_a_job_that_never_started_is_cancelled_and_stays(cluster, unique, tmp_path):
    id = unique()
    sent = bundle(tmp_path, WAITING)
    submit.create(cluster, fitting(plan(cluster, id, placement=NOWHERE), sent), sent)
    pod_when(cluster, id, lambda pod: pod["status"]["phase"] == "Pending")
    ending.cancel(cluster, read(cluster, ids=[id])[0])
    job = ended(cluster, id)
    assert condition(job, "Failed")["reason"] == "DeadlineExceeded"
    assert job["metadata"]["annotations"][names.CANCELLED]
    assert pods(cluster, id) == []


def test_a_job_that_waits_in_a_queue_is_cancelled_and_never_starts(cluster, unique, tmp_path):
    queues = addons.kind(cluster, "kueue.x-k8s.io", "localqueues")
    if queues is None or not cluster.list(queues)[0]:
        pytest.skip("cluster: it has no Kueue")
    id = unique()
    sent = bundle(tmp_path, WAITING)
    placement = Placement(queue=cluster.list(queues)[0][0]["metadata"]["name"])
    given = plan(cluster, id, placement=placement, resources={"gpus": 10_000})
    submit.create(cluster, fitting(given, sent), sent)
    assert cluster.get(JOBS, id)["spec"]["suspend"]
    ending.cancel(cluster, read(cluster, ids=[id])[0])
    assert condition(ended(cluster, id), "Failed")["reason"] == "DeadlineExceeded"
    assert pods(cluster, id) == []


def test_a_job_that_has_ended_is_left_as_it_is(cluster, unique, tmp_path):
    id = unique()
    sent = bundle(tmp_path)
    submit.create(cluster, fitting(plan(cluster, id), sent), sent)
    version = ended(cluster, id)["metadata"]["resourceVersion"]
    ending.cancel(cluster, read(cluster, ids=[id])[0])
    assert cluster.get(JOBS, id)["metadata"]["resourceVersion"] == version


@pytest.mark.slow
def test_a_runner_that_cannot_be_told_is_ended_by_the_cluster(cluster, unique, tmp_path):
    id = unique()
    sent = bundle(tmp_path, "import sys, time; time.sleep(300 if len(sys.argv) == 1 else sys.exit(1))")
    submit.create(cluster, fitting(plan(cluster, id), sent), sent)
    pod_when(cluster, id, running)
    ending.cancel(cluster, read(cluster, ids=[id])[0])
    assert condition(ended(cluster, id), "Failed")


def test_a_pod_on_a_lost_node_is_given_up_only_when_that_is_asked_for(cluster, unique, tmp_path):
    """That its node is lost is only said here: how the cluster says it is a test of the reasons."""
    id = unique()
    sent = bundle(tmp_path, "import sys, time; sys.argv[1:] and sys.exit(1); time.sleep(300)")
    submit.create(cluster, fitting(plan(cluster, id, policy=Policy(grace=200)), sent), sent)
    pod = pod_when(cluster, id, running)
    told = {"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager"}
    pod["status"]["conditions"].append(told)
    snapshot = Snapshot(cluster.get(JOBS, id), (pod,))
    ending.cancel(cluster, snapshot)
    assert any(there["metadata"]["uid"] == pod["metadata"]["uid"] for there in pods(cluster, id))
    ending.cancel(cluster, snapshot, force_lost=True)
    assert condition(ended(cluster, id), "Failed")
    assert all(there["metadata"]["uid"] != pod["metadata"]["uid"] for there in pods(cluster, id))


@pytest.mark.parametrize("state_of_job", ["waiting", "running", "ended"])
def test_nothing_is_left_of_a_job_that_was_deleted(cluster, unique, tmp_path, state_of_job):
    id = unique()
    sent = bundle(tmp_path, "print(1)" if state_of_job == "ended" else WAITING)
    store = Store(kind="own", claim=id, size=1 << 20)
    placement = NOWHERE if state_of_job == "waiting" else Placement()
    submit.create(cluster, fitting(plan(cluster, id, store=store, placement=placement), sent), sent)
    if state_of_job == "ended":
        ended(cluster, id)
    elif state_of_job == "running":
        pod_when(cluster, id, running)
    watch = Watch(cluster, names.selector())
    try:
        ending.delete(cluster, watch, read(cluster, ids=[id])[0])
    finally:
        watch.close()
    assert left(cluster, id) == []
