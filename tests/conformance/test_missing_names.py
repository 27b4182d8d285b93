"""A name that does not exist is said before the submit."""

from __future__ import annotations

import pytest

from kube_nb.errors import MissingName
from tests.conformance.sending import Notebook, Sender, code, sent


def missing(send: Sender, source: str, notebook: Notebook) -> MissingName:
    with pytest.raises(MissingName) as caught:
        send(source, notebook)
    assert sent(send.client) == []
    assert send.client.journal.ids() == []
    return caught.value


def test_a_name_that_does_not_exist_is_said_with_its_line_and_the_nearest(send: Sender) -> None:
    error = missing(send, "y = 1\nprint(X_trian)", Notebook("X_train = [1]"))

    assert "`X_trian`" in error.what
    assert "line 2" in error.what
    assert "`X_train`" in error.next


def test_nothing_is_suggested_where_nothing_is_near(send: Sender) -> None:
    assert "did you mean" not in missing(send, "print(qqq)", Notebook("X_train = [1]")).next


def test_a_missing_name_is_a_name_error(send: Sender) -> None:
    assert isinstance(missing(send, "print(qqq)", Notebook()), NameError)


@pytest.mark.parametrize(
    "source",
    [
        "x = 1\nprint(x)",
        "for i in range(2):\n    last = i\nprint(last)",
        "def f():\n    return later\nlater = 3\nprint(f())",
        "import os.path as p\nprint(p.sep)",
        "print([n for n in range(3)])",
        "try:\n    maybe\nexcept NameError:\n    print('as expected')",
        "if False:\n    print(never)",
        "globals()['made'] = 1\nprint(made)",
    ],
)
def test_a_name_that_the_cell_gives_itself_is_not_missing(send: Sender, source: str) -> None:
    assert code(send.over(source)) == ""


def test_a_name_sent_by_hand_that_does_not_exist_is_said(send: Sender) -> None:
    with pytest.raises(ValueError, match="modle"):
        send("print(1)", Notebook("model = 1"), send=["modle"])
    assert sent(send.client) == []
