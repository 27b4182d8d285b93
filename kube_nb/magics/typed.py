"""What a parameter's text means: YAML, with fewer surprises."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from kube_nb.errors import BadFlag

_EXPONENT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")


def typed(text: str) -> Any:
    """A number, a truth value, null, a list, a mapping, or the text itself.

    `1e-3` is a number as everywhere else in Python, dates and times stay text, and `#` begins no comment.

    Raises:
        BadFlag: a list or mapping that is none.

    Example:
        >>> [typed(text) for text in ("3", "1e-3", "true", "[1, a]", "2024-01-31", "adam")]
        [3, 0.001, True, [1, 'a'], '2024-01-31', 'adam']
    """
    import yaml  # only here: the file is imported with the magics

    bare = text.strip()
    structured = bare[:1] in ("[", "{")
    if not bare or bare[0] == "#" or (" #" in bare and bare[0] not in "[{\"'"):
        return text
    if _EXPONENT.fullmatch(bare):
        return float(bare)
    try:
        return yaml.load(text, Loader=_loader())  # noqa: S506  (a SafeLoader that knows fewer types)
    except yaml.YAMLError as error:
        if not structured:
            return text
        raise BadFlag(
            what=f"`{text}` is no list or mapping",
            why=str(error).partition("\n")[0],
            next="write it as YAML or JSON, in single quotes where it holds spaces",
        ) from error


@cache
def _loader() -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        """Without dates, and without `12:30` as a number to the base of sixty."""

    Loader.yaml_implicit_resolvers = {
        first: [(tag, _without_colon(tag, pattern)) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    return Loader


def _without_colon(tag: str, pattern: re.Pattern[str]) -> re.Pattern[str]:
    if not tag.endswith((":int", ":float")):
        return pattern
    return re.compile(rf"(?!.*:)(?:{pattern.pattern})", pattern.flags)
