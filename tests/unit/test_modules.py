"""Local modules: found without being imported, whole, and nothing that an index could give."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from types import ModuleType

import pytest

from kube_nb.capture.imports import imports_of, needs_all_of_kube_nb
from kube_nb.capture.modules import LocalModules, local_modules
from kube_nb.errors import CannotTravel


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The notebook's directory, as a kernel started there has it on sys.path."""
    directory = tmp_path / "project"
    directory.mkdir()
    monkeypatch.chdir(directory)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    return directory


def make(directory: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def found(names: set[str], root: Path, **more: object) -> LocalModules:
    return local_modules(names, root=root, already={}, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("import a.b, c as d", {"a.b", "c"}),
        ("from a import b", {"a", "a.b"}),
        ("from a.b import *", {"a.b"}),
        ("def f():\n    if x:\n        import a\n    try: import b\n    except ImportError: pass", {"a", "b"}),
        ("from . import near", {"pkg.sub", "pkg.sub.near"}),
        ("from ..other import thing", {"pkg.other", "pkg.other.thing"}),
        ("from ....above import x", set()),
        ("import importlib; importlib.import_module('a.b'); __import__('c')", {"importlib", "a.b", "c"}),
        ("from importlib import import_module as i", {"importlib", "importlib.import_module"}),
        ("import importlib; importlib.import_module('.near', __package__)", {"importlib", "pkg.sub.near"}),
        ("import kube_nb as kn; kn.report(a=1); kn.Client()", {"kube_nb", "kube_nb.report", "kube_nb.Client"}),
        ("this is no python", set()),
        ("x = '\0'", set()),
    ],
)
def test_the_imports_of_a_source(source: str, names: set[str]) -> None:
    assert imports_of(source, "pkg.sub") == names


def test_what_lies_beside_the_notebook_goes_with_what_it_imports(root: Path) -> None:
    make(
        root,
        {
            "train.py": "def f():\n    from models.net import Net\n    import numpy",
            "models/__init__.py": "",
            "models/net.py": "from .layers import Layer\nfrom . import missing_attribute\nimport settings, yaml.nodes",
            "models/layers/__init__.py": "from importlib.resources import files",
            "models/layers/vocabulary.txt": "a b c",
            "models/tests/test_net.py": "import pytest",
            "settings.py": "",
            "unrelated.py": "",
        },
    )
    modules = found({"train", "json", "os.path", "sys"}, root)
    assert set(modules.files) == {
        "train.py",
        "settings.py",
        "models/__init__.py",
        "models/net.py",
        "models/layers/__init__.py",
        "models/layers/vocabulary.txt",
        "models/tests/test_net.py",
    }
    assert modules.names == {"train", "models", "settings"}
    assert modules.external == {"numpy", "yaml"}  # not pytest: no module that is reached imports it
    assert modules.lines == ()


def test_modules_that_import_each_other_are_found(root: Path) -> None:
    make(root, {"a.py": "import b", "b.py": "import a"})
    assert set(found({"a"}, root).files) == {"a.py", "b.py"}


def test_what_is_no_source_of_a_package_stays_here(root: Path) -> None:
    leave = ["__pycache__/x.cpython-311.pyc", ".git/config", ".venv/pyvenv.cfg", "env/pyvenv.cfg", "env/lib/big.py"]
    make(root, {f"pkg/{name}": "" for name in ["__init__.py", "data.csv", "old.pyc", ".DS_Store", *leave]})
    assert set(found({"pkg"}, root).files) == {"pkg/__init__.py", "pkg/data.csv"}


def test_a_loaded_module_counts_where_it_was_loaded_from(root: Path, tmp_path: Path) -> None:
    make(root, {"helpers.py": ""})
    make(
        tmp_path / "elsewhere",
        {"helpers.py": "", "pkg/__init__.py": "", "pkg/plugin.py": "import chosen", "chosen.py": ""},
    )
    helpers, package, plugin = ModuleType("helpers"), ModuleType("pkg"), ModuleType("pkg.plugin")
    helpers.__file__ = str(tmp_path / "elsewhere/helpers.py")
    package.__file__, package.__path__ = str(tmp_path / "elsewhere/pkg/__init__.py"), [str(tmp_path / "elsewhere/pkg")]
    plugin.__file__ = str(tmp_path / "elsewhere/pkg/plugin.py")
    sys.path.append(str(tmp_path / "elsewhere"))
    already = {"helpers": helpers, "pkg": package, "pkg.plugin": plugin}
    modules = local_modules({"helpers", "pkg"}, root=root, already=already)
    assert modules.files["helpers.py"] == tmp_path / "elsewhere/helpers.py"
    assert "chosen.py" in modules.files  # the loaded plugin imports it, though no source names the plugin


