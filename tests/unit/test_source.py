"""From the text of a cell to what is sent: line numbers, magics, what is refused, and what is said of it."""

from __future__ import annotations

import ast
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st
from IPython.core.inputtransformer2 import TransformerManager

from kube_nb.capture.escapes import parsed, to_python
from kube_nb.capture.source import Source, prepare
from kube_nb.errors import CannotRunThere


def source_of(cell: str, **how) -> Source:
    return prepare(cell, filename="Cell In[1]", **how)


# -- the text


@given(st.text(alphabet=st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=60))
def test_a_string_arrives_character_by_character(text):
    code = source_of(f"x = {text!r}\ny = 1").code
    assert ast.literal_eval(ast.parse(code).body[0].value) == text  # type: ignore[attr-defined]


@given(st.text(alphabet="$`\\'\"{}!%?#\x1e\x85 \tEOFab", max_size=40).filter(lambda text: '"""' not in text))
def test_text_in_triple_quotes_arrives_as_ipython_would_read_it(text):
    cell = f'x = r"""a\n{text}z"""\n'
    try:
        expected = ast.parse(TransformerManager().transform_cell(cell))
    except SyntaxError:
        return
    assert ast.dump(ast.parse(source_of(cell).code)) == ast.dump(expected)


def test_a_script_is_sent_as_it_is():
    text = "#!/usr/bin/env python\n\n\nx = 1   \n"
    assert source_of(text, transform=lambda code: code).code == text


@pytest.mark.parametrize(
    "cell",
    [
        "\n\n\nraise ValueError",
        "\n   \n    x = 1\n    raise ValueError",
        "!echo a \\\n  b \\\n  c\nraise ValueError",
        "x = !echo a \\\n  b\n\n%matplotlib \\\n inline\nif x:\n    !true \\\n      -l\n    raise ValueError",
        ">>> x = 1\n>>> raise ValueError",
        "x = '''\n!no \\\n'''\nraise ValueError",
        "x = 1 + \\\n  2\nraise ValueError",
        "x = 1\r\nraise ValueError",
    ],
)
@pytest.mark.parametrize("first_line", [1, 2, 5])
def test_lines_are_those_of_the_persons_cell(cell, first_line):
    code = source_of(cell, first_line=first_line).code

    class Shell:
        def __getattr__(self, name):
            return lambda *a: "ok"

    with pytest.raises(ValueError) as raised:  # noqa: PT011
        exec(compile(code, "Cell In[1]", "exec"), {"get_ipython": Shell})
    line = traceback.extract_tb(raised.value.__traceback__)[-1].lineno
    lines = cell.replace("\r\n", "\n").split("\n")
    assert "raise" in lines[line - first_line]


@pytest.mark.parametrize(
    ("cell", "line", "text"),
    [
        ("x = 1\ny = = 2", 2, "y = = 2"),
        ("x = 1\n\nreturn 3", 3, "return 3"),
        ("!ls \\\n -l\ny = (", 3, "y = ("),
        ("%%time\nx = 1\nx =", 3, "x ="),
        ("break", 1, "break"),
        ("x = 1\ny = '\0'", 2, "y = '\0'"),
        ("x = 1\nnonlocal a", 2, "nonlocal a"),
    ],
)
def test_a_syntax_error_is_pythons_own(cell, line, text):
    with pytest.raises(SyntaxError) as raised:
        source_of(cell, first_line=3)
    assert raised.value.filename == "Cell In[1]"
    assert (raised.value.lineno, (raised.value.text or "").strip()) == (line + 2, text)


@pytest.mark.parametrize("cell", ["", "\n\n", "# nothing", "'''docs'''"])
def test_an_empty_cell_reads_nothing(cell):
    assert source_of(cell, first_line=2).reads == set()


def test_the_kernels_own_transformation_is_used():
    assert source_of("anything", transform=lambda text: "x = y\n").reads == {"y"}


def test_await_may_stand_at_the_top():
    assert source_of("await a\nasync for b in c: pass\n[d async for d in e]").reads == {"a", "c", "e"}


def test_deep_nesting_does_not_end_in_a_recursion_error():
    depth = 900
    code = to_python("x = " + "+".join(f"a{n}" for n in range(depth)), transform=lambda text: text)
    assert parsed(code)[1] is not None
    assert {f"a{n}" for n in range(depth)} <= source_of(code).touched


