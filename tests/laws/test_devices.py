"""No tensor on the wrong device: parts and moments on theirs, everything that crosses or is kept on the CPU.

There need be no second device for this. A pretended one is made: its tensors carry the label of torch's `meta` device
and hold real numbers, and any operation that mixes them with tensors of the CPU fails, as it would on a GPU.
"""

import sys
import threading
from contextlib import nullcontext

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from tavit_flwr.client.evaluation import SplitRestorer
from tavit_flwr.config import OptimiserConfig
from tavit_flwr.errors import ConfigError
from tavit_flwr.files import write_tensors
from tavit_flwr.inference.restorer import Restorer, Settings
from tavit_flwr.models import Parts, build_body
from tavit_flwr.payloads import Features
from tavit_flwr.restoration import restore_tiled
from tavit_flwr.server.body_host import BodyHost
from tavit_flwr.server.cohort import Cohort, Member
from tavit_flwr.split.devices import choose_device, device_of
from tavit_flwr.split.optimisers import build_optimiser, load_moments, moments
from tavit_flwr.wire import frames
from tavit_flwr.wire.weights import arrays_to_parts, parts_to_arrays

CPU, PRETENDED = torch.device("cpu"), torch.device("meta")
pytestmark = pytest.mark.filterwarnings("ignore:.*copying from a non-meta parameter")  # it is no no-op here
COPIES = {torch.ops.aten.copy_.default, torch.ops.aten._to_copy.default}
ADAM = OptimiserConfig(name="adam", lr=0.01)


class There(torch.Tensor):
    """A tensor on the pretended device."""

    @staticmethod
    def __new__(cls, held):
        return torch.Tensor._make_wrapper_subclass(
            cls, held.size(), strides=held.stride(), dtype=held.dtype, device=PRETENDED
        )

    def __init__(self, held):
        self.held = held

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return dispatched(func, args, kwargs or {})


class Pretending(TorchDispatchMode):
    """Sends what is made on, or taken to, the pretended device there."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return dispatched(func, args, kwargs or {})


def dispatched(func, args, kwargs):
    tensors = [one for one in tree_leaves((args, kwargs)) if isinstance(one, torch.Tensor)]
    there = [one for one in tensors if isinstance(one, There)]
    if there and len(there) < len(tensors) and func not in COPIES:
        raise AssertionError(f"{func} mixes devices")
    onto_there = bool(there)
    if kwargs.get("device") is not None:
        onto_there = torch.device(kwargs["device"]) == PRETENDED
        kwargs = kwargs | {"device": torch.device("cpu")}
    elif func is torch.ops.aten.copy_.default:
        onto_there = isinstance(args[0], There)
    known = {id(one.held): one for one in there}  # what an operation changes in place keeps its identity
    args, kwargs = tree_map(lambda one: one.held if isinstance(one, There) else one, (args, kwargs))
    result = func(*args, **kwargs)

    def placed(one):
        return known[id(one)] if id(one) in known else There(one) if isinstance(one, torch.Tensor) else one

    return tree_map(placed, result) if onto_there else result


@pytest.fixture
def pretending(monkeypatch):
    """Pretend in every thread; let torch's fused Adam run there, and let frames hold the CPU's tensors alone."""
    run, blob = threading.Thread.run, frames._blob

    def run_pretending(self):
        with Pretending():
            run(self)

    monkeypatch.setattr(threading.Thread, "run", run_pretending)
    monkeypatch.setattr(
        sys.modules["torch.optim.optimizer"], "_get_fused_kernels_supported_devices", lambda: ["meta", "cpu"]
    )
    monkeypatch.setattr(frames, "_blob", lambda tensors, header: blob(on_cpu(tensors), header))
    with Pretending():
        yield


def moved(lab, *, server, client):
    """Put a lab's parts on devices as the apps do: first the parts, then their optimisers."""
    lab.host = BodyHost("natural", lab.body, lab.config, lab.body.preset.body_dim, 7, server)
    for one in lab.clients:
        one.head.to(client)
        one.tail.to(client)
        one.optimiser = build_optimiser([*one.head.parameters(), *one.tail.parameters()], lab.config)
    return lab


