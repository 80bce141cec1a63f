"""Who is chosen, and which replies can be used."""

import pytest
import torch
from flwr.app import Array, ArrayRecord, Error, Message, MessageType, MetricRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from tavit_flwr.config import FederationConfig, PhaseConfig, ScheduleConfig, TaskConfig, TavitConfig
from tavit_flwr.errors import ConfigError, QuorumError
from tavit_flwr.payloads import EVALUATE_METRICS, TRAIN_METRICS
from tavit_flwr.server.aggregation import Weights
from tavit_flwr.server.roster import Participant, check_cohort, enrol, select, wait_for_nodes
from tavit_flwr.server.rounds import MOVED, SCORES, Round, sort_replies
from tavit_flwr.server.schedule import RoundPlan
from tavit_flwr.server.sessions import EVALUATE, Session
from tavit_flwr.wire.records import Enrolment, parts_to_arrays


def people(count, slots=0):
    return [
        Participant(100 + index, Enrolment(f"p{index:04d}", "denoise", "natural", 5, 1, slots=slots))
        for index in range(count)
    ]


def config(**federation):
    schedule = ScheduleConfig(1, [PhaseConfig("task-agnostic", 1, 1)])
    return TavitConfig(
        seed=5, clients=["denoise"], tasks={"denoise": TaskConfig()}, schedule=schedule,
        federation=FederationConfig(**federation),
    )  # fmt: skip


def round_plan(number=1, phase="task-agnostic", cycle=1):
    return RoundPlan(number, cycle, phase, number, 5, True, 1.0)


def names(chosen):
    return [one.client for one in chosen]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(0, 9), st.integers(1, 3))
