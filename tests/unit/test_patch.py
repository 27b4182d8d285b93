"""Laws of the strategic merge; that it is the API server's own is shown in tests/cluster/test_patch.py."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kube_nb.backends.kubernetes.patch import load_patches, merged, patched
from kube_nb.errors import BadValue

scalars = st.one_of(st.integers(0, 3), st.booleans(), st.sampled_from(["a", "b", ""]))


def objects(nulls: bool) -> st.SearchStrategy[dict]:
    """Maps as manifests have them: keyed lists, appended lists, plain lists, maps and scalars in one another."""
    leaf = scalars | st.none() if nulls else scalars

    def inside(inner):
        named = st.lists(st.tuples(st.sampled_from("xyz"), inner), max_size=3, unique_by=lambda pair: pair[0])
        keyed = named.map(lambda pairs: [{"v": value, "name": name} for name, value in pairs])
        fields = {
            "env": keyed,
            "containers": keyed,
            "tolerations": st.lists(scalars, unique=True),
            "args": st.lists(inner),
        }
        return st.fixed_dictionaries({}, optional=fields | dict.fromkeys("abc", leaf | inner))

    return inside(st.recursive(st.fixed_dictionaries({}, optional={"a": leaf}), inside, max_leaves=6))


def without_nulls(value):
    if isinstance(value, dict):
        return {key: without_nulls(inner) for key, inner in value.items() if inner is not None}
    return [without_nulls(inner) for inner in value] if isinstance(value, list) else value


@given(objects(nulls=False))
def test_an_empty_patch_changes_nothing(base):
    assert merged(base, {}) == base


@given(objects(nulls=False))
def test_what_is_there_already_changes_nothing(base):
    assert merged(base, base) == base


@given(objects(nulls=True))
def test_a_patch_of_nothing_is_what_it_says_without_its_nulls(patch):
    assert merged({}, patch) == without_nulls(patch)


@given(objects(nulls=False), objects(nulls=True))
def test_twice_is_once(base, patch):
    once = merged(base, patch)
    assert merged(once, patch) == once


@given(objects(nulls=False), objects(nulls=True))
def test_neither_is_changed(base, patch):
    before = copy.deepcopy((base, patch))
    result = merged(base, patch)
    result["new"] = 1
    assert (base, patch) == before


@given(objects(nulls=False), objects(nulls=True))
def test_what_a_patch_does_not_name_stays(base, patch):
    result = merged(base, patch)
    for key, value in base.items():
        if key not in patch:
            assert result[key] == value
    for key in patch:
        assert (key in result) == (patch[key] is not None)


@given(objects(nulls=False), objects(nulls=True))
def test_items_of_keyed_lists_are_merged_one_by_one(base, patch):
    result = merged(base, patch)
    if isinstance(patch.get("env"), list):
        before = {item["name"]: item for item in base.get("env", [])}
        after = {item["name"]: item for item in result["env"]}
        assert list(after)[: len(before)] == list(before)
        for item in patch["env"]:
            assert after[item["name"]] == merged(before.get(item["name"], {}), item)


@pytest.mark.parametrize(
    ("base", "patch", "result"),
    [
        ({"a": {"b": 1, "c": 2}}, {"a": {"$patch": "replace", "c": 3}}, {"a": {"c": 3}}),
        ({"a": {"b": 1}}, {"a": {"$patch": "delete"}}, {"a": {}}),
        (
            {"env": [{"name": "x"}, {"name": "y"}]},
            {"env": [{"name": "x", "$patch": "delete"}]},
            {"env": [{"name": "y"}]},
        ),
        ({"env": [{"name": "x"}]}, {"env": [{"$patch": "replace"}, {"name": "y"}]}, {"env": [{"name": "y"}]}),
        ({"args": [1, 2]}, {"args": [3]}, {"args": [3]}),
        ({"tolerations": [1]}, {"tolerations": [2]}, {"tolerations": [1, 2]}),
        ({"tolerations": [1]}, {"tolerations": [{"$patch": "replace"}, 2]}, {"tolerations": [2]}),
        ({"finalizers": ["a", "b"]}, {"$deleteFromPrimitiveList/finalizers": ["a"]}, {"finalizers": ["b"]}),
        (
            {"volumes": [{"name": "t", "emptyDir": {}}]},
            {"volumes": [{"name": "t", "$retainKeys": ["name", "nfs"], "nfs": 1}]},
            {"volumes": [{"name": "t", "nfs": 1}]},
        ),
    ],
)
def test_directives(base, patch, result):
    assert merged(base, patch) == result


@pytest.mark.parametrize(
    ("patch", "said"),
    [({"env": [{"value": 1}]}, "`env` without `name`"), ({"a": {"$patch": "remove"}}, "`$patch: remove`")],
)
def test_a_patch_that_means_nothing_is_refused(patch, said):
    with pytest.raises(BadValue) as refused:
        merged({}, patch)
    assert said in refused.value.what


JOB = {
    "metadata": {"name": "j", "labels": {"kube-nb/job": "j", "team": "a"}},
    "spec": {
        "template": {
            "metadata": {"labels": {"kube-nb/job": "j"}},
            "spec": {"containers": [{"name": "job", "image": "a"}]},
        }
    },
}


def of_pod(**spec):
    return {"spec": {"template": {"spec": spec}}}


def test_a_patch_of_a_job_reaches_its_container():
    result = patched(JOB, of_pod(containers=[{"name": "job", "image": "b"}, {"name": "proxy"}], hostUsers=False))
    assert result["spec"]["template"]["spec"] == {
        "containers": [{"name": "job", "image": "b"}, {"name": "proxy"}],
        "hostUsers": False,
    }


@pytest.mark.parametrize(
    "patch",
    [
        {"kind": "Deployment"},
        {"metadata": {"name": "other"}},
        {"metadata": {"labels": {"kube-nb/job": "other"}}},
        {"metadata": {"labels": None}},
        {"spec": {"template": {"metadata": {"labels": {"kube-nb/job": None}}}}},
        of_pod(containers=[{"name": "job", "$patch": "delete"}]),
        of_pod(containers=[{"$patch": "replace"}, {"name": "mine"}]),
    ],
)
def test_a_job_keeps_what_it_is_found_by(patch):
    with pytest.raises(BadValue):
        patched(JOB, patch)


def test_a_file_holds_several_patches(tmp_path):
    file = tmp_path / "patch.yaml"
    file.write_text("spec: {a: 1}\n---\n# nothing\n---\nspec: {b: 2}\n")
    assert list(load_patches(file)) == [{"spec": {"a": 1}}, {"spec": {"b": 2}}]


@pytest.mark.parametrize("text", ["a: [", "- a\n", "word\n", None], ids=["no YAML", "a list", "a word", "no file"])
def test_a_file_that_holds_no_patch_is_refused(tmp_path, text):
    file = tmp_path / "patch.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(BadValue) as refused:
        list(load_patches(file))
    assert str(file) in refused.value.what