def on_cpu(tensors):
    assert all(type(tensor) is torch.Tensor and tensor.device.type == "cpu" for tensor in tensors.values())
    return tensors


@pytest.mark.parametrize(
    ("phase", "server", "client"),
    [
        pytest.param("task-specific", PRETENDED, PRETENDED, marks=pytest.mark.long),
        pytest.param("task-agnostic", PRETENDED, PRETENDED, marks=pytest.mark.long),
        ("joint", PRETENDED, CPU),
        ("joint", CPU, PRETENDED),
    ],
    ids=["task-specific", "task-agnostic", "server there", "clients there"],
)
def test_training_elsewhere_equals_training_on_the_cpu(twin, pretending, phase, server, client):
    here, there = twin(["denoise", "derain"], ADAM)
    moved(there, server=server, client=client)
    here.run_split(phase, 2)
    there.run_split(phase, 2)
    assert [one.losses for one in there.clients] == [pytest.approx(one.losses, rel=1e-5) for one in here.clients]
    assert device_of(there.body) == server
    assert {device_of(part) for one in there.clients for part in (one.head, one.tail)} == {client}
    expected = here.weights()
    for name, value in there.weights().items():
        torch.testing.assert_close(value.cpu(), expected[name], rtol=1e-3, atol=2e-3)


def test_a_member_that_left_its_rows_behind_mixes_no_devices(make_lab, pretending):
    lab = moved(make_lab(["denoise", "derain"], ADAM), server=PRETENDED, client=CPU)
    lab.host.begin_phase(moves=True)
    members = [Member(one.name, one.task) for one in lab.clients]
    times = {"join_timeout_s": 20, "step_timeout_s": 20, "quorum": 0.5}
    cohort = Cohort(lab.host, members, input_gradient=False, step_path=("lab",), **times)
    smashed = torch.rand(2, lab.body.preset.body_dim, 8, 8)
    late = threading.Thread(target=lambda: cohort.take_turn("c1", None, smashed))
    late.start()
    features = cohort.take_turn("c0", None, smashed).features
    late.join(20)
    cohort.leave("c1", "its stream was cut")
    cohort.take_turn("c0", torch.ones(features.shape), None)
    assert lab.host.steps == 1


def test_what_is_kept_or_sent_is_on_the_cpu(make_lab, pretending, tmp_path):
    lab = moved(make_lab(["denoise"], ADAM), server=PRETENDED, client=PRETENDED)
    lab.run_split("joint", 1)
    host, client = lab.host, lab.clients[0]
    write_tensors(tmp_path / "body.safetensors", on_cpu(host.state()))
    write_tensors(tmp_path / "moments.safetensors", on_cpu(host.moments()))
    assert host.moments()
    saved = on_cpu(moments(client.optimiser))
    head, tail = arrays_to_parts(parts_to_arrays(client.head.state_dict(), client.tail.state_dict()))
    on_cpu(head | tail)
    load_moments(client.optimiser, saved)
    again = BodyHost("natural", build_body(lab.body.preset), ADAM, lab.body.preset.body_dim, 7, PRETENDED)
    again.load(host.state(), host.moments())
    assert device_of(again.body) == PRETENDED
    lab.host = again
    lab.run_split("joint", 1)  # moments that lay on the CPU would mix with gradients


