"""Settings: the strongest layer wins and its origin is known, locks hold, the user's file keeps its comments."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kube_nb.config import LAYERS, SITE, Origin, Settings
from kube_nb.errors import BadValue, Locked, StorageFailed
from kube_nb.settings import SETTINGS


class Machine:
    """The places where settings are kept, all of them in one directory."""

    def __init__(self, home: Path) -> None:
        self.site = home / "etc" / "config.toml"
        self.user = home / "user" / "config.toml"
        self.project = home / "work" / "pyproject.toml"
        for file in (self.site, self.user, self.project):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.unlink(missing_ok=True)

    def load(self, *, environ: dict[str, str] | None = None, cwd: Path | None = None, **layers: Any) -> Settings:
        return Settings.load(
            cwd or self.project.parent, environ=environ or {}, user=self.user, site=self.site, **layers
        )


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


VALUES = {
    "on": ["local", "lab", "prod/team-a"],
    "memory": ["1Gi", "4Gi", "16G"],
    "install": ["missing", "never"],
    "labels.team": ["a", "b"],
    "labels.app.kubernetes.io/name": ["x", "y"],
    "targets.gpu.context": ["arn:aws:eks/one", "two"],
}


OF_TARGETS = ("memory", "install", "labels.team", "labels.app.kubernetes.io/name")


@pytest.fixture(scope="module")
def shared_machine(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    return Machine(tmp_path_factory.mktemp("machine"))


@given(
    layers=st.dictionaries(
        st.sampled_from(LAYERS),
        st.fixed_dictionaries({}, optional={name: st.sampled_from(values) for name, values in VALUES.items()}),
    )
)
def test_the_strongest_layer_that_sets_a_setting_wins_and_is_its_origin(shared_machine, layers):
    site, user, project = shared_machine.site, shared_machine.user, shared_machine.project
    site.write_text(toml(layers.get("site", {})))
    user.write_text(toml(layers.get("user", {})))
    of_target = layers.get("target", {})
    of_target = layers["target"] = {name: v for name, v in of_target.items() if name in OF_TARGETS}
    project.write_text(
        toml({f"tool.kube-nb.{name}": v for name, v in layers.get("project", {}).items()})
        + "\n"
        + toml({f"tool.kube-nb.targets.here.{name}": v for name, v in of_target.items()})
    )
    settings = shared_machine.load(
        notebook=layers.get("notebook", {}),
        environ=environment(layers.get("environment", {})),
        kernel=layers.get("kernel", {}),
    ).with_layer("flag", layers.get("flag", {}))
    settings = settings.for_target("here")

    for name in VALUES:
        strongest = next((layer for layer in reversed(LAYERS) if name in layers.get(layer, {})), "default")
        assert settings.origin(name).layer == strongest
        if strongest == "default":
            assert settings.get(name) == Settings.load(environ={}, user=user.with_name("none")).get(name)
        else:
            written = layers[strongest][name]
            assert settings.get(name) == ({"1Gi": 2**30, "4Gi": 2**32, "16G": 16 * 10**9}.get(written, written))


def toml(values: dict[str, str]) -> str:
    """Each value on a line of its own, under its full name."""
    lines: list[str] = []
    for name, value in values.items():
        depth = 1 + 2 * ("targets" in name) - ("targets.gpu" in name)
        parts = name.removeprefix("tool.kube-nb.").split(".", depth)
        if name.startswith("tool."):
            parts = ["tool", "kube-nb", *parts]
        lines.append(".".join(f'"{part}"' for part in parts) + f' = "{value}"')
    return "\n".join(lines)


def environment(values: dict[str, str]) -> dict[str, str]:
    """The same as variables; tables are YAML."""
    found = {f"KUBE_NB_{name.upper()}": value for name, value in values.items() if "." not in name}
    labels = [f"{name.split('.', 1)[1]}={value}" for name, value in values.items() if name.startswith("labels.")]
    if labels:
        found["KUBE_NB_LABELS"] = ",".join(labels)
    if "targets.gpu.context" in values:
        found["KUBE_NB_TARGETS"] = f"{{gpu: {{context: '{values['targets.gpu.context']}'}}}}"
    return found


def test_defaults(machine):
    settings = machine.load()
    assert settings.get("on") == "local"
    assert settings.get("return_limit") == 256_000_000
    assert settings.get("pass_env") == ("MLFLOW_*", "WANDB_*", "HF_*")
    assert settings.get("compare_budget") == 2.0
    assert settings.get("image") is None
    assert settings.get("labels") == {}
    assert settings.get("state_dir").is_absolute()
    assert settings.origin("on") == Origin("default")


def test_every_default_is_a_value_of_its_setting(machine):
    assert [machine.load().get(name) for name in SETTINGS]


def test_an_origin_names_the_line(machine):
    machine.user.write_text('# mine\non = "lab"\n\n[labels] # ours\nteam = "a"\n\n[targets.gpu]\n"context" = "ctx"\n')
    machine.project.write_text('[project]\nname = "x"\n[tool.kube-nb]\nmemory = "1Gi"\n')
    settings = machine.load(environ={"KUBE_NB_CPU": "500m"})
    where = {
        name: settings.origin(name).where for name in ("on", "labels.team", "targets.gpu.context", "memory", "cpu")
    }
    assert where == {
        "on": f"{machine.user}:2",
        "labels.team": f"{machine.user}:5",
        "targets.gpu.context": f"{machine.user}:8",
        "memory": f"{machine.project}:4",
        "cpu": "KUBE_NB_CPU",
    }


def test_the_nearest_pyproject_upwards_counts(machine):
    deeper = machine.project.parent / "a" / "b"
    deeper.mkdir(parents=True)
    machine.project.write_text('[tool.kube-nb]\nimage = "outer"\n')
    assert machine.load(cwd=deeper).get("image") == "outer"
    (deeper.parent / "pyproject.toml").write_text("[project]\n")
    assert machine.load(cwd=deeper).get("image") is None


def test_a_broken_pyproject_that_says_nothing_of_us_is_left_alone(machine):
    machine.project.write_text("not = = toml")
    assert machine.load().get("on") == "local"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('memroy = "4Gi"', ("memroy", "`memory`", ":1")),
        ('on = "x"\nmemory = "4 parsecs"', ("`memory`", "4 parsecs", ":2")),
        ("gpus = true", ("gpus", ":1")),
        ("install = 'sometimes'", ("missing, never", ":1")),
        ("labels = 3", ("labels", ":1")),
        ("[labels]\nteam = 3", ("labels", ":1")),
        ("[targets.gpu]\ncontxt = 'x'", ("targets", "context")),
        ("[targets.gpu]", ("targets.gpu", "empty")),
        ("state_dir = 'relative/path'", ("state_dir", "absolute")),
        ("on = \nmemory = 1", ("config.toml", "line 1")),
        ("locked = ['image']", ("locked", ":1")),
    ],
)
def test_what_means_nothing_is_refused_with_its_place(machine, text, said):
    machine.user.write_text(text)
    with pytest.raises(BadValue) as refused:
        machine.load()
    assert all(part in str(refused.value) for part in said), str(refused.value)


def test_an_unreadable_file_is_not_passed_over(machine):
    machine.site.mkdir()
    with pytest.raises(BadValue, match="cannot be read"):
        machine.load()


def test_a_mistyped_variable_is_refused(machine):
    with pytest.raises(BadValue, match="KUBE_NB_MEMORY"):
        machine.load(environ={"KUBE_NB_MEMROY": "4Gi"})


def test_variables_of_others_are_left_alone(machine):
    strangers = ("PORT", "SERVICE_HOST", "PORT_80_TCP_ADDR", "JOB", "ATTEMPT", "SOCKET", "TOKEN", "OUT", "CHECKPOINTS")
    settings = machine.load(environ={f"KUBE_NB_{name}": "1" for name in strangers} | {"KUBE_NB_ON": ""})
    assert all(settings.origin(name).layer == "default" for name in SETTINGS)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("pass_env", "A, B_*", ("A", "B_*")),
        ("pass_env", "['A', 'B']", ("A", "B")),
        ("index", "https://one/simple,https://two/simple", ("https://one/simple", "https://two/simple")),
        ("image_map", "python:3.11-slim=mirror/python:3.11", {"python:3.11-slim": "mirror/python:3.11"}),
        ("tolerations", "[{key: gpu, operator: Exists}]", ({"key": "gpu", "operator": "Exists"},)),
        ("patch", "{spec: {x: 1}}", {"spec": {"x": 1}}),
        ("patch", "patches/gpu.yaml", "patches/gpu.yaml"),
        ("gpus", "2", "2:nvidia.com/gpu"),
        ("gpus", "0", "0"),
        ("state_dir", "/var/jobs", Path("/var/jobs")),
    ],
)
def test_text_of_a_variable_or_a_person_is_read_as_its_kind(machine, name, text, value):
    result = machine.load().set(name, text).get(name)
    if isinstance(value, tuple) and value and isinstance(value[0], dict):
        assert tuple(dict(item) for item in result) == value
    else:
        assert result == value
    if name != "patch":
        assert machine.load(environ={f"KUBE_NB_{name.upper()}": text}).get(name) == result


@pytest.mark.parametrize("layer", ["user", "project", "notebook", "environment", "kernel"])
def test_no_layer_overrides_what_the_site_locks(machine, layer):
    machine.site.write_text('locked = ["image", "labels.cost"]\nimage = "ours"\n')
    machine.user.write_text('image = "mine"' if layer == "user" else "")
    machine.project.write_text('[tool.kube-nb]\nimage = "mine"' if layer == "project" else "")
    with pytest.raises(Locked) as refused:
        machine.load(
            notebook={"image": "mine"} if layer == "notebook" else None,
            environ={"KUBE_NB_IMAGE": "mine"} if layer == "environment" else None,
            kernel={"image": "mine"} if layer == "kernel" else None,
        )
    assert str(machine.site) in refused.value.why


def test_a_lock_holds_against_flags_and_the_kernel_and_saving(machine):
    machine.site.write_text('locked = ["image", "labels"]\nimage = "ours"\nlabels = {cost = "1"}')
    settings = machine.load()
    for act in (
        lambda: settings.with_layer("flag", {"image": "mine"}),
        lambda: settings.set("labels.team", "a"),
        lambda: settings.save("labels", "cost=2"),
    ):
        with pytest.raises(Locked, match=str(machine.site)):
            act()
    assert not machine.user.exists()
    assert settings.with_layer("flag", {"image": "ours", "memory": "1Gi"}).get("memory") == 2**30


def test_a_locked_setting_without_a_value_keeps_its_default(machine):
    machine.site.write_text('locked = ["on_interrupt"]')
    with pytest.raises(Locked):
        machine.load(environ={"KUBE_NB_ON_INTERRUPT": "cancel"})


def test_a_lock_of_what_does_not_exist_is_refused(machine):
    machine.site.write_text('locked = ["imagee"]')
    with pytest.raises(BadValue, match="image"):
        machine.load()


def test_no_variable_moves_the_sites_file(monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_DIRS", "/elsewhere")
    assert Path("/etc/kube-nb/config.toml") == SITE
    assert not any("site" in name for name in SETTINGS)


def test_settings_are_values(machine):
    before = machine.load()
    after = before.set("memory", "1Gi")
    assert (before.get("memory"), after.get("memory")) == (None, 2**30)
    assert after.set("memory", None).get("memory") is None
    assert machine.load(kernel=after.kernel).get("memory") == 2**30
    after.get("labels")["x"] = "y"
    assert after.get("labels") == {}


def test_a_flag_that_was_not_given_sets_nothing(machine):
    settings = machine.load(kernel={"memory": "1Gi"}).with_layer("flag", {"memory": None})
    assert settings.origin("memory").layer == "kernel"


def test_saving_keeps_comments_and_is_for_the_owner_alone(machine):
    machine.user.write_text('# our team\non = "lab"  # the big one\n\n[targets.lab]\ncontext = "c"\n')
    settings = machine.load().save("memory", "4Gi").save("labels.team", "a").save("pass_env", "A,B")
    text = machine.user.read_text()
    assert "# our team" in text
    assert "# the big one" in text
    assert 'memory = "4Gi"' in text
    assert stat.S_IMODE(machine.user.stat().st_mode) == 0o600
    assert settings.get("targets") == {"lab": {"context": "c"}}
    assert [path.name for path in machine.user.parent.iterdir()] == ["config.toml"]
    assert settings.origin("memory").layer == "user"


@given(st.dictionaries(st.sampled_from(list(VALUES)), st.integers(0, 1), min_size=1), st.sampled_from(list(VALUES)))
def test_what_was_saved_is_what_is_loaded(shared_machine, chosen, removed):
    for file in (shared_machine.site, shared_machine.user, shared_machine.project):
        file.unlink(missing_ok=True)
    settings = shared_machine.load()
    for name, choice in chosen.items():
        settings = settings.save(name, VALUES[name][choice])
    settings = settings.save(removed, None)
    loaded = shared_machine.load()
    for name in VALUES:
        assert loaded.get(name) == settings.get(name)
        assert (loaded.origin(name).layer == "user") == (name in chosen and name != removed)


def test_a_link_to_the_users_file_stays_a_link(machine, tmp_path):
    real = tmp_path / "dotfiles.toml"
    real.write_text("")
    machine.user.symlink_to(real)
    machine.load().save("on", "lab")
    assert machine.user.is_symlink()
    assert 'on = "lab"' in real.read_text()


def test_a_file_that_cannot_be_written_is_told(machine):
    machine.user.parent.rmdir()
    machine.user.parent.write_text("a file where the directory should be")
    with pytest.raises(StorageFailed, match=r"config\.toml"):
        machine.load().save("on", "lab")


def test_a_value_that_means_nothing_is_not_saved(machine):
    machine.user.write_text('on = "lab"\n')
    with pytest.raises(BadValue):
        machine.load().save("memory", "many")
    assert machine.user.read_text() == 'on = "lab"\n'


def test_the_table_shows_every_setting_and_no_secret(machine):
    settings = machine.load(
        kernel={
            "index": "https://user:hunter2@index.example/simple",
            "patch": "{env: [{name: A, value: hunter2}]}",
            "memory": "4Gi",
            "labels": {"team": "a", "cost": "1"},
        }
    )
    rows = {row.name: row for row in settings.table()}
    assert {name.split(".")[0] for name in rows} == set(SETTINGS)
    assert rows["memory"].value == "4Gi"
    assert rows["memory"].origin.layer == "kernel"
    assert rows["labels.team"].value == "a"
    assert rows["return_limit"].value == "256MB"
    assert rows["index"].value == "https://***@index.example/simple"
    assert "hunter2" not in repr([settings, *rows.values()])


def test_the_table_names_the_file_that_locks(machine):
    machine.site.write_text('locked = ["image"]')
    rows = {row.name: row for row in machine.load().table()}
    assert rows["image"].locked == str(machine.site)
    assert rows["memory"].locked == ""


def test_an_unknown_name_is_refused_everywhere(machine):
    settings = machine.load()
    for act in (settings.get, settings.origin, lambda n: settings.set(n, 1), lambda n: settings.save(n, 1)):
        with pytest.raises(BadValue, match="return_limit"):
            act("return-limt")


# Named targets -----------------------------------------------------------------------------------------------------------


TARGET = """
image = "general"
[targets.gpu]
context = "lab"
image = "cuda"
memory = "4Gi"
[targets.gpu.node_selector]
"example.org/pool" = "gpu"
"""


def test_a_target_is_stronger_than_what_is_said_for_all(machine):
    machine.user.write_text(TARGET)
    settings = machine.load(environ={"KUBE_NB_IMAGE": "of the environment"})
    assert settings.for_target("gpu").get("image") == "cuda"
    assert settings.for_target("gpu/team-a").get("memory") == 4 * 1024**3
    assert settings.for_target("gpu").get("node_selector") == {"example.org/pool": "gpu"}
    assert settings.for_target("gpu").origin("image") == Origin("target", f"{machine.user}:5")
    assert settings.for_target("other").get("image") == "of the environment"


def test_what_is_said_later_is_stronger_than_a_target(machine):
    machine.user.write_text(TARGET)
    settings = machine.load(kernel={"image": "mine"}).for_target("gpu")
    assert settings.get("image") == "mine"
    assert settings.with_layer("flag", {"image": "now"}).get("image") == "now"


def test_a_target_may_be_said_in_several_layers(machine):
    machine.user.write_text(TARGET)
    machine.project.write_text('[tool.kube-nb.targets.gpu]\nimage = "here"\nqueue = "research"\n')
    settings = machine.load().for_target("gpu")
    assert (settings.get("image"), settings.get("queue"), settings.get("memory")) == ("here", "research", 4 * 1024**3)


def test_a_target_cannot_override_what_the_site_locks(machine):
    machine.site.write_text('image = "a"\nlocked = ["image"]\n')
    machine.user.write_text('[targets.gpu]\nimage = "b"\n')
    settings = machine.load()
    with pytest.raises(Locked, match="image"):
        settings.for_target("gpu")
    assert settings.for_target("other").get("image") == "a"


def test_the_sites_own_target_may_differ_from_what_it_locks(machine):
    machine.site.write_text('image = "a"\nlocked = ["image"]\n[targets.gpu]\nimage = "b"\n')
    assert machine.load().for_target("gpu").get("image") == "b"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('on = "x"', "`gpu.on`"),
        ('state_dir = "/x"', "`gpu.state_dir`"),
        ('imge = "x"', "image"),
        ('memory = "much"', "memory"),
        ('labels = "x"', "table"),
        ('priority_class = "High"', "priority class"),
        ('store = "somewhere"', "store"),
    ],
)
def test_what_a_target_cannot_say_is_refused(machine, line, said):
    machine.user.write_text(f"[targets.gpu]\n{line}\n")
    with pytest.raises(BadValue, match=said):
        machine.load()


@pytest.mark.parametrize("written", ["auto", "none", "claim:results", "s3://bucket/folder", "file:///shared"])
def test_stores(machine, written):
    assert machine.load(environ={"KUBE_NB_STORE": written}).get("store") == written


def test_an_entry_of_a_table_of_a_target_is_saved_and_shown(machine):
    settings = machine.load().save("targets.gpu.labels.example.org/team", "a").save("targets.gpu.memory", "5Gi")
    assert settings.get("targets") == {"gpu": {"labels": {"example.org/team": "a"}, "memory": 5 * 1024**3}}
    assert {row.name: row.value for row in settings.table() if row.name.startswith("targets")} == {
        "targets.gpu.labels.example.org/team": "a",
        "targets.gpu.memory": "5Gi",
    }
    assert settings.set("targets.gpu.memory", "6Gi").for_target("gpu").get("memory") == 6 * 1024**3
