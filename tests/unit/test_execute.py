"""The sent code runs as a cell does, and around it stands what a cell finds in a notebook."""

from __future__ import annotations

import inspect
import linecache
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kube_nb.runner import commands
from kube_nb.runner.execute import RESULT, Code, remember
from tests.unit.rank_process import run_rank


class Shown(list[Any]):
    """The values that were shown, and the names after the code ran."""

    def __init__(self) -> None:
        super().__init__()
        self.names: dict[str, Any] = {"__name__": "__main__"}

    def __call__(self, source: str, **options: Any) -> Shown:
        Code(source, "<test>", **options).run(self.names)
        return self


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Shown:
    shown = Shown()
    monkeypatch.setattr(sys, "displayhook", shown.append)
    return shown


@pytest.mark.parametrize(
    ("source", "values"),
    [
        ("1 + 1", [2]),
        ("x = 1\nx", [1]),
        ("1\n2\n3", [3]),
        ("x = 1", []),
        ("", []),
        ("# nothing", []),
        ("1 + 1;", []),
        ("1 + 1 ;  # quiet", []),
        ("('é');", []),
        ("'é' ';'", ["é;"]),
        ("x = 1;\nx", [1]),
        ("(1 +\n 1)", [2]),
        ("1;\r\n2", [2]),
        ("1\r\n2;\r\n", []),
        ("\n\n5\n\n# the end\n", [5]),
        ("if True:\n    7", []),
        ("'doc'", ["doc"]),
    ],
)
def test_the_value_of_the_last_expression_is_shown_unless_a_semicolon_ends_it(run, source, values):
    assert run(source) == values


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30), st.booleans())
def test_a_semicolon_inside_a_string_is_no_end(text, silent):
    shown: list[Any] = []
    hook, sys.displayhook = sys.displayhook, shown.append
    try:
        Code(f"{text!r}" + (";" if silent else ""), "<test>").run({})
    finally:
        sys.displayhook = hook
    assert shown == ([] if silent else [text])


def test_a_result_is_kept_and_not_shown(run):
    assert run("40 + 2", returns=True) == []
    assert run.names[RESULT] == 42


def test_the_result_of_an_async_function_is_awaited(run):
    run("async def answer():\n    return 42\nanswer()", returns=True)
    assert run.names[RESULT] == 42


def test_a_file_shows_nothing_by_itself_and_awaits_nothing(run):
    assert run("1 + 1", plain=True) == []
    with pytest.raises(SyntaxError):
        run("await something", plain=True)


def test_statements_await_on_one_loop(run):
    run(
        "import asyncio\n"
        "first = asyncio.get_running_loop()\n"
        "async def same(): return asyncio.get_running_loop() is first\n"
        "async with asyncio.timeout(5): pass\n"
        "await same()"
    )
    assert run == [True]


def test_a_task_runs_while_the_code_awaits(run):
    run(
        "import asyncio\nseen = []\n"
        "async def note(): seen.append('task')\n"
        "task = asyncio.create_task(note())\nawait asyncio.sleep(0)\nseen.append('cell')"
    )
    assert run.names["seen"] == ["task", "cell"]


def test_a_task_needs_no_await_at_the_top(run):
    run("import asyncio\nseen = []\nasync def note(): seen.append(1)\ntask = asyncio.create_task(note())")
    assert run.names["seen"] == [1]


def test_a_task_that_does_not_end_is_cancelled_with_a_word(run, capsys):
    run("import asyncio\ntask = asyncio.create_task(asyncio.sleep(3600))")
    assert "1 asyncio task was still running" in capsys.readouterr().err
    assert run.names["task"].cancelled()


def test_code_that_starts_its_own_loop_is_not_in_one(run):
    run(
        "import asyncio\nasync def inner():\n    return await asyncio.create_task(asyncio.sleep(0, 7))\n"
        "asyncio.run(inner())"
    )
    assert run == [7]


def test_a_future_import_holds_for_the_last_line_too(run):
    assert run("from __future__ import annotations\n(lambda: 0).__annotations__\ndef f(a: nothing): ...\nf") != []
    assert run.names["f"].__annotations__ == {"a": "nothing"}