# -- magics


@pytest.mark.parametrize(
    ("cell", "reads", "assigned"),
    [
        ("%%time\nz = f(x)", {"f", "x"}, {"z"}),
        ("%time z = f(x)", {"f", "x"}, {"z"}),
        ("%%time\n%%capture out\nz = x", {"x"}, {"z", "out"}),
        ("%timeit -n 10 -r3 f(x)", {"f", "x"}, set()),
        ("%%timeit y = a\nz = y + b", {"a", "b"}, set()),
        ("%%capture out --no-stderr\nz = x", {"x"}, {"z", "out"}),
        ("%prun -l 5 f(x)", {"f", "x"}, set()),
        ("%%prun\nz = x", {"x"}, {"z"}),
        ("y = !ls {path} $name $$HOME ${other}", {"path", "name", "other"}, {"y"}),
        ("!echo {x:>{width}} {y.z[0]} '$no'", {"x", "width", "y", "no"}, set()),
        ("for i in x:\n    !echo {i}", {"x"}, {"i"}),
        ("def f():\n    !echo {k}\n    %time g(h)", {"k", "g", "h"}, {"f"}),
        ("%%bash --out text --err=wrong\necho {notread}", set(), {"text", "wrong"}),
        ("%%bash -s {x}\necho", {"x"}, set()),
        ("%%sx\necho {x}", {"x"}, set()),
        ("%cd {folder}", {"folder"}, set()),
        ("%env TOKEN=$token", {"token"}, set()),
        ("x?", {"x"}, set()),
        ("%%writefile a.py\nprint(x)", set(), set()),
        ("%%html\n<b>{x}</b>", set(), set()),
        ("%matplotlib inline", set(), set()),
        ("%time x = a\nprint(x)", {"a", "x"}, {"x"}),
    ],
)
def test_names_in_magics_and_commands_are_found(cell, reads, assigned):
    source = source_of(cell)
    assert source.reads - {"print", "get_ipython"} == reads
    assert source.assigned == assigned


def test_a_name_missing_in_a_magic_has_its_line():
    assert source_of("%%time\n\nx = 1\nabsent(x)", first_line=2).reads.lines == {"absent": 5}


def test_what_a_magic_changes_in_place_is_touched():
    assert source_of("%%time\nmodel.fit(X)\n%time scores.append(1)").touched == {"model", "X", "scores"}


@pytest.mark.parametrize(
    ("cell", "needed"),
    [
        ("x = 1", False),
        ("!ls\nx = !pwd", False),
        ("def f():\n    !ls", False),
        ("%time x", True),
        ("%%bash\nls", True),
        ("%matplotlib inline", True),
        ("x?", True),
        ("get_ipython().user_ns", True),
        ("await x", False),
    ],
)
def test_ipython_is_needed_for_magics_alone(cell, needed):
    assert source_of(cell).needs_ipython is needed


# -- what is refused


@pytest.mark.parametrize(
    "cell",
    [
        "%pip install lightgbm",
        "%pip  install -q lightgbm",
        "!pip install lightgbm",
        "!pip3 install --upgrade -r requirements.txt lightgbm",
        "!ls && pip install lightgbm",
        "x = !python -m pip install lightgbm",
        "!{sys.executable} -m pip install lightgbm",
        "!PIP_NO_CACHE_DIR=1 sudo pip install lightgbm",
        "%conda install -c conda-forge lightgbm",
        "!conda install lightgbm",
        "%mamba install lightgbm",
        "%uv pip install lightgbm",
        "!uv pip install lightgbm",
        "%%bash\nset -e\npip install lightgbm",
        "if x:\n    !pip install lightgbm",
        "def f():\n    !pip install lightgbm",
        "%%time\n!pip install lightgbm",
    ],
)
def test_installing_is_refused_with_a_pointer_to_packages(cell):
    with pytest.raises(CannotRunThere) as refused:
        source_of(cell)
    assert "--packages" in refused.value.next
    assert "lightgbm" in refused.value.next
    assert "requirements.txt" not in refused.value.next


