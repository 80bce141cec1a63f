"""The other carrier: the same steps as Flower messages, to handlers that remember nothing, give the same bits."""

import json

import pytest
import torch

from tavit_flwr.client import scratch as scratch_module
from tavit_flwr.client import session as client_session
from tavit_flwr.client import training
from tavit_flwr.client.session import ClientSession
from tavit_flwr.models import build_head, build_tail, initialise_part, preset
from tavit_flwr.server import rounds
from tavit_flwr.split.phases import PHASES
from tavit_flwr.wire.ledger import Ledger
from tavit_flwr.wire.probe import Probe

pytestmark = pytest.mark.timeout(120)

KINDS = ("task-specific", "task-agnostic", "joint")
COHORTS = [["denoise"], ["denoise", "deblock"], ["denoise", "denoise", "deblock"]]
STEPS = 2
#: Messages to a client: one to begin, then two a step or one.
MESSAGES = {"task-specific": 1 + 2 * STEPS, "task-agnostic": 1 + STEPS, "joint": 1 + 2 * STEPS}


def differing(one, other):
    assert set(one) == set(other)
    return [name for name in one if not torch.equal(one[name], other[name])]


def assert_same(ours, reference):
    assert differing(ours.weights, reference.weights) == []
    assert reference.moments["natural"]
    assert differing(ours.moments["natural"], reference.moments["natural"]) == []


