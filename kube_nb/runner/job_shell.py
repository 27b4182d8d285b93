"""IPython's shell as it is inside a job: no history, no prompts; what it shows goes to the notebook."""

from __future__ import annotations

import builtins
import os
import shutil
import sys
import tempfile
from types import ModuleType
from typing import Any

import IPython
from IPython.core.displayhook import DisplayHook
from IPython.core.displaypub import DisplayPublisher
from IPython.core.interactiveshell import ExecutionResult, InteractiveShell
from IPython.core.profiledir import ProfileDir
from traitlets.config import Config

from . import commands, failure
from .display import Displays

# Where a notebook goes on after an exception: a representation, a callback after the cell, or a figure that fails.
_GOES_ON = frozenset({"IPython.core.formatters", "IPython.core.events", "matplotlib_inline.backend_inline"})


class JobPublisher(DisplayPublisher):
    """`display()`, its ids and `clear_output()`."""

    shell: JobShell

    def publish(
        self,
        data: dict[str, Any],
        metadata: dict[str, Any] | None = None,
        source: Any = None,
        *,
        transient: dict[str, Any] | None = None,
        update: bool = False,
        **kwargs: Any,
    ) -> None:
        self._validate_data(data, metadata)
        id = (transient or {}).get("display_id")
        self.shell.displays.show(data, metadata, id=id, update=update)

    def clear_output(self, wait: bool = False) -> None:
        self.shell.displays.clear(wait)


class JobDisplayHook(DisplayHook):
    """The value of an expression; `_`, `Out` and the prompt belong to the notebook."""

    shell: JobShell

    def __init__(self, shell: JobShell, **kwargs: Any) -> None:
        names = shell.user_ns
        mine = {name: names[name] for name in ("_", "__", "___") if name in names}
        super().__init__(shell=shell, **kwargs)
        for name in ("_", "__", "___"):
            names.pop(name, None)
        names |= mine

    def check_for_underscore(self) -> None: ...
    def write_output_prompt(self) -> None: ...
    def update_user_ns(self, result: Any) -> None: ...
    def log_output(self, format_dict: dict[str, Any]) -> None: ...
    def finish_displayhook(self) -> None:
        self._is_active = False

    def quiet(self) -> bool:
        return False  # a trailing semicolon is the business of whoever runs the code

    def write_format_data(self, format_dict: dict[str, Any], md_dict: dict[str, Any] | None = None) -> None:
        self.shell.displays.show(format_dict, md_dict, result=True)


class JobShell(InteractiveShell):
    """The shell of one rank.

    An exception of code that a magic runs (`%%time`, `%%capture`) is raised, not just shown: it fails the job as it
    would have failed without the magic.
    """

    displays: Displays

    display_pub_class = JobPublisher
    displayhook_class = JobDisplayHook

    # What a terminal or a person's home directory would be changed by -------------------------------------------------

    def init_ipython_dir(self, ipython_dir: str | None) -> None:
        self._place = tempfile.mkdtemp(prefix="kube-nb-ipython-")
        self._pid = os.getpid()
        self.ipython_dir = self._place

    def init_profile_dir(self, profile_dir: Any) -> None:
        self.profile_dir = ProfileDir(location=self._place)

    def init_virtualenv(self) -> None: ...
    def init_completer(self) -> None: ...

    def init_user_ns(self) -> None:
        """Names that magics rely on, where the sent code has none of its own; `exit` and `open` stay Python's."""
        history: Any = self.history_manager
        known = {"_ih": history.input_hist_parsed, "_oh": history.output_hist, "_dh": history.dir_hist}
        for name, value in known.items():
            self.user_ns.setdefault(name, value)

    def atexit_operations(self) -> None:
        if self._pid == os.getpid():
            shutil.rmtree(self._place, ignore_errors=True)
            for directory in self.tempdirs:
                shutil.rmtree(directory, ignore_errors=True)

    def enable_gui(self, gui: str | None = None) -> None:
        if gui not in (None, "inline"):
            raise NotImplementedError(f"a job has no window for `{gui}`: use %matplotlib inline")

    # Commands ---------------------------------------------------------------------------------------------------------

    def system(self, cmd: str) -> None:
        self.user_ns["_exit_code"] = commands.run(cmd, {**self.user_ns, **sys._getframe(1).f_locals})

    system_piped = system_raw = system

    def getoutput(self, cmd: str, split: bool = True, depth: int = 0) -> Any:
        names = {**self.user_ns, **sys._getframe(1 + depth).f_locals}
        return commands.output_of(cmd, names) if split else commands.text_of(cmd, names)

    # Failures ---------------------------------------------------------------------------------------------------------

    def run_cell(self, *args: Any, **kwargs: Any) -> ExecutionResult:
        result = super().run_cell(*args, **kwargs)
        result.raise_error()
        return result

    def showtraceback(self, exc_tuple: Any = None, *args: Any, **kwargs: Any) -> None:
        exception = exc_tuple[1] if exc_tuple is not None else sys.exc_info()[1]
        if exception is None:
            return
        if sys._getframe(1).f_globals.get("__name__") not in _GOES_ON:
            raise exception
        sys.stderr.write(failure.text(exception) + "\n")

    def showsyntaxerror(self, *args: Any, **kwargs: Any) -> None:
        self.showtraceback()

    def showindentationerror(self) -> None:
        self.showtraceback()

    def finish(self, error: BaseException | None) -> None:
        """Call what was registered for the end of a cell, matplotlib's drawing among it."""
        result = ExecutionResult(None)
        result.error_in_exec = error
        self.events.trigger("post_execute")
        self.events.trigger("post_run_cell", result)


def make(main: ModuleType, displays: Displays) -> JobShell:
    """The shell of this process, which `IPython.get_ipython()` gives from now on."""
    config = Config()
    config.HistoryManager.enabled = False
    config.HistoryManager.hist_file = ":memory:"
    config.InteractiveShell.colors = "nocolor" if IPython.version_info >= (9,) else "NoColor"
    shell = JobShell.instance(user_module=main, config=config)
    shell.displays = displays
    # As in the middle of a cell, which this is: else %%capture could not put its own hook in the place of ours.
    shell.builtin_trap.__enter__()
    shell.display_trap.__enter__()
    for name in ("exit", "quit"):  # which the trap hides: a shell in a terminal has its own
        setattr(builtins, name, sys.exit)
    return shell
