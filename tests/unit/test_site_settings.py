"""What a namespace says for all its users joins the site's layer: above the machine's file, below everybody else."""

from __future__ import annotations

from pathlib import Path

import pytest

from kube_nb.config import Settings
from kube_nb.errors import BadValue, Locked
from kube_nb.settings import OF_NAMESPACE, SETTINGS

CALLED = "ConfigMap kube-nb-defaults of namespace team-a"


@pytest.fixture
def load(tmp_path: Path):
    def settings(file: str = "", user: str = "", **layers: object) -> Settings:
        for name, text in (("site.toml", file), ("user.toml", user)):
            (tmp_path / name).write_text(text)
        return Settings.load(tmp_path, environ={}, user=tmp_path / "user.toml", site=tmp_path / "site.toml", **layers)  # type: ignore[arg-type]

    return settings


def test_it_is_stronger_than_the_file_and_weaker_than_the_user(load):
    settings = load('memory = "1Gi"\nqueue = "a"\n', 'image = "mine"\n')
    settings = settings.with_site('memory = "2Gi"\nimage = "theirs"\n', CALLED)
    assert settings.get("memory") == 2**31
    assert settings.get("queue") == "a"
    assert settings.get("image") == "mine"
    assert settings.origin("memory").where == f"{CALLED}:1"


def test_entries_of_tables_are_joined(load):
    settings = load('[labels]\nteam = "a"\ncost = "1"\n').with_site('[labels]\ncost = "2"\n', CALLED)
    assert settings.get("labels") == {"team": "a", "cost": "2"}


@pytest.mark.parametrize("layer", ["user", "kernel"])
def test_what_it_locks_is_found_in_layers_that_were_read_before(load, layer):
    settings = load(user='queue = "mine"\n') if layer == "user" else load(kernel={"queue": "mine"})
    with pytest.raises(Locked) as caught:
        settings.with_site('locked = ["queue"]\nqueue = "team"\n', CALLED)
    assert CALLED in caught.value.why


def test_a_named_target_is_bound_by_it_too_but_the_sites_own_targets_are_not(load):
    text = 'locked = ["queue"]\nqueue = "team"\n'
    with pytest.raises(Locked):
        load(user='[targets.gpu]\nqueue = "mine"\n').for_target("gpu").with_site(text, CALLED)
    settings = load('[targets.gpu]\nqueue = "fast"\n').for_target("gpu").with_site(text, CALLED)
    assert settings.get("queue") == "fast"


def test_the_locks_of_both_hold_and_each_is_named(load):
    settings = load('locked = ["image"]\nimage = "safe"\n').with_site('locked = ["queue"]\nimage = "x"\n', CALLED)
    assert settings.get("image") == "safe"
    with pytest.raises(Locked) as caught:
        settings.with_layer("flag", {"image": "x"})
    assert "site.toml" in caught.value.why
    with pytest.raises(Locked) as caught:
        settings.with_layer("flag", {"queue": "x"})
    assert CALLED in caught.value.why
    rows = {row.name: row.locked for row in settings.table()}
    assert rows["image"].endswith("site.toml")
    assert rows["queue"] == CALLED


def test_what_reaches_into_a_persons_machine_is_out_of_its_reach():
    assert set(SETTINGS) - OF_NAMESPACE >= {"on", "namespace", "state_dir", "targets", "pass_env", "return_limit"}
    assert {"image", "memory", "queue", "tolerations", "labels", "patch", "index", "install", "store"} <= OF_NAMESPACE


@pytest.mark.parametrize("name", sorted(set(SETTINGS) - OF_NAMESPACE))
def test_such_a_setting_is_left_out(load, name):
    settings = load()
    joined = settings.with_site(f'{name} = "x"\nlocked = ["{name}"]\n', CALLED)
    assert joined.get(name) == settings.get(name)
    assert joined.table() == settings.table()


def test_settings_of_other_versions_do_no_harm(load):
    assert load().with_site('of_the_future = 1\nlocked = ["of_the_future"]\nqueue = "q"\n', CALLED).get("queue") == "q"


@pytest.mark.parametrize("text", ["memory = [", 'memory = "much"', 'patch = "/etc/passwd"', "locked = 1"])
def test_what_means_nothing_names_the_place(load, text):
    with pytest.raises(BadValue) as caught:
        load().with_site(text, CALLED)
    assert CALLED in str(caught.value)