def test_rotation_covers_everyone_and_repeats_nobody_before(count, cohort, cycle):
    everyone = people(count)
    size = min(count, cohort) if cohort else count
    seen = []
    for number in range(1, -(-count // size) + 1):
        chosen = select(everyone, round_plan(number, cycle=cycle), cohort, config())
        assert len(set(names(chosen))) == size
        assert names(chosen) == sorted(names(chosen))
        assert names(chosen) == names(select(everyone, round_plan(number, cycle=cycle), cohort, config()))
        seen += names(chosen)
    assert set(seen) == set(names(everyone))
    whole = count // size * size
    assert len(set(seen[:whole])) == whole


def test_the_cohort_limits_only_where_the_body_moves():
    assert len(select(people(6), round_plan(phase="task-specific"), 2, config())) == 6
    assert len(select(people(6), round_plan(phase="joint"), 2, config())) == 2


def test_a_fraction_takes_turns():
    chosen = [select(people(6), round_plan(n, "task-specific"), 0, config(fraction=0.5)) for n in (1, 2)]
    assert [len(one) for one in chosen] == [3, 3]
    assert not set(names(chosen[0])) & set(names(chosen[1]))
    assert len(select(people(6), round_plan(1, "task-specific"), 0, config(fraction=0.01))) == 1


def test_another_seed_chooses_others():
    choices = set()
    for seed in range(8):
        one = config()
        one.seed = seed
        choices.add(tuple(names(select(people(6), round_plan(), 2, one))))
    assert len(choices) > 2


def test_the_order_of_the_nodes_does_not_change_the_choice():
    ways = set()
    for nodes in ([1, 2, 3, 4], [3, 1, 4, 2]):
        grid = Answers({node: Enrolment(f"p{node}", "denoise", "natural", 5, 1) for node in nodes})
        ways.add(tuple(names(select(enrol(grid, nodes, config()), round_plan(), 2, config()))))
    assert len(ways) == 1


class Answers:
    """A grid whose nodes answer the enrolment with what they are given; None is silence."""

    def __init__(self, answers):
        self.answers = answers

    def get_node_ids(self):
        return list(self.answers)

    def send_and_receive(self, messages, *, timeout=None):
        replies = []
        for message in messages:
            answer = self.answers[message.metadata.dst_node_id]
            if isinstance(answer, Error):
                replies.append(Message(error=answer, reply_to=message))
            elif isinstance(answer, Enrolment):
                replies.append(Message(content=RecordDict({"config": answer.to_record()}), reply_to=message))
            elif answer is not None:
                replies.append(Message(content=answer, reply_to=message))
        return replies


@pytest.fixture(autouse=True)
def sender(monkeypatch):
    """Flower asks who sends; inside an app it knows."""
    from flwr.supercore.task_identity import TaskIdentity

    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


GOOD = Enrolment("p0001", "denoise", "natural", 5, 1)


def test_nodes_that_cannot_take_part_are_named(caplog):
    grid = Answers({1: GOOD, 2: None, 3: Error(1, "broken"), 4: RecordDict(), 5: Enrolment("p5", error="no images")})
    assert names(enrol(grid, [1, 2, 3, 4, 5], config())) == ["p0001"]
    for text in ("node 2: no answer", "node 3: broken", "node 4", "node 5, client p5: no images"):
        assert text in caplog.text
    with pytest.raises(QuorumError, match="no images"):
        enrol(grid, [2, 5], config())
    with pytest.raises(QuorumError):
        enrol(grid, [1, 5], config(min_nodes=2))


def test_two_nodes_of_one_name_are_refused():
    with pytest.raises(ConfigError, match=r"p0001.*state-dir"):
        enrol(Answers({1: GOOD, 2: GOOD}), [1, 2], config())


def test_too_few_nodes_are_not_waited_for_for_ever():
    with pytest.raises(QuorumError, match="min_nodes"):
        wait_for_nodes(Answers({1: GOOD}), 2, 0.05, 0.01)
    assert wait_for_nodes(Answers({2: GOOD, 1: GOOD}), 2, 5, 0.01) == [1, 2]


def test_cohorts_that_cannot_run_at_once(caplog):
    assert check_cohort(people(3, slots=3), config()) == 0
    assert check_cohort(people(3, slots=0), config(cohort="all")) == 0
    assert check_cohort(people(3, slots=2), config()) == 2
    assert "init-args-num-cpus=3" in caplog.text
    with pytest.raises(ConfigError, match="init-args-num-cpus=3"):
        check_cohort(people(3, slots=2), config(cohort="all"))
    apart = config(cohort="all")
    apart.schedule.phases[0].kind = "task-specific"
    assert check_cohort(people(3, slots=2), apart) == 0


# Replies.


def part(value=1.0):
    return {"w": torch.full((2, 3), value)}


GOOD_ARRAYS = parts_to_arrays(part(), part())
BODY_ARRAYS = ArrayRecord({"body/w": Array(torch.ones(2, 3).numpy())})
WEIGHTS = Weights({}, {"denoise": part()}, {"denoise": part()})


def metrics(allowed=TRAIN_METRICS, **changes):
    return MetricRecord(dict.fromkeys(allowed, 1.0) | {name.replace("_", "-"): v for name, v in changes.items()})


def sort(*contents, expect_weights=True):
    """Give one reply per node; node 100 is always good."""
    opened = Round()
    replies = []
    good = RecordDict({"metrics": metrics(TRAIN_METRICS if expect_weights else EVALUATE_METRICS)})
    if expect_weights:
        good["arrays"] = parts_to_arrays(part(2.0), part(3.0))
    for one, content in zip(people(len(contents) + 1), (good, *contents), strict=True):
        phase = "joint" if expect_weights else EVALUATE
        opened.sessions[one.node_id] = (one, Session(one.client, one.task, None, phase, 5))
        message = Message(content=RecordDict(), message_type=MessageType.TRAIN, dst_node_id=one.node_id)
        if isinstance(content, Error):
            replies.append(Message(error=content, reply_to=message))
        elif content is not None:
            replies.append(Message(content=content, reply_to=message))
    usable = sort_replies(opened, reversed(replies), WEIGHTS, MOVED if expect_weights else SCORES)
    assert [reply.participant.client for reply in usable] == ["p0000"]
    assert all(problem.startswith("node 101, client p0001, task denoise") for problem in opened.problems)
    assert len(opened.problems) == 1
    return opened.problems[0], usable[0]


def content(head=None, tail=None, **changes):
    arrays = parts_to_arrays(part() if head is None else head, part() if tail is None else tail)
    return RecordDict({"metrics": metrics(**changes), "arrays": arrays})


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (None, "no reply"),
        (Error(1001, "ModelError: lower the learning rate"), "lower the learning rate"),
        (content(head=part(float("nan"))), "finite"),
        (content(tail=part(float("inf"))), "finite"),
        (content(head={}), "missing"),
        (content(head=part() | {"x": torch.ones(1)}), "unknown"),
        (content(tail={"w": torch.ones(3, 2)}), "shape"),
        (content(loss_mean=float("nan")), "loss-mean"),
        (content(loss_mean=float("inf")), "loss-mean"),
        (content(steps=[1.0, 2.0]), "steps"),
        (content(file_count=3.0), "file-count"),
        (content(psnr_db=3.0), "psnr-db"),
        (content(num_examples=0.0), "num-examples"),
        (RecordDict({"metrics": metrics()}), "arrays"),
        (RecordDict({"arrays": parts_to_arrays(part(), part())}), "metrics"),
        (RecordDict({"metrics": MetricRecord({"num-examples": 3.0}), "arrays": GOOD_ARRAYS}), "steps"),
        (RecordDict(), "metrics"),
        (RecordDict({"metrics": metrics(), "arrays": BODY_ARRAYS}), "body"),
        (RecordDict({"metrics": metrics(), "arrays": metrics()}), "node"),
    ],
    ids=["silent", "error", "nan", "inf", "missing", "unknown", "shape", "nan metric", "inf metric", "list metric",
         "unknown metric", "evaluation's metric", "no examples", "no arrays", "no metrics", "few metrics", "empty",
         "other arrays", "metrics as arrays"],
)  # fmt: skip
def test_replies_that_cannot_be_used_are_named_and_the_others_kept(reply, says):
    problem, good = sort(reply)
    assert says in problem
    assert torch.equal(good.weights.head["w"], part(2.0)["w"])
    assert torch.equal(good.weights.tail["w"], part(3.0)["w"])


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (RecordDict({"metrics": metrics(EVALUATE_METRICS, images=0.0)}), "images"),
        (RecordDict({"metrics": MetricRecord({"images": 3.0})}), "psnr-db"),
        (RecordDict({"metrics": metrics(EVALUATE_METRICS, psnr_db=float("inf"))}), "psnr-db"),
    ],
    ids=["no images", "no scores", "inf"],
)
def test_evaluations_that_cannot_be_used_are_named(reply, says):
    problem, _ = sort(reply, expect_weights=False)
    assert says in problem


def test_an_unknown_node_is_named_and_its_weights_are_not_used(caplog):
    opened = Round()
    message = Message(content=RecordDict(), message_type=MessageType.TRAIN, dst_node_id=999)
    assert sort_replies(opened, [Message(content=content(), reply_to=message)], WEIGHTS, MOVED) == []
    assert opened.problems == ["node 999: a reply that nobody asked for"]
    assert "node 999" in caplog.text


def test_a_second_reply_of_one_node_is_not_used():
    opened = Round()
    (one,) = people(1)
    opened.sessions[one.node_id] = (one, Session(one.client, one.task, None, "joint", 5))
    message = Message(content=RecordDict(), message_type=MessageType.TRAIN, dst_node_id=one.node_id)
    replies = [Message(content=content(), reply_to=message) for _ in range(2)]
    assert len(sort_replies(opened, replies, WEIGHTS, MOVED)) == 1
    assert len(opened.problems) == 1
