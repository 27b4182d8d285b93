"""One attempt on one node: what is checked before the code starts, what it finds, how its end is told."""

from __future__ import annotations

import hashlib
import hmac
import io
import json
import os
import signal
import stat
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kube_nb.backends.reasons import reason_of
from kube_nb.runner import ending
from kube_nb.runner.objects import Objects
from tests.conformance.sending import gone
from tests.unit.one_node import KEY, OneNode, Ran


@pytest.fixture
def node(tmp_path: Path) -> OneNode:
    return OneNode(tmp_path)


def zipped(**files: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def signature(**content: object) -> str:
    record = {"job": "job-1", "attempt": 0} | content
    data = json.dumps(record, sort_keys=True, separators=(",", ":")).encode()
    return hmac.digest(KEY, data, "sha256").hex()


# What the code writes


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xfe\x00 no text\n\x00",
        b"\x1e{}\n\x1e\x1e\n\n\x1e",
        "a\u0085b\u2028c\r\nd\x0c\x1d\x1c\r".encode(),
        b"x" * 10_000_000 + b"\n" + b"y" * 3_000_000,
    ],
    ids=["nothing", "no text", "marks", "line ends of others", "long lines"],
)
def test_what_the_code_writes_arrives_byte_for_byte(node: OneNode, data: bytes):
    (node.folder / "data").write_bytes(data)
    ran = node.run(f"import sys; sys.stdout.buffer.write(open({str(node.folder / 'data')!r}, 'rb').read())")
    assert ran.code == "Succeeded"
    assert ran.text.get(0, b"") == data
    account = {"bytes": len(data), "lines": data.count(b"\n"), "sha256": hashlib.sha256(data).hexdigest()}
    assert ran.end["account"] == ran.of("account")[-1]["account"] == account


def test_print_stderr_and_events_keep_their_order(node: OneNode):
    ran = node.run(
        "import os\n"
        "for i in range(200):\n"
        "    os.write(1, b'out %d\\n' % i); os.write(2, b'err %d' % i)\n"
        "    say('metric', values={'i': i}); os.write(1, b'\\n')\n"
    )
    seen, position = [], 0
    for event in ran.events:
        if event.kind == "metric":
            seen.append(ran.text[0][position : event.offset])
            position = event.offset
    assert seen[0] == b"out 0\nerr 0"
    assert seen[1:] == [b"\nout %d\nerr %d" % (i, i) for i in range(1, 200)]


def test_an_account_comes_about_every_mebibyte(node: OneNode):
    ran = node.run("for i in range(100_000): print('x' * 99)")
    sizes = [account["account"]["bytes"] for account in ran.of("account")]
    assert sizes[-1] == 10_000_000
    assert all(
        0 < after - before < 3 << 20 for before, after in zip([0, *sizes], sizes, strict=False) if after > before
    )
    assert not any(b'"cont"' in line for line in ran.stream.split(b"\n") if b'"account"' in line)


@pytest.mark.slow
def test_a_million_lines_are_all_there(node: OneNode):
    ran = node.run("import sys\nsys.stdout.reconfigure(line_buffering=True)\nfor i in range(1_000_000): print(i)")
    assert ran.text[0] == b"".join(b"%d\n" % i for i in range(1_000_000))


# How it ends

ENDS = [
    ("x = 1\n\n1 / 0\n", "Exception", {"ename": "ZeroDivisionError", "evalue": "division by zero", "line": 3}),
    ("import sys; sys.exit(3)", "SystemExit", {"exit": 3}),
    ("import sys; sys.exit(0)", "Succeeded", {"exit": 0}),
    ("import sys; sys.exit()", "Succeeded", {"exit": 0}),
    ("import os; os._exit(0)", "Exited", {"exit": 0}),
    ("import os; os._exit(7)", "Exited", {"exit": 7}),
    ("import os; os.kill(os.getpid(), 11)", "Signal", {"signal": 11, "detail": {"name": "SIGSEGV"}}),
    ("import os; os.kill(os.getpid(), 9)", "Signal", {"signal": 9, "exit": None}),
    ("raise OSError(28, 'No space left on device')", "OutOfDisk", {"ename": "OSError"}),
    ("raise MemoryError('too much')", "Exception", {"ename": "MemoryError"}),
    ("say('bye', status='error', code='BundleCorrupted', evalue='x')", "BundleCorrupted", {}),
]


