"""What the API server refuses, or nobody answers: each with its code, and nothing left behind."""

from __future__ import annotations

import copy
import ssl
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from kube_nb.backends.kubernetes.api import Api
from kube_nb.backends.kubernetes.api_error import ApiError
from kube_nb.backends.kubernetes.connect import user_of
from kube_nb.backends.kubernetes.kinds import CONFIG_MAPS, JOBS, NODES, PODS, SECRETS, SERVICE_ACCOUNTS, Kind
from kube_nb.backends.kubernetes.reasons.refusals import refused
from kube_nb.backends.kubernetes.silence import WrongCertificate
from kube_nb.errors import Refused, Unreachable
from tests.cluster.handmade import job, labels
from tests.cluster.made import set_quota
from tests.cluster.webhooks import self_signed
from tests.conformance.sending import until


def reason_of(act, namespace: str = "team-a"):
    """Why an act is refused."""
    with pytest.raises(Refused) as caught, refused(namespace):
        act()
    (finding,) = caught.value.findings
    assert finding.level == "error"
    assert str(caught.value).startswith(finding.reason.what)
    return finding.reason


def secret(name: str, size: int) -> dict:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "labels": labels(name)},
        "stringData": {"x": "x" * size},
    }


def other(api: Api, **changes: object) -> Api:
    """The same cluster, reached in another way."""
    from kubernetes.client import ApiClient

    configuration = copy.copy(api.client.configuration)
    for name, value in changes.items():
        setattr(configuration, name, value)
    return Api(ApiClient(configuration), api.namespace, "the cluster of `x`")


# Rights and credentials ---------------------------------------------------------------------------------------------


def test_a_missing_right_names_the_verb_the_resource_and_the_namespace(cluster, unique):
    elsewhere = replace(cluster, namespace="default")
    reason = reason_of(lambda: elsewhere.create(JOBS, job(unique("no"))), "default")
    assert reason.code == "Forbidden"
    assert "create jobs.batch in namespace default" in reason.what
    assert user_of(cluster) in reason.why
    assert "doctor --rbac" in reason.next


def test_a_missing_right_in_the_whole_cluster(cluster):
    reason = reason_of(lambda: cluster.list(NODES))
    assert (reason.code, "list nodes in the whole cluster" in reason.what) == ("Forbidden", True)


def test_wrong_credentials_are_told_from_missing_rights(cluster):
    nobody = other(cluster, cert_file=None, key_file=None)
    nobody.client.configuration.api_key = {"authorization": "Bearer not-a-token"}
    reason = reason_of(lambda: nobody.list(JOBS))
    assert reason.code == "Unauthorized"
    assert "log in" in reason.next


def test_a_token_that_was_withdrawn_is_told_from_one_without_rights(cluster, made_by_admin, unique):
    name = unique("robot")
    made_by_admin(SERVICE_ACCOUNTS, {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}})
    ask = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 600}}
    token = made_by_admin.api.create(Kind(f"serviceaccounts/{name}/token"), ask)["status"]["token"]
    robot = other(cluster, cert_file=None, key_file=None)
    robot.client.configuration.api_key = {"authorization": f"Bearer {token}"}
    assert reason_of(lambda: robot.list(JOBS)).code == "Forbidden"
    made_by_admin.remove()
    # The API server believes a token that it has seen for a few seconds more.
    until(lambda: reason_of(lambda: robot.list(JOBS)).code == "Unauthorized")


def test_a_namespace_that_is_not_there(admin, unique):
    nowhere = replace(admin, namespace="kube-nb-test-none")
    reason = reason_of(lambda: nowhere.create(CONFIG_MAPS, {"metadata": {"name": unique("x")}}), nowhere.namespace)
    assert reason.code == "NamespaceNotFound"
    assert "kube-nb-test-none" in reason.what


# Rules --------------------------------------------------------------------------------------------------------------


def test_what_is_too_large(cluster, unique):
    name = unique("large")
    reason = reason_of(lambda: cluster.create(SECRETS, secret(name, 1_100_000)))
    assert reason.code == "TooLarge"
    assert cluster.find(SECRETS, name) is None
    cluster.create(SECRETS, secret(name, 900_000))


def test_a_quota_of_objects(own_namespace, own_tenant, unique):
    set_quota(own_namespace, "few", **{"count/jobs.batch": "0"})
    reason = reason_of(lambda: own_tenant.create(JOBS, job(unique("many"))), own_tenant.namespace)
    assert reason.code == "QuotaTooSmall"
    assert "count/jobs.batch" in reason.why


def test_pod_security_of_a_dry_run(cluster, unique):
    pod = job(unique("free"), container={"securityContext": {"privileged": True}})["spec"]["template"]["spec"]
    body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": unique("pod")}, "spec": pod}
    reason = reason_of(lambda: cluster.create(PODS, body, dry_run=True))
    assert reason.code == "PodSecurity"
    assert "privileged" in reason.why


def test_a_field_that_is_not_valid(cluster, unique):
    reason = reason_of(lambda: cluster.create(JOBS, job(unique("odd"), spec={"backoffLimitPerIndex": -1})))
    assert reason.code == "InvalidObject"
    assert "backoffLimitPerIndex" in reason.why


def test_what_is_allowed_is_not_refused(cluster, unique):
    with refused(cluster.namespace):
        cluster.create(JOBS, job(unique("fine")))


def test_what_is_not_there_is_no_refusal(cluster):
    with pytest.raises(ApiError) as caught:
        cluster.get(JOBS, "kube-nb-test-none")
    assert caught.value.status == 404


# Nobody answers -----------------------------------------------------------------------------------------------------


def test_nobody_listens(cluster):
    with pytest.raises(Unreachable) as caught:
        other(cluster, host="https://127.0.0.1:1").list(JOBS)
    assert "cannot be reached" in caught.value.what
    assert "jobs that run there go on" in caught.value.next


def test_a_name_that_nobody_knows(cluster):
    with pytest.raises(Unreachable) as caught:
        other(cluster, host="https://kube-nb-test.invalid:6443").list(JOBS)
    assert "name" in caught.value.why


def test_a_certificate_that_is_not_the_clusters(cluster, tmp_path):
    self_signed("127.0.0.1", tmp_path)
    server = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "crt", tmp_path / "key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with pytest.raises(WrongCertificate) as caught:
            other(cluster, host=f"https://127.0.0.1:{server.server_port}").list(JOBS)
        assert "certificate" in caught.value.what
    finally:
        server.shutdown()
        server.server_close()
