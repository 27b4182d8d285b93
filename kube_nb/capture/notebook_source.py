"""What a notebook imports and which files it seems to read: the source of a job that is a whole notebook."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from importlib.util import find_spec
from typing import Any

from packaging.utils import canonicalize_name

from kube_nb.capture.companions import attributes_in
from kube_nb.capture.escapes import Transform, to_python, unfold
from kube_nb.capture.flow import Reads
from kube_nb.capture.imports import imports_of
from kube_nb.capture.paths import paths_in
from kube_nb.capture.source import Source

NEEDS = ("nbclient", "ipykernel")
"""What a job needs to run a notebook."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def prepare_notebook(text: str, *, filename: str, how: Mapping[str, Any], transform: Transform | None = None) -> Source:
    """Look at a notebook as `prepare` looks at a cell. It runs in a kernel of its own, so nothing in it is refused.

    Args:
        text: the notebook, which is what travels.
        how: it is executed (`Work.how`); of cells in other languages than Python nothing is known.

    Example:
        >>> text = '{"cells": [{"cell_type": "code", "source": "import torch", "metadata": {}}]}'
        >>> sorted(prepare_notebook(text, filename="a.ipynb", how={"language": "python"}).imports)
        ['ipykernel', 'nbclient', 'torch']
    """
    imports = {name for name in _needs(how) if find_spec(name) is not None}
    paths: set[str] = set()
    attributes: set[str] = set()
    for source in _code(json.loads(text)) if how.get("language") == "python" else ():
        try:
            unfolded = list(unfold(to_python(source, transform=transform), transform=transform, filename=filename))
        except SyntaxError:
            continue  # the kernel says it, in the cell where it stands
        for code, tree in unfolded:
            imports |= imports_of(code)
            attributes |= attributes_in(tree)
            paths.update(paths_in(tree))
    return Source(
        raw=text,
        code=text,
        filename=filename,
        reads=Reads(),
        assigned=frozenset(),
        touched=frozenset(),
        announces=frozenset(),
        imports=frozenset(imports),
        relative_paths=frozenset(paths),
        needs_ipython=False,
        shows=False,  # its kernel has what it takes
        attributes=frozenset(attributes),
    )


def not_here(how: Mapping[str, Any], packages: Iterable[str]) -> tuple[str, ...]:
    """What running it needs and this machine has not, which sends it all the same: the job installs the newest.

    Args:
        packages: requirements that are asked for anyway.
    """
    asked = {canonicalize_name(match[0]) for text in packages if (match := _NAME.match(text))}
    return tuple(name for name in _needs(how) if find_spec(name) is None and name not in asked)


def _needs(how: Mapping[str, Any]) -> tuple[str, ...]:
    return (*NEEDS, "nbconvert") if how.get("html") else NEEDS


def _code(notebook: dict[str, Any]) -> Iterator[str]:
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            source = cell["source"]
            yield source if isinstance(source, str) else "".join(source)
