"""What a submit waits for, and what refuses it: quotas that are used up, webhooks that do not answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kube_nb.backends.kubernetes import submit
from kube_nb.backends.kubernetes.api import Api
from kube_nb.backends.kubernetes.kinds import JOBS
from kube_nb.capture.work import Work
from kube_nb.client import Client
from kube_nb.config import Settings
from kube_nb.errors import Refused
from kube_nb.jobs.submit import Plan
from kube_nb.spec import Phase, Task
from tests.cluster.handmade import FOREVER
from tests.cluster.made import set_quota
from tests.cluster.small_jobs import plan
from tests.conformance.backends import CLUSTER
from tests.conformance.sending import ended, remove_sent, until

pytestmark = [pytest.mark.slow, pytest.mark.lab]


@pytest.fixture
def client(own_tenant: Api, state_dir: Path) -> Iterator[Client]:
    """The tenant's, in a namespace of the test's own, which goes only once no job is in it that would replace its pods."""
    settings = Settings.load(environ={"KUBE_NB_STATE_DIR": str(state_dir), "KUBE_NB_STORE": "none"})
    small = {"image": "lab/python:3.11", "cpu": "0.01", "memory": "128Mi"}
    client = Client(f"{CLUSTER.on}/{own_tenant.namespace}", settings=settings, **small)
    yield client
    remove_sent(client)


def planned(client: Client, source: str) -> Plan:
    return client.plan(Work(source=source, namespace={"__name__": "__main__"}, task=Task(label="Cell In[1]")))


def said(found: Plan) -> list[tuple[str, str]]:
    return [(one.level, one.reason.code) for one in found.findings if one.level != "unknown"]


def test_a_job_that_is_sent_into_a_quota_that_is_used_up_waits_and_runs_in_its_turn(client, own_namespace):
    set_quota(own_namespace, "one-pod", pods="1")
    holder = planned(client, FOREVER).submit()
    until(lambda: holder.phase is Phase.RUNNING)
    waiting = planned(client, "print('in its turn')")
    assert said(waiting) == [("warning", "QuotaExceeded")], "said once"
    job = waiting.submit()
    until(lambda: job.reason is not None and job.reason.code == "QuotaExceeded")
    assert job.phase is Phase.PENDING
    client.delete(holder)
    assert ended(job).phase is Phase.SUCCEEDED
    assert "in its turn\n" in "".join(job.logs())


def test_admission_says_that_pods_wait_where_quotas_cannot_be_read(client, own_namespace, own_tenant, unique):
    set_quota(own_namespace, "one-pod", pods="1")
    holder = planned(client, FOREVER).submit()
    until(lambda: holder.phase is Phase.RUNNING)
    [found] = submit.dry_run(own_tenant, plan(own_tenant, unique()))
    assert (found.level, found.reason.code) == ("warning", "QuotaExceeded")
    assert "one-pod" in found.reason.why


def test_a_quota_without_room_for_the_job_itself_refuses_it_and_nothing_is_made(client, own_namespace, own_tenant):
    set_quota(own_namespace, "one-job", **{"count/jobs.batch": "1"})
    first = planned(client, "print('ran')").submit()
    with pytest.raises(Refused) as refused:
        planned(client, "print('ran')")
    assert [found.reason.code for found in refused.value.findings if found.level == "error"] == ["QuotaExceeded"]
    assert [job["metadata"]["name"] for job in own_tenant.list(JOBS)[0]] == client.journal.ids() == [first.id]


@pytest.mark.xdist_group("webhook")
@pytest.mark.parametrize(("resource", "level"), [("pods", "warning"), ("jobs", "error")])
def test_a_webhook_that_does_not_answer_for_pods_is_waited_for_and_one_for_jobs_refuses(
    cluster: Api, unique: Callable[[str], str], webhook: Callable[..., str], resource: str, level: str
):
    mark = webhook(resource, answers=False)
    [found] = submit.dry_run(cluster, plan(cluster, unique("hook"), labels={mark: "yes"}))
    assert (found.level, found.reason.code) == (level, "WebhookUnavailable")
    assert "denied.kube-nb.test" in found.reason.why
    assert ("tries again" in found.reason.next) == (level == "warning")
