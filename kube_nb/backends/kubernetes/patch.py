"""A strategic merge, as the API server does it, of patches into objects that are not made yet.

The API server merges only into what it already holds, and no library for Python keeps this merge apart from a whole
framework; which lists are merged by which key is part of Kubernetes' API and does not change for a field that exists.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from kube_nb.backends.kubernetes import names
from kube_nb.backends.kubernetes.api import Object
from kube_nb.errors import BadValue

_KEYS: Mapping[str, str] = {
    **dict.fromkeys(("containers", "initContainers", "ephemeralContainers", "volumes", "env"), "name"),
    **dict.fromkeys(("imagePullSecrets", "resourceClaims", "schedulingGates"), "name"),
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
    "ports": "containerPort",
    "hostAliases": "ip",
    "topologySpreadConstraints": "topologyKey",
    "ownerReferences": "uid",
}
"""Lists of objects that are merged one by one, and the field that tells which is which."""
_APPENDED = frozenset({"tolerations", "finalizers"})
"""Lists that a patch adds to. The API server replaces tolerations; here a patch that adds one keeps ours."""
_DIRECTIVE = "$patch"
_RETAIN = "$retainKeys"
_REMOVE = "$deleteFromPrimitiveList/"
_ORDER = "$setElementOrder/"


def merged(base: Mapping[str, Any], patch: Mapping[str, Any]) -> Object:
    """The object with the patch merged in; neither is changed.

    Maps are merged, null removes, lists of the API that have a key are merged by it, other lists are replaced.
    `$patch: replace | delete`, `$retainKeys` and `$deleteFromPrimitiveList/...` mean what they mean to the API server.

    Raises:
        BadValue: an item of a list that is merged by a key has none, or a directive is none.
    """
    directive = patch.get(_DIRECTIVE)
    if directive == "replace":
        return _plain({key: value for key, value in patch.items() if key != _DIRECTIVE})
    if directive == "delete":
        return {}
    if directive not in (None, "merge"):
        raise BadValue(what=f"`$patch: {directive}` means nothing", next="write replace, delete or merge")
    result = dict(base)
    retained = patch.get(_RETAIN)
    if isinstance(retained, list):
        result = {key: value for key, value in result.items() if key in retained}
    for key, value in patch.items():
        if key in (_DIRECTIVE, _RETAIN) or key.startswith(_ORDER):
            continue
        if key.startswith(_REMOVE):
            listed = key.removeprefix(_REMOVE)
            result[listed] = [item for item in result.get(listed) or [] if item not in value]
        elif value is None:
            result.pop(key, None)
        else:
            result[key] = _value(key, result.get(key), value)
    return result


def _value(key: str, old: Any, new: Any) -> Any:
    if isinstance(new, Mapping):
        return merged(old if isinstance(old, Mapping) else {}, cast("Mapping[str, Any]", new))
    if not isinstance(new, list):
        return new
    before = old if isinstance(old, list) else []
    if key in _KEYS and all(isinstance(item, Mapping) for item in new):
        return _by_key(key, before, new)
    if {_DIRECTIVE: "replace"} in new:
        return [item for item in new if item != {_DIRECTIVE: "replace"}]
    if key in _APPENDED:
        return [*before, *(item for item in new if item not in before)]
    return _plain(new)


def _by_key(listed: str, old: list[Any], new: list[Any]) -> list[Any]:
    """Items with the same key are merged where they stand; new ones follow."""
    if any(item.get(_DIRECTIVE) == "replace" for item in new):
        return [_plain(item) for item in new if item.get(_DIRECTIVE) != "replace"]
    field = _KEYS[listed]
    found: dict[Any, Any] = {item.get(field): item for item in old}
    for item in new:
        if field not in item:
            raise BadValue(
                what=f"the patch has an item of `{listed}` without `{field}`",
                why=f"`{field}` tells which item is meant",
                next=f"add `{field}`, or `$patch: replace` as an item to replace the whole list",
            )
        if item.get(_DIRECTIVE) == "delete":
            found.pop(item[field], None)
        else:
            found[item[field]] = merged(found.get(item[field]) or {}, item)
    return list(found.values())


def _plain(value: Any) -> Any:
    """What is new, without nulls and directives: there is nothing that they could remove."""
    if isinstance(value, Mapping):
        return merged({}, cast("Mapping[str, Any]", value))
    return [_plain(item) for item in value] if isinstance(value, list) else value


# The job's patches ---------------------------------------------------------------------------------------------------


def patched(job: Object, patch: Mapping[str, Any]) -> Object:
    """The Job with a patch merged in.

    Raises:
        BadValue: the patch is not for a Job, or takes from the Job what it is found by.
    """
    kind = patch.get("kind", "Job")
    if kind != "Job":
        raise BadValue(
            what=f"the patch is for a {kind}",
            why="a patch changes the Job, and by its template the pods",
            next="write it as for a Job: spec.template.spec holds what a pod has",
        )
    result = merged(job, patch)
    for place in (("metadata",), ("spec", "template", "metadata")):
        ours = {key: value for key, value in _at(job, *place, "labels").items() if key.startswith("kube-nb/")}
        if not ours.items() <= _at(result, *place, "labels").items():
            _keeps_ours(f"{'.'.join(place)}.labels")
    if _at(result, "metadata").get("name") != job["metadata"]["name"]:
        _keeps_ours("metadata.name")
    if _container(result) is None:
        _keeps_ours(f"the container `{names.CONTAINER}`")
    return result


def load_patches(path: Path) -> Iterator[Object]:
    """The patches of a file: YAML or JSON, several with `---` between them.

    Raises:
        BadValue: it cannot be read, or holds something else.
    """
    import yaml

    try:
        documents = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise BadValue(what=f"the patch `{path}` cannot be read", why=why, next="check the path") from error
    except yaml.YAMLError as error:
        raise BadValue(what=f"the patch `{path}` is not YAML", why=str(error).replace("\n", " ")) from None
    for document in documents:
        if document is None:
            continue
        if not isinstance(document, dict):
            raise BadValue(
                what=f"the patch `{path}` is no patch of a Job", next="write it like a Job with only what is to change"
            )
        yield document


def _at(value: Mapping[str, Any], *path: str) -> dict[str, Any]:
    """The map at a path; an empty one where there is none."""
    for name in path:
        inner = value.get(name)
        value = cast("Mapping[str, Any]", inner) if isinstance(inner, Mapping) else {}
    return dict(value)


def _container(job: Object) -> Object | None:
    containers: list[Object] = _at(job, "spec", "template", "spec").get("containers") or []
    return next((one for one in containers if one.get("name") == names.CONTAINER), None)


def _keeps_ours(what: str) -> None:
    raise BadValue(
        what=f"the patch takes away or changes {what}",
        why="the job is found, watched and cancelled by it",
        next="leave it out of the patch",
    )
