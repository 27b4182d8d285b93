"""notebooks/02_pytorch_ddp.ipynb on two nodes: they train one model, one of them dies, and both go on from a checkpoint.

On a cluster twice: as it stands, where a rank kills itself, and with a pod that somebody deletes at the same place.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode

from kube_nb import Client
from kube_nb.backends.kubernetes.api import Api
from kube_nb.backends.kubernetes.kinds import PODS, Kind
from kube_nb.backends.kubernetes.snapshot import node_of, state
from tests.cluster import torch_image
from tests.cluster.small_jobs import pod_when
from tests.conformance.backends import CLUSTER
from tests.conformance.sending import until

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "02_pytorch_ddp.ipynb"
NODES = Kind("nodes", namespaced=False)
FAULT = "os.kill(os.getpid(), signal.SIGKILL)"
STANDS = "print('stands still', flush=True); signal.pause()"
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
        pytest.skip(f"cluster: no image with torch: {lack}")


@dataclass(frozen=True)
class Where:
    """A target, the image of its jobs, and whether it is a pod that dies there."""

    on: str
    image: str | None
    loses_a_pod: bool = False


@pytest.fixture(scope="module", params=["local", "cluster", "cluster-pod-deleted"])
def where(request: pytest.FixtureRequest) -> Where:
    if request.param == "local":
        pytest.importorskip("torch", reason="torch: it is not installed")
        return Where("local", None)
    return Where(CLUSTER.on, request.getfixturevalue("image"), request.param == "cluster-pod-deleted")


@pytest.fixture(scope="module")
def executed(
    where: Where, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[NotebookNode]:
    """The notebook after it ran there. Only the cell that says where is another, and the fault that it calls for."""
    folder = tmp_path_factory.mktemp("ddp")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    place = next(cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ()))
    place.source = f"target, image = {where.on!r}, {where.image!r}"
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor() as beside:
        for name, value in {"STATE_DIR": str(folder), "CPU": "100m", "MEMORY": "1Gi"}.items():
            patch.setenv(f"KUBE_NB_{name}", value)
        client, deleted = Client(on=where.on), None
        try:
            if where.loses_a_pod:
                train = next(cell for cell in notebook.cells if "%%kube_train" in cell.source)
                assert FAULT in train.source
                train.source = train.source.replace(FAULT, STANDS)
                deleted = beside.submit(delete_a_pod, request.getfixturevalue("cluster"), client)
            NotebookClient(notebook, timeout=400, resources={"metadata": {"path": str(folder)}}).execute()
            if deleted is not None:
                deleted.result()
            yield notebook
        finally:
            for id in client.journal.ids():
                client.delete(client.job(id))


def delete_a_pod(cluster: Api, client: Client) -> None:
    """Delete the pod of rank 1, as somebody with kubectl does, once the code stands at the place of the fault."""
    (id,) = until(client.journal.ids)
    pod = pod_when(cluster, id, lambda pod: node_of(pod) == 1 and state(pod, "running"), 200)["metadata"]["name"]
    with cluster.stream("GET", PODS, pod, "log", query={"follow": "true"}) as response:
        log = b""
        for piece in cluster.pieces(response):
            log += piece
            if b"stands still" in log:
                break
    assert b"stands still" in log
    cluster.delete(PODS, pod)


@pytest.fixture(scope="module")
def shown(executed: NotebookNode) -> Shown:
    """All that the first cell with this in its source shows, as text."""

    def text(source: str) -> str:
        cell = next(cell for cell in executed.cells if cell.cell_type == "code" and source in cell.source)
        return "\n".join(output.get("text") or output.get("data", {}).get("text/plain", "") for output in cell.outputs)

    return text


def beginnings(text: str) -> list[tuple[int, int, str, int]]:
    """Rank, world size, host and first step, as each process of each try said them."""
    found = re.findall(r"rank (\d) of (\d) on (\S+) begins at step (\d+)", text)
    return [(int(rank), int(world), host, int(step)) for rank, world, host, step in found]


def test_two_ranks_run_and_on_a_cluster_in_two_pods(where: Where, shown: Shown):
    begun = beginnings(shown("%%kube_train"))
    assert sorted((rank, world) for rank, world, _, _ in begun) == [(0, 2), (0, 2), (1, 2), (1, 2)]
    hosts = {host for _, _, host, _ in begun}
    assert len(hosts) == (1 if where.on == "local" else 2)


def test_the_second_try_goes_on_from_the_checkpoint(shown: Shown):
    assert sorted(first for _, _, _, first in beginnings(shown("%%kube_train"))) == [0, 0, 140, 140]
    assert re.search(r"0\s+20\s+140\s.*\n1\s+160\s+300\s", shown("points.groupby"))


def test_the_loss_falls(shown: Shown):
    losses = re.findall(r"^[01] .* (\S+)$", shown("points.groupby"), re.MULTILINE)
    assert float(losses[1]) < float(losses[0]) < 0.5


def test_the_curve_is_one_that_grew(executed: NotebookNode):
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
