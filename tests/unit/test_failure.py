"""An exception of the sent code travels as the person would read it, without a trace of the runner."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kube_nb.runner import failure, graph
from kube_nb.runner.execute import Code, remember
from tests.unit.rank_process import Ran, run_rank

OURS = ("_kube_nb_job", "kube_nb/runner", "cloudpickle", "IPython/", "importlib", "runners-")


def caught(source: str, **options: Any) -> dict[str, Any]:
    """The record of what the source raises."""
    remember({"<sent>": source})
    try:
        Code(source, "<sent>").run({"__name__": "__main__"})
    except BaseException as error:
        record = failure.describe(error, sources={"<sent>"}, **options)
        assert not [word for word in OURS if word in json.dumps(record)]
        return record
    raise AssertionError("nothing was raised")


def frames(record: dict[str, Any]) -> list[tuple[str, int, str, str]]:
    return [(frame["file"], frame["line"], frame["name"], frame["code"]) for frame in record["frames"]]


def test_names_words_and_frames():
    record = caught("def f(x):\n    return 1 / x\n\nf(0)")
    assert (record["ename"], record["evalue"], record["qualified"]) == (
        "ZeroDivisionError",
        "division by zero",
        "ZeroDivisionError",
    )
    assert frames(record) == [("<sent>", 4, "<module>", "f(0)"), ("<sent>", 2, "f", "return 1 / x")]
    assert record["text"].startswith(
        'Traceback (most recent call last):\n  File "<sent>", line 4, in <module>\n    f(0)\n'
    )
    assert record["text"].endswith("\nZeroDivisionError: division by zero")
    assert (record["cause"], record["context"], record["group"], record["notes"]) == (None, None, [], [])


def test_frames_of_libraries_stay():
    names = [frame[2] for frame in frames(caught("import json\njson.loads('{')"))]
    assert names[:2] == ["<module>", "loads"]


def test_awaited_code_has_no_frames_of_the_loop():
    record = caught(
        "import asyncio\nasync def f():\n    await asyncio.sleep(0)\n    raise LookupError('lost')\nawait f()"
    )
    assert [frame[2] for frame in frames(record)] == ["<module>", "f"]


@pytest.mark.parametrize(
    "raised", ["KeyboardInterrupt('mine')", "SystemExit(3)", "asyncio.CancelledError()", "GeneratorExit"]
)
def test_whatever_is_raised_is_described(raised):
    record = caught(f"import asyncio\nawait asyncio.sleep(0)\nraise {raised}")
    assert record["frames"][-1]["line"] == 3
    record = caught(f"import asyncio\nraise {raised}")
    assert frames(record)[-1][1] == 2


def test_cause_and_context():
    record = caught("try:\n    {}['a']\nexcept KeyError as error:\n    raise ValueError('outer') from error")
    assert (record["cause"]["ename"], record["cause"]["frames"][0]["line"], record["context"]) == ("KeyError", 2, None)
    assert record["text"].index("KeyError") < record["text"].index("direct cause") < record["text"].index("outer")
    record = caught("try:\n    {}['a']\nexcept KeyError:\n    raise ValueError('outer')")
    assert (record["context"]["ename"], record["cause"]) == ("KeyError", None)
    assert "During handling" in record["text"]
    record = caught("try:\n    {}['a']\nexcept KeyError:\n    raise ValueError('outer') from None")
    assert (record["context"], record["cause"]) == (None, None)
    assert "KeyError" not in record["text"]


def test_an_exception_that_causes_itself():
    record = caught("a, b = ValueError('a'), ValueError('b')\na.__cause__ = b\nb.__cause__ = a\nraise a")
    assert record["cause"]["ename"] == "ValueError"
    assert record["cause"]["cause"] is None


def test_groups_and_notes():
    record = caught(
        "error = ExceptionGroup('several', [ValueError('one'), ExceptionGroup('in', [KeyError('two')])])\n"
        "error.add_note('seen in row 7')\nerror.__notes__.append(3)\nraise error"
    )
    assert [member["ename"] for member in record["group"]] == ["ValueError", "ExceptionGroup"]
    assert record["group"][1]["group"][0]["evalue"] == "'two'"
    assert record["notes"] == ["seen in row 7"]
    assert "seen in row 7" in record["text"]


def test_thousands_of_members_stay_small():
    record = caught("raise ExceptionGroup('many', [ValueError('x' * 10_000 + str(i)) for i in range(5000)])")
    assert len(json.dumps(record)) < 2 * 1024 * 1024


def test_a_chain_of_thousands_stays_small():
    record = caught(
        "error = None\nfor i in range(3000):\n    new = ValueError('x' * 1000 + str(i))\n"
        "    new.__cause__ = error\n    error = new\nraise error"
    )
    assert len(json.dumps(record)) < 2 * 1024 * 1024


def test_long_words_are_cut_in_the_middle():
    record = caught("raise ValueError('a' + 'x' * 10_000_000 + 'z')")
    assert record["evalue"].startswith("ax")
    assert record["evalue"].endswith("xz")
    assert len(json.dumps(record)) < 1024 * 1024


def test_recursion_without_end():
    record = caught("def deeper(n):\n    return deeper(n + 1)\ndeeper(0)")
    assert record["ename"] == "RecursionError"
    assert frames(record)[0][3] == "deeper(0)"
    assert len(record["frames"]) <= 100
    assert "Previous line repeated" in record["text"]


def test_words_that_raise():
    record = caught("class Mute(Exception):\n    def __str__(self): raise RuntimeError('no words')\nraise Mute()")
    assert record["evalue"] == "<exception str() failed>"
    assert record["qualified"] == "__main__.Mute"


def test_an_exception_that_cannot_even_be_looked_at():
    record = caught(
        "class Hostile(Exception):\n"
        "    def __getattribute__(self, name): raise RuntimeError(name)\n"
        "    def __str__(self): raise RuntimeError\n"
        "raise Hostile()"
    )
    assert record["ename"] == "Hostile"


def test_lone_surrogates_and_controls_travel():
    record = caught("raise ValueError('\\ud800\\x1e\\0')")
    assert json.loads(json.dumps(record))["evalue"] == "\ud800\x1e\0"


def test_a_syntax_error_of_the_code_itself_has_its_line():
    record = caught("x = 1\ny = = 2\n")
    assert frames(record) == [("<sent>", 2, "<module>", "y = = 2")]
    assert "y = = 2" in record["text"]


def test_a_syntax_error_of_executed_text_keeps_the_line_that_executed_it():
    record = caught("text = 'x ='\nexec(text)")
    assert frames(record) == [("<sent>", 2, "<module>", "exec(text)")]
    assert record["ename"] == "SyntaxError"


def test_an_import_that_fails_has_no_frames_of_the_import_system(tmp_path, monkeypatch):
    (tmp_path / "broken_module.py").write_text("import json\n1 / 0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    record = caught("import broken_module")
    assert [frame[1] for frame in frames(record)] == [1, 2]


def test_columns_of_a_transformed_line_underline_nothing():
    remember({"<magic>": "x = !ls\n"})
    with pytest.raises(ZeroDivisionError) as raised:
        exec(compile("x = (1 / 0) or get_ipython().getoutput('ls')", "<magic>", "exec"), {})
    told = failure.text(raised.value)
    assert "x = !ls" in told
    assert "^" not in told.rpartition("x = !ls")[2]


def test_every_exception_is_offered_for_pickling():
    offered: list[str] = []
    caught(
        "try:\n    1 / 0\nexcept ZeroDivisionError:\n    raise ValueError('outer')",
        pickled=lambda error: offered.append(type(error).__name__),
    )
    assert offered == ["ZeroDivisionError", "ValueError"]


# In a rank ----------------------------------------------------------------------------------------------------------


def failed(source: str, **options: Any) -> Ran:
    ran = run_rank(source, **options)
    assert ran.error is not None
    assert not [word for word in OURS if word in ran.error["text"] + str(ran.error["frames"])], ran.error["text"]
    assert ran.status == 1
    return ran


def original(ran: Ran) -> BaseException:
    assert ran.error is not None
    return graph.load(ran.error["pickle"], namespace=ran.namespace, objects=ran.objects)["exception"]


def test_the_original_exception_travels():
    ran = failed("error = KeyError('a', 2)\nerror.detail = [1]\nraise error")
    exception = original(ran)
    assert type(exception) is KeyError
    assert (exception.args, exception.detail) == (("a", 2), [1])  # type: ignore[attr-defined]
    assert ran.bye == {"kind": "bye", "status": "error", "exit": 1}


def test_an_exception_of_the_notebooks_class_comes_back_as_that_class():
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec("class Bad(Exception):\n    __module__ = '__main__'", namespace)
    ran = failed("raise Bad(7)", values={"Bad": namespace["Bad"]}, namespace=namespace)
    assert type(original(ran)) is namespace["Bad"]


@pytest.mark.parametrize(
    "source",
    [
        "import threading\nerror = ValueError('held')\nerror.lock = threading.Lock()\nraise error",
        "class Odd(Exception):\n    def __reduce__(self): raise KeyError('odd')\nraise Odd('held')",
        "raise ValueError('held', bytes(100_000))",
    ],
)
def test_what_cannot_travel_is_told_by_its_words(source):
    ran = failed(source)
    assert ran.error is not None
    assert ran.error["pickle"] is None
    assert "held" in ran.error["evalue"]
    assert not list((ran.out).glob("objects/*"))


def test_nothing_comes_back_of_code_that_failed_unless_asked():
    assert failed("x = 1\nraise ValueError", assigned=["x"]).index is None
    assert failed("x = 1\nraise ValueError", assigned=["x"], names=[]).index is None
    asked = failed("x = 1\nraise ValueError", names=["x", "y"])
    assert asked.values == {"x": 1}
    assert asked.index is not None
    assert list(asked.index["unreturned"]) == ["y"]
    kinds = [item["kind"] for item in asked.items if isinstance(item, dict)]
    assert kinds.index("result") < kinds.index("error")


def test_a_full_disk_is_said_to_be_full():
    ran = failed("import errno, os\nraise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))")
    assert ran.bye is not None
    assert ran.bye["code"] == "OutOfDisk"


def test_results_that_cannot_be_written_fail_the_code():
    ran = run_rank(
        "import os, shutil\nout = os.environ['KUBE_NB_OUT']\n"
        "shutil.rmtree(out)\nopen(out, 'w').close()\nx = bytearray(100_000)",
        assigned=["x"],
    )
    assert ran.error is not None
    assert ran.error["ename"] == "NotADirectoryError"
    assert ran.bye is not None
    assert ran.bye["status"] == "error"
