"""Heads and tails go to a client only when it does not have that version; nothing of a result depends on it."""

import pytest
import torch

from tavit_flwr.server.supply import Supply

pytestmark = pytest.mark.timeout(120)

KINDS = ("task-specific", "task-agnostic", "joint")


def differing(one, other):
    return [name for name in one if not torch.equal(one[name], other[name])]


def brought(grid):
    """Phases of the messages that brought weights, by node, in order."""
    found = {}
    for message in grid.asked:
        if "arrays" in message.content:
            phase = message.content["config"]["phase"]
            found.setdefault(message.metadata.dst_node_id - 100, []).append(phase)
    return found


@pytest.fixture
def experiment(tiny, make_phases, run, tmp_path, fake_grid):
    def make(name, clients, *overrides, twist=None, resume=False, rounds=None, kinds=KINDS, each=2):
        grid = fake_grid(len(clients.split(",")), twists=twist and {0: twist})
        phases = make_phases(*kinds, rounds=each, steps=1)
        config = tiny(f"clients=[{clients}]", phases, "schedule.evaluate_first=true", *overrides)
        return run(config, tmp_path / name, grid, resume=resume, rounds=rounds), grid

    return make


def test_a_client_alone_in_its_task_is_sent_its_weights_once(experiment):
    """Its own training makes every later version."""
    _, grid = experiment("out", "denoise")
    assert brought(grid) == {0: ["evaluate"]}


def test_clients_of_one_task_are_sent_each_average_once(experiment):
    """In the second round of a phase that moves them, and after it; frozen, they are not sent again."""
    _, grid = experiment("out", "denoise,denoise")
    one, other = sorted(brought(grid).values())  # one of them evaluates
    assert one == ["evaluate", "task-specific", "evaluate", "joint", "evaluate"]
    assert other == ["task-specific", "task-specific", "task-agnostic", "joint"]


@pytest.mark.parametrize("carrier", ["stream", pytest.param("messages", marks=pytest.mark.long)])
def test_results_are_those_of_weights_in_every_message(experiment, monkeypatch, carrier):
    clients, kinds, each = "denoise,denoise", KINDS[:1], 2
    if carrier == "stream":
        clients, kinds, each = "denoise,denoise,deblock", KINDS, 1
    once, _ = experiment("once", clients, f"wire.carrier={carrier}", kinds=kinds, each=each)
    monkeypatch.setattr(Supply, "missing", Supply.everything)
    always, grid = experiment("always", clients, f"wire.carrier={carrier}", kinds=kinds, each=each)
    assert all(len(phases) >= each * len(kinds) for phases in brought(grid).values())
    assert differing(once.weights, always.weights) == []
    assert differing(once.moments["natural"], always.moments["natural"]) == []


@pytest.mark.parametrize("carrier", ["stream", pytest.param("messages", marks=pytest.mark.long)])
def test_a_client_that_has_lost_them_says_so_and_is_sent_them_again(experiment, tmp_path, caplog, carrier):
    reference, _ = experiment("kept", "denoise", f"wire.carrier={carrier}")
    lost = []

    def losing(message, reply):
        """After an order of these phases is answered, its node's weights are gone, or a part of the file is there."""
        if not reply.has_content() or "metrics" not in reply.content:
            return reply
        phase, files = (
            message.content["config"].get("phase"),
            list((tmp_path / "state").glob("*/*/arrays-*.safetensors")),
        )
        if not lost and phase == "task-agnostic":
            for path in files:
                path.unlink()
            lost.append("gone")
        elif len(lost) == 1 and phase == "joint":
            for path in files:
                path.write_bytes(path.read_bytes()[:1000])
            lost.append("cut")
        return reply

    again, grid = experiment("lost", "denoise", f"wire.carrier={carrier}", twist=losing)
    assert lost == ["gone", "cut"]
    assert len(brought(grid)[0]) == 3
    said = [record.getMessage() for record in caplog.records]
    assert sum("asking for them again" in text for text in said) == 2
    assert sum("they are sent again" in text for text in said) == 2
    assert differing(again.weights, reference.weights) == []


def test_a_resumed_run_remembers_who_has_them(experiment):
    whole, _ = experiment("whole", "denoise,deblock", each=1)
    experiment("stopped", "denoise,deblock", rounds=1, each=1)
    resumed, grid = experiment("stopped", "denoise,deblock", resume=True, each=1)
    assert brought(grid) == {}
    assert differing(whole.weights, resumed.weights) == []


def test_a_finished_run_leaves_none_of_them(experiment, tmp_path):
    experiment("out", "denoise")
    assert list((tmp_path / "state").glob("*/*/arrays-*")) == []
