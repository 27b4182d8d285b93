"""From a notebook file and parameters to the notebook that runs: by papermill's own rules, but checked first."""

from __future__ import annotations

import ast
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from kube_nb.errors import BadValue, NotFound
from kube_nb.notebooks.literals import plain, python_source

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nbformat import NotebookNode

SKIPPED = "skip-execution"
"""The tag of cells that nbclient leaves alone."""
_SENDS = re.compile(r"^[ \t]*%kube_notebook[ \t]+([^\s#]+)", re.MULTILINE)
_OURS = ("job", "target", "state", "outputs", "run")
"""What an executed notebook's metadata `kube_nb` holds beside settings."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A notebook with its parameters, ready to run.

    Attributes:
        text: all of it as JSON, without old outputs.
        label: how a person calls it: the file's name. stem: for the job's name.
        kernel, language: it asks for; Python where it does not say.
        parameters: as JSON holds them.
        source: path as it was given; digest: SHA-256 of its bytes, empty where it has none.
        settings: what its metadata `kube_nb` sets.
        output: where the executed notebook goes; empty: nowhere.
        root: the directory whose modules and files travel.
    """

    text: str = field(repr=False)
    label: str
    stem: str
    kernel: str
    language: str
    parameters: Mapping[str, Any]
    source: str
    digest: str
    settings: Mapping[str, Any]
    output: str
    root: Path


def prepare(
    path: str | Path,
    parameters: Mapping[str, Any] | None = None,
    *,
    output: str | Path | None = None,
    kernel: str | None = None,
    report_mode: bool = False,
) -> Prepared:
    """Read a notebook, check the parameters against its own, and put them in.

    Args:
        path: of the notebook; anything that papermill reads.
        parameters: by name. output: where it goes; `{name}` in it stands for a parameter, as with papermill.
        kernel: instead of the one it names.
        report_mode: hide the source of all cells.

    Raises:
        NotFound: there is no such file.
        BadValue: it is no notebook, has no such parameter, or a value cannot be one.
    """
    from papermill.execute import prepare_notebook_metadata, remove_error_markers
    from papermill.parameterize import add_builtin_parameters, parameterize_notebook, parameterize_path

    given = dict(parameters or {})
    source = str(path)
    notebook = _read(source)
    name, language = _kernel(notebook, kernel)
    check(notebook, given, source=source, kernel=name, language=language)
    target = "" if output is None else str(parameterize_path(str(output), add_builtin_parameters(given)))
    if given:
        with _quiet():
            if language == "python":
                notebook = parameterize_notebook(
                    notebook, plain(given), report_mode, kernel_name=name, language=language
                )
                injected = next(c for c in notebook.cells if "injected-parameters" in c.metadata.get("tags", []))
                injected.source = python_source(given)
            else:
                notebook = parameterize_notebook(notebook, given, report_mode, kernel_name=name, language=language)
    notebook = prepare_notebook_metadata(notebook, source, target or None, report_mode)
    notebook = remove_error_markers(notebook)
    _leave_out_senders(notebook, source)
    file = Path(source)
    return Prepared(
        text=travelling(notebook),
        label=PurePath(source).name,
        stem=PurePath(source).stem,
        kernel=name,
        language=language,
        parameters=plain(given),
        source=source,
        digest=hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else "",
        settings=settings_in(notebook),
        output=target,
        root=file.resolve().parent if file.is_file() else Path.cwd(),
    )


def settings_in(notebook: NotebookNode) -> dict[str, Any]:
    """What a notebook's metadata `kube_nb` sets for the job that runs it."""
    return {key: value for key, value in notebook.metadata.get("kube_nb", {}).items() if key not in _OURS}


def travelling(notebook: NotebookNode) -> str:
    """A notebook as JSON, without the outputs that papermill clears anyway before it begins."""
    from nbformat import v4

    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return v4.writes(notebook)


