"""What a job on a cluster installs: what its code and values import, and nothing else of the kernel."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kube_nb.backends.base import Bundle, JobStatus, Reason
from kube_nb.capture.bundle import pack, repack
from kube_nb.capture.cargo import Cargo, load_cargo
from kube_nb.capture.packages import here
from kube_nb.capture.work import Choice, Work
from kube_nb.client import Client
from kube_nb.config import Settings
from kube_nb.errors import CannotTravel
from kube_nb.jobs.journal import Entry, Journal
from kube_nb.jobs.settle import CUT_OFF
from kube_nb.runner.installer import CREDENTIALS, PROXIES
from kube_nb.spec import JobSpec, Phase, Platform, new_job_id

ELSEWHERE = here()


@pytest.fixture
def cargo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Makes the cargo of a cell; nothing of this machine's own configuration of pip and uv counts."""
    for name in ("PIP_FIND_LINKS", "PIP_CERT", "SSL_CERT_FILE", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("UV_NO_CONFIG", "1")

    def make(source: str, target: Platform | None = ELSEWHERE, root: Path = tmp_path, **names: Any) -> Cargo:
        choices = {key: names.pop(key) for key in ("packages", "index", "install", "send") if key in names}
        choice = Choice(target=target, limit=1 << 20, budget=1.0, **choices)
        return load_cargo(Work(source=source, namespace={"__name__": "__main__", **names}, root=root), choice)

    return make


def pins(cargo: Cargo) -> list[str]:
    return [pin.partition("==")[0].lower() for pin in cargo.packages.manifest["pins"]]


def test_what_the_code_imports_is_pinned_at_the_kernels_version(cargo):
    told = cargo("import yaml, json\nx = yaml.safe_load('a')").packages.manifest
    assert told["pins"] == [f"PyYAML=={version('pyyaml')}"]
    assert told["inferred"] == told["pins"]


def test_what_nobody_imports_stays_here(cargo):
    assert "numpy" in sys.modules or pytest.importorskip("numpy")
    told = cargo("print(1)").packages.manifest
    assert told["pins"] == told["constraints"] == []
    assert told["index"] == {}


def test_the_modules_of_values_are_pinned_and_what_they_require_is_a_constraint(cargo):
    pandas = pytest.importorskip("pandas")
    made = cargo("print(df.shape)", df=pandas.DataFrame({"a": [1]}))
    assert pins(made) == ["pandas"]
    assert f"numpy=={version('numpy')}" in made.packages.manifest["constraints"]


def test_what_functions_of_the_notebook_import_is_pinned(cargo):
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec("def f():\n    import yaml\n    return yaml", namespace)
    assert pins(cargo("x = f()", f=namespace["f"])) == ["pyyaml"]


def test_what_local_modules_import_is_pinned(cargo, tmp_path):
    root = tmp_path / "beside"
    root.mkdir()
    (root / "net_of_mine.py").write_text("import yaml\n")
    made = cargo("import net_of_mine", root=root)
    assert pins(made) == ["pyyaml"]
    assert made.modules.names == {"net_of_mine"}


def test_in_the_kernels_own_interpreter_nothing_but_what_was_asked_for_is_installed(cargo):
    told = cargo("import yaml\n%time 1", target=None, packages=("six",)).packages.manifest
    assert told["pins"] == ["six"]
    assert not told["requires_ipython"]
    assert "inferred" not in told


def test_cloudpickle_and_kube_nb_are_in_every_job(cargo):
    made = cargo("import cloudpickle, kube_nb as kn\nkn.report(loss=1)")
    assert pins(made) == []
    assert made.packages.lines == ()


def test_magics_bring_the_kernels_ipython_and_commands_do_not(cargo):
    made = cargo("%time 1")
    assert pins(made) == ["ipython"]
    assert made.packages.manifest["requires_ipython"]
    assert pins(cargo("!echo 1")) == []


def test_functions_that_use_magics_bring_ipython_too(cargo):
    namespace: dict[str, Any] = {"__name__": "__main__"}
    magic = "get_ipython().run_line_magic('time', '1')"
    exec(f"def f():\n    {magic}\ndef g():\n    get_ipython().system('ls')", namespace)
    assert pins(cargo("f()", f=namespace["f"])) == ["ipython"]
    assert pins(cargo("x = g()", g=namespace["g"])) == []


def wished(cargo: Cargo) -> list[str]:
    return [pin.partition("==")[0].lower() for pin in cargo.packages.manifest.get("wished", [])]


def test_what_shows_a_value_wishes_for_what_a_notebook_shows_it_with(cargo):
    shows = cargo("import yaml\nyaml.dump(1)")
    assert (pins(shows), wished(shows)) == (["pyyaml"], ["ipython"])
    assert wished(cargo("import yaml\nx = yaml.dump(1)\nprint(x)")) == []
    assert wished(cargo("for n in range(3):\n    display(n)")) == ["ipython"]


def test_pictures_wish_for_what_draws_them(cargo):
    assert {"matplotlib", "ipython"} <= set(wished(cargo("import pandas as pd\nax = pd.Series([1]).plot()")))
    assert wished(cargo("import pandas as pd\nx = pd.Series([1])")) == []
    assert {"nbformat", "ipython"} <= set(wished(cargo("import plotly.graph_objects as go\ngo.Figure().show()")))


def test_what_is_asked_for_anyway_is_no_mere_wish(cargo):
    made = cargo("%time 1\n2")
    assert (pins(made), wished(made)) == (["ipython"], [])


def test_where_nothing_is_installed_nothing_is_wished_for(cargo):
    assert wished(cargo("display(1)", install="never")) == []


def test_what_is_not_installed_here_is_named(cargo):
    [line] = cargo("import nosuch_package.part, yaml").packages.lines
    assert "nosuch_package" in line
    assert "--packages" in line


def test_what_was_asked_for_comes_before_what_the_kernel_has_and_is_not_inferred(cargo):
    told = cargo("import yaml", packages=("pyyaml>=5", "six", "six")).packages.manifest
    assert told["pins"] == ["pyyaml>=5", "six"]
    assert told["inferred"] == []


def test_a_path_of_this_machine_is_refused_as_a_package(cargo):
    with pytest.raises(CannotTravel) as caught:
        cargo("1", packages=("mine @ file:///home/me/mine-1.0-py3-none-any.whl",))
    assert caught.value.path == "file:///home/me/mine-1.0-py3-none-any.whl"


def test_directories_with_packages_stay_here_and_that_is_said(cargo, tmp_path, monkeypatch):
    links = tmp_path / "wheels"
    links.mkdir()
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))
    assert cargo("import yaml").packages.lines == ()
    (links / "six-1.0-py3-none-any.whl").write_bytes(b"")
    made = cargo("import yaml")
    assert made.packages.manifest["index"] == {}
    assert [str(links) in line for line in made.packages.lines] == [True]