def test_our_own_future_imports_do_not_hold_for_the_code(run):
    run("def f(a: int): ...")
    assert run.names["f"].__annotations__ == {"a": int}


def test_source_of_sent_code_is_found_after_the_cache_was_checked():
    remember({"<remembered>": "def told():\n    return 1\n"})
    linecache.checkcache()
    names: dict[str, Any] = {}
    Code("def told():\n    return 1\n", "<remembered>").run(names)
    assert inspect.getsource(names["told"]) == "def told():\n    return 1\n"


# !command -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "expanded"),
    [
        ("echo $x {x + 1}", "echo 5 6"),
        ("echo $$x", "echo $x"),
        ("echo '$x'", "echo '$x'"),
        ("echo ${HOME}", "echo ${HOME}"),
        ("echo $nothing", "echo $nothing"),
        ("echo {{x}}", "echo {x}"),
        ("echo {names[0:2]}", "echo ['a', 'b']"),
        ("echo {'q'!r}", "echo 'q'"),
        ("awk '{print $1}'", "awk '{print $1}'"),
        ("echo $path.name", "echo f"),
        ("plain", "plain"),
    ],
)
def test_python_values_in_a_command(command, expanded):
    names = {"x": 5, "names": ["a", "b", "c"], "path": Path("/d/f")}
    assert commands.expand(command, names) == expanded


@pytest.mark.parametrize("command", ["echo $x {x + 1}", "echo $$x '$x' \"$x\" {x}", "a $x.real b", "${x}", "$x$x"])
def test_python_values_in_a_command_as_ipython_puts_them(command):
    from IPython.utils.text import DollarFormatter

    assert commands.expand(command, {"x": 5}) == DollarFormatter().vformat(command, [], {"x": 5})


def test_the_status_of_a_command():
    assert commands.run("exit 3", {}) == 3
    assert commands.run("kill -9 $$", {}) in (-9, 9)


def test_lines_of_a_command_travel_as_a_list():
    lines = commands.Lines(["a b", "c"])
    assert (lines.n, lines.s, lines.l) == ("a b\nc", "a b c", ["a b", "c"])
    assert lines.__reduce__() == (list, (["a b", "c"],))


# In a rank ----------------------------------------------------------------------------------------------------------


def test_values_come_and_go():
    ran = run_rank("y = x + 1\nprint('hi')\ny", {"x": 41}, assigned=["y", "never"])
    assert (ran.text, ran.results, ran.status) == ("hi\n", ["42"], 0)
    assert ran.values == {"y": 42}
    assert ran.bye == {"kind": "bye", "status": "ok", "exit": 0}


def test_main_is_the_namespace_and_nothing_of_ours_is_in_it():
    ran = run_rank("import sys\nprint(sorted(n for n in globals()), sys.modules['__main__'].__dict__ is globals())")
    names = ["__builtins__", "__doc__", "__loader__", "__name__", "__package__", "__spec__", "sys"]
    assert ran.text == f"{names} True\n"


def test_what_ipython_keeps_for_itself_does_not_come_back():
    ran = run_rank(
        "import IPython\nIn = ['mine']\nprint(sorted(set(globals()) - before))",
        {"before": {"__builtins__", "__doc__", "__loader__", "__name__", "__package__", "__spec__", "before"}},
        assigned=["In"],
    )
    assert ran.values == {"In": ["mine"]}
    assert ran.text == "['IPython', 'In', '__builtin__', '_dh', '_ih', '_oh']\n"


def test_the_order_of_print_stderr_commands_and_displays_is_exact():
    ran = run_rank(
        "import os, sys\n"
        "print('a', end=''); print('b', end='', file=sys.stderr); print('c')\n"
        "get_ipython().system('echo d')\n"
        "os.write(2, b'e\\n')\n"
        "display(1)\n"
        "print('f', end='')\n"
        "display(2)\n"
        "print('g', file=sys.stderr)"
    )
    parts = [item if isinstance(item, str) else "<shown>" if item["kind"] == "display" else "" for item in ran.items]
    assert "".join(parts) == "abc\nd\ne\n<shown>f<shown>g\n"