def check(notebook: NotebookNode, parameters: Mapping[str, Any], *, source: str, kernel: str, language: str) -> None:
    """Say so where a parameter is none of the notebook's.

    Raises:
        BadValue: the nearest one is named.
    """
    if not parameters:
        return
    known = _parameters(notebook, kernel, language)
    if known is None:
        raise BadValue(
            what=f"`{PurePath(source).name}` takes no parameters",
            why="none of its cells has the tag `parameters`",
            next="tag the cell that sets their defaults; the JupyterLab property inspector adds tags to a cell",
        )
    for name in parameters:
        if name not in known:
            near = get_close_matches(name, known, 1, 0.5)
            listed = ", ".join(sorted(known)) or "none"
            raise BadValue(
                what=f"`{PurePath(source).name}` has no parameter `{name}`",
                why=f"its parameters are: {listed}",
                next=f"did you mean `{near[0]}`?" if near else "set it in the cell with the tag `parameters` first",
            )


def _parameters(notebook: NotebookNode, kernel: str, language: str) -> set[str] | None:
    """The names that the notebook's parameters cell sets; None: it has no such cell."""
    from nbformat import v4
    from papermill.exceptions import PapermillException
    from papermill.inspection import inspect_notebook

    tagged = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    if not tagged:
        return None
    asked = v4.new_notebook(cells=tagged[:1])
    asked.metadata["kernelspec"] = {"name": kernel, "display_name": kernel, "language": language}
    asked.metadata["language_info"] = {"name": language}
    try:
        with _quiet():
            found = set(inspect_notebook(asked))
    except PapermillException as error:
        raise BadValue(
            what=f"parameters cannot be given to a notebook in {language}", why=str(error), next="leave them out"
        ) from error
    # papermill reads one assignment a line; Python knows all of them.
    return found | (_assigned(tagged[0].source) if language == "python" else set())


def _assigned(source: str) -> set[str]:
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return set()
    targets = [node for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)]
    return {node.id for node in targets}


def _kernel(notebook: NotebookNode, kernel: str | None) -> tuple[str, str]:
    """Name and language of the kernel; Python where the notebook does not say."""
    spec = notebook.metadata.get("kernelspec", {})
    language = notebook.metadata.get("language_info", {}).get("name") or spec.get("language") or "python"
    return kernel or spec.get("name") or "python3", "python" if language == "ipython" else str(language)


def _read(source: str) -> NotebookNode:
    from nbformat import ValidationError
    from nbformat.reader import NotJSONError
    from papermill.iorw import load_notebook_node

    if "://" not in source and not Path(source).is_file():
        raise NotFound(what=f"there is no notebook `{source}`", next="check the path")
    try:
        with _quiet():
            notebook = load_notebook_node(source)
        cells = notebook.cells
    except NotJSONError as error:
        raise _no_notebook(source, f"it is not JSON{_where(source)}") from error
    except UnicodeDecodeError as error:
        raise _no_notebook(source, "it is not text in UTF-8") from error
    except (AttributeError, KeyError, TypeError, ValueError, ValidationError) as error:
        raise _no_notebook(source, f"it is JSON, but not a notebook's: {error}") from error
    except OSError as error:
        raise NotFound(what=f"`{source}` cannot be read", why=str(error.strerror or error)) from error
    for cell in cells:
        cell.metadata.setdefault("tags", [])
    return notebook


def _no_notebook(source: str, why: str) -> BadValue:
    return BadValue(what=f"`{source}` is not a notebook", why=why, next="open it in JupyterLab and save it again")


def _where(source: str) -> str:
    try:
        json.loads(Path(source).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        return f": {error.msg} in line {error.lineno}, column {error.colno}"
    except OSError:  # not of this file system
        return ""
    return ""


def _leave_out_senders(notebook: NotebookNode, source: str) -> None:
    """A cell that sends this very notebook is left out in the job, where it would do so without end."""
    here = Path(source).resolve()
    for cell in notebook.cells:
        sends: Iterable[str] = _SENDS.findall(cell.source) if cell.cell_type == "code" else ()
        if any(word == "." or Path(word.strip("'\"")).resolve() == here for word in sends):
            cell.metadata["tags"] = [*cell.metadata.get("tags", []), SKIPPED]


@contextmanager
def _quiet() -> Iterator[None]:
    """papermill tells the person who calls it which file it reads; here somebody else calls it."""
    import logging

    loggers = [logging.getLogger(name) for name in ("papermill", "papermill.translators")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
