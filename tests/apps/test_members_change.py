"""Clients come late, go, and come back between the rounds of one run."""

import json
import logging
import time

import pytest
from flwr.app import Error, Message

from tavit_flwr.errors import QuorumError

pytestmark = pytest.mark.timeout(120)


def trained(out):
    """Round to the clients that it trained."""
    found = {}
    for line in map(json.loads, (out / "metrics.jsonl").read_text().splitlines()):
        if line["event"] == "train":
            found.setdefault(line["round"], set()).update(line["clients"])
    return found


def left_out(out, number):
    lines = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    return next(line["left_out"] for line in lines if line["event"] == "train" and line["round"] == number)


def is_train(message):
    return message.metadata.message_type.startswith("train")


@pytest.fixture
def three(tiny, make_phases):
    def make(*words, rounds=1):
        kinds, overrides = ([word for word in words if ("=" in word) is named] for named in (False, True))
        schedule = make_phases(*kinds, rounds=rounds)
        return tiny("clients=[denoise,deblock,denoise]", schedule, "federation.quorum=0.3", *overrides)

    return make


class Door:
    """Opens and shuts a node of a grid when another node answers its n-th `train` order."""

    def __init__(self, grid, node):
        self.grid, self.node = grid, node
        self.context = grid.contexts[node]
        self.rounds = 0
        self.plan = {}
        grid.twists[0] = self

    def __call__(self, message, reply):
        if is_train(message):
            self.rounds += 1
            if self.plan.get(self.rounds) == "open":
                self.grid.contexts[self.node] = self.context
            elif self.plan.get(self.rounds) == "shut":
                self.grid.contexts.pop(self.node)
        return reply


def test_a_late_client_takes_part_from_the_next_round_on(fake_grid, three, tmp_path, run, caplog):
    caplog.set_level(logging.INFO, "flwr")
    grid = fake_grid(3)
    door = Door(grid, 102)
    door.plan = {1: "open"}
    del grid.contexts[102]
    checkpoint = run(three("task-specific", "task-agnostic", "joint"), tmp_path / "out", grid)
    assert trained(tmp_path / "out") == {
        1: {"p0000", "p0001"}, 2: {"p0000", "p0001", "p0002"}, 3: {"p0000", "p0001", "p0002"},
    }  # fmt: skip
    assert "client p0002, task denoise: takes part from now on" in caplog.text
    assert checkpoint.state.versions == {"p0000": 3, "p0001": 3, "p0002": 3}
    assert "fresh moments" not in caplog.text  # it had none to lose


def test_a_client_that_goes_is_named_and_one_that_comes_back_goes_on_with_its_moments(
    fake_grid, three, tmp_path, run, caplog
):
    grid = fake_grid(3)
    door = Door(grid, 102)
    door.plan = {1: "shut", 2: "open"}
    run(three("joint", rounds=3), tmp_path / "out", grid)
    assert trained(tmp_path / "out") == {
        1: {"p0000", "p0001", "p0002"}, 2: {"p0000", "p0001"}, 3: {"p0000", "p0001", "p0002"},
    }  # fmt: skip
    assert left_out(tmp_path / "out", 2) == ["node 102, client p0002, task denoise: not connected"]
    assert left_out(tmp_path / "out", 3) == []
    orders = [m.content["config"]["version"] for m in grid.asked if is_train(m) and m.metadata.dst_node_id == 102]
    assert orders == [0, 1]
    assert "fresh moments" not in caplog.text


def test_a_client_whose_store_is_lost_says_so_and_goes_on(fake_grid, three, tmp_path, run, caplog):
    """It begins with the averaged weights of its task and with fresh moments."""
    grid = fake_grid(3)

    def lose(message, reply):
        if is_train(message):
            for path in list((tmp_path / "state").rglob("moments-*.safetensors")):
                if str(path) == grid.contexts[101].state["tavit"]["moments"]:
                    path.unlink()
        return reply

    grid.twists[1] = lose
    run(three("task-specific", rounds=2), tmp_path / "out", grid)
    assert trained(tmp_path / "out")[2] == {"p0000", "p0001", "p0002"}
    fresh = {}
    for message in grid.answered:
        metrics = message.content.metric_records.get("metrics", {})
        if "fresh-moments" in metrics:
            fresh.setdefault(message.metadata.src_node_id, []).append(metrics["fresh-moments"])
    assert fresh == {100: [0.0, 0.0], 101: [0.0, 1.0], 102: [0.0, 0.0]}
    assert "lost their private store and started with fresh moments: p0001" in caplog.text
    assert "client p0001, task deblock, cycle 1, task-specific, round 2: no moments of round 1" in caplog.text


