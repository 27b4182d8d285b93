"""What a target cannot do is refused before the submit, or said to have no effect; never silently otherwise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kube_nb.backends.base import Capability
from kube_nb.errors import BadFlag, BadValue, CannotRunThere, KubeNbError, Refused
from tests.conformance.backends import needs
from tests.conformance.kernel import Kernel
from tests.conformance.sending import Sender, code, sent

Cell = Callable[..., Kernel]
WITHOUT_EFFECT = {
    "--image": {"image": "python:3.12"},
    "--namespace": {"namespace": "team"},
    "--secret": {"secret": ["token"]},
    "--volume": {"volume": ["data:/data"]},
    "--queue": {"queue": "gold"},
    "--via": {"via": "trainjob"},
    "--patch": {"patch": ["patch.yaml"]},
}


def refused(send: Sender, kind: type[KubeNbError], source: str = "pass", **options: Any) -> KubeNbError:
    with pytest.raises(kind) as caught:
        send(source, **options)
    assert sent(send.client) == []
    assert send.client.journal.ids() == []
    assert caught.value.what
    assert caught.value.next
    return caught.value


@pytest.fixture
def no_gpus(send: Sender) -> None:
    if Capability.GPUS in send.client.backend.capabilities:
        pytest.skip("gpu: this machine has one, so a job that asks for one is not refused")


@pytest.mark.usefixtures("no_gpus")
@pytest.mark.parametrize("asked", ["1", "2:nvidia.com/gpu", "1:amd.com/gpu"])
def test_a_gpu_where_there_is_none_is_refused_and_not_queued(send: Sender, asked: str) -> None:
    error = refused(send, Refused, gpus=asked)

    assert isinstance(error, Refused)
    assert [finding.reason.code for finding in error.findings if finding.level == "error"] == ["NoGpu"]
    assert "--gpus" in error.next


@pytest.mark.usefixtures("no_gpus")
def test_no_gpu_is_never_refused(send: Sender) -> None:
    assert code(send.over("pass", gpus=0)) == ""


@needs(Capability.ADMISSION)
def test_more_cores_than_there_are_is_refused(send: Sender) -> None:
    error = refused(send, Refused, cpu=100_000)

    assert isinstance(error, Refused)
    assert [finding.reason.code for finding in error.findings if finding.level == "error"] == ["NotEnoughCpu"]
    assert "--cpu" in error.next


@needs(Capability.ADMISSION)
def test_more_memory_than_there_is_is_refused(send: Sender) -> None:
    error = refused(send, Refused, memory="900Ti")

    assert isinstance(error, Refused)
    assert [finding.reason.code for finding in error.findings if finding.level == "error"] == ["NotEnoughMemory"]
    assert "--memory" in error.next


@pytest.mark.parametrize(
    "options",
    [
        {"cpu": "-1"},
        {"memory": "4 apples"},
        {"gpus": "many"},
        {"timeout": "soon"},
        {"retries": -1},
        {"nodes": 0},
        {"procs": "two"},
        {"env": ["1BAD=x"]},
        {"env": ["NOT_SET_ANYWHERE"]},
        {"include": ["nothing-fits-*"]},
    ],
    ids=str,
)
def test_a_value_that_means_nothing_is_refused(send: Sender, options: dict[str, Any]) -> None:
    refused(send, BadValue, **options)


def test_a_session_is_refused_clearly(send: Sender) -> None:
    assert "--session" in refused(send, BadFlag, session="work").what


@pytest.mark.parametrize("flag", WITHOUT_EFFECT)
def test_a_flag_without_effect_is_said_in_one_line(cell: Cell, send: Sender, flag: str) -> None:
    if Capability.CONTAINERS in send.client.backend.capabilities:
        pytest.skip("capability containers: this backend honours it")
    (value,) = WITHOUT_EFFECT[flag].values()
    kernel = cell(send="print('ran')", flags=f"{flag} {value if isinstance(value, str) else value[0]}")

    assert kernel.text == "ran\n"
    said = [line for line in kernel.card.splitlines() if flag in line]
    assert len(said) == 1
    assert "no effect" in said[0]


def test_nothing_is_said_of_flags_that_were_not_given(cell: Cell) -> None:
    assert "no effect" not in cell(send="print('ran')").card


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("x = 1\n%pip install lightgbm", 2),
        ("!pip install lightgbm", 1),
        ("!python -m pip install -q lightgbm", 1),
        ("%conda install lightgbm", 1),
    ],
)
def test_installing_inside_is_refused_with_a_pointer(send: Sender, source: str, line: int) -> None:
    error = refused(send, CannotRunThere, source)

    assert "--packages" in error.next
    assert "lightgbm" in error.next
    assert f"line {line}" in error.what


@pytest.mark.parametrize(
    "source",
    ["name = input('who? ')", "import getpass\ngetpass.getpass()", "breakpoint()", "import pdb\npdb.set_trace()"],
)
def test_what_waits_for_a_keyboard_is_refused(send: Sender, source: str) -> None:
    error = refused(send, CannotRunThere, source)

    assert f"line {source.count(chr(10)) + 1}" in error.what


@pytest.mark.parametrize(
    "magic", ["%debug", "%run script.py", "%load_ext autoreload", "%%kube_train\nx = 1", "%kube_jobs"]
)
def test_magics_that_need_the_kernel_are_refused(send: Sender, magic: str) -> None:
    assert magic.split()[0] in refused(send, CannotRunThere, magic).what


@pytest.mark.parametrize(
    "source",
    [
        "def input(text): return text\nprint(input('x'))",
        "# %pip install x\nprint('x')",
        "text = '''\n%pip install x\n'''\nprint('x')",
        "!echo pip install x",
    ],
)
def test_what_only_looks_like_it_runs(send: Sender, source: str) -> None:
    assert code(send.over(source)) == ""


def test_input_out_of_sight_fails_in_the_job_with_words(send: Sender) -> None:
    job = send.over("ask = eval('input')\nask('who?')")

    assert code(job) == "Exception"
    assert type(job.exception()) is EOFError
    assert job.reason is not None
    assert "keyboard" in job.reason.why


@needs(Capability.ADMISSION)
def test_the_refusal_in_a_notebook_has_what_why_and_next(cell: Cell) -> None:
    kernel = cell(send="pass", flags="--memory 900Ti", fails=True)

    assert kernel.error.ename == "Refused"
    assert "why:" in kernel.error.text
    assert "next:" in kernel.error.text
    assert "kube_nb/" not in kernel.error.text
    assert len(kernel.error.text.splitlines()) <= 4
