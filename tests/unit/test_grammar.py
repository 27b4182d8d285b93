"""The lines of magics: words, flags, values, and the Python at the end."""

from __future__ import annotations

import contextlib
import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kube_nb.errors import BadFlag, BadValue
from kube_nb.magics.grammar import Flag, Parsed, asks_for_help, parse, split_list, usage
from kube_nb.magics.typed import typed
from kube_nb.magics.words import quote, words
from kube_nb.spec import bytes_of

NAMES = {
    "n": 3,
    "frame": object(),
    "names": ["a", "b"],
    "text": "p,q",
    "ratio": 0.12345,
    "table": {"a b": 7},
    "N": None,
}
FLAGS = (
    Flag(names=("--gpus",)),
    Flag(names=("--memory",), parse=bytes_of),
    Flag(names=("--name",)),
    Flag(names=("-o", "--outputs"), kind="list"),
    Flag(names=("--packages",), kind="list"),
    Flag(names=("--include",), kind="list"),
    Flag(names=("--env",), kind="pair"),
    Flag(names=("-p", "--param"), kind="param", spaced=True),
    Flag(names=("--detach",), kind="switch", default=False),
    Flag(names=("-f", "--follow"), kind="switch"),
    Flag(names=("--on-interrupt",), choices=("detach", "cancel"), default="detach"),
)
PLAIN = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


def read(line: str, **how) -> Parsed:
    return parse(line, FLAGS, lambda expression: eval(expression, {}, dict(NAMES)), **how)


def value(written: str, flag: str = "--name"):
    return read(f"{flag} {written}").values[flag.lstrip("-")]


# -- words


@given(st.lists(PLAIN))
def test_quoted_words_are_words_again(texts):
    assert words(" ".join(map(quote, texts))) == texts


@given(st.lists(st.text(st.characters(exclude_characters="'\"\\{}#", exclude_categories=["Cs"]), min_size=1)))
def test_words_of_a_shell_are_words_here(texts):
    line = " ".join(shlex.quote(text) for text in texts)
    assert words(line) == shlex.split(line)


@given(PLAIN)
def test_a_quoted_value_is_never_evaluated(text):
    assert read(f"--name {quote(text)}").name == text


@given(st.text(max_size=40))
def test_any_line_is_read_or_refused(line):
    for how in ({"rest": True}, {"words": None}):
        with contextlib.suppress(BadFlag):  # and nothing else
            parse(line, FLAGS, lambda expression: expression, **how)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (r"C:\data\x D:\y", [r"C:\data\x", r"D:\y"]),
        (r'"C:\My data\x"', [r"C:\My data\x"]),
        (r"'C:\My data\'", ["C:\\My data\\"]),
        (r"\"a\' b", ["\"a'", "b"]),
        (r'"a \" b"', ['a " b']),
        (r""""it's" 'a "b"' """, ["it's", 'a "b"']),
        ('K="a b"c', ["K=a bc"]),
        ("'' \"\"", ["", ""]),
        ("{a + 'b c'} d", ["{a + 'b c'}", "d"]),
        ("{f(1, [2, 3])}x y", ["{f(1, [2, 3])}x", "y"]),
        ('{"a": 1}', ['{"a": 1}']),
        ("{{a b}}", ["{{a", "b}}"]),
        ("a{ b", ["a{", "b"]),
        ("a\\", ["a\\"]),
        ("  \t ", []),
    ],
)
def test_words(line, expected):
    assert words(line) == expected


@pytest.mark.parametrize("line", ["'a", 'b "a', r'"C:\data\"', "don't"])
def test_an_open_quote_is_refused(line):
    with pytest.raises(BadFlag, match="never closed"):
        words(line)


# -- flags


def test_a_value_follows_or_is_joined_by_an_equals_sign():
    assert read("--gpus 2").gpus == read("--gpus=2").gpus == "2"
    assert read("-o=a,b").outputs == read("--outputs a,b").outputs == ("a", "b")
    assert read("--name=").name == read('--name ""').name == ""
    assert read("--name=a=b").name == "a=b"


def test_flags_that_are_not_given_have_their_defaults():
    parsed = read("--gpus 1 --detach")
    assert parsed.given == {"gpus", "detach"}
    assert (parsed.detach, parsed.follow, parsed.outputs, parsed.on_interrupt) == (True, None, None, "detach")