@pytest.mark.parametrize("kind", ["task-agnostic", "joint"])
def test_nobody_waits_for_a_client_that_has_answered_with_an_error(
    fake_grid, tiny, make_phases, tmp_path, run, monkeypatch, kind
):
    """Its node never came to the session, as with a killed actor; the cohort's first turn has ten minutes."""
    config = tiny("clients=[denoise,deblock,denoise]", make_phases(kind, rounds=2), "wire.join_timeout_s=600")
    grid = fake_grid(3)
    handle = grid._handle

    def dead(message):
        if is_train(message) and message.metadata.dst_node_id == 102:
            with grid._lock:
                reply = Message(error=Error(1, "RayActorError: the actor died"), reply_to=message)
                grid._ready[message.metadata.message_id] = reply
        else:
            handle(message)

    monkeypatch.setattr(grid, "_handle", dead)
    run(config, tmp_path / "out", grid)  # within the test's own time limit
    assert trained(tmp_path / "out") == {1: {"p0000", "p0001"}, 2: {"p0000", "p0001"}}
    for number in (1, 2):
        (problem,) = left_out(tmp_path / "out", number)
        assert "node 102" in problem
        assert "actor died" in problem


def test_when_all_have_gone_the_run_ends_and_can_be_resumed(fake_grid, three, tmp_path, run):
    grid = fake_grid(1)
    door = Door(grid, 100)
    door.plan = {1: "shut"}
    config = three("task-specific", rounds=2)
    with pytest.raises(QuorumError, match="resume=true"):
        run(config, tmp_path / "out", grid)
    checkpoint = run(config, tmp_path / "out", fake_grid(1), resume=True)
    assert checkpoint.state.round == 2


def test_with_auto_a_client_that_is_cut_off_in_mid_run_goes_on_by_messages(fake_grid, three, tmp_path, run, caplog):
    """It loses the round in which that happens, is asked again, and finds the way by itself."""
    grid = fake_grid(2)
    push, carriers = grid.push_messages, []

    def blocked(messages):
        for one in messages:
            order = one.content["config"]
            if one.metadata.dst_node_id == 101:
                if ("phase" in order and order["next_version"] == 2) or caplog.text.count("left out"):
                    order["address"] = "127.0.0.1:1"  # nobody listens there
                if order.get("phase") == "task-specific":
                    carriers.append((order["next_version"], order["carrier"]))
        return push(messages)

    grid.push_messages = blocked
    deadlines = ("wire.carrier=auto", "wire.step_timeout_s=6", "wire.probe_timeout_s=1")
    run(three("task-specific", *deadlines, rounds=3), tmp_path / "out", grid)
    assert trained(tmp_path / "out") == {1: {"p0000", "p0001"}, 2: {"p0000"}, 3: {"p0000", "p0001"}}
    assert list(dict.fromkeys(carriers)) == [(1, "stream"), (2, "stream"), (3, "messages")]
    (problem,) = left_out(tmp_path / "out", 2)
    assert "client p0001" in problem
    assert "expected the body service at 127.0.0.1:1 within 6 s" in problem
    assert caplog.text.count("client p0001: frames travel in Flower messages, slower by far: no connection") == 1


def test_nobody_waits_for_a_client_whose_answers_cannot_be_sent(fake_grid, three, tmp_path, run):
    """Flower refuses the second message to it; the cohort's turns have ten minutes."""
    grid = fake_grid(3)
    push = grid.push_messages

    def picky(messages):
        refused = [one for one in messages if "frames" in one.content and one.metadata.dst_node_id == 102]
        return push([one for one in messages if one not in refused])

    grid.push_messages = picky
    patient = ("wire.carrier=messages", "wire.join_timeout_s=600", "wire.step_timeout_s=600")
    run(three("joint", *patient), tmp_path / "out", grid)
    assert trained(tmp_path / "out") == {1: {"p0000", "p0001"}}
    (problem,) = left_out(tmp_path / "out", 1)
    assert "node 102" in problem
    assert "could not be sent" in problem


@pytest.mark.parametrize("lend", [pytest.param("false", marks=pytest.mark.long), "true"])
def test_who_answers_after_the_rounds_deadline_is_left_out_of_it(three, fake_grid, run, tmp_path, lend):
    """Also where its body is lent, and so nobody but the round's deadline sees that it is slow."""

    def late(message, reply):
        if is_train(message):
            time.sleep(16)
        return reply

    words = ("task-specific", "federation.round_timeout_s=10", f"schedule.lend_body={lend}")
    run(three(*words), tmp_path / "out", fake_grid(3, twists={1: late}))
    assert len(trained(tmp_path / "out")[1]) == 2
    (problem,) = left_out(tmp_path / "out", 1)
    assert "node 101" in problem
    assert "no reply before the deadline" in problem