def lines(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def scores(out):
    keys = ("event", "round", "task", "loss_first", "loss_last", "loss_mean", "psnr_db", "ssim", "windows", "examples")
    return [{key: line.get(key) for key in keys} for line in lines(out)]


def orders(grid, kind):
    """How many messages of a phase each client got."""
    counts = {}
    for message in grid.asked:
        if message.content["config"].get("phase") == kind:
            counts[message.metadata.dst_node_id] = counts.get(message.metadata.dst_node_id, 0) + 1
    return sorted(counts.values())


def counted_by_clients(grid):
    """Bytes up and down of each session, as clients counted them."""
    replies = [one.content["metrics"] for one in grid.answered if "metrics" in one.content]
    return sorted((one["bytes-up"], one["bytes-down"]) for one in replies)


def in_order(sessions):
    return sorted(sessions, key=lambda one: (one.ledger.total("up"), one.ledger.total("down")))


@pytest.fixture
def sessions(monkeypatch):
    """Every session that the server opens."""
    opened = []
    message = rounds._message

    def remember(round_, one, session, *args):
        opened.append(session)
        return message(round_, one, session, *args)

    monkeypatch.setattr(rounds, "_message", remember)
    return opened


@pytest.fixture
def experiment(tiny, make_phases, run, tmp_path):
    def make(carrier, grid, clients=COHORTS[1], kinds=KINDS, name="", *overrides):
        config = tiny(
            f"clients=[{','.join(clients)}]", make_phases(*kinds, steps=STEPS), f"wire.carrier={carrier}", *overrides
        )
        return run(config, tmp_path / (name or carrier), grid)

    return make


@pytest.mark.parametrize(
    "clients", [*(pytest.param(one, marks=pytest.mark.long) for one in COHORTS[:2]), COHORTS[2]], ids=len
)
def test_messages_give_the_bits_of_the_stream(experiment, fake_grid, tmp_path, clients, sessions):
    """Every phase, with Adam, dropout in the body, averaging, moments, and evaluation between."""
    grid = fake_grid(len(clients))
    messages = experiment("messages", grid, clients)
    assert counted_by_clients(grid) == [(s.ledger.total("up"), s.ledger.total("down")) for s in in_order(sessions)]
    assert_same(messages, experiment("stream", fake_grid(len(clients)), clients))
    assert scores(tmp_path / "messages") == scores(tmp_path / "stream")
    for kind, count in MESSAGES.items():
        assert orders(grid, kind) == [count] * len(clients)
    assert set(orders(grid, "evaluate")) == {2 * len(KINDS)}  # an image each


def test_passes_of_a_frozen_head_are_computed_once_a_phase_and_change_no_bit(experiment, fake_grid, monkeypatch):
    """With ``data.fixed_batches``, over rounds, sessions and handlers; without keeping them it is once a step."""
    first = "{kind: task-specific, rounds: 1, steps: 1}"  # a new tail gives the body no gradient
    phase = f"schedule.phases=[{first}, {{kind: task-agnostic, rounds: 2, steps: 4}}]"
    head_forward, computed = client_session.head_forward, []

    def counted(head, degraded, *, moves):
        computed.extend([] if moves else ["frozen"])
        return head_forward(head, degraded, moves=moves)

    monkeypatch.setattr(client_session, "head_forward", counted)

    def weights(name, carrier, fixed):
        computed.clear()
        ended = experiment(carrier, fake_grid(1), COHORTS[0], (), name, phase, f"data.fixed_batches={fixed}")
        return ended, len(computed)

    (stream, once), (messages, also) = weights("stream", "stream", 2), weights("messages", "messages", 2)
    monkeypatch.setattr(training, "passes_of", lambda *_: None)
    (anew, each), (drawn, _) = weights("anew", "stream", 2), weights("drawn", "stream", 0)
    assert (once, also, each) == (2, 2, 8)
    assert_same(stream, anew)
    assert_same(messages, anew)
    assert differing(drawn.weights, stream.weights), "the batches were not those that come again"


class _Dying:
    """Kills each handler once, where all is written but the file that makes it count."""

    def __init__(self, monkeypatch):
        self.killed = set()
        note = scratch_module.Scratch.note

        def dying(scratch, memory):
            key = (scratch._folder, memory.count)
            if key not in self.killed:
                self.killed.add(key)
                raise KeyboardInterrupt
            note(scratch, memory)

        monkeypatch.setattr(scratch_module.Scratch, "note", dying)


def test_a_message_that_comes_twice_changes_nothing(experiment, fake_grid, monkeypatch):
    """Because it was handled and its reply was lost, or because its handler was killed at the last moment."""
    reference = experiment("messages", fake_grid(1), COHORTS[0], name="once")
    assert_same(experiment("messages", fake_grid(1, repeat=True), COHORTS[0], name="handled"), reference)
    dying = _Dying(monkeypatch)
    assert_same(experiment("messages", fake_grid(1, retry=KeyboardInterrupt), COHORTS[0], name="killed"), reference)
    assert len(dying.killed) == sum(MESSAGES.values()) + 2 * len(KINDS)


def test_a_mixed_cohort_gives_the_same_bits_and_says_so_once(experiment, fake_grid, monkeypatch, caplog):
    reference = experiment("stream", fake_grid(2))
    failure, tried = Probe.failure, []

    def not_from_there(probe, timeout_s):
        tried.append(timeout_s)
        return ("no way there", "no way there, by the log") if len(tried) == 1 else failure(probe, timeout_s)

    monkeypatch.setattr(Probe, "failure", not_from_there)
    caplog.clear()
    grid = fake_grid(2)
    assert_same(experiment("auto", grid), reference)
    carriers = {
        m.metadata.dst_node_id: m.content["config"]["carrier"] for m in grid.asked if "phase" in m.content["config"]
    }
    assert sorted(carriers.values()) == ["messages", "stream"]
    said = [record.getMessage() for record in caplog.records if "no way there" in record.getMessage()]
    assert len(said) == 2  # the client, and the server
    assert all("Flower messages" in text for text in said)


def test_minibatches_of_one_message_are_one_batch(twin, make_lab):
    """n minibatches of B, or one batch of n * B: without dropout the same weights."""
    joined, large = twin(["denoise"])
    one = joined.clients[0].batch
    joined.clients[0].batch = lambda step: tuple(map(torch.cat, zip(one(2 * step), one(2 * step + 1), strict=True)))
    batches = {step: joined.clients[0].batch(step) for step in range(STEPS)}
    large.clients[0].batch = batches.get
    for lab in (joined, large):
        lab.run_split("task-specific", STEPS)
    assert differing(joined.weights(), large.weights()) == []


def test_a_message_of_minibatches_steps_on_their_mean_gradient(experiment, fake_grid, tiny):
    """The apps themselves: two minibatches together are one step of twice the batch, with the same images."""
    grid = fake_grid(1)
    experiment("messages", grid, ["denoise"], ("task-specific",), "", "wire.minibatches_per_message=2")
    metrics = next(one.content["metrics"] for one in grid.answered if "num-examples" in one.content.get("metrics", {}))
    assert metrics["steps"] == 1
    assert metrics["num-examples"] == STEPS * tiny().data.batch_size
    assert orders(grid, "task-specific") == [3]


class _Counting:
    """A carrier around an identity body that counts draws from torch's generator."""

    def __init__(self):
        self.ledger, self.wait_s = Ledger(), 0.0

    def send(self, payload):
        self.last = payload

    def receive(self, expected, step):
        tensor = next(value for name, value in vars(self.last).items() if name != "step")
        return expected(step, tensor)

    def hand_in(self, payload):
        pass


def test_heads_and_tails_draw_nothing():
    """A step is run again from its start, so a part that draws would have to name its draws, as the body does."""
    architecture = preset("tiny")
    head, tail = build_head(architecture), build_tail(architecture)
    initialise_part(head, 0, "head")
    initialise_part(tail, 0, "tail")
    optimiser = torch.optim.SGD([*head.parameters(), *tail.parameters()], lr=0.1)
    images = torch.rand(2, 2, 3, architecture.crop, architecture.crop)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    ClientSession(head, tail, optimiser, lambda step: tuple(images), PHASES["task-specific"], "c").run(_Counting(), 2)
    assert torch.equal(torch.get_rng_state(), before)