def test_a_flags_own_parser_makes_its_value():
    assert read("--memory 4Gi").memory == 4 * 1024**3
    with pytest.raises(BadValue):
        read("--memory 4Q")


@pytest.mark.parametrize(
    ("line", "nearest"),
    [
        ("--gpu 1", "--gpus"),
        ("--out a", "--outputs"),
        ("--det", "--detach"),
        ("--Gpus 1", "--gpus"),
        ("--memroy 1", "--memory"),
        ("gpus 1", "--gpus"),
        ("gpus=1", "--gpus"),
        ("--on-interrupt cancl", "cancel"),
    ],
)
def test_what_is_no_flag_is_refused_with_the_nearest(line, nearest):
    with pytest.raises(BadFlag) as refused:
        read(line)
    assert f"did you mean {nearest}?" in refused.value.next


@pytest.mark.parametrize(
    "line",
    [
        "stray",
        "-z",
        "--gpus",
        "--gpus --detach",
        "--detach=1",
        "--gpus 1 --gpus 2",
        "-p 3",
        "-p 1a=2",
        "--on-interrupt x",
    ],
)
def test_what_follows_no_rule_is_refused(line):
    with pytest.raises(BadFlag) as refused:
        read(line)
    assert refused.value.what
    assert refused.value.next


def test_words_beside_the_flags_where_they_have_a_place():
    assert read("-f job{n} --gpus 1", words=1).words == ("job3",)
    assert read("a 'b c' --detach d", words=None).words == ("a", "b c", "d")
    assert read("-- --detach", words=1).words == ("--detach",)
    with pytest.raises(BadFlag):
        read("a b", words=1)


# -- values


def test_a_value_that_is_an_expression_is_that_object():
    assert value("{frame}") is value('"{frame}"') is NAMES["frame"]
    assert value("{n + 1}") == 4
    assert value("{table['a b']}") == 7
    assert value('{table["a b"]}') == 7
    assert value("{ {'a': n}['a'] }") == 3
    assert read("-p x={frame}").param["x"] is NAMES["frame"]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("run-{n}", "run-3"),
        ("{n}{n}", "33"),
        ("{ratio:.2f}", "0.12"),
        ("r{ratio:.{n}f}", "r0.123"),
        ("{text!r:>7}x", "  'p,q'x"),
        ("{n if n != 4 else 0}x", "3x"),
        ("{{n}}", "{n}"),
        ("{{{n}}}", "{3}"),
        ("'{n}'", "{n}"),
        ("'{n}'{n}", "{n}3"),
        ('"{n} gpus"', "3 gpus"),
        (r"{n}\{n}", r"3\3"),
        ('{"a":1}', '{"a":1}'),
        ("a{b", "a{b"),
        ("a}b", "a}b"),
    ],
)
def test_expressions_inside_text_are_formatted(written, expected):
    assert value(written) == expected


@pytest.mark.parametrize("written", ["{absent}", "x{absent}", "{1/0}", "{a,b}.csv", "x{n:nonsense}"])
def test_an_expression_that_fails_is_refused(written):
    with pytest.raises(BadFlag) as refused:
        value(written)
    assert refused.value.why


def test_nothing_is_evaluated_without_a_namespace():
    assert parse("--name {n}", FLAGS).name == "{n}"


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("a,b", ("a", "b")),
        ("a, b", None),
        ("'a, b'", ("a", "b")),
        ("a,,b,", ("a", "b")),
        ("{names}", ("a", "b")),
        ("{text}", ("p", "q")),
        ("c,{text}", ("c", "p", "q")),
        ("none", ()),
    ],
)
def test_lists_of_names(written, expected):
    if expected is None:
        with pytest.raises(BadFlag):
            read(f"-o {written}")
    else:
        assert read(f"-o {written}").outputs == expected


def test_lists_may_be_repeated():
    assert read("-o a,b --detach -o c").outputs == ("a", "b", "c")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("--packages torch>=2,<3,numpy", ("torch>=2,<3", "numpy")),
        ("--packages 'torch>=2, <3' --packages ray[data,train]", ("torch>=2, <3", "ray[data,train]")),
        ("--include 'a,b.csv',c.csv", ("a,b.csv", "c.csv")),
        ("--env K='a, b' --env TOKEN", ("K=a, b", "TOKEN")),
        ("--env A=1,B=2 --env C,D=x,y", ("A=1", "B=2", "C", "D=x,y")),
        ("--env K={text} --env L='{text}'", ("K=p,q", "L={text}")),
    ],
)
def test_a_comma_that_belongs_to_an_item_separates_nothing(line, expected):
    parsed = read(line)
    assert parsed.values[next(iter(parsed.given))] == expected