def test_the_beginning_of_a_line_is_seen_before_its_end():
    ran = run_rank("import time\nprint('half', end='')\ntime.sleep(1)\nprint('whole')")
    assert [item for item in ran.items if isinstance(item, str)] == ["half", "whole\n"]


def test_the_beginnings_of_lines_keep_their_order_too():
    ran = run_rank(
        "import sys\n"
        "for n in range(3):\n"
        "    print('a', end=''); print('b', end='', file=sys.stderr)\n"
        "    print('c', end=''); sys.stdout.writelines(['d'])\n"
        "    print('e', file=sys.stderr); print('f', end='', file=sys.stderr); print('g'); sys.stdout.flush()\n"
    )
    assert ran.text == "abcde\nfg\n" * 3


def test_lines_of_many_threads_stay_whole():
    ran = run_rank(
        "import threading\n"
        "def work(n):\n    for i in range(50): print('thread', n, 'line', i)\n"
        "threads = [threading.Thread(target=work, args=(n,)) for n in range(40)]\n"
        "for one in threads: one.start()\n"
        "for one in threads: one.join()"
    )
    assert sorted(ran.text.splitlines()) == sorted(f"thread {n} line {i}" for n in range(40) for i in range(50))


def test_what_the_streams_are():
    ran = run_rank(
        "import sys\n"
        "assert sys.stdout.buffer is sys.stderr.buffer\n"
        "for stream in (sys.stdout, sys.stderr):\n"
        "    print(stream.line_buffering, stream.encoding, stream.errors, stream.isatty(), stream.fileno())"
    )
    assert ran.text == "True utf-8 backslashreplace False 1\n" * 2


def test_closing_and_replacing_the_streams_silences_nothing():
    ran = run_rank(
        "import io, sys\n"
        "sys.stdout = io.TextIOWrapper(sys.stdout.buffer, encoding='utf-8')\n"
        "print('through a wrapper')\n"
        "sys.stdout = sys.__stdout__\n"
        "sys.stdout.close()\n"
        "print('after close', file=sys.stderr)\n"
        "print('\\ud800')"
    )
    assert ran.text == "through a wrapper\nafter close\n\\ud800\n"
    assert ran.status == 0


def test_commands_and_their_output():
    ran = run_rank(
        "get_ipython().system('echo $x; exit 3')\n"
        "def inside():\n"
        "    local = 'loc'\n"
        "    get_ipython().system('echo {local}')\n"
        "inside()\n"
        "out = get_ipython().getoutput('echo a; echo b >&2')\n"
        "print(_exit_code, out.n)",
        {"x": 5},
        assigned=["out"],
    )
    assert ran.text == "5\nloc\n0 a\nb\n"
    assert list(ran.values["out"]) == ["a", "b"]


def test_commands_do_not_import_ipython():
    assert run_rank("get_ipython().system('true')\nimport sys\nprint('IPython' in sys.modules)").text == "False\n"


def test_without_ipython_commands_and_await_work_and_magics_say_what_is_missing(bare_python):
    ran = run_rank(
        "import asyncio\n"
        "get_ipython().system('echo $x')\n"
        "lines = get_ipython().getoutput('echo a; echo b')\n"
        "await asyncio.sleep(0)\n"
        "display([1])\n"
        "print(hasattr(get_ipython(), 'kernel'))\n"
        "get_ipython().run_line_magic('matplotlib', 'inline')",
        {"x": 5},
        names=["lines"],
        python=bare_python,
    )
    assert ran.text == "5\nFalse\n"
    assert ran.values == {"lines": ["a", "b"]}
    assert type(ran.values["lines"]) is list
    assert ran.error is not None
    assert "--packages ipython" in ran.error["evalue"]
    assert "%matplotlib" in ran.error["evalue"]


@pytest.fixture(scope="session")
def bare_python(tmp_path_factory) -> str:
    """An interpreter without any package."""
    home = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home)], check=True)
    return str(home / "bin" / "python")


