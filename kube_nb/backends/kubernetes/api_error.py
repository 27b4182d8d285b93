"""What an API server says no with: by status, so that who can go on without an answer says so in one line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from kube_nb.errors import KubeNbError


class ApiError(KubeNbError):
    """The API server answered with an error.

    Attributes:
        status: of HTTP, e.g. 403. cause: its own word for it, e.g. "Forbidden", "AlreadyExists", "Invalid".
        message: what it says, whole. details: its `details`, e.g. causes and the kind of object.
        verb, resource, name: what was asked for, e.g. "create", "pods/exec", "x-0".
    """

    def __init__(
        self,
        *,
        status: int,
        cause: str,
        message: str,
        details: Mapping[str, Any] | None = None,
        verb: str = "",
        resource: str = "",
        name: str = "",
    ) -> None:
        super().__init__(what=f"the cluster refused to {verb} {resource}".rstrip(), why=message)
        self.status = status
        self.cause = cause
        self.message = message
        self.details = details or {}
        self.verb = verb
        self.resource = resource
        self.name = name


class Unauthorized(ApiError):
    """Status 401: the credentials are not, or no longer, valid."""


class Forbidden(ApiError):
    """Status 403: this user may not, or something that guards the namespace does not let anybody."""


class Missing(ApiError):
    """Status 404: there is no such object, or no such kind."""


class AlreadyExists(ApiError):
    """Status 409: there is an object of that name."""


_BY_STATUS = {401: Unauthorized, 403: Forbidden, 404: Missing}


def error_of(code: int, status: Mapping[str, Any], verb: str, resource: str, name: str = "") -> ApiError:
    """The error that an answer is.

    Args:
        code: of HTTP. status: the answer's own Status object.
    """
    known = AlreadyExists if status.get("reason") == "AlreadyExists" else _BY_STATUS.get(code, ApiError)
    return known(
        status=code,
        cause=status.get("reason", ""),
        message=status.get("message", ""),
        details=status.get("details"),
        verb=verb,
        resource=resource,
        name=name,
    )


def status_in(data: bytes) -> dict[str, Any]:
    """The Status object that an answer is; of anything else, e.g. a gateway's page, its beginning as the message."""
    try:
        status = json.loads(data)
    except ValueError:
        status = None
    return status if isinstance(status, dict) else {"message": data[:500].decode("utf-8", "replace").strip()}
