"""The options of everything that submits, and what they make."""

from __future__ import annotations

import pytest

from kube_nb.config import Settings
from kube_nb.errors import BadFlag, BadValue, Locked
from kube_nb.options import Options
from kube_nb.spec import Gpu, SecretUse, Task, VolumeUse


def settings(tmp_path, environ=None, site=""):
    file = tmp_path / "site.toml"
    file.write_text(site)
    return Settings.load(cwd=tmp_path, environ=environ or {}, user=tmp_path / "none.toml", site=file)


def test_texts_become_values(tmp_path):
    options = Options().having(gpus="2", memory="4Gi", timeout="1h30m", retries="3", packages="a,b", nodes=2)
    spec = options.spec(Task(), settings(tmp_path), default_name="cell")
    assert spec.resources.gpu == Gpu(count=2)
    assert (spec.resources.memory, spec.resources.nodes) == (4 * 1024**3, 2)
    assert (spec.policy.timeout, spec.policy.retries) == (5400, 3)
    assert spec.environment.packages == ("a", "b")


def test_a_setting_decides_where_no_flag_is_given(tmp_path):
    found = settings(tmp_path, {"KUBE_NB_MEMORY": "1Gi"})
    assert Options().spec(Task(), found, default_name="cell").resources.memory == 1024**3
    assert Options().having(memory="2Gi").spec(Task(), found, default_name="c").resources.memory == 2 * 1024**3


def test_a_flag_cannot_override_what_the_site_locks(tmp_path):
    found = settings(tmp_path, site='image = "a"\nlocked = ["image"]\n')
    with pytest.raises(Locked, match=r"site\.toml"):
        Options().having(image="b").spec(Task(), found, default_name="cell")


def test_an_unknown_option_names_the_nearest():
    with pytest.raises(BadFlag, match="memory"):
        Options().having(memroy="1Gi")


def test_outputs_none_means_nothing_comes_back():
    assert Options().having(outputs=["none"]).outputs == ()
    assert Options().having(outputs="a, b").outputs == ("a", "b")
    assert Options().outputs is None


def test_sessions_are_refused_for_now(tmp_path):
    with pytest.raises(BadFlag, match="reserved"):
        Options().having(session="x").spec(Task(), settings(tmp_path), default_name="cell")


def test_variables_are_taken_from_the_kernel_or_given(tmp_path):
    environ = {"TOKEN": "t", "WANDB_KEY": "w", "OTHER": "o"}
    found = Options().having(env=["TOKEN", "A=b=c"]).variables(settings(tmp_path), environ)
    assert found == {"TOKEN": "t", "A": "b=c", "WANDB_KEY": "w"}
    assert Options().having(env={"A": "1"}).variables(settings(tmp_path), {}) == {"A": "1"}
    with pytest.raises(BadValue, match="NOPE"):
        Options().having(env=["NOPE"]).variables(settings(tmp_path), environ)
    with pytest.raises(BadValue, match="not a name"):
        Options().having(env=["A B=1"]).variables(settings(tmp_path), environ)


def test_secrets_are_not_shown():
    assert "hunter2" not in repr(Options().having(env=["PASSWORD=hunter2"]))


def test_what_only_a_cluster_knows_is_parsed(tmp_path):
    options = Options().having(
        gpus="1",
        gpu_product="A100,H100",
        shm="1Gi",
        disk="10Gi",
        secret=["db", "tls:/tls"],
        volume="data:/data:ro",
        node_selector=["pool=gpu", "example.org/zone=a"],
        priority_class="high",
        runtime_class="nvidia",
        service_account="me",
    )
    spec = options.spec(Task(), settings(tmp_path), default_name="cell")
    assert spec.resources.gpu == Gpu(count=1, products=("A100", "H100"))
    assert (spec.resources.shm, spec.resources.disk) == (1024**3, 10 * 1024**3)
    placement = spec.placement
    assert placement.secrets == (SecretUse(name="db"), SecretUse(name="tls", path="/tls"))
    assert placement.volumes == (VolumeUse(claim="data", path="/data", read_only=True),)
    assert placement.node_selector == {"pool": "gpu", "example.org/zone": "a"}
    assert (placement.priority_class, placement.runtime_class, placement.service_account) == ("high", "nvidia", "me")


def test_a_selector_is_added_to_that_of_the_settings(tmp_path):
    found = settings(tmp_path, site='node_selector = {pool = "cpu", os = "linux"}\n')
    options = Options().having(node_selector={"pool": "gpu"})
    assert options.spec(Task(), found, default_name="c").placement.node_selector == {"pool": "gpu", "os": "linux"}


def test_a_product_without_a_gpu_is_refused_as_a_flag_alone(tmp_path):
    with pytest.raises(BadFlag, match="--gpus 1"):
        Options().having(gpu_product="A100").spec(Task(), settings(tmp_path), default_name="c")
    found = settings(tmp_path, {"KUBE_NB_GPU_PRODUCT": "A100"})
    assert Options().spec(Task(), found, default_name="c").resources.gpu is None


def test_a_named_target_decides_unless_a_flag_does(tmp_path):
    found = settings(tmp_path, site='image = "a"\n[targets.gpu]\ncontext = "x"\nimage = "b"\ngpus = 1\n').for_target(
        "gpu"
    )
    spec = Options().spec(Task(), found, default_name="c")
    assert (spec.environment.image, spec.resources.gpu) == ("b", Gpu(count=1))
    spec = Options().having(image="c", gpus=0).spec(Task(), found, default_name="c")
    assert (spec.environment.image, spec.resources.gpu) == ("c", None)