@pytest.mark.parametrize(
    "cell",
    [
        "!pip list",
        "%pip freeze",
        "!echo pip install it",
        "!.venv/bin/pip install x",
        "!cat pip_install.log",
        "!conda env list",
    ],
)
def test_looking_at_packages_is_fine(cell):
    source_of(cell)


@pytest.mark.parametrize(
    ("cell", "word"),
    [
        ("%debug", "%debug"),
        ("%%debug\nx", "%%debug"),
        ("%run other.py", "%run"),
        ("x = 1\n%load_ext autoreload", "%load_ext"),
        ("%reload_ext a", "%reload_ext"),
        ("%autoreload 2", "%autoreload"),
        ("%history", "%history"),
        ("%gui qt", "%gui"),
        ("%kube_jobs", "%kube_jobs"),
        ("%%time\n%%kube_train\nx", "%%kube_train"),
        ("%%sql\nselect 1", "%%sql"),
        ("%tensorboard --logdir x", "%tensorboard"),
        ("x = input('name')", "input()"),
        ("def f():\n    return input()", "input()"),
        ("import getpass\ngetpass.getpass()", "getpass.getpass()"),
        ("from getpass import getpass\ngetpass()", "getpass()"),
        ("breakpoint()", "breakpoint()"),
        ("import pdb; pdb.set_trace()", "pdb.set_trace()"),
        ("%%time\nx = input()", "input()"),
    ],
)
def test_what_needs_the_kernel_or_a_person_is_refused(cell, word):
    with pytest.raises(CannotRunThere) as refused:
        source_of(cell)
    assert f"`{word}`" in refused.value.what
    assert refused.value.why
    assert refused.value.next


def test_a_refusal_names_the_line_of_the_cell():
    with pytest.raises(CannotRunThere, match="line 4"):
        source_of("x = 1\n\n%debug", first_line=2)


@pytest.mark.parametrize(
    "cell",
    [
        "class M:\n    def forward(self, input): return input(1)",
        "def input(): return 1\ninput()",
        "%matplotlib inline",
        "%time 1",
        "%%capture\n1",
        "%env A=1",
        "%cd /tmp",
        "%%html\nx",
        "%%latex\nx",
        "%%writefile x\ny",
        "%%javascript\nx",
        "%ls",
        "%who",
        "model.input()",
    ],
)
def test_what_works_in_a_job_is_not_refused(cell):
    source_of(cell)


# -- files and modules


@pytest.mark.parametrize(
    ("cell", "paths"),
    [
        ("pd.read_csv('data/train.csv')", {"data/train.csv"}),
        ("open('notes.txt').read()", {"notes.txt"}),
        ("Path('data') / 'x.csv'", {"data", "x.csv"}),
        ("os.path.join('data', 'x.csv')", {"data", "x.csv"}),
        ("os.listdir('images')", {"images"}),
        ("glob.glob('data/*.csv')", {"data/*.csv"}),
        ("x = f'data/{name}.csv'", {"data"}),
        ("x = './here'", {"./here"}),
        (r"x = r'data\train.csv'", {r"data\train.csv"}),
        ("!cat data/a.csv > data/b.csv", {"data/a.csv"}),
        ("%%bash\nhead data/a.csv", {"data/a.csv"}),
        ("def f(): return load('weights.bin')", {"weights.bin"}),
        ("%time load('weights.bin')", {"weights.bin"}),
        ("open('out.txt', 'w')", set()),
        ("df.to_csv('out/a.csv')\nplt.savefig('a.png')\ntorch.save(m, 'm.pt')", {"m.pt"}),
        ("x = '/etc/hosts'; y = 'https://a.b/c.csv'; z = 's3://b/c'; w = '~/x.csv'; v = 'C:/x.csv'", set()),
        ("print('Done. Next.'); ', '.join('ab'); x = '3.5'; y = 'text/'", {"text/"}),
        ("'''see data/x.csv'''", set()),
    ],
)
def test_strings_that_look_like_files_are_told(cell, paths):
    assert source_of(cell).relative_paths == paths


def test_modules_that_the_cell_imports_are_told():
    source = source_of("%%time\nimport helpers.deep\ndef f():\n    from tools import nail")
    assert {"helpers.deep", "tools", "tools.nail"} <= source.imports
