"""notebooks/02_pytorch_ddp.ipynb on two nodes: they train one model, one of them dies, and both go on from a checkpoint."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
import yaml
from nbclient import NotebookClient

from kube_nb import Client
from kube_nb.backends.kubernetes.api import Api, Kind
from tests.cluster import torch_image

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "02_pytorch_ddp.ipynb"
NODES = Kind("nodes", namespaced=False)
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500), pytest.mark.alone]

Shown = Callable[[str], str]


@pytest.fixture(scope="module")
def image(admin: Api) -> str:
    """An image with torch, on every node. Making it takes minutes, once on a machine."""
    held = [node["status"].get("images") for node in admin.list(NODES)[0]]  # pretended nodes hold none
    if all(any(f"docker.io/{torch_image.NAME}" in one["names"] for one in images) for images in held if images):
        return torch_image.NAME
    try:
        return torch_image.load()
    except torch_image.CannotMake as lack:
        pytest.skip(f"torch: {lack}")


@pytest.fixture(scope="module", params=["local", "cluster"])
def where(request: pytest.FixtureRequest) -> tuple[str, str | None]:
    """A target, and the image of its jobs."""
    if request.param == "local":
        pytest.importorskip("torch", reason="torch: it is not installed")
        return "local", None
    image = request.getfixturevalue("image")
    return yaml.safe_load(Path(os.environ["KUBECONFIG"]).read_text())["current-context"], image


@pytest.fixture(scope="module")
def executed(where: tuple[str, str | None], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The notebook after it ran there. Only the cell that says where is another."""
    state = tmp_path_factory.mktemp("ddp")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    place = next(cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ()))
    place.source = "target, image = {!r}, {!r}".format(*where)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"STATE_DIR": str(state), "CPU": "100m", "MEMORY": "1Gi"}.items():
            patch.setenv(f"KUBE_NB_{name}", value)
        try:
            NotebookClient(notebook, timeout=400, resources={"metadata": {"path": str(state)}}).execute()
            yield notebook
        finally:
            client = Client(on=where[0])
            for id in client.journal.ids():
                client.delete(client.job(id))


@pytest.fixture(scope="module")
def shown(executed: Any) -> Shown:
    """All that the first cell with this in its source shows, as text."""

    def text(source: str) -> str:
        cell = next(cell for cell in executed.cells if cell.cell_type == "code" and source in cell.source)
        return "\n".join(output.get("text") or output.get("data", {}).get("text/plain", "") for output in cell.outputs)

    return text


def beginnings(text: str) -> list[tuple[int, int, str, int]]:
    """Rank, world size, host and first step, as each process of each try said them."""
    found = re.findall(r"rank (\d) of (\d) on (\S+) begins at step (\d+)", text)
    return [(int(rank), int(world), host, int(step)) for rank, world, host, step in found]


def test_two_ranks_run_and_on_a_cluster_in_two_pods(where: tuple[str, str | None], shown: Shown):
    begun = beginnings(shown("%%kube_train"))
    assert sorted((rank, world) for rank, world, _, _ in begun) == [(0, 2), (0, 2), (1, 2), (1, 2)]
    hosts = {host for _, _, host, _ in begun}
    assert len(hosts) == (1 if where[0] == "local" else 2)


def test_the_second_try_goes_on_from_the_checkpoint(shown: Shown):
    assert sorted(first for _, _, _, first in beginnings(shown("%%kube_train"))) == [0, 0, 140, 140]
    assert re.search(r"0\s+20\s+140\s.*\n1\s+160\s+300\s", shown("points.groupby"))


def test_the_loss_falls(shown: Shown):
    losses = re.findall(r"^[01] .* (\S+)$", shown("points.groupby"), re.MULTILINE)
    assert float(losses[1]) < float(losses[0]) < 0.5


def test_the_curve_is_one_that_grew(executed: Any):
    cell = next(cell for cell in executed.cells if "%%kube_train" in cell.source)
    curves = [output.data for output in cell.outputs if "image/svg+xml" in output.get("data", {})]
    assert len(curves) == 2, "one for each try, updated in its place"
    assert [re.findall(r"after \d+ steps", data["text/plain"]) for data in curves] == [
        ["after 140 steps"],
        ["after 300 steps"],
    ]


def test_the_trained_model_is_in_the_kernel(shown: Shown):
    share = float(re.findall(r"([\d.]+)% of 2000 points", shown("import numpy"))[0])
    assert share > 95