def test_a_folder_without_init_gives_its_own_files_and_what_is_imported_below(root: Path) -> None:
    make(
        root,
        {
            "data/loader.py": "from data.formats.csv import read",
            "data/small.csv": "1,2",
            "data/raw/huge.bin": "x",
            "data/formats/csv.py": "",
            "data/formats/dialect.json": "{}",
            "data/unused/other.py": "",
            "data/package/__init__.py": "",
            "data/package/deep/file.txt": "",
        },
    )
    modules = found({"data.loader.load"}, root)
    assert set(modules.files) == {
        "data/loader.py",
        "data/small.csv",
        "data/formats/csv.py",
        "data/formats/dialect.json",
    }
    assert "data/package/deep/file.txt" in found({"data.package"}, root).files


def test_a_data_set_in_a_plain_folder_stays_here_with_a_line(root: Path) -> None:
    make(root, {"data/loader.py": "x = 1", "data/large.bin": "x" * 5000})
    modules = found({"data.loader"}, root, limit=4000)
    assert set(modules.files) == {"data/loader.py"}
    assert [str(root / "data") in line and "--include" in line for line in modules.lines] == [True]


def test_too_much_names_the_directory_that_holds_it(root: Path) -> None:
    make(
        root,
        {"pkg/__init__.py": "", "pkg/a/x.bin": "x" * 100, "pkg/weights/y.bin": "y" * 5000, "pkg/z/z.bin": "z" * 100},
    )
    with pytest.raises(CannotTravel) as caught:
        found({"pkg"}, root, limit=4000)
    assert caught.value.path == str(root / "pkg/weights")
    assert "`pkg`" in caught.value.what
    assert "--include" in caught.value.next


def test_a_file_that_cannot_be_read_is_named(root: Path) -> None:
    make(root, {"pkg/__init__.py": "", "pkg/secret.txt": ""})
    modules = found({"pkg"}, root)
    (root / "pkg/secret.txt").unlink()
    with pytest.raises(CannotTravel) as caught:
        modules.zip_bytes()
    assert caught.value.path == str(root / "pkg/secret.txt")


def test_a_link_in_a_circle_ends(root: Path) -> None:
    make(root, {"pkg/__init__.py": "", "shared/common.txt": ""})
    (root / "pkg/again").symlink_to(root / "pkg")
    (root / "pkg/shared").symlink_to(root / "shared")
    assert set(found({"pkg"}, root).files) == {"pkg/__init__.py", "pkg/shared/common.txt"}


def test_extensions_go_only_to_the_same_platform(root: Path) -> None:
    make(root, {"pkg/__init__.py": "", "pkg/_fast.cpython-311-x86_64-linux-gnu.so": "elf", "alone.abi3.so": "elf"})
    assert "pkg/_fast.cpython-311-x86_64-linux-gnu.so" in found({"pkg"}, root).files
    assert set(found({"alone"}, root).files) == {"alone.abi3.so"}
    away = found({"pkg"}, root, platform="macosx-14.0-arm64")
    assert set(away.files) == {"pkg/__init__.py"}
    assert ["_fast" in line for line in away.lines] == [True]
    with pytest.raises(CannotTravel, match="alone"):
        found({"alone"}, root, platform="macosx-14.0-arm64")


def test_a_module_in_an_archive_is_said(root: Path) -> None:
    with zipfile.ZipFile(root / "lib.zip", "w") as archive:
        archive.writestr("zipped.py", "")
    sys.path.append(str(root / "lib.zip"))
    modules = found({"zipped"}, root)
    assert not modules.files
    assert ["lib.zip" in line for line in modules.lines] == [True]


def test_what_was_installed_into_a_directory_is_not_local(root: Path, tmp_path: Path) -> None:
    make(tmp_path / "target", {"installed.py": "", "installed-1.0.dist-info/METADATA": "", "other/__init__.py": ""})
    sys.path.append(str(tmp_path / "target"))
    modules = found({"installed", "other.sub", "numpy.linalg", "yaml"}, root)
    assert not modules.files
    assert modules.external == {"installed", "other", "numpy", "yaml"}


def test_the_archive_is_the_same_for_the_same_files(root: Path) -> None:
    make(root, {"pkg/__init__.py": "", "pkg/text.txt": "äöü", "run.py": "import pkg"})
    os.chmod(root / "run.py", 0o755)
    first = found({"run"}, root).zip_bytes()
    for path in root.rglob("*.py"):
        os.utime(path, (1e9, 1e9))
    assert found({"pkg", "run"}, root).zip_bytes() == first
    with zipfile.ZipFile(BytesIO(first)) as archive:
        assert archive.namelist() == ["pkg/__init__.py", "pkg/text.txt", "run.py"]
        assert archive.read("pkg/text.txt").decode() == "äöü"
        assert archive.getinfo("run.py").external_attr >> 16 & 0o777 == 0o755