def test_a_list_as_a_shell_gives_it():
    assert split_list(" a>=1,<2 , b[c,d],e") == ["a>=1,<2", "b[c,d]", "e"]
    assert split_list("A=1,2,B=3,C", pairs=True) == ["A=1,2", "B=3,C"]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("x=3", 3),
        ("x=0.5", 0.5),
        ("x=1e-3", 1e-3),
        ("x=true", True),
        ("x=null", None),
        ("x=adam", "adam"),
        ("x=", ""),
        ('x={"a":1}', {"a": 1}),
        ('x={"a": {"b": [1, 2]}}', {"a": {"b": [1, 2]}}),
        ("x='{\"a\": 1}'", {"a": 1}),
        ("x=[1,2]", [1, 2]),
        ('x=[{"a":1},2]', [{"a": 1}, 2]),
        ("x={}", {}),
        ("x={{a}}", {"a": None}),
        ("x=1{n}", 13),
        ("x=run-{n}", "run-3"),
        ("x='{n}'", {"n": None}),
        ("x={n}", 3),
        ("x={N}", None),
        ("x=a=b", "a=b"),
        ("x 3", 3),
        ("x '[1, 2]'", [1, 2]),
        ("x=2024-01-31", "2024-01-31"),
        ("x=12:30", "12:30"),
        ("x=#1", "#1"),
        ("x='a: b: c'", "a: b: c"),
        (r"x=C:\data\x", r"C:\data\x"),
        ("x=@here", "@here"),
    ],
)
def test_parameters_are_typed(written, expected):
    assert read(f"-p {written}").param == {"x": expected}


def test_parameters_are_gathered():
    assert read("-p a=1 --param b=x -p a=2").param == {"a": 2, "b": "x"}


def test_a_broken_list_is_refused():
    with pytest.raises(BadFlag):
        typed("[1, 2")


# -- the rest of the line


@given(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=40), st.sampled_from(["", "--gpus 1", "--detach -o a,b"])
)
def test_the_rest_is_python_byte_for_byte(python, flags):
    line = f"{flags} -- {python}"
    assert read(line, rest=True).rest == python.lstrip()


@pytest.mark.parametrize(
    ("line", "rest"),
    [
        ("fit(X,  'a  b')  ", "fit(X,  'a  b')  "),
        ("--gpus 1   fit(X)", "fit(X)"),
        ("--gpus 1 fit(X, '--gpus 2')", "fit(X, '--gpus 2')"),
        ("--detach x = {1: 2}[1] # it's", "x = {1: 2}[1] # it's"),
        ("-f(X)", "-f(X)"),
        ("--detach -1 + x", "-1 + x"),
        ("-- -f + 1", "-f + 1"),
        ("--detach", ""),
        ("--name 'a b' \"\\n{x}\"", '"\\n{x}"'),
        ("f(a) -- b", "f(a) -- b"),
    ],
)
def test_flags_end_where_python_begins(line, rest):
    assert read(line, rest=True).rest == rest


def test_a_misspelt_flag_before_python_is_no_python():
    with pytest.raises(BadFlag, match="--gpu"):
        read("--gpu 1 fit(X)", rest=True)
    with pytest.raises(BadFlag) as refused:
        read("-z + 1", rest=True)
    assert "--" in refused.value.next


# -- help


@pytest.mark.parametrize(
    ("line", "asked"),
    [
        ("--help", True),
        ("-h", True),
        ("--gpus 1 --help", True),
        ("--gpus {absent} --memory 4Q --help", True),
        ("fit('--help')", False),
        ("--name --help", True),
        ("--name '--help'", False),
        ("--detach -- --help", False),
        ("", False),
    ],
)
def test_help_is_asked_among_the_flags(line, asked):
    assert asks_for_help(line, FLAGS) is asked


def test_the_usage_shows_every_flag():
    text = usage("%kube_train", FLAGS, about="Run this cell.", words="[JOB]")
    assert text.startswith("%kube_train [flags] [JOB]")
    assert "Run this cell." in text
    assert all(name in text for flag in FLAGS for name in flag.names)
    assert "detach|cancel" in text
