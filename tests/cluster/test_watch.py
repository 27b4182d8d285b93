"""One list and one watch of each kind for everybody, kept up through broken connections, expiry and silence."""

from __future__ import annotations

import os
import threading
import time

import pytest

from kube_nb.backends.kubernetes.api import Api
from kube_nb.backends.kubernetes.api_error import ApiError, Forbidden
from kube_nb.backends.kubernetes.kinds import JOBS, PODS, Kind
from kube_nb.backends.kubernetes.names import selector
from kube_nb.backends.kubernetes.snapshot import QUEUE_LABEL, condition, last_seen, seconds_of
from kube_nb.backends.kubernetes.status import status_of
from kube_nb.backends.kubernetes.watch import Watch, read
from kube_nb.errors import Unreachable
from tests.cluster.handmade import FOREVER, PATIENCE, job, submit
from tests.cluster.severed import through
from tests.conformance.sending import until


class Counting(Api):
    """Counts what is asked of the API server."""

    asked: list[str]

    def _transport(self, method, path, *rest):
        self.asked.append(f"{method} {path}")
        return super()._transport(method, path, *rest)


class Stale(Counting):
    """Takes a first list for one of long ago."""

    def list(self, kind: Kind, **how):
        first = not any(kind.plural in asked for asked in self.asked)
        things, version = super().list(kind, **how)
        return things, "1" if first else version


def counting(api: Api, cls=Counting) -> Counting:
    counted = cls(api.client, api.namespace, api.server)
    counted.asked = []
    return counted


def first_pages(api: Counting) -> list[str]:
    """What was asked, without the further pages of a namespace that is full of others' things."""
    return [asked for asked in api.asked if "continue=" not in asked]


@pytest.fixture
def cut(cluster):
    """The cluster behind a connection that can be cut."""
    api, proxy = through(cluster)
    yield api, proxy
    proxy.close()


@pytest.fixture
def watching():
    """Makes watches and closes them."""
    made = []

    def make(api: Api, **how) -> Watch:
        made.append(Watch(api, selector(), **how))
        return made[-1]

    yield make
    for watch in made:
        watch.close()


# What is asked ------------------------------------------------------------------------------------------------------


def test_however_many_follow_the_requests_are_the_same(cluster, watching, by_hand):
    api = counting(cluster)
    watch = watching(api)
    heard = [set() for _ in range(50)]
    subscriptions = [watch.subscribe(lambda snapshot, ids=ids: ids.add(snapshot.id)) for ids in heard]
    jobs = [by_hand("many", FOREVER, pod={"nodeSelector": {"no": "node"}}).id for _ in range(5)]
    for id in jobs:
        assert watch.wait(id, lambda snapshot: status_of(snapshot).reason if snapshot else None, PATIENCE)
    for _ in range(100):
        watch.snapshots()
    assert len(first_pages(api)) == 6, f"a list and a watch of Jobs, pods and warnings: {api.asked}"
    until(lambda: all(set(jobs) <= ids for ids in heard))
    for subscription in subscriptions:
        subscription.close()


def test_reading_once_takes_three_requests_and_sees_the_same(cluster, watch, by_hand):
    seen = by_hand("read", pod={"nodeSelector": {"no": "node"}})
    status = seen.reason("NeverFits")
    api = counting(cluster)
    assert [status_of(one) for one in read(api, ids=[seen.id])] == [status]
    assert len(first_pages(api)) == 3
    assert read(api, ids=["t-nobody"]) == []


def test_a_finished_job_is_read_without_its_warnings(cluster, by_hand):
    seen = by_hand("done")
    assert seen.watch.wait(seen.id, lambda snapshot: snapshot.ended or None, PATIENCE)
    api = counting(cluster)
    assert status_of(read(api, ids=[seen.id])[0]).phase == "Succeeded"
    assert len(first_pages(api)) == 2


