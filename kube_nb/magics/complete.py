"""Completion of flags, targets and jobs: from what this machine knows, never from the network."""

from __future__ import annotations

import re
from typing import Any

from IPython.core.completer import SimpleCompletion, SimpleMatcherResult, context_matcher
from IPython.core.getipython import get_ipython

from kube_nb.magics import manage, notebook, setup, train

_FLAGS = {
    "kube_train": train.FLAGS,
    "kube_notebook": notebook.FLAGS,
    "kube_jobs": manage.JOBS,
    "kube_logs": manage.LOGS,
    "kube_attach": manage.ONE,
    "kube_cancel": manage.CANCEL,
    "kube_delete": manage.ONE,
    "kube_rerun": manage.ONE,
    "kube_config": setup.CONFIG,
    "kube_doctor": setup.DOCTOR,
}
_TAKES_A_JOB = ("kube_logs", "kube_attach", "kube_cancel", "kube_delete", "kube_rerun")
_LINE = re.compile(r"%{1,2}(kube_\w+)\s(.*)$")
_MOST = 50


@context_matcher(identifier="kube_nb")
def complete(context: Any) -> SimpleMatcherResult:
    """What may follow on the line of one of our magics; nothing elsewhere."""
    line = context.text_until_cursor
    match = _LINE.search(line)
    if match is None or match[1] not in _FLAGS:
        return SimpleMatcherResult(completions=[], suppress=False)
    words = match[2].split()
    current = "" if not words or line[-1].isspace() else words.pop()
    candidates = [text for text in _candidates(match[1], words[-1] if words else "") if text.startswith(current)]
    # IPython replaces its own token, which begins after the last character that is no part of a name.
    kept = len(current) - len(context.token) if current.endswith(context.token) else 0
    found = [SimpleCompletion(text=text[max(0, kept) :], type="magic") for text in candidates]
    return SimpleMatcherResult(completions=found, suppress=bool(found))


def _candidates(magic: str, before: str) -> list[str]:
    if before == "--on":
        from kube_nb.backends import targets

        return targets(_settings())
    if before == "--on-interrupt":
        return ["detach", "cancel"]
    if magic == "kube_config":
        from kube_nb.settings import SETTINGS

        return ["--save", *(f"{name}=" for name in SETTINGS)]
    flags = [name for flag in _FLAGS[magic] for name in flag.names if name.startswith("--")]
    if magic not in _TAKES_A_JOB:
        return flags
    from pathlib import Path

    from kube_nb.jobs.journal import Journal

    return [*Journal(Path(_settings().get("state_dir"))).ids()[:_MOST], *flags]


def _settings() -> Any:
    from kube_nb.magics.base import settings_of

    shell = get_ipython()
    assert shell is not None, "completion runs in a shell"
    return settings_of(shell)
