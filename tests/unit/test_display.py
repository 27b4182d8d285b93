"""What the sent code shows arrives as the notebook would show it."""

from __future__ import annotations

import base64
import collections
import dataclasses
import datetime
import decimal
import enum
import json
import pathlib
import re
import types
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from IPython.core.formatters import DisplayFormatter
from IPython.display import HTML

from kube_nb.events import IN_BAND
from kube_nb.runner.display import Displays, bundle_of, display_plainly, plain_text
from kube_nb.runner.objects import Objects
from tests.unit.rank_process import run_rank


class Said:
    """Takes what would go to the runner."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []

    def say(self, kind: str, /, **data: Any) -> None:
        self.messages.append({"kind": kind} | json.loads(json.dumps(data, allow_nan=False)))


@pytest.fixture
def said() -> Said:
    return Said()


@pytest.fixture
def displays(said, tmp_path) -> Displays:
    return Displays(said, Objects(tmp_path))  # type: ignore[arg-type]


class Rich:
    def __repr__(self):
        return "Rich()"

    def _repr_html_(self):
        return "<b>rich</b>"

    def _repr_png_(self):
        return b"png", {"width": 3}

    def _repr_latex_(self):
        return None


class Whole:
    def __repr__(self):
        return "Whole()"

    def _repr_mimebundle_(self, include=None, exclude=None):
        return {"text/plain": "whole", "text/html": "<i>whole</i>"}, {"text/html": {"isolated": True}}

    def _repr_html_(self):
        raise AssertionError("the bundle has it already")


class Proxy:
    def __getattr__(self, name):
        return lambda *args, **kwargs: "everything"

    def __repr__(self):
        return "Proxy()"


class Child(list):
    pass


class Named(list):
    def __repr__(self):
        return "Named()"


class Pretty:
    def __repr__(self):
        return "plain"

    def _repr_pretty_(self, printer, cycle):
        printer.text("pretty")


@dataclasses.dataclass
class Point:
    x: int
    y: int


class Colour(enum.Enum):
    RED = 1


class OldRepr(Exception):
    def __repr__(self):
        return "OldRepr!"


VALUES = [
    1, 1.5, True, 1j, "text", "two\nlines", b"bytes", [1, 2], (1,), {}, {"a": 1}, [], (), "x" * 200, ["x" * 100],
    list(range(100)), [1.0, None], [[1]], {"a": [1]}, {1, 2}, Rich(), Rich, Whole(), Proxy(), Child([1]), Named([1]),
    Pretty(), Point(1, 2), Colour.RED, Colour, OldRepr("x"), ValueError("x"), re.compile("a"),
    datetime.date(2024, 1, 2),
    datetime.timedelta(1), pathlib.PurePosixPath("/a"), collections.Counter("aab"), collections.deque([1]),
    collections.OrderedDict(a=1), collections.namedtuple("Pair", "a b")(1, 2), types.SimpleNamespace(a=1), range(3),
    slice(1), len, json, json.dumps, object, int, np.float64(1.5), np.arange(3), np.zeros((50, 50)), np.dtype("int8"),
    pd.DataFrame({"a": [1, 2]}), pd.Series([1, 2]), pd.DataFrame({"x": range(100)}), HTML("<b>"),
    decimal.Decimal("1.5"),
    ..., NotImplemented, memoryview(b"x").format,
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=lambda value: f"{type(value).__name__}-{str(value)[:10]!r}")
def test_what_is_shown_without_ipython_is_what_ipython_shows(value):
    ours = bundle_of(value)
    if ours is not None:
        assert ours == DisplayFormatter().format(value)


JSON_LIKE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4) | st.integers(), inner, max_size=4),
    max_leaves=8,
)


@given(JSON_LIKE)
def test_plain_values_look_as_ipython_lays_them_out(value):
    text = plain_text(value)
    assert text is None or text == DisplayFormatter().format(value)[0]["text/plain"]


@pytest.mark.parametrize(
    "value", [1, "text", [1, 2], {"a": None}, np.arange(3), np.float64(1), pd.DataFrame({"a": [1]}), Rich(), Whole()]
)
def test_the_usual_values_need_no_ipython(value):
    assert bundle_of(value) is not None


@pytest.mark.parametrize("value", [{1, 2}, [[1]], Point(1, 2), list(range(100)), Pretty(), object(), ValueError("x")])
def test_what_the_pretty_printer_lays_out_is_left_to_it(value):
    assert bundle_of(value) is None


def test_a_value_that_fails_to_show_itself_is_left_to_ipython():
    class Broken:
        def __repr__(self):
            raise ValueError("no words")

    class BrokenHtml:
        def __repr__(self):
            return "BrokenHtml()"

        def _repr_html_(self):
            raise ValueError("no html")

    assert bundle_of(Broken()) is None
    assert bundle_of(BrokenHtml()) is None


def test_content_of_a_bundle_becomes_json(displays, said):
    displays.show(
        {
            "image/png": b"\x89PNG",
            "application/json": {
                "number": np.int64(3),
                "ratio": np.float32(0.5),
                "nan": float("nan"),
                "array": np.arange(2),
                "date": datetime.date(2024, 1, 2),
                "tuple": (1, {2}),
                "decimal": decimal.Decimal("1.5"),
                3: None,
            },
        },
        {"image/png": {"width": np.int64(5)}},
        id="a",
        update=True,
    )
    assert said.messages == [
        {
            "kind": "display",
            "id": "a",
            "update": True,
            "result": False,
            "count": None,
            "data": {
                "image/png": base64.b64encode(b"\x89PNG").decode(),
                "application/json": {
                    "number": 3,
                    "ratio": 0.5,
                    "nan": "nan",
                    "array": [0, 1],
                    "date": "2024-01-02",
                    "tuple": [1, [2]],
                    "decimal": 1.5,
                    "3": None,
                },
            },
            "metadata": {"image/png": {"width": 5}},
        }
    ]


def test_what_is_no_json_is_refused(displays):
    with pytest.raises(TypeError, match="object cannot be shown"):
        displays.show({"application/json": object()})


def test_a_large_display_is_a_file_and_keeps_its_id(displays, said, tmp_path):
    displays.show({"text/html": "x" * (IN_BAND + 1)}, id="big", update=True)
    (message,) = said.messages
    content = bytes(Objects(tmp_path).read(message["object"], message["size"]))
    assert json.loads(content) == {"data": {"text/html": "x" * (IN_BAND + 1)}, "metadata": {}}
    assert (message["id"], message["update"], "data" in message) == ("big", True, False)


def test_a_widget_is_shown_as_its_text(displays, said):
    view = {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}, "text/plain": "IntSlider(value=0)"}
    displays.show(view)
    assert said.messages[0]["data"] == {"text/plain": "IntSlider(value=0)"}


def test_display_without_ipython(displays, said):
    handle = display_plainly(displays, Rich(), display_id=True)
    assert handle is not None
    handle.update([1])
    display_plainly(displays, {"text/html": "<b>"}, raw=True, metadata={"a": 1})
    assert display_plainly(displays, "a", object, clear=True) is None
    first, second, third, clear, *rest = said.messages
    assert first["data"]["text/html"] == "<b>rich</b>"
    assert (first["id"], second["id"], second["update"]) == (handle.display_id, handle.display_id, True)
    assert (third["data"], third["metadata"]) == ({"text/html": "<b>"}, {"a": 1})
    assert clear == {"kind": "clear", "wait": True}
    assert [one["data"] for one in rest] == [{"text/plain": "'a'"}, {"text/plain": "<class 'object'>"}]


# In a rank ----------------------------------------------------------------------------------------------------------


def test_display_ids_updates_and_clear_output():
    ran = run_rank(
        "from IPython.display import clear_output, update_display\n"
        "handle = display('first', display_id=True)\n"
        "handle.update('second')\n"
        "display(1, display_id='mine')\nupdate_display(2, display_id='mine')\nclear_output(wait=True)"
    )
    first, second, third, fourth = ran.shown
    assert first["id"] == second["id"] != None  # noqa: E711
    assert [message["update"] for message in ran.shown] == [False, True, False, True]
    assert (third["id"], fourth["id"]) == ("mine", "mine")
    assert ran.said("clear") == [{"kind": "clear", "wait": True}]


def test_a_value_of_the_pretty_printer_shows_as_in_a_notebook():
    x = "x" * 30
    assert run_rank("{i: 'x' * 30 for i in range(3)}").results == [f"{{0: '{x}',\n 1: '{x}',\n 2: '{x}'}}"]


def test_a_table_is_shown_without_importing_ipython():
    ran = run_rank(
        "import sys\nimport pandas as pd\ntable = pd.DataFrame({'a': [1]})\nprint('IPython' in sys.modules)\ntable"
    )
    assert ran.text == "False\n"
    assert "<table" in ran.shown[0]["data"]["text/html"]


def test_a_wide_table_is_cut_as_in_a_notebook():
    ran = run_rank("import pandas as pd\npd.get_option('display.max_columns')")
    assert ran.results == ["20"]
    assert run_rank("import IPython, pandas as pd\npd.get_option('display.max_columns')").results == ["20"]


def test_a_representation_that_fails_is_told_and_the_rest_is_shown():
    ran = run_rank(
        "class Broken:\n    def _repr_html_(self): raise ValueError('no html today')\n"
        "    def __repr__(self): return 'Broken()'\nBroken()"
    )
    assert (ran.results, ran.status) == (["Broken()"], 0)
    assert "ValueError: no html today\n" in ran.text
    assert "_kube_nb_job" not in ran.text
    assert "IPython" not in ran.text


def test_figures_are_drawn_at_the_end_even_of_code_that_fails():
    ran = run_rank("import matplotlib.pyplot as plt\nplt.plot([1, 2])\nprint('text first')\nraise ValueError")
    assert ran.text == "text first\n"
    assert base64.b64decode(ran.shown[0]["data"]["image/png"]).startswith(b"\x89PNG")
    kinds = [item["kind"] for item in ran.items if isinstance(item, dict)]
    assert kinds.index("display") < kinds.index("error")


def test_show_draws_where_it_is_called():
    ran = run_rank("import matplotlib.pyplot as plt\nplt.plot([1, 2]); plt.show()\nprint('after')")
    assert [item if isinstance(item, str) else item["kind"] for item in ran.items][1:3] == ["display", "after\n"]
    assert len(ran.shown) == 1


def test_the_inline_magic_works_before_and_after_the_import():
    magic = "get_ipython().run_line_magic('matplotlib', 'inline')\n"
    ran = run_rank(f"{magic}import matplotlib.pyplot as plt\n{magic}plt.plot([1, 2]);\nplt.figure(); plt.plot([2, 1]);")
    assert ["image/png" in message["data"] for message in ran.shown] == [True, True]


def test_figures_without_the_inline_backend(tmp_path):
    # An environment with matplotlib and without IPython: these two stand in the way of both.
    (tmp_path / "hide.py").write_text(
        "import importlib.util, sys\n"
        "class Hide:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in ('IPython', 'matplotlib_inline'):\n"
        "            raise ModuleNotFoundError(name)\n"
    )
    ran = run_rank(
        "import importlib.util, hide, sys\n"
        "real = importlib.util.find_spec\n"
        "from importlib.metadata import version\n"
        "for module in list(sys.modules.values()):\n"
        "    if getattr(module, 'find_spec', None) is real:\n"
        "        hidden = ('IPython', 'matplotlib_inline')\n"
        "        module.find_spec = lambda name, package=None: None if name in hidden else real(name, package)\n"
        "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nprint(plt.get_backend())",
        env_path=[str(tmp_path)],
    )
    assert ran.text == "agg\n"
    assert base64.b64decode(ran.shown[0]["data"]["image/png"]).startswith(b"\x89PNG")


def test_magics_around_code_raise_what_the_code_raises():
    for magic in ("time", "capture"):
        ran = run_rank(f"get_ipython().run_cell_magic({magic!r}, '', '1 / 0\\n')\nprint('never')")
        assert ran.error is not None
        assert ran.error["ename"] == "ZeroDivisionError"
        assert ran.error["frames"][0]["file"] == "Cell In[1]"
        assert "never" not in ran.text


def test_capture_takes_text_commands_displays_and_the_value():
    ran = run_rank(
        "code = 'print(1)\\nget_ipython().system(\"echo 2\")\\ndisplay(3)\\n4\\n'\n"
        "get_ipython().run_cell_magic('capture', 'kept', code)\n"
        "print(kept.stdout.split(), [one.data['text/plain'] for one in kept.outputs])"
    )
    assert (ran.text, ran.shown) == ("['1', '2'] ['3', '4']\n", [])


def test_time_shows_the_value():
    ran = run_rank("get_ipython().run_cell_magic('time', '', 'x = 2\\nx + 1\\n')", assigned=["x"])
    assert (ran.results, ran.values) == (["3"], {"x": 2})
    assert "Wall time" in ran.text


@pytest.mark.parametrize("module", ["tqdm", "tqdm.auto", "tqdm.notebook", "tqdm.autonotebook"])
def test_progress_bars_are_one_bar_of_text(module):
    ran = run_rank(
        "import warnings; warnings.simplefilter('ignore')\n"
        f"from {module} import tqdm, trange\n"
        "for _ in tqdm(range(3)): pass\nfor _ in trange(2): pass"
    )
    assert ran.text.count("100%") == 2
    assert (ran.shown, ran.status) == ([], 0)
    assert ran.text.count("\n") == 2


def test_the_notebook_bar_takes_what_the_notebook_takes():
    ran = run_rank(
        "from tqdm.notebook import tqdm_notebook\n"
        "bar = tqdm_notebook(total=2, display=False, leave=True)\nbar.update(2)\nbar.close()"
    )
    assert "100%" in ran.text
    assert ran.status == 0


def test_widgets_do_no_harm():
    ran = run_rank("import ipywidgets\nslider = ipywidgets.IntSlider()\ndisplay(slider)\nslider.value = 3\nslider")
    assert [message["data"] for message in ran.shown] == [
        {"text/plain": "IntSlider(value=0)"},
        {"text/plain": "IntSlider(value=3)"},
    ]


@pytest.mark.slow
def test_plotly_is_interactive():
    ran = run_rank(
        "import plotly.graph_objects as go\nfigure = go.Figure(go.Scatter(y=[2, 1, 3]))\nfigure.show()\nfigure"
    )
    figures = [m["data"] for m in ran.shown if "data" in m and "application/vnd.plotly.v1+json" in m["data"]]
    assert [one["application/vnd.plotly.v1+json"]["data"][0]["type"] for one in figures] == ["scatter"] * 2
    assert ran.status == 0
    assert ran.text == ""


def test_ipythons_shell_is_the_jobs():
    ran = run_rank(
        "import IPython, os, sys\n"
        "shell = IPython.get_ipython()\n"
        "print(shell is get_ipython(), shell.user_ns is globals(), isinstance(shell, IPython.InteractiveShell))\n"
        "print(os.path.exists(os.path.expanduser('~/.ipython')), sys.excepthook is sys.__excepthook__)\n"
        "get_ipython().run_cell('inner = 1')\nprint(inner)\n"
        "shell.user_ns['by_shell'] = 2\nprint(by_shell)\n"
        "exit(0)",
        env={"HOME": "/nonexistent"},
    )
    assert ran.text == "True True True\nFalse True\n1\n2\n"
    assert ran.status == 0
