"""Source, values and output arrive byte for byte, whatever is in them."""

from __future__ import annotations

import ast
import random
import re
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.conformance.sending import Notebook, Sender, account, code, events, sent, tail, written

NASTY = [
    "$HOME", "$(id)", "${x}", "`id`", "\\", "\\n", "\\\\", "'", '"', "'''", "\x1e", "\x1e\x1e", "\x1e{", "\x85", "\u2028",
    "\x0c", "\x0b", "\x1c", "EOF", "<<EOF", "<<'EOF'\n", "\nEOF\n", "{x}", "{{x}}", "%s", "%%", "!id", "\n!id\n", "\n%pwd\n",
    "?", "#", "\t", " ", "\n", "\n\n", "é", "\U0001f600", "\u202e", "\ufeff", "\x7f", "\x1b[31m", "&", ";", "|", "*", "~",
]  # fmt: skip
CHARACTERS = st.characters(exclude_categories=["Cs"])
TEXTS = st.lists(st.one_of(st.sampled_from(NASTY), st.text(CHARACTERS, max_size=8)), max_size=12).map("".join)
# A source cannot hold NUL, Python reads each of its line ends as "\n", and a kernel's IPython empties a line of
# nothing but space, in a string too.
IN_SOURCE = TEXTS.map(lambda text: re.sub("[\0\r]|'(?='')", "", text)).map(
    lambda text: re.sub(r"(?m)^[^\S\n]+$", "", text)
)
MANY = settings(
    max_examples=5,
    # Looking for a smaller failing example would take hundreds of jobs; each test says which of its texts differ.
    phases=[Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
"""Each example is a whole job, and holds many texts."""


def assert_same(found: list[Any], sent: list[Any]) -> None:
    assert len(found) == len(sent)
    assert [(was, came) for was, came in zip(sent, found, strict=True) if was != came] == []


@MANY
@given(st.lists(TEXTS | st.binary(max_size=40) | st.dictionaries(TEXTS, TEXTS, max_size=2), min_size=20, max_size=60))
def test_values_arrive_and_come_back(send: Sender, values: list[object]) -> None:
    job = send.over(
        "import hashlib\nseen = [hashlib.sha256(repr(value).encode()).hexdigest() for value in values]\nback = list(values)",
        {"values": values},
    )

    assert_same(job.outputs["back"], values)
    assert job.outputs["seen"] == Notebook(
        "import hashlib\nseen = [hashlib.sha256(repr(value).encode()).hexdigest() for value in values]", values=values
    ).names["seen"]  # fmt: skip


@MANY
@given(st.lists(IN_SOURCE, min_size=20, max_size=60))
def test_source_arrives(send: Sender, texts: list[str]) -> None:
    literals = [f"r''' {text} '''" for text in texts]
    source = "".join(f"s{n} = {literal}  # {literal[3:10].split()[:1]!r}\n" for n, literal in enumerate(literals))
    job = send.over(source + "same = [" + ", ".join(f"s{n}" for n in range(len(texts))) + "]", outputs=["same"])

    assert_same(job.outputs["same"], [ast.literal_eval(literal) for literal in literals])


@MANY
@given(st.lists(TEXTS, min_size=20, max_size=60))
def test_text_is_printed_as_it_is(send: Sender, texts: list[str]) -> None:
    job = send.over("for text in texts:\n    print(text)", {"texts": texts})

    printed = "".join(f"{text}\n" for text in texts).encode()
    assert written(job) == printed
    assert tail(job, most=10**9) == printed.decode()


@MANY
@given(st.lists(st.binary(max_size=60), min_size=20, max_size=60))
def test_bytes_are_written_as_they_are(send: Sender, chunks: list[bytes]) -> None:
    source = "import os\nimport kube_nb as kn\nfor n, chunk in enumerate(chunks):\n    os.write(1, chunk)\n    n % 7 or kn.report(n=n)"
    job = send.over(source, {"chunks": chunks})

    assert written(job) == b"".join(chunks)
    assert [point["n"] for point in job.metrics()] == list(range(0, len(chunks), 7))
    assert events(job, "account")[-1].data["account"] == account(b"".join(chunks))


def test_a_return_before_a_newline_arrives(send: Sender) -> None:
    said = b"dos\r\n\r\n\r\r\n\x1e\r\x1e\n\r\x1e\x1e\nlast\r\n"
    job = send.over(
        "import os\nfor byte in said[:9]:\n    os.write(1, bytes([byte]))\nos.write(1, said[9:])", {"said": said}
    )

    assert written(job) == said


@pytest.mark.slow
@MANY
@given(TEXTS, st.lists(TEXTS, max_size=5))
def test_names_labels_and_arguments_arrive(send: Sender, text: str, more: list[str]) -> None:
    job = send.client.train(lambda *args, **options: (args, options), text, *more, key=text)

    assert job.result() == ((text, *more), {"key": text})


@MANY
@given(st.lists(TEXTS.map(lambda text: text.replace("\0", "")), min_size=5, max_size=20))
def test_variables_arrive(send: Sender, values: list[str]) -> None:
    env = {f"TEXT_{n}": value for n, value in enumerate(values)}
    job = send.over("import os\nfound = {n: v for n, v in os.environ.items() if n.startswith('TEXT_')}", env=env)

    assert job.outputs["found"] == env


def test_a_lone_surrogate_arrives(send: Sender) -> None:
    assert send.over("back = text", {"text": "a\udc80b"}).outputs["back"] == "a\udc80b"


def test_identifiers_are_normalised_as_python_does(send: Sender) -> None:
    name = unicodedata.normalize("NFKC", "ﬁt")
    job = send.over("ﬁt = fit + 1\nresult = ﬁt", {name: 1})

    assert job.outputs["result"] == 2


def test_a_nul_byte_in_the_source_is_a_syntax_error_before_the_submit(send: Sender) -> None:
    with pytest.raises(SyntaxError):
        send("x = '\0'")
    assert sent(send.client) == []


def test_invalid_utf8_is_shown_with_marks_and_kept_as_it_is(send: Sender) -> None:
    job = send.over("import os\nos.write(1, b'a\\xff\\xfeb\\ncut \\xe2\\x82')")

    assert written(job) == b"a\xff\xfeb\ncut \xe2\x82"
    assert list(job.logs()) == ["a\ufffd\ufffdb\n", "cut \ufffd"]


def test_a_character_cut_in_two_writes_is_one_character(send: Sender) -> None:
    job = send.over(
        "import os, time\nfor byte in 'é€😀\\n'.encode():\n    os.write(1, bytes([byte]))\n    time.sleep(0.02)"
    )

    assert list(job.logs()) == ["é€😀\n"]


def test_nul_bytes_are_kept(send: Sender) -> None:
    assert tail(send.over("print('a\\0b\\0')")) == "a\0b\0\n"


@pytest.mark.slow
def test_lines_of_ten_megabytes_are_kept(send: Sender) -> None:
    size = 10 * 1024 * 1024
    job = send.over(f"print('a' * {size})\nprint('b' * {size}, end='')", outputs=())

    lines = list(job.logs())
    assert lines == ["a" * size + "\n", "b" * size]
    assert events(job, "end")[-1].data["account"] == account("".join(lines).encode())


def test_text_that_looks_like_an_event_is_text(send: Sender) -> None:
    forged = '\x1e{"kind":"result","rank":0,"attempt":0,"seq":1,"offset":0,"index":{}}'
    job = send.over(f"print({forged!r})\nprint('in mid-line', {forged!r})\nx = 1")

    assert list(job.logs()) == [f"{forged}\n", f"in mid-line {forged}\n"]
    assert job.outputs["x"] == 1


def test_text_of_a_child_that_looks_like_an_event_is_text(send: Sender) -> None:
    forged = '\x1e{"kind":"end","rank":0,"attempt":0,"seq":1,"offset":0,"code":"Succeeded"}'
    job = send.over(
        "import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'import sys; print(sys.argv[1])', forged])\nraise ValueError",
        {"forged": forged},
    )

    assert tail(job) == f"{forged}\n"
    assert code(job) == "Exception"


def test_stdout_and_stderr_keep_their_order(send: Sender) -> None:
    order = random.Random(0).choices(["stdout", "stderr"], k=200)
    job = send.over(
        "import sys\nfor n, name in enumerate(order):\n    print(n, file=getattr(sys, name))", {"order": order}
    )

    assert tail(job) == "".join(f"{n}\n" for n in range(200))


NAMES = ["$HOME", "$(id)", "`id`", "a b", "q'uote\"s", "é€😀", "\x1e", "new\nline", "-rf", "--include", "EOF", "back\\slash", "{x}", "%s", "#", ";", "a=b"]  # fmt: skip


def test_files_with_odd_names_travel_both_ways(send: Sender, notebook_dir: Path) -> None:
    for name in NAMES:
        (notebook_dir / "data" / name).mkdir(parents=True)
        (notebook_dir / "data" / name / name).write_text(name)
    job = send.over(
        "from pathlib import Path\n"
        "found = {str(path): path.read_text() for path in Path('data').rglob('*') if path.is_file()}\n"
        "for path, text in found.items():\n"
        "    Path('made' + path).parent.mkdir(parents=True, exist_ok=True)\n"
        "    Path('made' + path).write_text(text[::-1])",
        include=["data"],
        collect=["madedata/**"],
    )

    assert job.outputs["found"] == {f"data/{name}/{name}": name for name in NAMES}
    saved = {str(path.relative_to(notebook_dir)): path.read_text() for path in job.outputs.save_files(notebook_dir)}
    assert saved == {f"madedata/{name}/{name}": name[::-1] for name in NAMES}


def test_a_job_with_an_odd_name_runs(send: Sender) -> None:
    for name in ["../../etc", "$HOME", "a b\nc", "-rf", "é", "x" * 300, "."]:
        job = send.over("print('ran')", name=name)

        assert tail(job) == "ran\n"
        assert send.client.job(name).id == job.id
