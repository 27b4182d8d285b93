"""What a kernel has installed, as a job on another platform gets it: recorded locks and their outcome, line by line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from importlib.metadata import distribution, distributions
from pathlib import Path
from typing import Any

import pytest
from packaging.utils import canonicalize_name

from kube_nb.capture.packages import Kernel, here, pins
from kube_nb.capture.packages_index import CREDENTIALS, Index, Offer, Serves, nobody, serving, user_index
from kube_nb.capture.packages_rules import Installed, Pins, resolve_for, tags_of
from kube_nb.errors import BadValue, CannotTravel
from kube_nb.spec import Platform

LOCKS = Path(__file__).parents[1] / "data" / "locks"
LINUX = Platform(system="Linux", machine="x86_64", python="3.11.9")


def lock(name: str) -> list[Installed]:
    recorded = json.loads((LOCKS / f"{name}.json").read_text())
    return [Installed.parse(one) for one in recorded["installed"]]


def offering(known: Mapping[str, Offer], otherwise: bool | None = True) -> Serves:
    """An index that answers for `name==version` as `known` says, and otherwise always the same."""
    return lambda name, version: known.get(f"{name}=={version}", Offer(found=otherwise))


def resolved(name: str, *roots: str, serves: Serves = nobody) -> Pins:
    return resolve_for(lock(name), LINUX, serves, roots=roots or None)


def test_apple_silicon_to_linux() -> None:
    imported = ["torch", "torchvision", "pandas", "ipykernel", "mlx", "pyobjc-framework-Cocoa", "einops-exts", "churn"]
    outcome = resolved("macos_arm64_uv_torch", *imported)
    assert outcome.pins == (
        "einops-exts @ git+https://github.com/lucidrains/einops-exts.git@0123456789abcdef0123456789abcdef01234567",
        "ipykernel==6.29.5",
        "pandas==2.2.3",
        "torch==2.5.1",
        "torchvision==0.20.1",
    )
    assert {"numpy==1.26.4", "sympy==1.13.1", "einops==0.8.0", "pexpect==4.9.0"} < set(outcome.constraints)
    assert not [one for one in outcome.constraints if one.startswith(("appnope", "pyobjc", "nvidia", "churn"))]
    assert outcome.lines == (
        "not installed in the job, for another platform than Linux (x86_64): "
        "appnope 0.1.4, mlx 0.20.0, pyobjc-core 10.3.1, pyobjc-framework-Cocoa 10.3.1",
    )


def test_the_source_of_an_editable_install_travels_and_what_it_requires_is_pinned_by_its_imports() -> None:
    assert resolved("macos_arm64_uv_torch", "churn").pins == ()
    assert "pandas==2.2.3" in resolved("macos_arm64_uv_torch", "churn").constraints


def test_conda_forge_on_a_mac_to_linux() -> None:
    imported = ["torch", "pandas", "ipykernel", "rdkit", "conda", "lightning"]
    serves = offering({"rdkit==2024.9.2": Offer(found=False)})
    outcome = resolved("macos_arm64_conda", *imported, serves=serves)
    assert outcome.pins == ("ipykernel==6.29.5", "lightning==2.4.0", "pandas==2.2.3", "rdkit", "torch==2.5.1")
    assert outcome.lines[0] == (
        "your package index has no rdkit 2024.9.2, which conda installed here: the job installs the newest version"
    )
    assert outcome.lines[1].startswith(
        "installed by conda here, from your package index in the job: ipykernel 6.29.5, pandas 2.2.3, torch 2.5.1, "
    )
    assert outcome.lines[2:] == (
        "not installed in the job, for another platform than Linux (x86_64): appnope 0.1.4",
        "not installed in the job, only conda has them: conda 24.9.2",
    )


def test_a_list_of_conda_packages() -> None:
    outcome = resolved("linux_conda_list")
    assert {"torch==2.5.1", "tables==3.10.1", "msgpack==1.0.3", "python-dateutil==2.9.0.post0"} < set(outcome.pins)
    assert {"lightning==2.4.0", "torchmetrics==1.6.0", "matplotlib==3.9.2", "tzdata==2023.3"} < set(outcome.pins)
    names = {pin.partition("==")[0] for pin in outcome.pins}
    assert not names & {"python", "pytorch", "mkl", "cuda-runtime", "numpy-base", "matplotlib-base", "yaml", "tk"}
    assert outcome.lines[:6] == (
        "brotli-python 1.0.9 is called brotli in a package index",
        "msgpack-python 1.0.3 is called msgpack in a package index",
        "pytables 3.10.1 is called tables in a package index",
        "python-tzdata 2023.3 is called tzdata in a package index",
        "pytorch 2.5.1 is called torch in a package index",
        "torchtriton 3.1.0 is called triton in a package index",
    )
    assert outcome.lines[7:] == (
        "not installed in the job, no Python packages but conda's own: _libgcc_mutex 0.1, _openmp_mutex 5.1, blas 1.0, "
        "ca-certificates 2024.11.26, cuda-cudart 12.1.105, cuda-nvrtc 12.1.105, cuda-runtime 12.1.0, ffmpeg 4.3, "
        "gmp 6.2.1, intel-openmp 2023.1.0, jpeg 9e and 21 more",
        "not installed in the job, only conda has them: mkl-service 2.4.0, mkl_fft 1.3.11, mkl_random 1.2.8",
    )


def test_a_cpu_build_stays_where_the_index_has_it() -> None:
    outcome = resolved("linux_cpu_torch_pip", "torch", "torchvision", "torchaudio", serves=offering({}))
    assert outcome.pins == ("torch==2.5.1+cpu", "torchaudio==2.5.1+cpu", "torchvision==0.20.1+cpu")
    assert outcome.lines == ()
    assert resolved("linux_cpu_torch_pip", "torchvision", serves=offering({})).constraints[-2:] == (
        "torch==2.5.1+cpu",
        "typing_extensions==4.12.2",
    )


def test_a_cpu_build_that_the_index_lacks_is_replaced_and_the_download_is_told() -> None:
    known = {
        "torch==2.5.1+cpu": Offer(found=False),
        "torch==2.5.1": Offer(found=True, size=906_400_000),
        "torchaudio==2.5.1+cpu": Offer(found=False),
        "torchvision==0.20.1+cpu": Offer(found=False),
        "torchvision==0.20.1": Offer(found=False),
    }
    outcome = resolved("linux_cpu_torch_pip", "torch", "torchvision", "torchaudio", serves=offering(known))
    assert outcome.pins == ("torch==2.5.1", "torchaudio==2.5.1", "torchvision")
    assert outcome.lines == (
        "torch 2.5.1+cpu: your package index has no +cpu, so the job installs torch 2.5.1 (a download of 906 MB)",
        "torchaudio 2.5.1+cpu: your package index has no +cpu, so the job installs torchaudio 2.5.1 "
        "(the size of the download is unknown)",
        "your package index has neither torchvision 0.20.1+cpu nor 0.20.1: the job installs the newest version",
    )


def test_windows_to_linux() -> None:
    imported = ["torch", "tensorflow", "pywin32", "wmi", "ipykernel", "fasttext-wheel"]
    outcome = resolved("windows_pip", *imported, serves=offering({"torch==2.5.1+cu121": Offer(found=False)}))
    assert outcome.pins == ("fasttext-wheel==0.9.2", "ipykernel==6.29.5", "tensorflow==2.17.1", "torch==2.5.1")
    assert "absl-py==2.1.0" in outcome.constraints  # of the Windows half of tensorflow
    assert outcome.lines == (
        "fasttext-wheel 0.9.2 was installed from a file for another platform "
        "(https://example.org/wheels/fasttext_wheel-0.9.2-cp311-cp311-win_amd64.whl): "
        "the job takes this version from your package index",
        "torch 2.5.1+cu121: your package index has no +cu121, so the job installs torch 2.5.1 "
        "(the size of the download is unknown)",
        "not installed in the job, for another platform than Linux (x86_64): colorama 0.4.6, pywin32 308, WMI 1.5.1",
    )


def test_what_came_from_a_local_path_is_refused_with_the_way_out() -> None:
    with pytest.raises(CannotTravel) as caught:
        resolved("windows_pip", "pricing", "pandas")
    assert "pricing 1.2.0 (from file:///C:/Users/anna/Downloads/pricing-1.2.0-py3-none-any.whl)" in caught.value.what
    assert "pip install -e" in caught.value.next


def one(name: str = "thing", version: str = "1.0", **facts: Any) -> Installed:
    return Installed(name=name, version=version, **facts)


@pytest.mark.parametrize(
    ("installed", "found", "pin"),
    [
        (one(tags=("cp311-cp311-macosx_11_0_arm64",)), True, "thing==1.0"),
        (one(tags=("cp311-cp311-macosx_11_0_arm64",)), None, "thing==1.0"),
        (one(tags=("cp311-cp311-macosx_11_0_arm64",)), False, None),
        (one(tags=("py3-none-win_amd64",)), False, None),
        (one(tags=("cp39-abi3-manylinux_2_28_x86_64",)), False, "thing==1.0"),
        (one(tags=("py3-none-any",)), False, "thing==1.0"),
        (one(name="pyobjc-framework-Quartz"), True, None),
        (one(name="appnope", installer="conda"), True, None),
        (one(name="librosa", installer="conda"), True, "librosa==1.0"),
        (
            one(url={"url": "https://u:secret@h/t-1.0-py3-none-any.whl"}),
            True,
            "thing @ https://h/t-1.0-py3-none-any.whl",
        ),
        (
            one(url={"url": "https://h/t.tar.gz", "archive_info": {"hashes": {"sha256": "ab"}}}),
            True,
            "thing @ https://h/t.tar.gz#sha256=ab",
        ),
        (
            one(url={"url": "ssh://git@h/t", "vcs_info": {"vcs": "git", "commit_id": "c0"}, "subdirectory": "py"}),
            True,
            "thing @ git+ssh://git@h/t@c0#subdirectory=py",
        ),
        (one(url={"url": "file:///home/conda/feedstock_root/t/work"}), True, "thing==1.0"),
    ],
)
def test_the_rule_for_one_package(installed: Installed, found: bool | None, pin: str | None) -> None:
    outcome = resolve_for([installed], LINUX, offering({}, otherwise=found))
    assert outcome.pins == ((pin,) if pin else ())
    assert "secret" not in repr(outcome)


def test_extras_bring_what_they_require_and_nothing_else() -> None:
    installed = [
        one("app", requires=("server[fast]>=1",)),
        one("server", requires=("loop; extra == 'fast'", "docs; extra == 'docs'", "winloop; sys_platform == 'win32'")),
        *(one(name) for name in ("loop", "docs", "winloop")),
    ]
    outcome = resolve_for(installed, LINUX, roots=["app"])
    assert outcome.constraints == ("loop==1.0", "server==1.0")
    assert outcome.lines == ("not installed in the job, for another platform than Linux (x86_64): winloop 1.0",)


def test_what_the_kernel_does_not_require_either_is_not_spoken_of() -> None:
    """It is installed here for something else, and says nothing about the job."""
    installed = [one("app", requires=("zones; sys_platform == 'win32'", "bundle; sys_platform == 'darwin'"))]
    installed += [one("zones"), one("bundle")]
    assert resolve_for(installed, LINUX, roots=["app"], here=LINUX).lines == ()
    mac = resolve_for(installed, LINUX, roots=["app"], here=Platform(system="Darwin", machine="arm64"))
    assert mac.lines == ("not installed in the job, for another platform than Linux (x86_64): bundle 1.0",)


def test_what_is_recorded_of_this_kernel_is_what_python_says_of_it() -> None:
    names = {canonicalize_name(one.metadata["Name"]) for one in distributions()}
    kernel = Kernel()
    for name in names:
        found, said = kernel.installed(name), distribution(name)
        assert found is not None
        assert (found.version, found.requires) == (said.version, tuple(said.requires or ()))


def test_modules_are_found_in_the_distributions_of_this_kernel() -> None:
    modules = {"sklearn.linear_model", "PIL", "yaml", "dateutil", "numpy", "nosuchmodule", "mpl_toolkits.mplot3d"}
    assert Kernel().distributions(modules) == {
        "sklearn.linear_model": ("scikit-learn",),
        "PIL": ("pillow",),
        "yaml": ("pyyaml",),
        "dateutil": ("python-dateutil",),
        "numpy": ("numpy",),
        "mpl_toolkits.mplot3d": ("matplotlib",),
    }


def test_a_package_that_distributions_share_is_told_by_the_longer_name(tmp_path: Path) -> None:
    for name, place in (("cloud-storage", "space/cloud/storage"), ("cloud-auth", "space/auth")):
        info = tmp_path / f"{name.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "RECORD").write_text(f"{place}/__init__.py,,\n{place}/client.py,,\n")
    found = Kernel([str(tmp_path)]).distributions({"space.cloud.storage.client.Client", "space.auth", "space"})
    assert found == {
        "space.cloud.storage.client.Client": ("cloud-storage",),
        "space.auth": ("cloud-auth",),
        "space": (),
    }


def test_in_the_kernels_own_interpreter_only_what_was_asked_for_is_installed() -> None:
    assert pins({"sklearn"}, kernel=Kernel(), packages=["lightgbm==4.5.0"]) == Pins(pins=("lightgbm==4.5.0",))


def test_what_was_asked_for_comes_before_what_the_kernel_has() -> None:
    kernel = Kernel()
    outcome = pins({"sklearn", "json", "nosuch"}, kernel=kernel, target=here(), packages=["numpy<2", "scikit-learn"])
    assert outcome.pins == ("numpy<2", "scikit-learn")
    outcome = pins({"sklearn", "json", "nosuch.part"}, kernel=kernel, target=here(), packages=["numpy<2"])
    scipy = kernel.installed("scipy")
    assert scipy is not None
    assert f"scipy=={scipy.version}" in outcome.constraints
    assert not [text for text in outcome.constraints if text.startswith("numpy")]
    assert ["nosuch" in line for line in outcome.lines] == [True]


@pytest.mark.parametrize("text", ["./mylib.whl", "-r requirements.txt", "a b", ""])
def test_what_is_no_requirement_is_refused(text: str) -> None:
    with pytest.raises(BadValue):
        pins((), kernel=Kernel(), packages=[text])


def index(tmp_path: Path, env: Mapping[str, str] | None = None, **files: str) -> Index:
    for name, content in files.items():
        path = (
            tmp_path
            / {"pip": ".config/pip/pip.conf", "uv": ".config/uv/uv.toml", "project": "work/pyproject.toml"}[name]
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    (tmp_path / "work").mkdir(exist_ok=True)
    return user_index(
        {"XDG_CONFIG_DIRS": str(tmp_path / "none"), **(env or {})}, directory=tmp_path / "work", home=tmp_path
    )


def test_the_index_of_pip(tmp_path: Path) -> None:
    configured = index(
        tmp_path,
        pip="[global]\nindex-url = https://anna:s3cret@mirror/simple/\ntrusted-host = mirror\n"
        "[install]\nextra-index-url =\n    https://a/simple\n    https://b/simple\n",
    )
    assert (configured.url, configured.extra) == ("https://mirror/simple", ("https://a/simple", "https://b/simple"))
    assert configured.credentials == {"https://mirror/simple": "anna:s3cret"}
    assert configured.strategy == "unsafe-best-match"
    assert configured.insecure == ("mirror",)


def test_a_variable_comes_before_a_file_and_uv_before_pip(tmp_path: Path) -> None:
    pip = "[global]\nindex-url = https://pip-file/simple\n"
    assert index(tmp_path, {"PIP_INDEX_URL": "https://pip-env/simple"}, pip=pip).url == "https://pip-env/simple"
    uv = 'index-url = "https://uv-file/simple"\n'
    assert index(tmp_path, {"PIP_INDEX_URL": "https://pip-env/simple"}, uv=uv).url == "https://uv-file/simple"
    assert index(tmp_path, {"UV_DEFAULT_INDEX": "https://uv-env/simple"}).url == "https://uv-env/simple"


def test_the_indexes_of_a_uv_project(tmp_path: Path) -> None:
    project = """