def test_paths_of_the_code(tmp_path):
    (tmp_path / "installed.py").write_text("WHERE = 'environment'")
    (tmp_path / "both.py").write_text("WHERE = 'environment'")
    ran = run_rank(
        "import both, installed, mine, sys\n"
        "print(both.WHERE, installed.WHERE, mine.WHERE)\n"
        "print(sys.path[0] == work, [p for p in sys.path if 'runners-' in p] == [sys.path[-1]], sys.path[-1][-6:])\n"
        "import subprocess\n"
        "print(subprocess.check_output([sys.executable, '-c', 'import both, mine; print(both.WHERE)'], text=True))",
        {"work": ""},
        modules={"mine.py": "WHERE = 'module'", "both.py": "WHERE = 'module'"},
        env_path=[str(tmp_path)],
        assigned=[],
    )
    assert ran.text.startswith("module environment module\nFalse True /small\nmodule\n")


def test_the_small_package_stands_last(tmp_path, bare_python):
    source = "import kube_nb\nprint(kube_nb.__file__)"
    assert run_rank(source, python=bare_python).text.endswith("/small/kube_nb/__init__.py\n")
    (tmp_path / "kube_nb").mkdir()
    (tmp_path / "kube_nb" / "__init__.py").write_text("FULL = True")
    source = (
        "import kube_nb, subprocess, sys\nprint(kube_nb.FULL)\n"
        "subprocess.run([sys.executable, '-c', 'import kube_nb; print(kube_nb.FULL)'])"
    )
    assert run_rank(source, env_path=[str(tmp_path)], python=bare_python).text == "True\nTrue\n"
    source = "import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'import kube_nb; print(kube_nb.report)'])"
    assert "function report" in run_rank(source, python=bare_python).text


def test_input_says_that_nobody_is_there():
    ran = run_rank("input('name? ')")
    assert ran.error is not None
    assert (ran.error["ename"], ran.text) == ("EOFError", "")
    assert "keyboard" in ran.error["evalue"]


@pytest.mark.parametrize(
    ("source", "status", "exit_code", "text"),
    [
        ("exit()", 0, 0, ""),
        ("import sys; sys.exit(0)", 0, 0, ""),
        ("quit(3)", 3, 3, ""),
        ("raise SystemExit('words')", 1, 1, "words\n"),
        ("raise SystemExit([1, 2])", 1, 1, "[1, 2]\n"),
        ("raise SystemExit(True)", 1, 1, ""),
    ],
)
def test_exits(source, status, exit_code, text):
    ran = run_rank(source)
    assert (ran.status, ran.text) == (status, text)
    assert ran.bye == {"kind": "bye", "status": "exit", "exit": exit_code}
    assert type(ran.bye["exit"]) is int


def test_a_successful_exit_gives_back_what_there_is():
    assert run_rank("x = 1\nexit()", assigned=["x"]).values == {"x": 1}


def test_an_end_without_a_word_says_nothing():
    assert run_rank("import os\nos._exit(0)").bye is None
    killed = run_rank("import os, signal\nos.kill(os.getpid(), signal.SIGTERM)")
    assert (killed.bye, killed.status) == (None, -signal.SIGTERM)


def test_the_goodbye_comes_after_threads_and_exit_functions():
    ran = run_rank(
        "import atexit, threading, time\n"
        "def later():\n    time.sleep(0.3)\n    print('thread')\n"
        "atexit.register(print, 'atexit')\n"
        "threading.Thread(target=later).start()\nprint('cell')"
    )
    assert ran.text == "cell\nthread\natexit\n"
    assert isinstance(ran.items[-1], dict)
    assert ran.items[-1]["kind"] == "bye"


def test_a_forked_child_that_runs_on_ends_by_itself():
    ran = run_rank(
        "import os\n"
        "x = os.fork()\n"
        "if x:\n    print('child ended with', os.waitstatus_to_exitcode(os.waitpid(x, 0)[1]))\n"
        "else:\n    print('in the child')\n    display(2)\n    raise ValueError('only there')",
        assigned=["x"],
    )
    assert "in the child\n" in ran.text
    assert "ValueError: only there\n" in ran.text
    assert "child ended with 1" in ran.text
    assert "_kube_nb_job" not in ran.text
    assert [message["kind"] for message in ran.items if isinstance(message, dict)].count("bye") == 1
    assert len(ran.shown) == 1
    assert ran.error is None


