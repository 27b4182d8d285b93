"""Every end has words: what happened, why, and what to do."""

from __future__ import annotations

import pytest

from kube_nb.backends.reasons import reason_of, signal_text, size_text
from kube_nb.runner.ending import CODES, ENVIRONMENT, end, status_of

OURS = ("SupervisorLost", "SupervisorFault")
SAY_NOTHING_MORE = {"Succeeded", "Cancelled"}


@pytest.mark.parametrize("code", [*CODES, *OURS])
def test_every_code_is_told_in_words(code):
    reason = reason_of(end(code, 0))
    assert reason.code == code
    assert code not in reason.what, "words, not the code again"
    assert reason.next or code in SAY_NOTHING_MORE
    assert not reason.what.endswith(".")


@pytest.mark.parametrize("cause", sorted(ENVIRONMENT))
def test_what_is_wrong_with_the_environment_has_a_code_of_its_own_and_one_exit_status(cause):
    record = end("EnvironmentFailed", 0, detail={"what": "w", "code": cause})
    assert (reason_of(record).code, status_of(record)) == (cause, 84)


def test_only_what_may_be_wrong_with_the_environment_is_a_code_of_its_own():
    assert reason_of(end("EnvironmentFailed", 0, detail={"what": "w", "code": "Succeeded"})).code == "EnvironmentFailed"
    assert reason_of(end("Exception", 0, detail={"what": "w", "code": "Conflict"})).code == "Exception"


@pytest.mark.parametrize("code", [*CODES, *OURS, "SomethingNew", ""])
def test_a_bare_record_is_enough(code):
    assert reason_of({"code": code}).what


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (
            end("Exception", 0, ename="ValueError", evalue="bad", where="Cell In[5]", line=3),
            "ValueError in Cell In[5], line 3",
        ),
        (end("SystemExit", 0, exit=3), "sys.exit(3)"),
        (end("Exited", 2, exit=4), "rank 2 ended with status 4"),
        (end("Signal", 0, signal=11), "SIGSEGV"),
        (end("RankLost", 3), "rank 3"),
        (end("OutOfMemory", 0, detail={"limit": 1 << 30, "peak": 3 << 29}), "its limit is 1 GiB"),
        (end("OutOfMemory", 0, detail={"limit": 1 << 30, "peak": 3 << 29}), "it used 1.5 GiB"),
        (end("OutOfDisk", 0, evalue="no space left: /data"), "/data"),
        (end("TimedOut", 0, detail={"timeout": 90}), "90 s"),
        (end("BundleCorrupted", 0, evalue="object abc is not what its digest says"), "object abc"),
        (end("EnvironmentFailed", 0, evalue="no matching distribution for nosuch"), "nosuch"),
        (
            end("EnvironmentFailed", 0, detail={"what": "nosuch is not in any index", "why": "w", "next": "n"}),
            "any index",
        ),
        (end("RunnerFault", 0, exit=1, detail={"log": "Traceback\nRuntimeError: no luck"}), "no luck"),
        (end("SupervisorLost", 0, detail={"supervisor": 41, "rebooted": False}), "process 41"),
        (end("SupervisorLost", 0, detail={"supervisor": 41, "rebooted": True}), "started anew"),
    ],
)
def test_what_is_known_is_said(record, words):
    reason = reason_of(record)
    assert words in f"{reason.what}. {reason.why}"


@pytest.mark.parametrize("code", [*CODES, *OURS])
def test_nobody_is_told_that_a_rerun_goes_on_from_a_checkpoint(code):
    next = reason_of(end(code, 0)).next
    assert "checkpoint" not in next or "begins anew" in next


def test_a_kill_is_not_called_a_lack_of_memory():
    killed, starved = reason_of(end("Signal", 0, signal=9)), reason_of(end("OutOfMemory", 0, signal=9))
    assert (killed.code, starved.code) == ("Signal", "OutOfMemory")
    assert "memory ran out is not known" in killed.why
    assert "--memory" in starved.next


def test_numbers_in_words():
    assert [size_text(n) for n in (10, 1536, 150 << 20, 5 << 40)] == ["10 bytes", "1.5 KiB", "150 MiB", "5 TiB"]
    assert (signal_text(9), signal_text(99)) == ("SIGKILL", "signal 99")
