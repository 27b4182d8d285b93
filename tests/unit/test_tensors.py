"""Tensors in a graph. GPU memory is not proven here: that takes a machine with a device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kube_nb.runner import graph
from kube_nb.runner.objects import Objects

torch = pytest.importorskip("torch", reason="torch: it is not installed")


@pytest.fixture
def objects(tmp_path: Path) -> Objects:
    return Objects(tmp_path / "objects")


def trip(objects: Objects, **values: Any) -> dict[str, Any]:
    return graph.load(graph.dump(values, namespace={}, objects=objects), namespace={}, objects=objects)


@pytest.fixture
def model() -> Any:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(200, 300), torch.nn.Tanh(), torch.nn.LSTM(300, 4, batch_first=True))


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(100_000.0),
        torch.arange(24.0).reshape(2, 3, 4).permute(2, 0, 1),
        torch.empty(0),
        torch.tensor(3),
        torch.tensor([True, False]),
        torch.ones(3, dtype=torch.bfloat16),
        torch.tensor([1 + 2j]).conj(),
        torch.tensor([1 + 2j]).conj().imag,
        torch.eye(3).to_sparse(),
        torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.quint8),
        torch.ones(3, requires_grad=True),
        torch.nn.Parameter(torch.ones(5), requires_grad=False),
    ],
    ids=str,
)
def test_a_tensor_arrives_as_it_was(objects: Objects, tensor: Any) -> None:
    back = trip(objects, tensor=tensor)["tensor"]
    assert type(back) is type(tensor)
    assert (back.dtype, back.shape, back.requires_grad) == (tensor.dtype, tensor.shape, tensor.requires_grad)
    dense = [
        one.dequantize() if one.is_quantized else one.to_dense() if one.is_sparse else one for one in (back, tensor)
    ]
    assert torch.equal(*dense)


def test_memory_that_tensors_share_travels_once(objects: Objects) -> None:
    whole = torch.zeros(1_000_000)
    parameter = torch.nn.Parameter(torch.zeros(100_000))
    values = {
        "part": whole[10:20],
        "whole": whole,
        "rows": whole.view(1000, 1000),
        "p": parameter,
        "data": parameter.data,
    }
    ref = graph.dump(values, namespace={}, objects=objects)
    assert len(ref["buffers"]) == 2
    back = graph.load(ref, namespace={}, objects=objects)
    back["part"].fill_(1)
    assert back["whole"].sum() == back["rows"].sum() == 10
    back["data"].fill_(2)
    assert back["p"].sum() == 200_000
    assert graph.size(values) < 4_500_000


def test_a_model_with_its_optimiser_trains_on(objects: Objects, model: Any) -> None:
    optimiser = torch.optim.Adam(model.parameters())
    x = torch.randn(10, 5, 200)
    model(x)[0].sum().backward()
    optimiser.step()
    model[0].weight.note = "mine"
    back = trip(objects, optimiser=optimiser, model=model)
    other = back["model"]
    assert torch.equal(other(x)[0], model(x)[0])
    assert other[0].weight.note == "mine"
    assert torch.equal(other[0].weight.grad, model[0].weight.grad)
    parameters = set(map(id, other.parameters()))
    assert {id(one) for group in back["optimiser"].param_groups for one in group["params"]} == parameters
    assert set(map(id, back["optimiser"].state)) == parameters
    for net, steps in ((model, optimiser), (other, back["optimiser"])):
        steps.zero_grad()
        net(x)[0].sum().backward()
        steps.step()
    assert torch.equal(other(x)[0], model(x)[0])


def test_tied_weights_stay_tied(objects: Objects) -> None:
    one, two = torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)
    two.weight = one.weight
    back = trip(objects, net=torch.nn.Sequential(one, two))["net"]
    assert back[0].weight is back[1].weight


def test_a_small_tensor_can_be_resized_as_before(objects: Objects) -> None:
    assert trip(objects, tensor=torch.ones(3))["tensor"].resize_(1000).shape == (1000,)


def test_a_step_of_training_changes_the_fingerprint(model: Any) -> None:
    before = graph.fingerprint(model)
    assert graph.fingerprint(model) == before
    with torch.no_grad():
        model[0].weight[0, 0] += 1
    assert graph.fingerprint(model) != before


def test_a_device_that_is_not_here_becomes_the_cpu(objects: Objects) -> None:
    from kube_nb.runner.tensors import _storage

    assert _storage(bytearray(100), f"cuda:{torch.cuda.device_count()}").device.type == "cpu"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="gpu: there is none")
def test_a_tensor_of_a_gpu_goes_back_to_it(objects: Objects) -> None:
    whole = torch.arange(1_000_000.0, device="cuda")
    back = trip(objects, part=whole[3:5], whole=whole)
    assert back["whole"].device == whole.device
    assert torch.equal(back["whole"], whole)
    back["part"].fill_(0)
    assert back["whole"][3:5].sum() == 0
    assert graph.size(whole) >= 4_000_000
