"""Names that several parts must agree on: labels and annotations of our objects, paths inside a job's container."""

from __future__ import annotations

import hashlib
import re

MANAGED_BY = "app.kubernetes.io/managed-by"
OURS = "kube-nb"
"""Value of `MANAGED_BY` on every object that we make: one list+watch for each kind finds them all."""

# Labels: what objects are selected by. Of jobs, pods, Secrets, Services and claims alike.
JOB = "kube-nb/job"
OWNER = "kube-nb/owner"
ROLE = "kube-nb/role"
"""What a pod or claim is for: `job`, `transfer`, `store`."""
TRANSFER = "kube-nb/transfer"
"""Of the pods that carry files for one user and claim, and of the Jobs that make them."""

# Annotations: what submit knew, as text; they hold the truth about a job.
NAME = "kube-nb/name"
LABEL = "kube-nb/label"
USER = "kube-nb/user"
SPEC = "kube-nb/spec"
"""JSON of the spec without ids of people and values of variables."""
DIGEST = "kube-nb/bundle"
STORE = "kube-nb/store"
"""Where the job's log copy and results lie: `none`, `claim:NAME` or a URL."""
STORE_WHY = "kube-nb/store-why"
"""Why they lie there and not in a better place, for a person."""
TRANSPORT = "kube-nb/transport"
"""How the bundle reaches the pods: `secret`, `store` or `upload`."""
UPLOADED = "kube-nb/uploaded"
"""Of a Job whose bundle is uploaded: the names of the pods that have it, with commas."""
QUEUE = "kube-nb/queue"
"""The queue of Kueue's that the job waits in; the label that Kueue reads may be on another object."""
SUBMITTED = "kube-nb/submitted"
"""When it was submitted, by the submitter's clock, as seconds: a cluster's own times have no fractions."""
CANCELLED = "kube-nb/cancelled"
"""On a Job that somebody asked to end: when, as RFC 3339."""
LOST = "kube-nb/force-lost"
TEMPLATE = "kube-nb/template"
"""On a Job that makes a pod which carries files: a digest of what that pod is made from."""
PROVEN = "kube-nb/proven"
"""On the shared claim: when a pod has written to it, as RFC 3339."""

CONTAINER = "job"
"""Name of the container that runs the code."""
BASE = "/kube-nb"
SECRET = f"{BASE}/secret"
"""Mount of the bundle Secret, read only."""
RUN = f"{BASE}/run"
"""An emptyDir: runner, bundle, work folder, results and log copy of a job without a store."""
STORE_MOUNT = f"{BASE}/store"
"""Mount of the store's claim."""
RUNNER_ZIP = "runner.zip"
"""Key of the Secret: the runner object as a zip that Python runs."""
UID = 1000
"""User and group of our containers where nobody says otherwise; `restricted` wants it not to be root."""
STORE_CLAIM = "kube-nb-store"
"""The one claim of a namespace that all jobs share where it binds ReadWriteMany."""


def owner_of(user: str) -> str:
    """The value of `OWNER` for a user name, which may be longer and stranger than a label may be.

    Example:
        >>> owner_of("system:serviceaccount:a:b").startswith("system-serviceaccount-a-b-")
        True
    """
    slug = re.sub(r"[^A-Za-z0-9]+", "-", user).strip("-")[:40].strip("-")
    return f"{slug or 'user'}-{hashlib.sha256(user.encode()).hexdigest()[:8]}"


def label_value(text: str) -> str:
    """Text as a label's value: other signs become dashes, at most 63."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text)[:63].strip("-._")


def selector(**labels: str) -> str:
    """A label selector for our objects, e.g. `selector(job=id)`."""
    known = {"job": JOB, "owner": OWNER, "role": ROLE}
    return ",".join([f"{MANAGED_BY}={OURS}", *(f"{known[key]}={value}" for key, value in labels.items())])


def of_jobs(**labels: str) -> str:
    """The same, without what carries files for jobs."""
    return f"{selector(**labels)},{ROLE}!=transfer"
