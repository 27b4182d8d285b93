"""A bucket of a real S3 API that pods reach, and a user of it: moto's server on an address of this machine."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

NAME = "kube-nb"


@dataclass(frozen=True)
class Bucket:
    """An address, and who may use the bucket."""

    endpoint: str
    key: str
    secret: str

    @property
    def url(self) -> str:
        return f"s3://{NAME}/team"

    @property
    def env(self) -> dict[str, str]:
        """What the protocol's library reads."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_DEFAULT_REGION": "us-east-1",
        }


@contextmanager
def serving(address: str) -> Iterator[Bucket]:
    """Serve one bucket at an address of this machine; who is not known there is refused."""
    pytest.importorskip("moto", reason="cluster: moto is not installed")
    with socket.socket() as probe:
        probe.bind((address, 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", address, "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"INITIAL_NO_AUTH_ACTION_COUNT": "1000"},
    )
    try:
        endpoint = f"http://{address}:{port}"
        _wait(endpoint, server)
        yield _user(endpoint)
    finally:
        server.terminate()
        server.wait()


def _wait(endpoint: str, server: subprocess.Popen[bytes]) -> None:
    give_up = time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(f"{endpoint}/moto-api/", timeout=5).close()
            return
        except OSError:
            assert server.poll() is None, "moto's server has ended"
            assert time.monotonic() < give_up
            time.sleep(0.2)


def _user(endpoint: str) -> Bucket:
    import boto3

    def service(name: str):
        known = {"aws_access_key_id": "a", "aws_secret_access_key": "a", "region_name": "us-east-1"}
        return boto3.client(name, endpoint_url=endpoint, **known)

    service("s3").create_bucket(Bucket=NAME)
    iam = service("iam")
    iam.create_user(UserName="u")
    allowed = {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [allowed]})
    iam.put_user_policy(UserName="u", PolicyName="p", PolicyDocument=policy)
    made = iam.create_access_key(UserName="u")["AccessKey"]
    plain = {"Content-Type": "text/plain"}  # a form's content would be read before moto sees it
    from_now_on = urllib.request.Request(f"{endpoint}/moto-api/reset-auth", data=b"0", headers=plain)
    urllib.request.urlopen(from_now_on, timeout=5).close()
    return Bucket(endpoint, made["AccessKeyId"], made["SecretAccessKey"])