@pytest.mark.parametrize(("source", "code", "known"), ENDS, ids=[source.split("; ")[-1].strip() for source, *_ in ENDS])
def test_each_end_has_its_code(node: OneNode, source: str, code: str, known: dict[str, object]):
    if "bye" in source:
        source += "; import os; os._exit(1)"
    ran = node.run(source)
    assert ran.code == code
    assert known.items() <= ran.end.items()
    assert ran.status == ending.CODES[code]
    assert ran.end["where"] == "Cell In[5]"
    assert ran.end["started"] <= ran.end["ended"]
    (said,) = ran.of("end")
    assert said == {name: value for name, value in ran.end.items() if name != "rank"}
    assert ran.events[-1].kind == "end"
    assert not ran.faults


def test_a_crash_after_the_goodbye_is_no_failure(node: OneNode):
    ran = node.run("say('bye', status='ok', exit=0); import os; os.kill(os.getpid(), 11)")
    assert ran.code == "Succeeded"
    assert ran.end["detail"] == {"after": {"exit": None, "signal": 11}}


def test_a_killed_process_is_out_of_memory_only_where_the_kernel_says_so():
    said = {"bye": None, "error": None, "filename": ""}
    assert ending.of_rank(0, -9, out_of_memory=True, **said)["code"] == "OutOfMemory"
    assert ending.of_rank(0, -9, out_of_memory=False, **said)["code"] == "Signal"
    assert ending.of_rank(0, -11, out_of_memory=True, **said)["code"] == "Signal"


@given(st.text(), st.text(max_size=2000), st.dictionaries(st.text(), st.text(max_size=9000), max_size=5))
def test_an_end_of_any_content_fits_and_keeps_what_programs_read(ename, evalue, detail):
    account = {"bytes": 2**60, "lines": 2**60, "sha256": "f" * 64}
    record = ending.end("Exception", 3, ename=ename, evalue=evalue, detail=detail, account=account, result="e" * 64)
    data = ending.shorten(record)
    assert len(data) <= ending.LIMIT
    read = ending.parse_end(data)
    assert read is not None
    kept = ("v", "code", "rank", "account", "result")
    assert {key: read[key] for key in kept} == {key: record[key] for key in kept}
    if len(evalue) <= 300 and evalue.isascii() and evalue.isprintable():
        assert read["evalue"] == evalue


@pytest.mark.parametrize("message", [b"", b"    ", b'{"v":1,"code":"Succ', b"[]", b'{"code":"Nonsense"}', b"\xff"])
def test_what_is_no_end_is_none(tmp_path: Path, message: bytes):
    (tmp_path / "end").write_bytes(message)
    assert ending.read_end(str(tmp_path / "end")) is None
    assert ending.read_end(str(tmp_path / "nothing")) is None


def test_an_exit_status_tells_the_code_of_a_lost_end():
    assert {ending.code_of(status) for code, status in ending.CODES.items() if status == 1} == {None}
    assert ending.code_of(86) == "OutOfDisk"
    assert ending.code_of(0) == "Succeeded"
    assert ending.code_of(-9) is None


# What comes back is signed