def test_a_job_that_was_made_just_now_is_known_before_the_cluster_tells(cluster, watching, unique):
    watch = watching(cluster)
    watch.snapshots()
    name = unique("new")
    watch.remember(cluster.create(JOBS, job(name, FOREVER)))
    assert watch.snapshot(name) is not None


def test_nobody_hears_of_a_job_before_its_pods_are_known(cluster, watching, by_hand):
    class Slow(Api):
        def list(self, kind, **how):
            if kind is PODS:
                time.sleep(0.5)
            return super().list(kind, **how)

    seen = by_hand("first", FOREVER)
    seen.running()
    heard = []
    watching(Slow(cluster.client, cluster.namespace)).subscribe(
        lambda snapshot: heard.append(status_of(snapshot)) if snapshot.id == seen.id else None
    )
    until(lambda: heard)
    assert {status.phase for status in heard} == {"Running"}


def test_a_user_who_may_not_read_warnings_watches_without_them(cluster, watching, by_hand):
    class Blind(Api):
        def list(self, kind, **how):
            return super().list(Kind("events", "v1", namespaced=False) if kind.plural == "events" else kind, **how)

    watch = watching(Blind(cluster.client, cluster.namespace))
    seen = by_hand("blind", pod={"nodeSelector": {"no": "node"}})
    reason = watch.wait(seen.id, lambda snapshot: status_of(snapshot).reason if snapshot else None, PATIENCE)
    assert reason.code == "NeverFits"
    assert watch.trouble is None


def test_a_reason_is_told_within_five_seconds_of_the_cluster_knowing(watch, by_hand):
    missing = {"volumes": [{"name": "v", "secret": {"secretName": "kube-nb-test-none"}}]}
    mount = {"volumeMounts": [{"name": "v", "mountPath": "/v"}]}
    unfit = by_hand("unfit", pod={"nodeSelector": {"no": "node"}})
    bare = by_hand("bare", pod=missing, container=mount)
    told = {}

    def look(snapshot):
        if status_of(snapshot).reason:
            told.setdefault(snapshot.id, (time.time(), snapshot))

    subscription = watch.subscribe(look)
    until(lambda: {unfit.id, bare.id} <= told.keys())
    subscription.close()
    at, snapshot = told[unfit.id]
    known = condition(snapshot.pods[0], "PodScheduled", "False")
    assert at - (seconds_of(known["lastTransitionTime"]) or 0) < 5
    at, snapshot = told[bare.id]
    assert at - last_seen(snapshot.events[-1]) < 5


# When it breaks -----------------------------------------------------------------------------------------------------


def test_a_version_that_is_too_old_is_answered_by_a_new_list(cluster, watching, by_hand):
    api = counting(cluster, Stale)
    watch = watching(api)
    watch.snapshots()
    seen = by_hand("stale")
    final = watch.wait(seen.id, lambda snapshot: (snapshot and snapshot.ended) or None, PATIENCE)
    assert final
    lists = [asked for asked in api.asked if "/jobs?" in asked and "watch=1" not in asked]
    assert len(lists) == 2


def test_an_api_server_that_finds_every_version_too_old_is_asked_less_and_less_often(cluster, watching):
    class Old(Counting):
        def list(self, kind: Kind, **how):
            return super().list(kind, **how)[0], "1"

    api = counting(cluster, Old)
    watching(api).subscribe(lambda snapshot: None)
    time.sleep(4)
    lists = [asked for asked in first_pages(api) if "/jobs?" in asked and "watch=1" not in asked]
    assert 2 <= len(lists) <= 8, "one more at once, then after 0.25, 0.5, 1, 2 seconds"