@pytest.mark.long
def test_a_whole_run_elsewhere_ends_as_one_on_the_cpu(fake_grid, tiny, make_phases, run, tmp_path, pretending):
    chosen, ran_on = set(), set()

    def choose(name, where):
        chosen.add((name, where))
        return PRETENDED

    def spy(part):
        ran_on.add((type(part).__name__, device_of(part)))
        return device_of(part)

    config = tiny(make_phases("task-specific", "task-agnostic", steps=2))
    here = run(config, tmp_path / "here", fake_grid())
    with pytest.MonkeyPatch.context() as elsewhere:
        for module in ("tavit_flwr.server.initial", "tavit_flwr.client.workshop"):
            elsewhere.setattr(f"{module}.choose_device", choose)
        for module in ("tavit_flwr.split.client_side", "tavit_flwr.split.server_side"):
            elsewhere.setattr(f"{module}.device_of", spy)
        there = run(config, tmp_path / "there", fake_grid())
    assert chosen == {("auto", "compute.server_device"), ("auto", "compute.client_device")}
    assert ran_on == {("Head", PRETENDED), ("Body", PRETENDED)}
    scores = [[line["psnr_db"] for line in one.state.history if line["event"] == "evaluate"] for one in (here, there)]
    assert scores[1] == pytest.approx(scores[0], abs=0.01)
    assert len(scores[0]) == 4


def test_evaluation_elsewhere_restores_onto_the_cpu(make_lab, pretending):
    lab = moved(make_lab(["denoise"], ADAM), server=PRETENDED, client=PRETENDED)
    lab.host.begin_phase(moves=False)

    class Direct:
        def send(self, payload):
            on_cpu({"smashed": payload.smashed})
            self.body_pass = lab.host.forward_frozen(payload.smashed, input_gradient=False)

        def receive(self, kind, step):
            return Features(step, on_cpu({"features": self.body_pass.sent})["features"])

    restorer = SplitRestorer(lab.clients[0].head, lab.clients[0].tail, Direct())
    degraded = lab.clients[0].batch(0)[0][0]
    restored = restore_tiled(degraded, restorer, 32, 16, 4)
    on_cpu({"restored": restored})


def test_restoring_files_elsewhere_gives_pictures_on_the_cpu(make_lab, pretending):
    lab = make_lab(["denoise"], ADAM)
    parts = Parts(lab.clients[0].head, lab.body, lab.clients[0].tail, lab.body.preset)
    degraded = lab.clients[0].batch(0)[0][0]
    expected = Restorer(parts, 32, Settings(16, 4, device="cpu"))(degraded)
    with pytest.MonkeyPatch.context() as elsewhere:
        elsewhere.setattr("tavit_flwr.inference.restorer.choose_device", lambda name, where: PRETENDED)
        elsewhere.setattr(torch, "autocast", lambda *args, **options: nullcontext())  # knows no pretended device
        restorer = Restorer(parts, 32, Settings(16, 4))
        restored = restorer(degraded)
    assert device_of(restorer.parts.body) == PRETENDED
    torch.testing.assert_close(on_cpu({"restored": restored})["restored"], expected)


def test_the_pretended_device_is_worth_something(pretending):
    there = torch.ones(2).to(PRETENDED)
    with pytest.raises(AssertionError, match="mixes devices"):
        there + torch.ones(2)
    with pytest.raises((RuntimeError, TypeError)):
        there.numpy()
    assert torch.equal((there + there).cpu(), torch.full((2,), 2.0))


@pytest.mark.parametrize(
    ("name", "said"), [("gpu", "auto, cpu, cuda"), ("cuda:x", "auto, cpu, cuda"), ("cuda:7", "0 CUDA devices")]
)
def test_a_device_that_is_not_there_is_an_error_not_a_fallback(monkeypatch, name, said):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=said):
        choose_device(name, "compute.client_device")


def test_auto_is_the_first_cuda_device_where_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto", "") == CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr("tavit_flwr.split.devices._reproducible", lambda: None)
    assert choose_device("auto", "") == torch.device("cuda", 0)
    assert choose_device("cuda", "") == torch.device("cuda", 0)
    assert choose_device("cuda:1", "") == torch.device("cuda", 1)
    assert choose_device("cpu", "") == CPU
    with pytest.raises(ConfigError, match="2 CUDA devices"):
        choose_device("cuda:2", "")
