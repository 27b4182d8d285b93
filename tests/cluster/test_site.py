"""The settings of a namespace: a ConfigMap joins the site's file, and what it locks nobody changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from kube_nb.backends.kubernetes import site
from kube_nb.backends.kubernetes.api import Api, Object
from kube_nb.backends.kubernetes.kinds import CONFIG_MAPS
from kube_nb.config import Settings
from kube_nb.errors import BadValue, Locked
from tests.cluster.conftest import Made
from tests.cluster.users import user

Load = Callable[..., Settings]


@pytest.fixture
def says(cluster: Api, made: Made, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Api]]:
    """Lets the namespace say something, under a name of this test's own: other tests submit jobs there meanwhile."""
    from kube_nb.spec import new_job_id

    monkeypatch.setattr(site, "CONFIG_MAP", new_job_id("t-defaults"))

    def say(text: str) -> Api:
        body: Object = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": site.CONFIG_MAP},
            "data": {site.KEY: text},
        }
        made(CONFIG_MAPS, body)
        return replace(cluster)

    return say


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """The settings of a machine on which only what a test writes is said."""

    def settings(file: str = "", **layers: object) -> Settings:
        path = tmp_path / "site.toml"
        path.write_text(file)
        return Settings.load(tmp_path, environ={}, user=tmp_path / "user.toml", site=path, **layers)  # type: ignore[arg-type]

    return settings


def test_without_one_the_settings_are_as_they_are(cluster, load, monkeypatch):
    monkeypatch.setattr(site, "CONFIG_MAP", "t-nobody-has-this")
    settings = load(kernel={"memory": "1Gi"})
    assert site.joined(replace(cluster), settings) is settings


def test_it_is_stronger_than_the_machines_file_and_weaker_than_the_person(says, load):
    api = says('memory = "3Gi"\nimage = "team/image:1"\n[labels]\nteam = "ds"\n')
    settings = site.joined(api, load('memory = "2Gi"\nqueue = "slow"\n', kernel={"image": "my/own:2"}))
    assert settings.get("memory") == 3 * 2**30
    assert settings.get("queue") == "slow"
    assert settings.get("image") == "my/own:2"
    assert settings.get("labels") == {"team": "ds"}
    origin = settings.origin("memory")
    assert (origin.layer, origin.where) == ("site", f"{site.where(api)}:1")


def test_what_it_locks_nobody_changes_and_the_error_names_it(says, load):
    api = says('locked = ["queue"]\nqueue = "team"\n')
    settings = site.joined(api, load())
    assert settings.get("queue") == "team"
    with pytest.raises(Locked) as caught:
        settings.with_layer("flag", {"queue": "mine"})
    assert site.where(api) in caught.value.why
    assert "--queue" in caught.value.what
    assert settings.with_layer("flag", {"queue": "team"}).get("queue") == "team"


def test_an_override_that_was_said_before_is_found_when_it_joins(says, load):
    api = says('locked = ["queue"]\nqueue = "team"\n')
    with pytest.raises(Locked) as caught:
        site.joined(api, load(kernel={"queue": "mine"}))
    assert "%kube_config" in caught.value.what


def test_what_the_machines_file_locks_it_does_not_change(says, load, tmp_path):
    api = says('image = "other/image:1"\nmemory = "3Gi"\n')
    settings = site.joined(api, load('locked = ["image"]\nimage = "safe/image:1"\n'))
    assert settings.get("image") == "safe/image:1"
    assert settings.get("memory") == 3 * 2**30
    with pytest.raises(Locked) as caught:
        settings.with_layer("flag", {"image": "mine"})
    assert "site.toml" in caught.value.why


def test_it_has_no_say_in_a_persons_machine(says, load, tmp_path):
    api = says(
        'state_dir = "/tmp/elsewhere"\npass_env = ["*"]\non = "prod"\nnamespace = "theirs"\nfuture = 1\n'
        'memory = "3Gi"\nlocked = ["state_dir", "memory"]\n[targets.local]\ncontext = "x"\n'
    )
    settings = load()
    joined = site.joined(api, settings)
    assert joined.get("memory") == 3 * 2**30
    for name in ("state_dir", "pass_env", "on", "namespace", "targets"):
        assert joined.get(name) == settings.get(name)
    said = site.said(api)
    assert said is not None
    assert (said.sets, said.locks) == (("memory",), ("memory",))
    assert set(said.ignored) == {"state_dir", "pass_env", "on", "namespace", "future", "targets"}


@pytest.mark.parametrize("text", ['memory = "', 'memory = "much"', 'patch = "/etc/passwd"'])
def test_what_means_nothing_there_is_named(says, load, text):
    api = says(text)
    with pytest.raises(BadValue) as caught:
        site.joined(api, load())
    assert "ConfigMap" in str(caught.value)


def test_who_may_not_read_it_is_not_held_up(says, load, admin, tmp_path):
    says('memory = "3Gi"\n')
    with user(admin, tmp_path) as nobody:
        assert site.joined(nobody.api, load()).get("memory") is None