def test_kube_nb_goes_only_where_more_of_it_is_used_than_every_job_has(root: Path) -> None:
    small = imports_of("import kube_nb as kn\nkn.report(loss=1)\nfrom kube_nb import rank\nprint(kn.__name__)")
    assert not needs_all_of_kube_nb(small)
    assert found(set(small), root) == LocalModules()
    package = Path(__file__).parents[2]
    sys.path.append(str(package))
    whole = found(set(imports_of("import kube_nb as kn\nkn.Client()")), root)
    assert whole.files["kube_nb/spec.py"] == package / "kube_nb/spec.py"
    assert "cloudpickle" in whole.external
    assert needs_all_of_kube_nb(imports_of("kn.on('local')", aliases={"kn"}))


KERNEL = """
import json, sys
from pathlib import Path
from kube_nb.capture.modules import local_modules
found = local_modules(json.loads(sys.argv[2]), root=Path(sys.argv[1]))
print(json.dumps([{arc: str(path) for arc, path in found.files.items()}, sorted(found.external)]))
"""


def in_kernel(site: Path, root: Path, *names: str) -> tuple[dict[str, str], list[str]]:
    """What a fresh interpreter finds that has `site` as one of its site-packages."""
    code = f"import site; site.addsitedir({str(site)!r})\n{KERNEL}"
    package = str(Path(__file__).parents[2])
    command = [sys.executable, "-c", code, str(root), json.dumps(names)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | {"PYTHONPATH": package})
    files, external = json.loads(done.stdout)
    return files, external


Editable = Callable[[dict[str, str], dict[str, str]], tuple[Path, Path]]


@pytest.fixture
def editable(tmp_path: Path) -> Editable:
    """Makes a site-packages with an editable install of a source directory."""

    def make_editable(source_files: dict[str, str], site_files: dict[str, str]) -> tuple[Path, Path]:
        source, site = tmp_path / "source", tmp_path / "env" / "site-packages"
        make(source, source_files)
        info = {
            "mine-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n",
            "mine-1.0.dist-info/RECORD": "",
            "mine-1.0.dist-info/direct_url.json": json.dumps({"url": source.as_uri(), "dir_info": {"editable": True}}),
        }
        make(site, site_files | info)
        return source, site

    return make_editable


def test_an_editable_install_by_path_is_local_with_its_metadata(editable: Editable, root: Path) -> None:
    source, site = editable({"src/mine/__init__.py": "", "src/mine/core.py": "import yaml"}, {})
    (site / "mine.pth").write_text(str(source / "src"))
    files, external = in_kernel(site, root, "mine", "mine.core")
    assert set(files) == {"mine/__init__.py", "mine/core.py", "mine-1.0.dist-info/METADATA"}
    assert files["mine/core.py"] == str(source / "src/mine/core.py")
    assert external == ["yaml"]


def test_an_editable_install_by_finder_is_local(editable: Editable, root: Path) -> None:
    finder = """
import sys
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import spec_from_file_location
class Finder:
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        place = MAPPING.get(name)
        if place:
            return spec_from_file_location(name, place + "/__init__.py", submodule_search_locations=[place])
        if name == "space":
            spec = ModuleSpec(name, None, is_package=True)
            spec.submodule_search_locations = ["/nowhere/placeholder"]
            return spec
def install():
    sys.meta_path.append(Finder)
"""
    source, site = editable({"lib/__init__.py": "from .part import x", "lib/part.py": "", "sub/__init__.py": ""}, {})
    mapping = f"MAPPING = { ({'mine': str(source / 'lib'), 'space.sub': str(source / 'sub')})!r}\n"
    (site / "__editable___mine_finder.py").write_text(finder + mapping)
    (site / "mine.pth").write_text("import __editable___mine_finder; __editable___mine_finder.install()")
    files, _ = in_kernel(site, root, "mine", "space.sub")
    assert set(files) == {
        "mine/__init__.py",
        "mine/part.py",
        "space/sub/__init__.py",
        "mine-1.0.dist-info/METADATA",
    }


def test_an_editable_install_by_link_is_local(editable: Editable, root: Path) -> None:
    source, site = editable({"mine/__init__.py": "import other"}, {"other/__init__.py": ""})
    (site / "mine").symlink_to(source / "mine")
    files, external = in_kernel(site, root, "mine")
    assert set(files) == {"mine/__init__.py", "mine-1.0.dist-info/METADATA"}
    assert external == ["other"]