def test_the_settings_index_comes_in_the_place_of_the_installers_own(cargo, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "https://pip.example/simple")
    index = ("https://me:secret@one.example/simple", "https://two.example/simple")
    packages = cargo("import yaml", index=index).packages
    assert packages.manifest["index"] == {"url": "https://one.example/simple", "extra": ["https://two.example/simple"]}
    assert "secret" not in repr(packages)
    assert "me:secret" in packages.env[CREDENTIALS]


def test_the_packers_word_is_the_last_on_what_the_values_come_from(cargo, tmp_path):
    pandas = pytest.importorskip("pandas")
    deep = [{"rows": [None] * 2000 + [pandas.Timestamp("2020-01-01")]}]
    made = cargo("print(len(deep))", deep=deep)
    assert pins(made) == []  # it lies deeper than a look before the packing goes

    bundle = packed(made, tmp_path)
    assert [pin.partition("==")[0] for pin in manifest(bundle)["packages"]["pins"]] == ["pandas"]


def test_running_it_again_brings_the_credentials_of_today_where_something_is_installed(cargo, tmp_path):
    index = ("https://me:old@one.example/simple",)
    again = JobSpec(id=new_job_id("t"), name="t")
    first = packed(cargo("import yaml", index=index), tmp_path)
    second = repack(first.directory, again, state=tmp_path, key=b"k" * 32, index=["https://me:new@one.example/simple"])
    assert "me:old" in first.env[CREDENTIALS]
    assert "me:new" in second.env[CREDENTIALS]
    plain = packed(cargo("print(1)", index=index), tmp_path)
    assert repack(plain.directory, replace(again, id=new_job_id("t")), state=tmp_path, key=b"k", index=index).env == {}


