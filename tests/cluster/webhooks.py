"""A real admission webhook in the cluster, for objects that carry a label of the test's own."""

from __future__ import annotations

import base64
import subprocess
from pathlib import Path

from kube_nb.backends.kubernetes.api import Api, Object
from kube_nb.backends.kubernetes.kinds import PODS, SECRETS, SERVICES, Kind
from tests.cluster import small_webhook
from tests.cluster.handmade import IMAGE
from tests.cluster.made import Made, wait_until_ready

WEBHOOKS = Kind("validatingwebhookconfigurations", "admissionregistration.k8s.io/v1", namespaced=False)
SENTENCE = "images of Monday are not allowed, says the platform team"
NAMESPACE = "default"


class Server:
    """The pod that answers, and its Service."""

    def __init__(self, api: Api, name: str, directory: Path) -> None:
        self.name = name
        self._made = Made(api)
        certificate, key = self_signed(f"{name}.{NAMESPACE}.svc", directory)
        self.authority = base64.b64encode(certificate.encode()).decode()
        labels = {"app": name}
        meta = {"name": name, "labels": labels}
        self._made(
            SECRETS,
            {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "stringData": {"crt": certificate, "key": key}},
        )
        ports = [{"port": 443, "targetPort": 8443}]
        self._made(
            SERVICES,
            {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": {"selector": labels, "ports": ports}},
        )
        pod = self._made(PODS, {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": self._pod()})
        wait_until_ready(api, pod)

    def _pod(self) -> Object:
        source = Path(small_webhook.__file__).read_text()
        return {
            "terminationGracePeriodSeconds": 1,
            "volumes": [{"name": "tls", "secret": {"secretName": self.name}}],
            "containers": [
                {
                    "name": "webhook",
                    "image": IMAGE,
                    "imagePullPolicy": "IfNotPresent",
                    "command": ["python3", "-c", source, "/tls/crt", "/tls/key", SENTENCE],
                    "volumeMounts": [{"name": "tls", "mountPath": "/tls"}],
                    "readinessProbe": {"tcpSocket": {"port": 8443}, "periodSeconds": 1},
                }
            ],
        }

    def remove(self) -> None:
        self._made.remove()


def configuration(name: str, mark: str, resource: str, service: str, authority: str) -> Object:
    """Ask the webhook about each new object of a kind that carries the label `mark`."""
    group, version = ("batch", "v1") if resource == "jobs" else ("", "v1")
    rule = {"apiGroups": [group], "apiVersions": [version], "operations": ["CREATE"], "resources": [resource]}
    return {
        "apiVersion": WEBHOOKS.version,
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": name},
        "webhooks": [
            {
                "name": "denied.kube-nb.test",
                "rules": [rule],
                "objectSelector": {"matchExpressions": [{"key": mark, "operator": "Exists"}]},
                "failurePolicy": "Fail",
                "sideEffects": "None",
                "admissionReviewVersions": ["v1"],
                "timeoutSeconds": 5,
                "clientConfig": {"service": {"name": service, "namespace": NAMESPACE}, "caBundle": authority},
            }
        ],
    }


def self_signed(host: str, directory: Path) -> tuple[str, str]:
    """A certificate for a host, and its key."""
    crt, key = directory / "crt", directory / "key"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "2", "-subj", "/CN=kube-nb-test", "-addext", f"subjectAltName=DNS:{host}"]
    subprocess.run([*command, "-keyout", key, "-out", crt], check=True, capture_output=True)
    return crt.read_text(), key.read_text()
