"""What a job writes: print, standard error, commands, progress bars."""

from __future__ import annotations

import re


def test_print_appears_below_the_cell(cell):
    assert cell(send="print('hello')\nprint('again')").text == "hello\nagain\n"


def test_a_line_without_its_newline_is_shown_as_it_is(cell):
    assert cell(send="print('no newline', end='')").text == "no newline"


def test_unicode_arrives_as_it_was_written(cell):
    assert cell(send="print('π ≈ 3 \\U0001f600 \\x85 \\u2028 end')").text == "π ≈ 3 \U0001f600 \x85 \u2028 end\n"


def test_a_line_that_begins_like_an_event_is_text(cell):
    assert cell(send="""print('\\x1e{"kind": "metric"}'); print('x\\x1e\\n\\x1e')""").text == (
        '\x1e{"kind": "metric"}\nx\x1e\n\x1e\n'
    )


def test_what_is_printed_and_written_to_stderr_keeps_its_order(cell):
    kernel = cell(
        send="""
        import sys
        for i in range(20):
            print("out", i)
            print("err", i, file=sys.stderr)
        """
    )
    assert kernel.text == "".join(f"out {i}\nerr {i}\n" for i in range(20))


def test_what_bypasses_python_keeps_its_order_with_print(cell):
    kernel = cell(
        send="""
        import os, subprocess, sys
        print("1 print")
        os.write(1, b"2 descriptor\\n")
        print("3 print", flush=True)
        subprocess.run([sys.executable, "-c", "print('4 child')"])
        print("5 stderr", file=sys.stderr)
        os.write(2, b"6 descriptor\\n")
        """
    )
    assert kernel.text.splitlines() == [
        "1 print",
        "2 descriptor",
        "3 print",
        "4 child",
        "5 stderr",
        "6 descriptor",
    ]


def test_displays_stand_where_they_were_made_among_text(cell):
    kernel = cell(
        send="""
        print("before")
        display(1)
        print("between")
        display(2)
        print("after")
        """
    )
    shown = [piece.text or piece.data["text/plain"] for piece in kernel.pieces]
    assert shown == ["before\n", "1", "between\n", "2", "after\n"]


def test_logging_appears(cell):
    kernel = cell(
        """
import logging
log = logging.getLogger("mine")
logging.basicConfig(level="INFO", format="%(levelname)s %(message)s", force=True)
""",
        send="log.info('from the notebook')",
    )
    assert kernel.text == "INFO from the notebook\n"


def test_warnings_appear(cell):
    assert "UserWarning: careful" in cell(send="import warnings\nwarnings.warn('careful')").text


def test_a_thread_prints(cell):
    kernel = cell(
        send="""
        import threading
        worker = threading.Thread(target=print, args=("from a thread",))
        worker.start(); worker.join()
        del worker
        """
    )
    assert kernel.text == "from a thread\n"


def test_a_command_runs_in_order_with_print(cell):
    kernel = cell(send="print('before')\n!echo from a shell\nprint('after')")
    assert kernel.text == "before\nfrom a shell\nafter\n"


def test_a_command_gets_values_of_the_notebook(cell):
    assert cell("who = 'you'", send="!echo hello {who} $who").text == "hello you you\n"


def test_the_exit_status_of_a_command_is_known(cell):
    assert cell(send="!exit 3\nstatus = _exit_code")["status"] == 3


def test_the_lines_of_a_command_can_be_assigned(cell):
    kernel = cell(send="lines = !printf 'a\\nb\\n'\ncount = len(lines)")
    assert list(kernel["lines"]) == ["a", "b"]
    assert kernel["count"] == 2


def test_a_command_that_goes_on_on_the_next_line_runs(cell):
    assert cell(send="!echo one \\\n  two\nprint(3)").text == "one two\n3\n"


def test_tqdm_draws_one_bar(cell):
    kernel = cell(send="from tqdm import tqdm\nfor _ in tqdm(range(50), mininterval=0):\n    pass")
    assert _bars(kernel) == ["100% 50/50"]


def test_tqdm_auto_draws_one_bar(cell):
    kernel = cell(send="from tqdm.auto import tqdm\nfor _ in tqdm(range(50), mininterval=0):\n    pass")
    assert _bars(kernel) == ["100% 50/50"]


def test_tqdm_notebook_draws_one_bar(cell):
    kernel = cell(send="from tqdm.notebook import tqdm\nfor _ in tqdm(range(50), mininterval=0):\n    pass")
    assert _bars(kernel) == ["100% 50/50"]


def test_tqdm_of_the_notebook_draws_one_bar(cell):
    kernel = cell("from tqdm.auto import tqdm", send="for _ in tqdm(range(50), mininterval=0):\n    pass")
    assert _bars(kernel) == ["100% 50/50"]


def _bars(kernel) -> list[str]:
    """Share and count of every bar that a person sees, in text or as a display."""
    shown = kernel.text + "\n" + "\n".join(str(data.get("text/plain", "")) for data in kernel.displays)
    found = re.findall(r"(\d+%).*?(\d+/\d+)", shown)
    return [f"{share} {count}" for share, count in found]
