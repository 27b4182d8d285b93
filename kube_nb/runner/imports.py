"""What happens when sent code imports a package that behaves differently in a notebook.

Nothing is imported for its own sake: a finder that stands first on `sys.meta_path` notices the few names of interest.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .shell import Session

_INLINE = "module://matplotlib_inline.backend_inline"


class Watch:
    """Calls back before or after the import of some modules.

    Args:
        before: module name -> called when it is about to be imported.
        after: module name -> called with the module when it has been imported.
    """

    def __init__(
        self, before: dict[str, Callable[[], object]], after: dict[str, Callable[[ModuleType], object]]
    ) -> None:
        self._before = before
        self._after = after

    def install(self) -> None:
        sys.meta_path.insert(0, self)

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name not in self._before and name not in self._after:
            return None
        spec = None
        for finder in sys.meta_path:
            if finder is not self:
                spec = finder.find_spec(name, path, target)
                if spec is not None:
                    break
        if spec is None or spec.loader is None:
            return spec
        loader: Any = spec.loader
        execute, before, after = loader.exec_module, self._before.get(name), self._after.get(name)

        def exec_module(module: ModuleType) -> None:
            if before is not None:
                before()
            execute(module)
            if after is not None:
                after(module)

        # The loader stays what it is, for whoever asks it for source or resources.
        loader.exec_module = exec_module
        return spec


def watch(session: Session) -> Watch:
    """The watch for a rank."""
    return Watch(
        before={"matplotlib": _choose_backend, "matplotlib.pyplot": session.on_import},
        after={
            "IPython": lambda _: session.on_import(),
            "pandas": _show_columns_as_a_notebook,
            "tqdm.notebook": _draw_bars_as_text,
            "plotly.io._renderers": _render_without_nbformat,
        },
    )


def _choose_backend() -> None:
    """The inline backend comes with IPython; where it is missing, its name would fail every figure."""
    if os.environ.get("MPLBACKEND") == _INLINE and find_spec("matplotlib_inline") is None:
        os.environ["MPLBACKEND"] = "agg"


def _show_columns_as_a_notebook(pandas: ModuleType) -> None:
    """Pandas takes a shell without a kernel for a terminal, and leaves the number of columns to its width."""
    if pandas.get_option("display.max_columns") == 0:
        pandas.set_option("display.max_columns", 20)


def _draw_bars_as_text(notebook: ModuleType) -> None:
    """A progress bar of widgets needs a live kernel behind it: the one of tqdm for terminals is drawn instead."""
    from tqdm import std

    class tqdm(std.tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs.pop("display", None)  # only the notebook's bar knows it
            super().__init__(*args, **kwargs)

    def trange(*args: Any, **kwargs: Any) -> tqdm:
        return tqdm(range(*args), **kwargs)

    for name, value in {"tqdm": tqdm, "tqdm_notebook": tqdm, "trange": trange, "tnrange": trange}.items():
        setattr(notebook, name, value)


def _render_without_nbformat(renderers: ModuleType) -> None:
    """Plotly refuses to show a figure where nbformat is missing, although it does not use it."""
    if getattr(renderers, "nbformat", None) is None:
        renderers.nbformat = SimpleNamespace(__version__="5.0")  # type: ignore[attr-defined]
