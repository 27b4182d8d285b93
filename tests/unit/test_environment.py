"""Packages that a job needs and its interpreter lacks: installed once, whole or not at all, by uv and by pip."""

from __future__ import annotations

import base64
import errno
import http.server
import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import psutil
import pytest

from kube_nb.runner import environment
from kube_nb.runner.environment import EnvironmentFailed, prepare
from kube_nb.runner.installer import CREDENTIALS, PROXIES

ROOT = Path(__file__).resolve().parents[2]


def wheel(directory: Path, name: str, version: str, requires: tuple[str, ...] = (), text: str = "") -> None:
    info = f"{name}-{version}.dist-info"
    needed = "".join(f"Requires-Dist: {one}\n" for one in requires)
    files = {
        f"{name}.py": text or f"version = {version!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needed}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{file},,\n" for file in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(directory / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        for file, content in (files | {f"{info}/RECORD": record}).items():
            archive.writestr(file, content)


def sdist(directory: Path, name: str, version: str, build: str) -> None:
    """A source distribution; `build` is what its build runs before it makes the wheel."""
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    backend = f'''
import os, pathlib, time, zipfile
INFO, METADATA = "{name}-{version}.dist-info", {metadata!r}
FILES = {{"{name}.py": "", INFO + "/METADATA": METADATA, INFO + "/WHEEL":
    "Wheel-Version: 1.0\\nGenerator: test\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"}}
def prepare_metadata_for_build_wheel(directory, settings=None):
    (pathlib.Path(directory) / INFO).mkdir()
    (pathlib.Path(directory) / INFO / "METADATA").write_text(METADATA)
    (pathlib.Path(directory) / INFO / "WHEEL").write_text(FILES[INFO + "/WHEEL"])
    return INFO
def build_wheel(directory, settings=None, metadata=None):
    {build}
    file = "{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(directory, file), "w") as archive:
        for path, text in FILES.items():
            archive.writestr(path, text)
        archive.writestr(INFO + "/RECORD", "".join(f"{{p}},,\\n" for p in [*FILES, INFO + "/RECORD"]))
    return file
'''
    system = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    files = {
        "PKG-INFO": metadata,
        "backend.py": backend,
        "pyproject.toml": f'{system}[project]\nname = "{name}"\nversion = "{version}"\n',
    }
    with tarfile.open(directory / f"{name}-{version}.tar.gz", "w:gz") as archive:
        for file, content in files.items():
            entry = tarfile.TarInfo(f"{name}-{version}/{file}")
            entry.size = len(content.encode())
            archive.addfile(entry, BytesIO(content.encode()))


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    directory = tmp_path / "wheels"
    directory.mkdir()
    wheel(directory, "tinyone", "1.0", requires=("tinytwo>=1",))
    wheel(directory, "tinytwo", "1.5")
    wheel(directory, "tinytwo", "2.0")
    return directory


@pytest.fixture(params=["uv", pytest.param("pip", marks=pytest.mark.slow)])
def installer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """Each test runs with uv and with pip, and with caches of its own."""
    for name in [name for name in os.environ if name.startswith(("PIP_", "UV_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv-cache"))
    monkeypatch.setenv("PIP_CACHE_DIR", str(tmp_path / "pip-cache"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_RETRIES", "1")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    monkeypatch.setenv("UV_NO_CONFIG", "1")
    if request.param == "pip":
        monkeypatch.setenv("PATH", "/usr/bin:/bin")
        look = environment._look
        monkeypatch.setattr(environment, "_look", lambda wanted: replace(look(wanted), modules=["pip"]))
    return request.param


def packages(wheels: Path | None, *pins: str, **more: Any) -> dict[str, Any]:
    index = {"no_index": True, "find_links": [str(wheels)]} if wheels else {}
    return {"pins": list(pins), "constraints": [], "install": "missing", "index": index, **more}


def no_word(text: str) -> None:
    pass


def modules_in(path: list[str]) -> set[str]:
    return {file.name for place in path for file in Path(place).glob("*.py")}


def test_nothing_is_installed_when_all_is_there(tmp_path: Path) -> None:
    import numpy

    there = ["packaging", f"numpy=={numpy.__version__}", "numpy>=1", 'pywin32; sys_platform == "win32"']
    assert prepare(packages(None, *there, requires_ipython=True), tmp_path / "store", no_word) == []
    assert not (tmp_path / "store").exists()


def test_a_missing_package_comes_with_what_it_requires(tmp_path: Path, wheels: Path, installer: str) -> None:
    said: list[str] = []
    path = prepare(packages(wheels, "tinyone==1.0"), tmp_path / "store", said.append)
    assert modules_in(path) == {"tinyone.py", "tinytwo.py"}
    assert said[0] == "installing tinyone==1.0"
    assert len(said) > 1
    assert prepare(packages(wheels, "tinyone==1.0"), tmp_path / "store", said.append) == path


def test_constraints_choose_the_version_of_what_is_required(tmp_path: Path, wheels: Path, installer: str) -> None:
    wanted = packages(wheels, "tinyone", constraints=["tinytwo==1.5"])
    (site,) = prepare(wanted, tmp_path / "store", no_word)
    assert (Path(site) / "tinytwo.py").read_text() == "version = '1.5'\n"
    (other,) = prepare(packages(wheels, "tinyone"), tmp_path / "store", no_word)
    assert (Path(other) / "tinytwo.py").read_text() == "version = '2.0'\n"


def test_what_the_interpreter_has_is_not_installed_again(tmp_path: Path, wheels: Path, installer: str) -> None:
    wheel(wheels, "needsnumpy", "1.0", requires=("numpy",))
    path = prepare(packages(wheels, "needsnumpy"), tmp_path / "store", no_word)
    assert modules_in(path) == {"needsnumpy.py"}


def test_another_version_than_the_interpreters_is_said(tmp_path: Path, wheels: Path, installer: str) -> None:
    wheel(wheels, "wantsold", "1.0", requires=("packaging<2",))
    wheel(wheels, "packaging", "1.9")
    said: list[str] = []
    path = prepare(packages(wheels, "wantsold"), tmp_path / "store", said.append)
    assert modules_in(path) == {"wantsold.py", "packaging.py"}
    assert any(line.startswith("for this job packaging 1.9 instead of ") for line in said)


def test_versions_of_the_kernel_that_contradict_what_is_wanted_give_way(
    tmp_path: Path, wheels: Path, installer: str
) -> None:
    wheel(wheels, "modern", "1.0", requires=("tinytwo>=2",))
    said: list[str] = []
    wanted = packages(wheels, "modern", constraints=["tinytwo==1.5"])
    path = prepare(wanted, tmp_path / "store", said.append)
    assert modules_in(path) == {"modern.py", "tinytwo.py"}
    assert any(line.startswith("for this job tinytwo 2.0 instead of 1.5") for line in said)


@pytest.mark.parametrize(
    ("pin", "code", "named"),
    [
        ("nosuchpackage==1.0", "PackageNotFound", "nosuchpackage"),
        ("tinytwo==9.9", "PackageNotFound", "tinytwo==9.9"),
        ("contradiction", "Conflict", "tinytwo"),
        ("unbuildable", "BuildFailed", "unbuildable"),
        ("--index-url=http://127.0.0.1:9/", "PackageNotFound", "--index-url"),
    ],
)
def test_a_failure_names_its_cause(
    tmp_path: Path, wheels: Path, installer: str, pin: str, code: str, named: str
) -> None:
    wheel(wheels, "contradiction", "1.0", requires=("tinytwo<2", "tinyone", "stricter"))
    wheel(wheels, "stricter", "1.0", requires=("tinytwo>=2",))
    sdist(wheels, "unbuildable", "1.0", build="raise SystemExit('no compiler')")
    with pytest.raises(EnvironmentFailed) as caught:
        prepare(packages(wheels, pin), tmp_path / "store", no_word)
    assert caught.value.code == code
    assert named in caught.value.what + caught.value.why
    assert caught.value.next
    assert not list((tmp_path / "store").glob("*/complete"))


def test_install_never_names_what_is_missing(tmp_path: Path, wheels: Path) -> None:
    with pytest.raises(EnvironmentFailed) as caught:
        prepare(packages(wheels, "tinyone==1.0", "numpy==0.1", install="never"), tmp_path / "store", no_word)
    assert caught.value.code == "InstallForbidden"
    assert "tinyone==1.0" in caught.value.what
    assert "numpy==0.1 (here is " in caught.value.what
    assert not (tmp_path / "store").exists()


def test_install_never_makes_do_with_another_version_of_what_nobody_asked_for_by_name(tmp_path: Path) -> None:
    said: list[str] = []
    known = packages(None, "numpy==0.1", install="never", inferred=["numpy==0.1"])
    assert prepare(known, tmp_path / "store", said.append) == []
    assert ["numpy" in text and "0.1" in text for text in said] == [True]
    with pytest.raises(EnvironmentFailed) as caught:
        prepare(packages(None, "nosuch==1", install="never", inferred=["nosuch==1"]), tmp_path / "store", no_word)
    assert caught.value.code == "InstallForbidden"


def test_no_installer_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    look = environment._look
    monkeypatch.setattr(environment, "_look", lambda wanted: replace(look(wanted), modules=[]))
    with pytest.raises(EnvironmentFailed) as caught:
        prepare(packages(None, "tinyone"), tmp_path / "store", no_word)
    assert caught.value.code == "NoInstaller"


def test_a_store_that_cannot_be_written_is_said(tmp_path: Path, wheels: Path) -> None:
    (tmp_path / "store").write_text("a file")
    with pytest.raises(EnvironmentFailed) as caught:
        prepare(packages(wheels, "tinyone"), tmp_path / "store", no_word)
    assert caught.value.code == "StoreFailed"


@pytest.fixture
def index(wheels: Path) -> Iterator[Callable[[str], str]]:
    """A package index on the loopback; with credentials it asks for these."""
    servers: list[http.server.ThreadingHTTPServer] = []

    def serve(credentials: str) -> str:
        token = "Basic " + base64.b64encode(credentials.encode()).decode()

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path.strip("/").rpartition("/")[2]
                if credentials and self.headers.get("Authorization") != token:
                    self.send_response(401)
                    self.send_header("WWW-Authenticate", "Basic realm=test")
                    self.end_headers()
                elif (wheels / name).is_file():
                    self.answer((wheels / name).read_bytes(), "application/octet-stream")
                elif found := [file.name for file in wheels.iterdir() if file.name.startswith(f"{name}-")]:
                    page = "".join(f'<a href="/files/{file}">{file}</a>' for file in found)
                    self.answer(f"<html><body>{page}</body></html>".encode(), "text/html")
                else:
                    self.send_error(404)

            def do_HEAD(self) -> None:
                self.send_error(405)

            def answer(self, body: bytes, kind: str) -> None:
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_address[1]}/simple"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def test_an_index_is_asked_with_its_credentials_which_nobody_sees(
    tmp_path: Path, index: Callable[[str], str], installer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = index("anna:s3cret")
    monkeypatch.setenv(CREDENTIALS, json.dumps({url: "anna:s3cret"}))
    said: list[str] = []
    path = prepare(packages(None, "tinyone", index={"url": url}), tmp_path / "store", said.append)
    assert modules_in(path) == {"tinyone.py", "tinytwo.py"}
    assert CREDENTIALS not in os.environ
    assert "s3cret" not in "".join(said)
    assert not [file for file in (tmp_path / "store").rglob("*") if file.is_file() and b"s3cret" in file.read_bytes()]


def test_an_index_that_refuses_is_not_taken_for_a_missing_package(
    tmp_path: Path, index: Callable[[str], str], installer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = index("anna:s3cret")
    monkeypatch.setenv(CREDENTIALS, json.dumps({url: "anna:wr0ng"}))
    with pytest.raises(EnvironmentFailed) as caught:
        prepare(packages(None, "tinyone", index={"url": url}), tmp_path / "store", no_word)
    assert caught.value.code == "IndexRefused"
    assert "wr0ng" not in str(caught.value)


def test_an_index_that_nobody_reaches_is_not_taken_for_a_missing_package(tmp_path: Path, installer: str) -> None:
    wanted = packages(None, "tinyone", index={"url": "http://127.0.0.1:9/simple"})
    said: list[str] = []
    with pytest.raises(EnvironmentFailed) as caught:
        prepare(wanted, tmp_path / "store", said.append)
    assert caught.value.code == "IndexUnreachable"
    waits = [line for line in said if "does not answer" in line]
    assert waits if installer == "pip" else not waits, "pip asks again and again, which must be seen"


class Refuses(http.server.BaseHTTPRequestHandler):
    """A proxy that lets nobody through."""

    status = 407

    def do_CONNECT(self) -> None:
        self.send_error(self.status)

    def log_message(self, *_: Any) -> None: ...


@pytest.mark.parametrize("status", [407, 403], ids=["who are you", "not you"])
def test_a_proxy_that_lets_nobody_through_is_taken_for_no_missing_package_and_no_index(
    tmp_path: Path, installer: str, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setattr(Refuses, "status", status)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refuses) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        monkeypatch.setenv(PROXIES, json.dumps({"HTTPS_PROXY": f"http://anna:wr0ng@127.0.0.1:{proxy.server_port}"}))
        wanted = packages(None, "tinyone", index={"url": "https://packages.invalid/simple"})
        with pytest.raises(EnvironmentFailed) as caught:
            prepare(wanted, tmp_path / "store", no_word)
        proxy.shutdown()
    assert (caught.value.code, "wr0ng" in str(caught.value)) == ("IndexUnreachable", False)


PREPARE = """
import json, sys
from pathlib import Path
from kube_nb.runner.environment import prepare
packages, store = json.load(sys.stdin)
print("path", prepare(packages, Path(store), lambda line: print("said", line, flush=True)), flush=True)
"""


def prepare_apart(store: Path, wanted: dict[str, Any]) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", PREPARE], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps([wanted, str(store)]))
    process.stdin.close()
    process.stdin = None
    return process


@pytest.mark.parametrize("installer", ["uv"], indirect=True)
def test_two_jobs_at_once_install_once(tmp_path: Path, wheels: Path, installer: str) -> None:
    processes = [prepare_apart(tmp_path / "store", packages(wheels, "tinyone")) for _ in range(2)]
    said = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert len({text.splitlines()[-1] for text in said}) == 1
    assert "".join(said).count("said Installed") == 1


@pytest.mark.parametrize("installer", ["uv"], indirect=True)
def test_a_killed_installation_leaves_nothing_that_looks_complete(tmp_path: Path, wheels: Path, installer: str) -> None:
    building, go = tmp_path / "building", tmp_path / "go"
    wait = f"open({str(building)!r}, 'w').close()\n    while not os.path.exists({str(go)!r}): time.sleep(0.02)"
    sdist(wheels, "slowly", "1.0", build=wait)
    process = prepare_apart(tmp_path / "store", packages(wheels, "slowly"))
    try:
        _until(building.exists)
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=10)
        assert not list((tmp_path / "store").glob("*/complete"))
        assert not list((tmp_path / "store").glob("*/site"))
    finally:
        go.touch()
        process.communicate(timeout=60)
    path = prepare(packages(wheels, "slowly"), tmp_path / "store", no_word)
    assert modules_in(path) == {"slowly.py"}
    assert not list((tmp_path / "store").glob("*/draft-*"))


@pytest.mark.parametrize("installer", ["uv"], indirect=True)
def test_an_exception_from_a_signal_handler_ends_the_installer(
    tmp_path: Path, wheels: Path, installer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stop(Exception):
        pass

    def stop(number: int, frame: Any) -> None:
        raise Stop

    building = tmp_path / "building"
    wait = f"open({str(building)!r}, 'w').write(str(os.getpid()))\n    time.sleep(600)"
    sdist(wheels, "slowly", "1.0", build=wait)
    before = signal.signal(signal.SIGUSR1, stop)
    watcher = threading.Thread(target=lambda: (_until(lambda: _read(building)), os.kill(os.getpid(), signal.SIGUSR1)))
    try:
        watcher.start()
        with pytest.raises(Stop):
            prepare(packages(wheels, "slowly"), tmp_path / "store", no_word)
    finally:
        watcher.join()
        signal.signal(signal.SIGUSR1, before)
    _until(lambda: _gone(int(_read(building))))
    assert not list((tmp_path / "store").glob("*/draft-*"))


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def _gone(process: int) -> bool:
    try:
        return psutil.Process(process).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _until(true: Callable[[], object], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.01)


def test_an_environment_that_is_used_is_not_removed(
    tmp_path: Path, wheels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "_held", held := [])
    store = tmp_path / "store"
    (site,) = prepare(packages(wheels, "tinytwo==2.0"), store, no_word)
    key = Path(site).parent.name
    assert not environment.forget(store, key)
    assert Path(site).is_dir()
    while held:
        os.close(held.pop())
    assert environment.forget(store, key)
    assert not Path(site).parent.exists()
    assert environment.forget(store, key)  # twice is fine
    assert prepare(packages(wheels, "tinytwo==2.0"), store, no_word) == [site]
    assert modules_in([site]) == {"tinytwo.py"}


def test_an_environment_is_marked_when_it_is_used(tmp_path: Path, wheels: Path) -> None:
    store = tmp_path / "store"
    (site,) = prepare(packages(wheels, "tinytwo==2.0"), store, no_word)
    os.utime(Path(site).parent, (1, 1))
    prepare(packages(wheels, "tinytwo==2.0"), store, no_word)
    assert time.time() - Path(site).parent.stat().st_mtime < 60


@pytest.mark.parametrize("key", ["..", "caches", "0" * 39, "0" * 40 + "/.."])
def test_only_environments_are_removed_as_such(tmp_path: Path, key: str) -> None:
    (tmp_path / "caches").mkdir()
    with pytest.raises(OSError, match="is no environment"):
        environment.forget(tmp_path, key)
    assert (tmp_path / "caches").is_dir()


def test_the_cache_of_the_installers_stays_while_one_may_run(
    tmp_path: Path, wheels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "_held", held := [])
    (tmp_path / "store" / "cache").mkdir(parents=True)
    prepare(packages(wheels, "tinytwo==2.0"), tmp_path / "store", no_word)
    assert not environment.forget(tmp_path / "store", "cache")
    for fd in held:
        os.close(fd)
    assert environment.forget(tmp_path / "store", "cache")
    assert not (tmp_path / "store" / "cache").exists()


def test_a_disk_without_locks_is_a_store_too(tmp_path: Path, wheels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(environment.fcntl, "flock", none)
    (site,) = prepare(packages(wheels, "tinytwo==2.0"), tmp_path / "store", no_word)
    assert modules_in([site]) == {"tinytwo.py"}


class Proxy(http.server.ThreadingHTTPServer):
    """A proxy behind which there is an index of these wheels; remembers what it was asked for."""

    daemon_threads = True

    def __init__(self, wheels: Path) -> None:
        super().__init__(("127.0.0.1", 0), _ProxyHandler)
        self.wheels = wheels
        self.asked: list[str] = []


class _ProxyHandler(http.server.BaseHTTPRequestHandler):
    server: Proxy

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        name = self.path.rstrip("/").rpartition("/")[2].partition("#")[0]
        file = self.server.wheels / name
        if file.is_file():
            body = file.read_bytes()
        else:
            found = sorted(path.name for path in self.server.wheels.glob(f"{name}-*.whl"))
            body = "".join(f'<a href="/files/{one}">{one}</a>' for one in found).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/octet-stream" if file.is_file() else "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None: ...


@pytest.mark.usefixtures("installer")
def test_the_index_is_reached_as_it_is_reached_from_the_kernel(
    tmp_path: Path, wheels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    proxy = Proxy(wheels)
    thread = threading.Thread(target=proxy.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        way = {"HTTP_PROXY": f"http://127.0.0.1:{proxy.server_address[1]}"}
        monkeypatch.setenv(PROXIES, json.dumps(way))
        index = {"url": "http://index.example/simple", "insecure": ["index.example"]}
        found = prepare(packages(None, "tinytwo==1.5", index=index), tmp_path / "store", no_word)
    finally:
        proxy.shutdown()
        thread.join()
        proxy.server_close()
    assert "tinytwo.py" in modules_in(found)
    assert any(path.startswith("http://index.example/simple/tinytwo") for path in proxy.asked)
    assert PROXIES not in os.environ
    assert "HTTP_PROXY" not in os.environ


# What is only wished for ----------------------------------------------------------------------------------------------


def test_what_is_wished_for_is_installed_with_the_rest(tmp_path: Path, wheels: Path, installer: str) -> None:
    path = prepare(packages(wheels, "tinytwo==2.0", wished=["tinyone==1.0"]), tmp_path / "store", no_word)
    assert modules_in(path) == {"tinyone.py", "tinytwo.py"}


def test_without_what_is_only_wished_for_the_job_has_the_rest(tmp_path: Path, wheels: Path, installer: str) -> None:
    said: list[str] = []
    path = prepare(packages(wheels, "tinytwo==2.0", wished=["nosuch==1.0"]), tmp_path / "store", said.append)
    assert modules_in(path) == {"tinytwo.py"}
    assert any("without nosuch" in line for line in said)


def test_where_nothing_can_be_installed_a_job_goes_without_what_it_only_wishes_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    look = environment._look
    monkeypatch.setattr(environment, "_look", lambda wanted: replace(look(wanted), modules=[]))
    said: list[str] = []
    assert prepare(packages(None, wished=["nosuch==1.0"]), tmp_path / "store", said.append) == []
    assert "without nosuch" in said[-1]
    with pytest.raises(EnvironmentFailed) as caught:
        prepare(packages(None, "other==1.0", wished=["nosuch==1.0"]), tmp_path / "store", no_word)
    assert caught.value.code == "NoInstaller"


def test_a_wish_is_none_where_nothing_may_be_installed(tmp_path: Path) -> None:
    told = packages(None, wished=["nosuch==1.0"], install="never")
    assert prepare(told, tmp_path / "store", no_word) == []
