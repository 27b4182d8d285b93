"""What NetworkPolicies say of the nodes of one job, read as the API's reference reads them."""

from __future__ import annotations

from typing import Any

import pytest

from kube_nb.backends.kubernetes.network import apart

LABELS = {"app.kubernetes.io/managed-by": "kube-nb", "kube-nb/job": "a", "team": "red"}
SAME_JOB = {"podSelector": {"matchLabels": {"kube-nb/job": "a"}}}


def policy(name: str = "p", selector: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": {"podSelector": selector or {}, **spec}}


def verdict(*policies: dict[str, Any]) -> list[str]:
    return apart(policies, LABELS, "team-a")


def test_without_policies_all_may_talk():
    assert verdict() == []


@pytest.mark.parametrize("kinds", [["Ingress"], ["Egress"], ["Ingress", "Egress"]])
def test_a_policy_without_rules_keeps_them_apart(kinds: list[str]):
    assert verdict(policy(policyTypes=kinds)) == ["p"]


def test_a_policy_is_about_ingress_where_it_does_not_say():
    assert verdict(policy()) == ["p"]
    assert verdict(policy(egress=[{}], ingress=[{}])) == []
    assert verdict(policy(egress=[], ingress=[{}])) == ["p"]


@pytest.mark.parametrize(
    "selector",
    [
        {"matchLabels": {"team": "blue"}},
        {"matchExpressions": [{"key": "team", "operator": "In", "values": ["blue"]}]},
        {"matchExpressions": [{"key": "team", "operator": "NotIn", "values": ["red"]}]},
        {"matchExpressions": [{"key": "team", "operator": "DoesNotExist"}]},
        {"matchExpressions": [{"key": "other", "operator": "Exists"}]},
    ],
)
def test_a_policy_for_other_pods_changes_nothing(selector: dict[str, Any]):
    assert verdict(policy(selector=selector, policyTypes=["Ingress"])) == []


@pytest.mark.parametrize(
    "rule",
    [
        {},
        {"from": []},
        {"from": [SAME_JOB]},
        {"from": [{"podSelector": {}}]},
        {"from": [{"namespaceSelector": {}}]},
        {"from": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "team-a"}}}]},
        {"from": [{"namespaceSelector": {"matchLabels": {"not": "known"}}}]},
        {"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]},
        {"from": [{"podSelector": {"matchLabels": {"team": "blue"}}}, SAME_JOB]},
    ],
)
def test_a_rule_that_may_let_them_talk_is_enough(rule: dict[str, Any]):
    assert verdict(policy(policyTypes=["Ingress"], ingress=[rule])) == []


@pytest.mark.parametrize(
    "rule",
    [
        {"from": [{"podSelector": {"matchLabels": {"team": "blue"}}}]},
        {"from": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]},
        {"from": [SAME_JOB], "ports": [{"port": 443}]},
    ],
)
def test_a_rule_for_others_or_for_some_ports_is_not(rule: dict[str, Any]):
    assert verdict(policy(policyTypes=["Ingress"], ingress=[rule])) == ["p"]


def test_one_policy_may_allow_what_another_isolates():
    denies = policy("deny", policyTypes=["Ingress"])
    allows = policy("allow", policyTypes=["Ingress"], ingress=[{"from": [SAME_JOB]}])
    assert verdict(denies, allows) == []
    assert verdict(denies, policy("other", policyTypes=["Egress"], egress=[{}])) == ["deny"]
