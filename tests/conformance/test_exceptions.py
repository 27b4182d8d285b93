"""An exception of the sent code, as the notebook gets it: the person's own class, words and lines, none of ours."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kube_nb.errors import JobFailed
from kube_nb.spec import Phase
from tests.conformance.kernel import Kernel
from tests.conformance.sending import Sender, code, ended, sent

Cell = Callable[..., Kernel]
OURS = ("_kube_nb_job", "kube_nb/", "/runner/", "cloudpickle", "run_cell", "IPython/core")
"""What no person wants to read in the traceback of their own code."""


def failed(cell: Cell, source: str, setup: str = "", **options: str) -> str:
    """The traceback that the notebook shows of a cell that raises; ours is not in it."""
    kernel = cell(setup, send=source, fails=True, **options)
    text = kernel.error.text
    assert not [word for word in OURS if word in text], text
    assert kernel.job.phase is Phase.FAILED
    return text


def arrow(text: str) -> list[str]:
    """The lines of source that the traceback points at."""
    return [line.split(maxsplit=2)[2] for line in text.splitlines() if line.startswith("---->")]


@pytest.mark.via
def test_the_persons_exception_reaches_the_frontend_with_its_line(cell: Cell) -> None:
    text = failed(cell, "x = 1\ny = x / 0\nz = 2")
    kernel = cell()

    assert (kernel.error.ename, kernel.error.evalue) == ("ZeroDivisionError", "division by zero")
    assert arrow(text) == ["y = x / 0"]
    assert "line 3" in text  # the magic's own line is the first
    assert kernel.job.reason is not None
    assert kernel.job.reason.code == "Exception"
    assert "line 3" in kernel.job.reason.what


def test_the_lines_of_functions_of_other_cells_are_shown(cell: Cell) -> None:
    text = failed(cell, "fit()", "def helper(n):\n    return {}[n]\ndef fit():\n    return helper('a')")

    assert arrow(text) == ["fit()", "return helper('a')", "return {}[n]"]
    assert "KeyError: 'a'" in text


def test_frames_of_libraries_are_shown_too(cell: Cell) -> None:
    text = failed(cell, "import json\njson.loads('{')")

    assert "json" in text
    assert "decoder.py" in text
    assert arrow(text)[0] == "json.loads('{')"


def test_the_cause_comes_first(cell: Cell) -> None:
    text = failed(cell, "try:\n    {}['a']\nexcept KeyError as error:\n    raise ValueError('outer') from error")

    assert text.index("KeyError: 'a'") < text.index("direct cause") < text.index("ValueError: outer")


def test_the_context_comes_first(cell: Cell) -> None:
    text = failed(cell, "try:\n    {}['a']\nexcept KeyError:\n    raise ValueError('outer')")

    assert text.index("KeyError: 'a'") < text.index("During handling") < text.index("ValueError: outer")


def test_from_none_hides_the_context(cell: Cell) -> None:
    text = failed(cell, "try:\n    {}['a']\nexcept KeyError:\n    raise ValueError('outer') from None")

    assert "KeyError" not in text.partition("ValueError")[0]
    assert "During handling" not in text


def test_a_group_shows_its_members(cell: Cell) -> None:
    text = failed(cell, "raise ExceptionGroup('several', [ValueError('one'), ExceptionGroup('in', [KeyError('two')])])")

    assert cell().error.ename == "ExceptionGroup"
    assert "ValueError: one" in text
    assert "KeyError: 'two'" in text


def test_notes_are_shown(cell: Cell) -> None:
    text = failed(cell, "error = ValueError('bad')\nerror.add_note('seen in row 7')\nraise error")

    assert "seen in row 7" in text


def test_an_exception_of_the_notebooks_class_is_of_that_class(cell: Cell) -> None:
    setup = "class Bad(Exception):\n    def __init__(self, row):\n        super().__init__(f'row {row}')\n        self.row = row"
    failed(cell, "raise Bad(7)", setup)
    kernel = cell()

    assert (kernel.error.ename, kernel.error.evalue) == ("Bad", "row 7")
    exception = kernel.job.exception()
    assert type(exception) is kernel["Bad"]
    assert exception.row == 7


def test_an_exception_of_a_class_that_only_the_cell_has(cell: Cell) -> None:
    text = failed(cell, "class Local(ValueError):\n    pass\nraise Local('from in here')")

    assert (cell().error.ename, cell().error.evalue) == ("Local", "from in here")
    assert arrow(text) == ["raise Local('from in here')"]


def test_an_exception_that_cannot_be_pickled_keeps_its_name_and_words(cell: Cell) -> None:
    text = failed(
        cell,
        "import threading\nclass Held(Exception):\n    pass\nerror = Held('with a lock')\n"
        "error.guard = threading.Lock()\nraise error",
    )

    assert (cell().error.ename, cell().error.evalue) == ("Held", "with a lock")
    assert arrow(text) == ["raise error"]


def test_an_exception_whose_constructor_wants_other_arguments_is_of_its_class(cell: Cell) -> None:
    setup = "class Two(Exception):\n    def __init__(self, a, b):\n        super().__init__(f'{a} and {b}')"
    failed(cell, "raise Two('salt', 'pepper')", setup)
    kernel = cell()

    assert (kernel.error.ename, kernel.error.evalue) == ("Two", "salt and pepper")
    assert type(kernel.job.exception()) is kernel["Two"]


def test_an_exception_that_cannot_be_loaded_keeps_its_name_and_words(cell: Cell) -> None:
    setup = (
        "def broken(*_):\n    raise RuntimeError('not here')\n"
        "class Odd(Exception):\n    def __reduce__(self):\n        return broken, ()"
    )
    failed(cell, "raise Odd('words')", setup)

    assert (cell().error.ename, cell().error.evalue) == ("Odd", "words")


def test_an_exception_whose_words_raise(cell: Cell) -> None:
    text = failed(
        cell, "class Mute(Exception):\n    def __str__(self):\n        raise RuntimeError('no words')\nraise Mute()"
    )

    assert cell().error.ename == "Mute"
    assert arrow(text) == ["raise Mute()"]


def test_a_syntax_error_in_exec(cell: Cell) -> None:
    text = failed(cell, "text = 'x ='\nexec(text)")

    assert cell().error.ename == "SyntaxError"
    assert "exec(text)" in arrow(text)


def test_recursion_without_end_is_short(cell: Cell) -> None:
    text = failed(cell, "def deeper(n):\n    return deeper(n + 1)\ndeeper(0)")

    assert cell().error.ename == "RecursionError"
    assert arrow(text)[0] == "deeper(0)"
    assert len(text.splitlines()) < 150


@pytest.mark.parametrize("argument", ["3", "'text'"])
def test_sys_exit_shows_its_line(cell: Cell, argument: str) -> None:
    text = failed(cell, f"import sys\nsys.exit({argument})")

    assert (cell().error.ename, cell().error.evalue) == ("SystemExit", argument.strip("'"))
    assert arrow(text) == [f"sys.exit({argument})"]


def test_keyboard_interrupt_of_the_code_itself_is_an_exception(cell: Cell) -> None:
    failed(cell, "raise KeyboardInterrupt('mine')")

    assert cell().error.ename == "KeyboardInterrupt"
    assert code(cell().job) == "Exception"


def test_very_long_words_are_cut(send: Sender) -> None:
    job = send.over("raise ValueError('x' * 10_000_000)")

    assert job.reason is not None
    assert job.reason.code == "Exception"
    assert len(job.reason.why) <= 1000
    assert type(job.exception()).__name__ == "ValueError"


def test_a_syntax_error_of_the_cell_is_pythons_own_and_makes_no_job(cell: Cell, send: Sender) -> None:
    kernel = cell("%load_ext kube_nb")
    shown = kernel.send("x = 1\ny = = 2", fails=True)

    assert shown.error is not None
    assert shown.error.ename == "SyntaxError"
    assert "y = = 2" in shown.error.text
    assert sent(send.client) == []


def test_in_python_the_original_is_the_cause(send: Sender) -> None:
    job = ended(send.client.train(divmod, 1, 0))

    with pytest.raises(JobFailed) as caught:
        job.result()
    assert type(caught.value.__cause__) is ZeroDivisionError
    assert caught.value.reason is not None
    assert caught.value.reason.code == "Exception"


def test_a_failed_job_assigns_nothing_unless_asked(cell: Cell) -> None:
    failed(cell, "kept = 'new'\nraise ValueError", "kept = 'old'")

    assert cell()["kept"] == "old"