def test_results_errors_and_outputs_are_signed_with_the_key_of_the_job(node: OneNode):
    index = {"names": {"é": {"size": 1.5, "type": "int"}}, "graph": None}
    ran = node.run(
        f"say('result', index={index!r})\nsay('output', name='a', object='d', size=1)\nraise ValueError('\\ud800')"
    )
    (result,), (error,), (output,) = ran.of("result"), ran.of("error"), ran.of("output")
    assert result == {"index": index, "hmac": signature(index=index)}
    assert error["hmac"] == signature(error=error["error"])
    assert output == {"name": "a", "object": "d", "size": 1} | {
        "hmac": signature(output={"name": "a", "object": "d", "size": 1})
    }
    canonical = json.dumps(index, sort_keys=True, separators=(",", ":")).encode()
    assert ran.end["result"] == hashlib.sha256(canonical).hexdigest()


# What is checked before anything of it is used


def refused(ran: Ran, why: str) -> None:
    assert ran.code == "BundleCorrupted"
    assert ran.status == 83
    assert why in ran.end["evalue"]
    assert [event.kind for event in ran.events] == ["account", "end"]


def test_a_manifest_of_another_key_is_refused(node: OneNode):
    node.sign(node.manifest("print('never')"), key=b"other")
    refused(node.launch().wait(), "signature")


def test_a_missing_manifest_is_refused(node: OneNode):
    refused(node.launch().wait(), "manifest.json")


@pytest.mark.parametrize("size", [10, 9 << 20], ids=["small", "of two blocks"])
@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda path: path.write_bytes(b"!" + path.read_bytes()[1:]), ""),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "bytes instead of"),
        (lambda path: path.unlink(), "is missing"),
        (lambda path: (path.unlink(), os.mkfifo(path)), ""),
    ],
    ids=["other bytes", "cut", "missing", "a fifo"],
)
def test_a_damaged_object_is_refused(node: OneNode, size: int, damage, why: str):
    digest = Objects(node.bundle / "objects").write(b"x" * size)
    graph = {"pickle": node.object(b"graph"), "buffers": [digest]}
    assert node.run("pass", graph=graph).code == "Succeeded"
    damage(node.bundle / "objects" / digest)
    refused(node.launch().wait(), why)


@pytest.mark.parametrize("digest", ["../../key", "A" * 64, "", "x" * 64])
def test_a_digest_that_is_none_is_refused(node: OneNode, digest: str):
    sizes = {digest: 1}
    manifest = node.manifest("pass", sources={"<cell 1>": digest})
    node.sign(manifest | {"sizes": manifest["sizes"] | sizes})
    refused(node.launch().wait(), "is not a digest")


PATHS = ["/etc/x", "../x", "a/../../x", "a//b", "./a", "a/.", "", "a/", "a\0b"]


@pytest.mark.parametrize("path", PATHS)
def test_a_file_cannot_leave_the_work_folder(node: OneNode, path: str):
    refused(node.run("pass", files={path: node.object(b"x")}), "leads out of")


@pytest.mark.parametrize("path", PATHS[:3])
def test_a_module_cannot_leave_its_folder(node: OneNode, path: str):
    refused(node.run("pass", modules=node.object(zipped(**{path: ""}))), "leads out of")


def test_a_link_among_the_modules_is_refused(node: OneNode):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        link = zipfile.ZipInfo("link")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc")
        archive.writestr("link/x.py", "")
    refused(node.run("pass", modules=node.object(buffer.getvalue())), "symbolic link")


def test_code_of_another_python_is_refused(node: OneNode):
    ran = node.run("pass", python=[3, 4])
    assert (ran.code, ran.status) == ("EnvironmentFailed", 84)
    assert "3.4" in ran.end["detail"]["what"]
    assert reason_of(ran.end).code == "PythonMismatch"


# What the code finds


def test_files_and_modules_are_where_the_code_expects_them(node: OneNode):
    ran = node.run(
        "import os, mine.deep\nprint(mine.deep.x, open('data/a b.csv').read(), sorted(os.listdir()))\n"
        "print(os.path.dirname(os.path.dirname(mine.__file__)) == spec['modules'])",
        files={"data/a b.csv": node.object(b"1,2"), "c": node.object(b"")},
        modules=node.object(zipped(**{"mine/": "", "mine/__init__.py": "", "mine/deep.py": "x = 5"})),
    )
    assert ran.text[0] == b"5 1,2 ['c', 'data']\nTrue\n"