[[tool.uv.index]]
name = "torch-cpu"
url = "https://download.pytorch.org/whl/cpu"
explicit = true
[[tool.uv.index]]
name = "house"
url = "https://house/simple"
default = true
"""
    env = {"UV_INDEX_HOUSE_USERNAME": "anna", "UV_INDEX_HOUSE_PASSWORD": "s3cret", "UV_INDEX": "x=https://x/simple"}
    configured = index(tmp_path, env, project=project)
    assert configured.url == "https://house/simple"
    assert configured.extra == ("https://x/simple", "https://download.pytorch.org/whl/cpu")
    assert configured.credentials == {"https://house/simple": "anna:s3cret"}


def test_credentials_are_told_only_by_the_secret_variable(tmp_path: Path) -> None:
    configured = index(tmp_path, {"PIP_INDEX_URL": "https://anna:s3cret@mirror/simple"})
    assert "s3cret" not in repr(configured)
    assert "s3cret" not in json.dumps(configured.manifest())
    assert json.loads(configured.env()[CREDENTIALS]) == {"https://mirror/simple": "anna:s3cret"}


def test_without_configuration_nothing_is_told(tmp_path: Path) -> None:
    assert index(tmp_path, {"PIP_CONFIG_FILE": "/dev/null"}).manifest() == {}


JSON_PAGE = json.dumps(
    {
        "files": [
            {"filename": "torch-2.5.1-cp311-none-macosx_11_0_arm64.whl", "size": 63_900_000},
            {"filename": "torch-2.5.1-cp311-cp311-manylinux1_x86_64.whl", "size": 906_400_000},
            {"filename": "torch-2.4.0.tar.gz", "size": 1},
            {"filename": "no sense.whl"},
        ]
    }
).encode()
HTML_PAGE = b'<a href="/whl/cpu/torch-2.5.1%2Bcpu-cp311-cp311-linux_x86_64.whl#sha256=ab">torch</a>'


def fetching(pages: Mapping[str, bytes]) -> tuple[list[str], Any]:
    asked: list[str] = []

    def fetch(url: str) -> bytes | None:
        asked.append(url)
        return pages.get(url)

    return asked, fetch


def offers(serves: Serves, versions: Iterable[str]) -> list[Offer]:
    return [serves("torch", version) for version in versions]


def test_what_an_index_serves_is_read_from_its_page() -> None:
    asked, fetch = fetching({"https://index.example/simple/torch/": JSON_PAGE})
    serves = serving(Index(url="https://index.example/simple"), tags_of(LINUX), fetch)
    assert offers(serves, ["2.5.1", "2.5.1+cpu", "2.4.0"]) == [
        Offer(found=True, size=906_400_000),
        Offer(found=False),
        Offer(found=True, size=1),
    ]
    assert asked == ["https://index.example/simple/torch/"]


def test_further_indexes_and_directories_count(tmp_path: Path) -> None:
    (tmp_path / "torch-2.6.0+cpu-cp311-cp311-linux_x86_64.whl").write_bytes(b"abc")
    extra = "https://download.pytorch.org/whl/cpu"
    _, fetch = fetching({f"{extra}/torch/": HTML_PAGE})
    serves = serving(Index(extra=(extra,), find_links=(str(tmp_path),)), tags_of(LINUX), fetch)
    assert offers(serves, ["2.5.1+cpu", "2.6.0+cpu"]) == [Offer(found=True), Offer(found=True, size=3)]


def test_an_index_that_does_not_answer_is_not_known_to_lack_anything() -> None:
    def fetch(url: str) -> bytes:
        raise ConnectionRefusedError

    assert serving(Index(url="https://index.example/simple"), tags_of(LINUX), fetch)("torch", "2.5.1") == Offer(
        found=None
    )