def test_a_fork_does_not_write_twice_and_gives_no_warning():
    ran = run_rank(
        "import os\nprint('once', end=' ')\npid = os.fork()\nif not pid: os._exit(0)\nos.waitpid(pid, 0)\nprint('end')"
    )
    assert ran.text == "once end\n"


def test_pools_of_processes_work():
    ran = run_rank(
        "import multiprocessing, operator, mine\n"
        "def double(x): return 2 * x\n"
        "with multiprocessing.get_context('fork').Pool(2) as pool: print(pool.map(double, range(3)))\n"
        "with multiprocessing.get_context('spawn').Pool(2) as pool: print(pool.map(mine.triple, range(3)))\n"
        "with multiprocessing.get_context('forkserver').Pool(1) as pool: print(pool.map(mine.triple, range(3)))",
        modules={"mine.py": "def triple(x):\n    print('in', x, flush=True)\n    return 3 * x"},
    )
    assert "[0, 2, 4]\n" in ran.text
    assert ran.text.count("[0, 3, 6]\n") == 2
    assert ran.text.count("in 2\n") == 2
    assert ran.status == 0, ran.text


def test_a_file_spawns_processes_as_a_program_does():
    source = (
        "import multiprocessing\n"
        "def double(x):\n    return 2 * x\n"
        "if __name__ == '__main__':\n"
        "    with multiprocessing.get_context('spawn').Pool(1) as pool: print(pool.map(double, [4]))\n"
        "    print(__file__)"
    )
    ran = run_rank(source, kind="script", filename="train.py", files={"train.py": source})
    assert ran.text == f"[8]\n{ran.work / 'train.py'}\n"


def test_displays_from_threads_and_children_arrive():
    ran = run_rank(
        "import multiprocessing, threading\n"
        "def show(x): display(x)\n"
        "threads = [threading.Thread(target=show, args=(n,)) for n in range(20)]\n"
        "for thread in threads: thread.start()\n"
        "for thread in threads: thread.join()\n"
        "with multiprocessing.get_context('fork').Pool(2) as pool: pool.map(show, range(20, 30))"
    )
    assert sorted(int(message["data"]["text/plain"]) for message in ran.shown) == list(range(30))


def test_another_rank_runs_the_same_and_gives_nothing_back():
    ran = run_rank("x = 1\nprint('rank', __import__('os').environ['RANK'])", assigned=["x"], rank=1)
    assert (ran.text, ran.index, ran.status) == ("rank 1\n", None, 0)


def test_values_that_need_a_missing_package_say_so():
    sys.modules["not_there"] = module = type(sys)("not_there")
    module.Thing = type("Thing", (), {"__module__": "not_there"})  # type: ignore[attr-defined]
    try:
        ran = run_rank("1", {"x": module.Thing()})  # type: ignore[attr-defined]
    finally:
        del sys.modules["not_there"]
    assert ran.bye is not None
    assert ran.bye["code"] == "EnvironmentFailed"
    assert "not_there" in ran.bye["evalue"]
    assert ran.error is not None
    assert ran.error["frames"] == []


def test_a_damaged_object_is_said_to_be_damaged():
    def damage(bundle: Path) -> None:
        large = max((bundle / "objects").iterdir(), key=lambda path: path.stat().st_size)
        large.write_bytes(large.read_bytes()[:-1] + b"?")

    ran = run_rank("print('never')", {"x": bytearray(b"x" * 200_000)}, before=damage)
    assert ran.text == ""
    assert ran.bye is not None
    assert ran.bye["code"] == "BundleCorrupted"


def test_sigterm_is_left_to_the_code():
    ran = run_rank(
        "import os, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('bye'), sys.exit(0)))\n"
        "os.kill(os.getpid(), signal.SIGTERM)\ntime.sleep(5)"
    )
    assert ran.text == "bye\n"
    assert ran.bye == {"kind": "bye", "status": "exit", "exit": 0}


def test_the_environment_of_a_rank_has_no_leftovers():
    assert os.environ.get("KUBE_NB_RANK_SPEC") is None
    assert run_rank("import os\nprint('KUBE_NB_RANK_SPEC' in os.environ)").text == "False\n"