def test_the_work_folder_is_fresh_for_each_attempt_and_the_checkpoints_stay(node: OneNode):
    source = (
        "import os\nopen('left', 'w'); os.makedirs('d/e', exist_ok=True); os.symlink('/', 'l')\n"
        "open(os.path.join(os.environ['KUBE_NB_CHECKPOINTS'], os.environ['KUBE_NB_ATTEMPT']), 'w')\n"
    )
    more = ("--checkpoints", str(node.folder / "checkpoints"))
    assert node.run(source, *more).code == "Succeeded"
    look = "import os; print(os.listdir(), os.listdir(os.environ['KUBE_NB_CHECKPOINTS']))"
    ran = node.start(look, *more, attempt=1).wait()
    assert ran.text[0] == b"[] ['0']\n"
    assert {event.attempt for event in ran.events} == {1}


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="open descriptors are listed elsewhere")
def test_the_rank_has_its_own_session_no_input_and_no_descriptor_of_ours(node: OneNode):
    ran = node.run(
        "import os, sys\nprint(os.getsid(0) == os.getpid(), sys.stdin.read(), len(os.listdir('/proc/self/fd')))\n"
        "import signal; print(signal.getsignal(signal.SIGPIPE), signal.pthread_sigmask(0, []))"
    )
    session, sigpipe = ran.text[0].splitlines()
    assert session == b"True  4"  # 0, 1, 2, and the listing itself
    assert sigpipe.endswith(b"set()")


def test_the_folder_of_the_socket_is_private_and_goes_away(node: OneNode):
    ran = node.run(
        "import os\nplace = os.path.dirname(os.environ['KUBE_NB_SOCKET'])\n"
        "print(place, oct(os.stat(place).st_mode), [oct(os.stat(f'{place}/rank.0.json').st_mode)])"
    )
    place, folder, spec = ran.text[0].decode().split()
    assert (folder, spec) == ("0o40700", "['0o100600']")
    assert not Path(place).exists()


def test_packages_are_installed_before_the_code_starts(node: OneNode):
    (node.runner / "_kube_nb_job" / "runner" / "environment.py").write_text(
        "def prepare(packages, store, say):\n"
        "    say('installing ' + packages['pins'][0]); return [str(store), packages['index']['url']]\n"
        "class EnvironmentFailed(Exception): pass\n"
    )
    packages = {"pins": ["x==1"], "constraints": [], "install": "missing", "index": {"url": "u"}}
    ran = node.run(
        "print(spec['env_path'])", "--env-store", "/the/store", packages=packages | {"requires_ipython": False}
    )
    assert ran.text[0] == b"['/the/store', 'u']\n"
    assert ran.of("state")[0] == {"phase": "Starting", "step": "install", "text": "installing x==1"}


def test_an_environment_that_cannot_be_made_ends_the_attempt_with_its_reason(node: OneNode):
    (node.runner / "_kube_nb_job" / "runner" / "environment.py").write_text(
        "class EnvironmentFailed(Exception):\n"
        "    what, why, next, code = 'x was not found', 'no such name', 'check it', 'PackageNotFound'\n"
        "def prepare(*_): raise EnvironmentFailed\n"
    )
    packages = {"pins": ["x"], "requires_ipython": False}
    ran = node.run("pass", packages=packages)
    assert (ran.code, ran.end["evalue"]) == ("EnvironmentFailed", "x was not found")
    assert ran.end["detail"]["next"] == "check it"


