"""What a job shows: the value of the last expression, rich output, display ids, clear_output."""

from __future__ import annotations

import base64

import pytest

PNG = b"\x89PNG\r\n\x1a\n"


def test_the_value_of_the_last_expression_is_shown(cell):
    assert [data["text/plain"] for data in cell("x = 20", send="y = 1\nx + y").displays] == ["21"]


def test_a_semicolon_hides_the_value(cell):
    assert cell("x = 20", send="x + 1;").displays == []


def test_a_value_that_is_no_expression_is_not_shown(cell):
    assert cell(send="x = 20").displays == []


def test_none_is_not_shown(cell):
    assert cell(send="None").displays == []


def test_only_the_last_expression_is_shown(cell):
    assert [data["text/plain"] for data in cell(send="1\n2\n3").displays] == ["3"]


def test_a_long_value_is_laid_out_as_in_the_notebook(cell):
    kernel = cell("table = {i: 'x' * 30 for i in range(5)}", send="table")
    here = kernel.run("table").displays
    assert kernel.displays[0]["text/plain"] == here[0]["text/plain"]


def test_a_value_of_the_notebooks_own_class_shows_as_it_says(cell):
    setup = """
class Gauge:
    def __init__(self, level): self.level = level
    def __repr__(self): return f"Gauge({self.level})"
    def _repr_html_(self): return f"<b>{self.level}</b>"
gauge = Gauge(7)
"""
    data = cell(setup, send="gauge").displays[0]
    assert (data["text/plain"], data["text/html"]) == ("Gauge(7)", "<b>7</b>")


@pytest.mark.slow
def test_a_figure_is_drawn_at_the_end_of_the_cell(cell):
    kernel = cell("import matplotlib.pyplot as plt", send="plt.plot([1, 2, 3]);\nprint('text first')")
    assert _png(kernel.displays[-1])
    assert [bool(piece.stream) for piece in kernel.pieces] == [True, False]


@pytest.mark.slow
def test_show_draws_the_figure_where_it_is_called(cell):
    kernel = cell(send="import matplotlib.pyplot as plt\nplt.plot([1, 2]); plt.show()\nprint('after')")
    assert len(kernel.displays) == 1
    assert _png(kernel.displays[0])
    assert not kernel.pieces[0].stream


@pytest.mark.slow
def test_two_figures_are_two_pictures(cell):
    kernel = cell(send="import matplotlib.pyplot as plt\nfor _ in range(2):\n    plt.figure(); plt.plot([1, 2])")
    assert [_png(data) for data in kernel.displays if "image/png" in data] == [True, True]


@pytest.mark.slow
def test_a_figure_is_shown_by_plot_of_pandas(cell):
    kernel = cell("import pandas as pd\nseries = pd.Series([1, 2, 3])", send="series.plot();")
    assert _png(kernel.displays[-1])


def test_a_pandas_table_is_html(cell):
    kernel = cell("import pandas as pd\ndf = pd.DataFrame({'city': ['Bern', 'Rome']})", send="df")
    data = kernel.displays[0]
    assert "<table" in data["text/html"]
    assert "Bern" in data["text/plain"]


def test_a_table_of_pandas_looks_as_the_notebook_shows_it(cell):
    kernel = cell("import pandas as pd\ndf = pd.DataFrame({'x': range(100)})", send="df")
    assert kernel.displays == kernel.run("df").displays


def test_html_is_shown(cell):
    kernel = cell(send="from IPython.display import HTML\nHTML('<i>hi</i>')")
    assert kernel.displays[0]["text/html"] == "<i>hi</i>"


def test_markdown_is_shown(cell):
    kernel = cell("from IPython.display import Markdown, display", send="display(Markdown('**bold**'))")
    assert kernel.displays[0]["text/markdown"] == "**bold**"


def test_an_image_is_shown(cell):
    setup = f"from IPython.display import Image\npixel = {PNG!r} + b'rest'"
    data = cell(setup, send="Image(data=pixel, format='png')").displays[0]
    assert base64.b64decode(data["image/png"]) == PNG + b"rest"


def test_an_image_keeps_its_metadata(cell):
    kernel = cell(send=f"from IPython.display import Image\nImage(data={PNG!r}, format='png', width=30)")
    assert kernel.pieces[0].metadata["image/png"]["width"] == 30


@pytest.mark.slow
def test_a_plotly_figure_is_interactive(cell):
    kernel = cell(send="import plotly.graph_objects as go\ngo.Figure(go.Scatter(y=[2, 1, 3]))")
    data = next(data for data in kernel.displays if "application/vnd.plotly.v1+json" in data)
    trace = data["application/vnd.plotly.v1+json"]["data"][0]
    assert trace["type"] == "scatter"


@pytest.mark.slow
def test_show_of_plotly_shows_the_figure(cell):
    kernel = cell(send="import plotly.graph_objects as go\ngo.Figure(go.Scatter(y=[2, 1, 3])).show()")
    assert any("application/vnd.plotly.v1+json" in data or "text/html" in data for data in kernel.displays)


def test_a_large_display_arrives_whole(cell):
    kernel = cell(send="from IPython.display import HTML\nHTML('x' * 3_000_000)")
    assert kernel.displays[0]["text/html"] == "x" * 3_000_000


