"""Partitions of thousands of clients: what they take where they do not run. Counted, not timed."""

import pytest
from flwr.app import Message, MessageType, RecordDict

from tavit_flwr.client.node import identify
from tavit_flwr.config import from_json, to_json
from tavit_flwr.server import enrolment
from tavit_flwr.wire.records import Enrolment

CLIENTS = 5000
TASKS = ("denoise", "deblock")


@pytest.fixture
def many(tiny, make_phases, images, tmp_path):
    """Two tasks, a photograph for each client, and one client of each task in a round."""
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(CLIENTS // 2 + 1):
        (folder / f"{number:05d}.png").hardlink_to(images / "image0.png")
    return tiny(
        f"clients=[denoise*{CLIENTS // 2}, deblock*{CLIENTS // 2}]", f"data.folder={folder}",
        "federation.fraction=0.0001", "federation.by_task=true", make_phases("task-specific", "task-agnostic", steps=1),
    )  # fmt: skip


@pytest.fixture
def grid(fake_grid, monkeypatch):
    """As many nodes, whose enrolment is answered for them; what they are asked to do is real."""
    made = fake_grid(CLIENTS)
    push = made.push_messages

    def push_messages(messages):
        messages = list(messages)
        if not messages or messages[0].metadata.message_type != MessageType.QUERY:
            return push(messages)
        for message in messages:
            index = message.metadata.dst_node_id - 100
            answer = Enrolment(f"p{index:04d}", TASKS[index % 2], "natural", 1, 1, shared_held_out=True)
            message.metadata.__dict__["_message_id"] = f"query-{index}"
            content = RecordDict({"config": answer.to_record()})
            made._ready[f"query-{index}"] = Message(content=content, reply_to=message)
        made.asked += messages
        return [message.metadata.message_id for message in messages]

    monkeypatch.setattr(made, "push_messages", push_messages)
    return made


def test_a_round_of_two_among_thousands(many, grid, run, tmp_path, monkeypatch):
    """No session, and no text that is written anew, for those that do not take part."""
    written = []
    monkeypatch.setattr(enrolment, "to_json", lambda config: written.append(1) or to_json(config))
    checkpoint = run(many, tmp_path / "out", grid)
    kinds = [message.metadata.message_type for message in grid.asked]
    assert (kinds.count("query"), kinds.count("train"), kinds.count("evaluate")) == (CLIENTS, 4, 4)
    assert len(written) <= 3  # at enrolment, and before each round
    configs = {str(message.content.config_records["config"]["config"]) for message in grid.asked}
    assert len(configs) == 1
    assert len(configs.pop()) < 4096
    assert len(checkpoint.state.participants) == CLIENTS
    trained = {line["task"]: line["clients"] for line in checkpoint.state.history if line["event"] == "train"}
    assert {task: len(clients) for task, clients in trained.items()} == dict.fromkeys(TASKS, 1)


def test_every_partition_finds_its_place_in_a_counted_list(many):
    config = from_json(to_json(many))
    for partition in (0, 1, 2, 2499, 2500, 4998, 4999):
        node = identify({"partition-id": partition, "num-partitions": CLIENTS}, config)
        assert (node.task, node.shard, node.shards) == (TASKS[partition % 2], partition // 2, CLIENTS // 2)