def test_a_cancel_while_packages_are_installed_ends_the_installation(node: OneNode):
    (node.runner / "_kube_nb_job" / "runner" / "environment.py").write_text(
        "import subprocess\n"
        "class EnvironmentFailed(Exception): pass\n"
        "def prepare(packages, store, say):\n"
        "    child = subprocess.Popen(['sleep', '60']); say(f'pid={child.pid}.'); child.wait()\n"
    )
    running = node.start("pass", packages={"pins": ["x"], "requires_ipython": False})
    running.until(b"pid=")
    running.process.send_signal(signal.SIGINT)
    ran = running.wait()
    assert (ran.code, ran.status) == ("Cancelled", 81)
    assert gone(int(ran.of("state")[0]["text"][4:-1]))


# When the stream cannot be written


def test_a_closed_output_stops_the_code(node: OneNode):
    node.sign(node.manifest("import time\nwhile True: print('x' * 99, flush=True); time.sleep(0.001)"))
    read, write = os.pipe()
    running = node.launch(stdout=write)
    os.close(write)
    os.read(read, 1)
    os.close(read)
    ran = running.wait()
    assert (ran.code, ran.status) == ("RunnerFault", 87)
    assert "Broken pipe" in ran.end["evalue"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no device that is full")
def test_a_full_disk_under_the_stream_is_out_of_disk(node: OneNode):
    node.sign(node.manifest("import time; time.sleep(60)"))
    with open("/dev/full", "wb") as full:
        ran = node.launch(stdout=full).wait()
    assert (ran.code, ran.status) == ("OutOfDisk", 86)


def test_a_reader_that_does_not_read_holds_up_neither_time_out_nor_end(node: OneNode):
    node.sign(node.manifest("while True: print('x' * 99)", timeout=1.0, grace=0.2))
    read, write = os.pipe()
    running = node.launch(stdout=write)
    os.close(write)
    deadline = time.monotonic() + 15
    while not (node.end.exists() and node.end.read_bytes()):
        assert time.monotonic() < deadline, "no END"
        time.sleep(0.02)
    assert ending.read_end(str(node.end))["code"] == "TimedOut"  # type: ignore[index]
    os.close(read)
    assert running.wait().status == 80


def test_a_slow_reader_gets_all_of_it(node: OneNode):
    node.sign(node.manifest("for i in range(300_000): print(i)"))
    read, write = os.pipe()
    running = node.launch(stdout=write)
    os.close(write)
    parts = []
    while part := os.read(read, 1 << 16):
        parts.append(part)
        time.sleep(0.001)
    running.wait()
    ran = Ran(0, b"".join(parts), b"", {}, 0)
    assert ran.text[0] == b"".join(b"%d\n" % i for i in range(300_000))


# The runner itself


def test_wrong_arguments_are_a_fault_of_ours(node: OneNode):
    command = [sys.executable, "-I", "-S", str(node.runner / "main.py"), "--bundle"]
    ran = subprocess.run(command, capture_output=True, check=False)
    assert ran.returncode == 87
    assert b"Traceback" in ran.stderr


def test_what_goes_wrong_in_the_runner_is_its_own_fault_and_kills_the_ranks(node: OneNode):
    ran = node.run("pass", grace="soon")
    assert (ran.code, ran.status) in (("RunnerFault", 87), ("Succeeded", 0))
    ran = node.run("import time; print('pid', flush=True); time.sleep(60)", grace="soon", timeout=0.3)
    assert (ran.code, ran.status) == ("RunnerFault", 87)
    assert b"Traceback" in ran.faults


def test_the_runner_starts_fast_and_imports_little(node: OneNode):
    node.run("pass")
    command = node.command()
    command[1:1] = ["-X", "importtime"]
    said = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=True).stderr.decode()
    before_the_rank = said.partition("ctypes")[0]
    names = {line.rpartition("|")[2].strip() for line in before_the_rank.splitlines()}
    assert "json" in names
    assert names.isdisjoint({"typing", "dataclasses", "subprocess", "asyncio", "pathlib", "traceback", "logging"})