def test_display_without_an_import_works(cell):
    assert cell(send="display('a', 2)").displays == [{"text/plain": "'a'"}, {"text/plain": "2"}]


def test_an_update_takes_the_place_of_what_it_updates(cell):
    kernel = cell(
        send="""
        handle = display("first", display_id=True)
        display("other")
        handle.update("second")
        del handle
        """
    )
    assert [data["text/plain"] for data in kernel.displays] == ["'second'", "'other'"]


def test_update_display_finds_the_id(cell):
    kernel = cell(
        send="""
        from IPython.display import update_display
        display(0, display_id="counter")
        for i in range(1, 30):
            update_display(i, display_id="counter")
        """
    )
    assert [data["text/plain"] for data in kernel.displays] == ["29"]


def test_a_display_id_that_is_shown_twice_is_updated_in_both_places(cell):
    kernel = cell(
        send="""
        from IPython.display import update_display
        display(1, display_id="twice")
        display(2, display_id="twice")
        update_display(3, display_id="twice")
        """
    )
    assert [data["text/plain"] for data in kernel.displays] == ["3", "3"]


def test_clear_output_clears_what_the_job_showed(cell):
    kernel = cell(
        send="""
        from IPython.display import clear_output
        print("gone"); display("gone")
        clear_output()
        print("stays")
        """
    )
    assert kernel.text == "stays\n"
    assert kernel.displays == []


def test_clear_output_with_wait_leaves_the_last_state(cell):
    kernel = cell(
        send="""
        from IPython.display import clear_output
        for i in range(5):
            clear_output(wait=True)
            display(i)
        """
    )
    assert [data["text/plain"] for data in kernel.displays] == ["4"]


def test_the_card_survives_clear_output(cell):
    kernel = cell(send="from IPython.display import clear_output\nprint('gone')\nclear_output()\nprint('stays')")
    assert "Succeeded" in kernel.card


def test_a_representation_that_fails_does_not_fail_the_job(cell):
    setup = """
class Broken:
    def _repr_html_(self): raise ValueError("no html today")
    def __repr__(self): return "Broken()"
broken = Broken()
"""
    kernel = cell(setup, send="broken")
    assert kernel.displays[0]["text/plain"] == "Broken()"
    assert "no html today" in kernel.text


def test_the_card_names_the_job_and_its_end(cell):
    kernel = cell(send="x = 1")
    assert kernel.job.id in kernel.card
    assert "Succeeded" in kernel.card


def test_the_card_is_a_table_without_script(cell):
    html = cell(send="x = 1").sent.cards[0]["text/html"]
    assert "<table" in html
    assert "<script" not in html
    assert "Succeeded" in html


def test_the_card_says_what_came_back(cell):
    assert "answer" in cell(send="answer = 42").card


def _png(data) -> bool:
    return base64.b64decode(data["image/png"]).startswith(PNG)


def test_get_ipython_is_a_shell_in_the_job(cell):
    kernel = cell(send="shell = get_ipython()\nknown = shell.run_line_magic('pwd', '')\ndel shell")
    assert kernel["known"]


def test_a_mimebundle_is_shown_whole(cell):
    setup = """
class Both:
    def _repr_mimebundle_(self, include=None, exclude=None):
        return {"text/plain": "plain", "application/json": {"a": [1, None]}}, {"application/json": {"expanded": True}}
both = Both()
"""
    kernel = cell(setup, send="both")
    assert kernel.displays == [{"text/plain": "plain", "application/json": {"a": [1, None]}}]
    assert kernel.pieces[0].metadata == {"application/json": {"expanded": True}}


def test_a_handle_of_the_notebook_is_updated_by_the_job(cell):
    kernel = cell()
    shown = kernel.run("handle = display('waiting', display_id='mine')")
    kernel.send("from IPython.display import update_display\nupdate_display('done', display_id='mine')")
    assert shown.displays == [{"text/plain": "'done'"}]


def test_the_text_of_a_stopped_update_is_not_shown_twice(cell):
    kernel = cell(
        send="""
        h = display("a", display_id=True)
        print("text")
        h.update("b")
        h.update("c")
        del h
        """
    )
    assert [piece.text or piece.data["text/plain"] for piece in kernel.pieces] == ["'c'", "text\n"]


def test_a_clear_in_the_middle_keeps_what_comes_after(cell):
    kernel = cell(
        send="""
        from IPython.display import clear_output
        for i in range(3):
            clear_output(wait=True)
            print("round", i)
            display(i)
        print("end")
        """
    )
    assert [piece.text or piece.data["text/plain"] for piece in kernel.pieces] == ["round 2\n", "2", "end\n"]
    assert "Succeeded" in kernel.card


def test_an_update_of_what_nobody_shows_shows_nothing(cell):
    assert cell(send="from IPython.display import update_display\nupdate_display(1, display_id='no')").displays == []


@pytest.mark.slow
def test_a_figure_that_comes_back_is_not_drawn_again(cell):
    kernel = cell(send="import matplotlib.pyplot as plt\nfig, ax = plt.subplots()\nax.plot([1, 2]);")
    assert len(kernel.displays) == 1
    assert kernel["ax"].figure is kernel["fig"]
    assert kernel.run("import matplotlib.pyplot as plt\nplt.get_fignums()").value == []
