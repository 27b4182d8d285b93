"""IPython for the sent code, imported when something asks for it: it takes longer than all else a rank does."""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any

from .display import Displays, bundle_of, display_plainly

if TYPE_CHECKING:
    from .job_shell import JobShell


class NeedsIPython(ModuleNotFoundError):
    """The sent code uses something that only IPython can do, and the job's environment has none."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what} needs IPython, which this job's environment does not have: add --packages ipython", name="IPython"
        )


class Session:
    """Stands between the sent code and IPython: `get_ipython()`, `display()` and the value of the last expression.

    Args:
        main: the `__main__` of the sent code.
        displays: where what is shown goes.
    """

    def __init__(self, main: ModuleType, displays: Displays) -> None:
        self.main = main
        self.displays = displays
        self._shell: JobShell | None = None
        self._lock = threading.Lock()

    @property
    def installed(self) -> bool:
        return "IPython" in sys.modules or find_spec("IPython") is not None

    def shell(self) -> JobShell:
        """IPython's shell; made by the first call.

        Raises:
            NeedsIPython: it is not installed.
        """
        if not self.installed:
            raise NeedsIPython("this")
        with self._lock:
            self._make()
        assert self._shell is not None
        return self._shell

    def on_import(self) -> None:
        """Make the shell because sent code has imported IPython itself, or what draws through it.

        Whoever is making one already may be waiting for this very import, so this does not wait for them.
        """
        if self.installed and self._lock.acquire(blocking=False):
            try:
                self._make()
            finally:
                self._lock.release()

    def _make(self) -> None:
        if self._shell is None:
            from .job_shell import make

            self._shell = make(self.main, self.displays)

    def get_ipython(self) -> Any:
        """What `get_ipython()` gives sent code: the shell, or what runs `!command` until IPython is needed."""
        if self._shell is None and "IPython" not in sys.modules:
            return LightShell(self)
        return self.shell()

    def display(self, *values: Any, **options: Any) -> Any:
        """The `display` of a notebook."""
        if not self.installed:
            return display_plainly(self.displays, *values, **options)
        self.shell()
        from IPython.display import display

        return display(*values, **options)

    def show_result(self, value: Any) -> None:
        """Show the value of an expression, as `sys.displayhook` does."""
        if value is None:
            return
        known = bundle_of(value) if self._shell is None else None
        if known is not None:
            self.displays.show(*known, result=True)
        elif self.installed:
            self.shell().displayhook(value)
        else:
            self.displays.show({"text/plain": repr(value)}, result=True)

    def finish(self, error: BaseException | None) -> None:
        """What happens after a cell, failed or not: figures are drawn."""
        if self._shell is not None:
            self._shell.finish(error)
        elif "matplotlib.pyplot" in sys.modules:
            self._draw_figures()

    def _draw_figures(self) -> None:
        """Draw what matplotlib's inline backend would, where there is no IPython."""
        from io import BytesIO

        from matplotlib import pyplot

        for number in pyplot.get_fignums():
            figure = pyplot.figure(number)
            image = BytesIO()
            figure.savefig(image, format="png", bbox_inches="tight")
            self.displays.show({"image/png": image.getvalue(), "text/plain": repr(figure)})
        pyplot.close("all")


class LightShell:
    """`get_ipython()` until IPython is needed: `!command` and `x = !command` are no reason to import it."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def system(self, command: str) -> None:
        from . import commands

        names = self._names(sys._getframe(1).f_locals)
        self._session.main.__dict__["_exit_code"] = commands.run(command, names)

    def getoutput(self, command: str, split: bool = True, depth: int = 0) -> Any:
        from . import commands

        names = self._names(sys._getframe(1 + depth).f_locals)
        return commands.output_of(command, names) if split else commands.text_of(command, names)

    def run_line_magic(self, name: str, line: str, _stack_depth: int = 1) -> Any:
        return self._magic(f"%{name}").run_line_magic(name, line, _stack_depth=_stack_depth + 1)

    def run_cell_magic(self, name: str, line: str, cell: str) -> Any:
        return self._magic(f"%%{name}").run_cell_magic(name, line, cell)

    def __getattr__(self, name: str) -> Any:
        if name == "kernel" or name.startswith("_"):
            raise AttributeError(name)  # a shell without a kernel: libraries ask in order to find out where they are
        if not self._session.installed:
            raise AttributeError(str(NeedsIPython(f"get_ipython().{name}")))
        return getattr(self._session.shell(), name)

    def _magic(self, name: str) -> JobShell:
        if not self._session.installed:
            raise NeedsIPython(f"`{name}`")
        return self._session.shell()

    def _names(self, caller: Mapping[str, Any]) -> dict[str, Any]:
        return {**self._session.main.__dict__, **caller}
