"""docs/platform.md against the code: rights, labels, names and the example of settings are those that are used."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from kube_nb.backends.kubernetes import names, site
from kube_nb.backends.kubernetes.feed import FIRST_PAUSE, LONGEST_PAUSE
from kube_nb.backends.kubernetes.payload import LIMIT
from kube_nb.backends.kubernetes.rights import CLUSTER, OPTIONAL, RIGHTS, Right
from kube_nb.config import Settings
from kube_nb.runner.nodes import MASTER_PORT, PORT

DOCUMENT = (Path(__file__).parents[2] / "docs" / "platform.md").read_text()
MARKS = [value for value in vars(names).values() if isinstance(value, str) and value.startswith("kube-nb/")]


@pytest.mark.parametrize(
    "right", [*RIGHTS, *(right for group in OPTIONAL.values() for right in group), *CLUSTER], ids=str
)
def test_each_right_is_listed_with_its_verbs(right: Right) -> None:
    assert f"`{', '.join(right.verbs)}` {right.resource}" in DOCUMENT


@pytest.mark.parametrize("mark", MARKS)
def test_each_label_and_annotation_is_listed(mark: str) -> None:
    assert f"`{mark}`" in DOCUMENT


@pytest.mark.parametrize(
    "fact",
    [
        names.STORE_CLAIM,
        site.CONFIG_MAP,
        "`retention_days` (7)",
        f"{LIMIT:,} bytes",
        str(MASTER_PORT),
        str(PORT),
        f"User and group {names.UID}",
        f"begun again after {FIRST_PAUSE:g} seconds",
        f"{LONGEST_PAUSE:g} seconds at most",
    ],
)
def test_what_it_says_in_numbers_and_names_is_so(fact: str) -> None:
    assert fact in DOCUMENT


def test_the_example_of_settings_means_what_it_says(tmp_path: Path) -> None:
    [text] = re.findall(r"```yaml\n(.+?)```", DOCUMENT, re.DOTALL)
    example = yaml.safe_load(text)
    assert example["metadata"]["name"] == site.CONFIG_MAP
    empty = Settings.load(tmp_path, environ={}, user=tmp_path / "user", site=tmp_path / "site")
    settings = empty.with_site(example["data"][site.KEY], "the example")
    assert settings.get("labels") == {"cost-centre": "4711"}
    assert settings.get("index") == ("https://packages.example.com/simple",)
    locked = {row.name for row in settings.table() if row.locked}
    assert locked == {"pull_secret", "labels.cost-centre"}