def test_a_submit_that_was_cut_off_is_completed_with_the_credentials_that_its_target_has_today(cargo, tmp_path):
    """They were in the Secret that was never made, and are kept nowhere else."""
    target = '[tool.kube-nb.targets.gpu]\ncontext = "x"\nindex = ["https://me:new@one.example/simple"]\n'
    (tmp_path / "pyproject.toml").write_text(target)
    settings = Settings.load(environ={"KUBE_NB_STATE_DIR": str(tmp_path)}, cwd=tmp_path)
    spec, key = JobSpec(id=new_job_id("t"), name="t"), b"k" * 32
    pack(cargo("import yaml", index=("https://me:old@one.example/simple",)), spec, state=tmp_path, key=key)
    entry = Entry(id=spec.id, name="t", target="gpu", label="", created=0.0, key=key.hex(), spec=asdict(spec))
    Journal(tmp_path).write(entry)
    sent: list[Bundle] = []
    client = Client("gpu", settings=settings)
    cut_off = Reason(code=CUT_OFF, what="it was cut off")
    status = JobStatus(id=spec.id, name="t", label="", phase=Phase.PENDING, reason=cut_off)
    backend: Any = SimpleNamespace(
        list=lambda all_users: [] if sent else [status],
        site=lambda settings: settings,
        submit=lambda spec, bundle: sent.append(bundle),
    )
    client.backend = backend
    assert client.statuses() == []
    assert "me:new" in sent[0].env[CREDENTIALS]


def packed(cargo: Cargo, state: Path) -> Bundle:
    return pack(cargo, JobSpec(id=new_job_id("t"), name="t"), state=state, key=b"k" * 32)


def manifest(bundle: Bundle) -> dict[str, Any]:
    return json.loads((bundle.directory / "manifest.json").read_bytes())


def test_what_everybody_trusts_is_not_sent_with_every_job(cargo, tmp_path, monkeypatch):
    import certifi

    public = Path(certifi.where()).read_text()
    private = public[public.index("-----BEGIN") :].partition("-----END CERTIFICATE-----")[0].replace("M", "N", 8)
    private += "-----END CERTIFICATE-----\n"
    bundle = tmp_path / "ca.pem"
    monkeypatch.setenv("PIP_CERT", str(bundle))
    bundle.write_text(public + private)
    index = cargo("import yaml").packages.manifest["index"]
    assert index["ca"].strip() == private.strip()
    assert index["ca_public"]

    bundle.write_text(private)  # whoever means to trust few does
    index = cargo("import yaml").packages.manifest["index"]
    assert index == {"ca": private}


def test_the_way_to_the_index_travels_as_a_secret_but_for_a_proxy_of_this_machine(cargo, monkeypatch):
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    assert cargo("import yaml").packages.env == {}

    monkeypatch.setenv("https_proxy", "http://me:secret@proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", ".example")
    packages = cargo("import yaml").packages
    told = json.loads(packages.env[PROXIES])
    assert told == {"HTTPS_PROXY": "http://me:secret@proxy.example:3128", "NO_PROXY": ".example"}
    assert "secret" not in repr(packages)
    assert cargo("import yaml", target=None, packages=("six",)).packages.env == {}  # inherited there
    assert cargo("import yaml", index=("https://mirror.example/simple",)).packages.env == {}

    monkeypatch.setenv("https_proxy", "http://127.0.0.1:3128")
    packages = cargo("import yaml").packages
    assert "HTTPS_PROXY" not in json.loads(packages.env.get(PROXIES, "{}"))
    assert ["proxy" in line for line in packages.lines] == [True]