def test_kueue_is_found_though_nobody_answered_the_first_question_for_it(own_namespace, watching, monkeypatch):
    """In a namespace of its own: all who watch one with a queued job watch Kueue too."""
    monkeypatch.setattr("kube_nb.backends.kubernetes.session._AGAIN", 0.2)

    class Shy(Counting):
        shy = True

        def raw(self, path):
            if self.shy:
                self.shy = False
                raise Unreachable(what="nobody answers")
            return super().raw(path)

    api = counting(own_namespace, Shy)
    watching(api).subscribe(lambda snapshot: None)
    own_namespace.create(JOBS, job("queued", meta={"labels": {QUEUE_LABEL: "kube-nb-test-none"}}))
    until(lambda: any("/workloads?" in asked for asked in api.asked), 30)


def test_while_nothing_is_heard_a_watch_does_not_stand_for_what_is_so_now(cut, watching, by_hand):
    api, proxy = cut
    watch = watching(api)
    told = []
    watch.subscribe(told.append)
    seen = by_hand("silent", FOREVER)
    assert watch.wait(seen.id, lambda snapshot: snapshot, PATIENCE)
    assert watch.live
    proxy.open = False
    proxy.sever()
    until(lambda: not watch.live)
    until(lambda: any(one.id == seen.id and one.outage for one in told))
    proxy.open = True
    until(lambda: watch.live)
    until(lambda: [one for one in told if one.id == seen.id][-1].outage is None)


def test_a_break_that_is_mended_at_once_is_told_to_nobody(cut, watching, by_hand):
    api, proxy = cut
    watch = watching(api)
    told = []
    watch.subscribe(told.append)
    seen = by_hand("brief", FOREVER)
    seen.running()
    taken = proxy.taken
    proxy.sever()
    until(lambda: proxy.taken >= taken + 3 and watch.live)
    assert not any(one.outage for one in told)


def test_connections_that_break_all_the_time_lose_nothing(cut, watching, by_hand):
    api, proxy = cut
    watch = watching(api)
    phases = []
    watch.subscribe(lambda snapshot: phases.append((snapshot.id, status_of(snapshot).phase)))
    watch.snapshots()
    seen = by_hand("cut", "import time; time.sleep(3)")
    severed = 0
    while not watch.wait(seen.id, lambda snapshot: (snapshot and snapshot.ended) or None, 0.3):
        severed += proxy.sever()
    assert severed >= 10
    until(lambda: (seen.id, "Succeeded") in phases)


def test_an_api_server_that_refuses_for_a_moment_is_asked_again(cluster, watching, by_hand):
    """As one does that begins and has not read its rights."""

    class Beginning(Api):
        refuses = False

        def _transport(self, *request):
            if self.refuses:
                raise Forbidden(status=403, cause="Forbidden", message="not yet")
            return super()._transport(*request)

    api, proxy = through(cluster)
    beginning = Beginning(api.client, api.namespace)
    watch = watching(beginning)
    watch.snapshots()
    beginning.refuses = True
    until(lambda: not proxy.sever() and isinstance(watch.trouble, ApiError))
    time.sleep(1)
    beginning.refuses = False
    seen = by_hand("begins", pod={"serviceAccountName": "kube-nb-test-nobody"})
    reason = watch.wait(seen.id, lambda one: status_of(one).reason if one and not one.outage else None, PATIENCE)
    proxy.close()
    assert reason.code == "ServiceAccountMissing", "warnings, too, are heard again"


def test_what_was_deleted_while_nobody_could_see_it_is_found_gone(cut, cluster, watching, by_hand):
    api, proxy = cut
    watch = watching(api)
    told = []
    watch.subscribe(told.append)
    seen = by_hand("gone", FOREVER)
    assert watch.wait(seen.id, lambda snapshot: (snapshot and snapshot.pods) or None, PATIENCE)
    proxy.open = False
    proxy.sever()
    until(lambda: watch.trouble is not None)
    assert isinstance(watch.trouble, Unreachable)
    assert watch.snapshot(seen.id) is not None, "as it was seen last"
    seen.remove()
    proxy.open = True
    assert watch.wait(seen.id, lambda snapshot: snapshot is None or None, PATIENCE)
    until(lambda: any(snapshot.deleted and snapshot.id == seen.id for snapshot in told))
    until(lambda: watch.trouble is None)


@pytest.mark.timeout(60)
def test_a_watch_that_is_asked_on_a_connection_that_leads_nowhere_is_asked_on_another(cut, monkeypatch):
    """Long before a watch that stands would be taken for dead: an answer that goes on begins at once."""
    monkeypatch.setattr("kube_nb.backends.kubernetes.api._PATIENCE", 1.0)
    api, proxy = cut
    _, version = api.list(JOBS)
    assert proxy.standing == 1, "it is kept for the next request"
    proxy.hold()
    with api.watching(JOBS, version=version, seconds=1) as changes:
        assert all(change["object"] for change in changes)
    assert proxy.taken == 2


def test_a_cluster_that_is_not_there_is_said_at_once_and_found_later(cut, watching):
    api, proxy = cut
    proxy.open = False
    watch = watching(api)
    with pytest.raises(Unreachable):
        watch.snapshots()
    assert not watch.live
    proxy.open = True
    until(lambda: watch.live)
    watch.snapshots()


# When nobody looks --------------------------------------------------------------------------------------------------


def test_without_use_it_closes_its_connections_and_opens_them_again(cut, watching, by_hand):
    api, proxy = cut
    watch = watching(api, idle=0.5)
    subscription = watch.subscribe(lambda snapshot: None)
    watch.snapshots()
    time.sleep(1.2)
    assert watch.live, "somebody listens"
    subscription.close()
    until(lambda: not watch.live)
    until(lambda: proxy.standing == 0)
    seen = by_hand("later")
    assert watch.wait(seen.id, lambda snapshot: (snapshot and snapshot.ended) or None, PATIENCE)


def test_closing_ends_its_threads_at_once(cluster, watching):
    before = {thread.ident for thread in threading.enumerate()}
    watch = watching(cluster)
    watch.snapshots()
    own = [thread for thread in threading.enumerate() if thread.ident not in before]
    assert len(own) == 4
    begun = time.monotonic()
    watch.close()
    for thread in own:
        thread.join(5)
    assert not any(thread.is_alive() for thread in own)
    assert time.monotonic() - begun < 2


def test_a_callback_may_close_itself_and_one_that_fails_harms_no_other(cluster, watching, by_hand, caplog):
    watch = watching(cluster)
    by_hand("one", pod={"nodeSelector": {"no": "node"}})
    own, others = [], []

    def fails(snapshot):
        raise RuntimeError("mine alone")

    watch.subscribe(fails)
    closing = watch.subscribe(lambda snapshot: (own.append(snapshot), closing.close()))
    watch.subscribe(others.append)
    until(lambda: others and own)
    assert len(own) == 1
    assert "mine alone" in caplog.text


def test_waiting_gives_up_when_its_time_is_over(cluster, watch):
    begun = time.monotonic()
    assert watch.wait("t-nobody", lambda snapshot: snapshot, 0.3) is None
    assert 0.3 <= time.monotonic() - begun < 2


def test_a_forked_kernel_watches_too(cluster, watching):
    watch = watching(cluster)
    watch.snapshots()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            watch.snapshots()
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_the_pods_last_word_is_there_when_the_job_is_over(cluster, watching, unique):
    """However the connections race: each job is judged at the first sight of its end."""
    watch = watching(cluster)
    firsts = {}

    def look(snapshot):
        if snapshot.ended:
            firsts.setdefault(snapshot.id, [pod["status"]["phase"] for pod in snapshot.pods])

    watch.subscribe(look)
    names = [unique("race") for _ in range(6)]
    for name in names:
        submit(cluster, watch, job(name))
    until(lambda: set(names) <= set(firsts), 90)
    assert all(firsts[name] == ["Succeeded"] for name in names)
