"""Who is chosen, and which replies can be used."""

import time

import pytest
import torch
from flwr.app import Error, Message, MessageType, MetricRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from tavit_flwr.config import FederationConfig, PhaseConfig, ScheduleConfig, TaskConfig, TavitConfig
from tavit_flwr.errors import ConfigError, QuorumError
from tavit_flwr.payloads import EVALUATE_METRICS, TRAIN_METRICS
from tavit_flwr.server import roster as roster_module
from tavit_flwr.server import waiting
from tavit_flwr.server.aggregation import Averages, Weights
from tavit_flwr.server.enrolment import Participant, check_returned
from tavit_flwr.server.replies import MOVED, SCORES, sort_replies
from tavit_flwr.server.roster import Roster
from tavit_flwr.server.rounds import Round
from tavit_flwr.server.schedule import RoundPlan, plan
from tavit_flwr.server.selection import at_once, check_cohort, evaluators, select, substitutes
from tavit_flwr.server.sessions import EVALUATE, Session
from tavit_flwr.server.waiting import wait_for_nodes
from tavit_flwr.wire.probe import Probe
from tavit_flwr.wire.records import UNREACHABLE, Enrolment
from tavit_flwr.wire.weights import parts_to_arrays, tensors_to_arrays


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
    return RoundPlan(number, cycle, phase, number, 5, True, 1.0, turn=number - 1)


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


def mixed(*tasks, shared=True):
    """Clients of these tasks, each holding images out."""
    return [
        Participant(100 + index, Enrolment(f"p{index:04d}", task, "natural", 5, 1, shared_held_out=shared))
        for index, task in enumerate(tasks)
    ]


def test_phases_of_one_round_rotate_over_the_whole_run():
    """One round a phase and two cycles: the second cycle's cohort is another."""
    schedule = ScheduleConfig(4, [PhaseConfig("task-specific", 1, 1), PhaseConfig("task-agnostic", 1, 1)])
    moving = [one for one in plan(schedule) if one.phase == "task-agnostic"]
    everyone = mixed("a", "a", "b", "b")
    seen = [name for one in moving for name in names(select(everyone, one, 1, config()))]
    assert sorted(seen) == names(everyone)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=9), st.integers(1, 9))
def test_every_task_has_its_turn_before_any_has_two(tasks, cohort):
    everyone = mixed(*tasks)
    kinds = len(set(tasks))
    size = min(cohort, kinds)
    rounds = range(1, -(-kinds // size) + 1)
    seen = [one.task for number in rounds for one in select(everyone, round_plan(number), size, config())]
    assert set(seen) == set(tasks)


def test_who_comes_or_goes_does_not_move_the_others():
    everyone = people(8)
    order = [names(select(everyone, round_plan(number), 1, config()))[0] for number in range(1, 9)]
    without = [one for one in everyone if one.client != order[7]]
    assert [names(select(without, round_plan(number), 1, config()))[0] for number in range(1, 8)] == order[:7]


def test_clients_that_never_have_a_turn_are_counted(caplog):
    check_cohort(people(5, slots=2), config())
    assert "3 of 5 clients never step a body" in caplog.text


def test_more_sessions_at_once_than_allowed_are_refused():
    one = config()
    one.wire.max_sessions = 3
    with pytest.raises(ConfigError, match=r"wire\.max_sessions=4"):
        check_cohort(people(4), one)
    assert check_cohort(people(3), one) == 0
    assert check_cohort(people(4, slots=2), one) == 2  # no more than two can be there at once


def test_of_many_clients_those_of_a_round_count():
    one = config(fraction=0.5)
    one.wire.max_sessions = 3
    assert check_cohort(mixed(*"aaaaaa"), one) == 0  # three in a round, one evaluates for all
    with pytest.raises(ConfigError, match=r"3 clients in a round, 6 that evaluate.*max_sessions=6"):
        check_cohort(mixed(*"aaaaaa", shared=False), one)
    with pytest.raises(ConfigError, match=r"4 clients in a round.*federation\.fraction"):
        check_cohort(mixed(*"aaaaaaa"), one)
    assert check_cohort(people(6, slots=3), config(fraction=0.5, cohort="all")) == 0


def test_the_next_holder_of_the_same_images_stands_in():
    everyone = mixed("a", "a", "a", "b")
    asked = {one.node_id for one in evaluators(everyone)}
    assert asked == {100, 103}
    assert names(substitutes(everyone, asked, {"b"})) == ["p0001"]
    assert names(substitutes(everyone, asked | {101}, {"b"})) == ["p0002"]
    assert substitutes(everyone, asked, {"a", "b"}) == []
    assert substitutes(everyone, asked | {101, 102}, {"b"}) == []
    assert substitutes(mixed("a", "a", shared=False), {100}, set()) == []


def test_the_cohort_limits_only_where_the_body_moves():
    assert len(select(people(6), round_plan(phase="task-specific"), 2, config())) == 6
    assert len(select(people(6), round_plan(phase="joint"), 2, config())) == 2


def test_no_round_takes_fewer_than_asked():
    for number in range(1, 4):
        taken = select(people(6), round_plan(number, "task-specific"), 0, config(fraction=0.01, min_clients=3))
        assert len(taken) == 3
    assert len(select(people(2), round_plan(1, "task-specific"), 0, config(fraction=0.01, min_clients=3))) == 2


def test_a_fraction_by_task_takes_every_task_each_round():
    everyone, seen = mixed(*"aaaabbc"), set()
    for number in range(1, 9):
        chosen = select(everyone, round_plan(number, "task-specific"), 0, config(fraction=0.01, by_task=True))
        assert sorted(one.task for one in chosen) == ["a", "b", "c"]
        seen |= set(names(chosen))
    assert seen == set(names(everyone))
    assert len(select(everyone, round_plan(1, "joint"), 1, config(fraction=0.5, by_task=True))) == 1


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
        _, _, everyone = gathered({node: Enrolment(f"p{node}", "denoise", "natural", 5, 1) for node in nodes})
        ways.add(tuple(names(select(everyone, round_plan(), 2, config()))))
    assert len(ways) == 1


class Answers:
    """A grid whose nodes answer the enrolment with what they are given; None is silence.

    Attributes
    ----------
    answers : dict
        Node to answer; may change between rounds, and a node that is not in it is not connected.
    asked : list of int
        Nodes in the order in which they were asked.
    comes : dict
        Nodes that connect once others have been asked.
    """

    def __init__(self, answers, comes=()):
        self.answers = dict(answers)
        self.asked = []
        self.comes = dict(comes)
        self._open = {}

    def get_node_ids(self):
        return list(self.answers)

    def push_messages(self, messages):
        ids = []
        for message in messages:
            self.answers.update(self.comes)
            self.asked.append(message.metadata.dst_node_id)
            ids.append(f"message-{len(self.asked)}")
            message.metadata.__dict__["_message_id"] = ids[-1]
            self._open[ids[-1]] = message
        return ids

    def pull_messages(self, message_ids):
        replies = []
        for message_id in list(message_ids):
            message = self._open[message_id]
            answer = self.answers.get(message.metadata.dst_node_id)
            if answer is not None:
                del self._open[message_id]
                replies.append(self._reply(message, answer))
        return replies

    @staticmethod
    def _reply(message, answer):
        if isinstance(answer, Error):
            return Message(error=answer, reply_to=message)
        if isinstance(answer, Enrolment):
            answer = RecordDict({"config": answer.to_record()})
        return Message(content=answer, reply_to=message)


def gathered(answers, comes=(), **federation):
    """A roster that has gathered these nodes, without long waits."""
    settings = {"enrol_timeout_s": 0.05, "late_timeout_s": 0.05, "wait_for_nodes_s": 0.05} | federation
    grid = Answers(answers, comes)
    roster = Roster(grid, config(**settings), Probe("", b"", ""))
    return grid, roster, roster.gather()


@pytest.fixture(autouse=True)
def sender(monkeypatch):
    """Flower asks who sends; inside an app it knows."""
    from flwr.supercore.task_identity import TaskIdentity

    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)
    monkeypatch.setattr(waiting, "SETTLE_S", 0.01)


GOOD = Enrolment("p0001", "denoise", "natural", 5, 1)


def test_nodes_that_cannot_take_part_are_named(caplog):
    answers = {1: GOOD, 2: None, 3: Error(1, "broken"), 4: RecordDict(), 5: Enrolment("p5", error="no images")}
    assert names(gathered(answers)[2]) == ["p0001"]
    for text in ("node 2: no answer", "node 3: broken", "node 4", "node 5, client p5: no images"):
        assert text in caplog.text
    with pytest.raises(QuorumError, match="no images"):
        gathered({2: None, 5: answers[5]})
    with pytest.raises(QuorumError):
        gathered({1: GOOD, 5: answers[5]}, min_nodes=2)


def test_where_too_few_can_take_part_another_that_comes_is_taken_and_nobody_is_asked_twice(caplog):
    settings = {"min_nodes": 2, "wait_for_nodes_s": 20}
    wrong = Enrolment("p5", error="no images")
    grid, _, everyone = gathered({1: GOOD, 5: wrong}, comes={7: OTHER}, **settings)
    assert names(everyone) == ["p0001", "p0002"]
    assert sorted(grid.asked) == [1, 5, 7]
    assert "left out: node 5, client p5: no images" in caplog.text
    grid, _, everyone = gathered({4: wrong, 5: wrong}, comes={7: OTHER, 8: GOOD}, **settings)
    assert names(everyone) == ["p0001", "p0002"]


def test_where_nobody_can_take_part_others_are_waited_for_a_moment(monkeypatch):
    monkeypatch.setattr(roster_module, "ALONE_S", 0.1)
    began = time.monotonic()
    with pytest.raises(QuorumError, match="no images"):
        gathered({5: Enrolment("p5", error="no images")}, wait_for_nodes_s=100)
    assert time.monotonic() - began < 50


def test_a_node_that_is_mended_and_starts_again_is_asked_again():
    """It has the same number, and was away in between."""
    wrong, seen = Enrolment("p0002", error="no images"), []

    class Mended(Answers):
        def get_node_ids(self):
            seen.append(1)
            self.answers.pop(5, None) if len(seen) == 4 else None
            self.answers.update({5: OTHER}) if len(seen) == 5 else None
            return super().get_node_ids()

    grid = Mended({1: GOOD, 5: wrong})
    roster = Roster(grid, config(min_nodes=2, wait_for_nodes_s=30, enrol_timeout_s=1), Probe("", b"", ""))
    assert names(roster.gather()) == ["p0001", "p0002"]
    assert grid.asked == [1, 5, 5]


def test_of_two_nodes_of_one_name_the_second_is_left_out(caplog):
    _, _, everyone = gathered({1: GOOD, 2: GOOD})
    assert [one.node_id for one in everyone] == [1]
    assert "left out: node 2, client p0001" in caplog.text
    assert "state-dir" in caplog.text


def test_a_resumed_run_says_who_is_missing_and_who_is_new(caplog):
    _, _, everyone = gathered({1: GOOD})
    check_returned({}, everyone)
    check_returned({"p0001": "denoise"}, everyone)
    assert caplog.text.count("other clients") == 0
    check_returned({"p0001": "denoise", "p0009": "denoise"}, everyone)
    assert "without p0009, with nobody besides" in caplog.text
    check_returned({"p0009": "denoise"}, everyone)
    assert "with p0001 besides" in caplog.text


def test_a_resumed_run_without_a_task_is_refused():
    _, _, everyone = gathered({1: GOOD})
    with pytest.raises(QuorumError, match=r"deblock.*resume again"):
        check_returned({"p0001": "denoise", "p0002": "deblock"}, everyone)


def test_too_few_nodes_are_not_waited_for_for_ever():
    with pytest.raises(QuorumError, match="min_nodes"):
        wait_for_nodes(Answers({1: GOOD}), 2, 0.05)
    assert wait_for_nodes(Answers({2: GOOD, 1: GOOD}), 2, 5) == [1, 2]


# Between rounds.

OTHER = Enrolment("p0002", "denoise", "natural", 5, 1)


def test_where_nothing_changes_nobody_is_asked_again():
    grid, roster, everyone = gathered({1: GOOD, 2: OTHER, 3: Enrolment("p0003")})
    assert roster.refresh() == roster.refresh() == everyone
    assert grid.asked == [1, 2, 3]
    assert roster.absent == []


def test_a_node_that_comes_late_takes_part_in_the_next_round(caplog):
    caplog.set_level("INFO", "flwr")
    grid, roster, _ = gathered({1: GOOD})
    grid.answers[7] = OTHER
    assert names(roster.refresh()) == ["p0001", "p0002"]
    assert "node 7, client p0002, task denoise: takes part from now on" in caplog.text


def test_a_node_that_has_gone_is_skipped_and_asked_again_when_it_is_back(caplog):
    caplog.set_level("INFO", "flwr")
    grid, roster, _ = gathered({1: GOOD, 2: OTHER})
    gone = grid.answers.pop(2)
    assert names(roster.refresh()) == ["p0001"]
    assert roster.absent == ["node 2, client p0002, task denoise: not connected"]
    grid.answers[2] = gone
    assert names(roster.refresh()) == ["p0001", "p0002"]
    assert grid.asked == [1, 2, 2]
    assert roster.absent == []
    assert caplog.text.count("from now on") == 1


def test_a_lost_node_has_to_answer_before_it_takes_part_and_is_waited_for_once():
    grid, roster, _ = gathered({1: GOOD, 2: OTHER}, late_timeout_s=0.3)
    grid.answers[2] = None  # still listed as connected, as Flower does for up to a minute
    roster.doubt({2})
    began = time.monotonic()
    assert names(roster.refresh()) == ["p0001"]
    assert time.monotonic() - began > 0.29
    assert roster.absent == ["node 2, client p0002, task denoise: no answer since the last round"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(roster_module.time, "sleep", lambda _: pytest.fail("it is waited for again"))
        assert names(roster.refresh()) == ["p0001"]
    grid.answers[2] = OTHER  # the answer comes after all
    assert names(roster.refresh()) == ["p0001", "p0002"]
    assert grid.asked == [1, 2, 2]


def test_a_restarted_node_with_a_new_number_takes_the_old_one_s_place(caplog):
    grid, roster, _ = gathered({1: GOOD, 2: OTHER})
    grid.answers |= {2: None, 9: OTHER}
    assert [(one.client, one.node_id) for one in roster.refresh()] == [("p0001", 1), ("p0002", 9)]
    assert roster.absent == []
    grid.answers.pop(2)
    assert [one.node_id for one in roster.refresh()] == [1, 9]


def test_a_second_node_of_one_name_that_comes_late_is_left_out(caplog):
    grid, roster, _ = gathered({1: GOOD, 2: OTHER})
    grid.answers[9] = OTHER
    assert [one.node_id for one in roster.refresh()] == [1, 2]
    assert [one.node_id for one in roster.refresh()] == [1, 2]
    assert "node 9, client p0002" in caplog.text
    assert "state-dir" in caplog.text


def test_a_node_that_was_refused_takes_part_once_it_is_mended_and_is_reported_once(caplog):
    broken = Enrolment("p0002", error="no images")
    grid, roster, _ = gathered({1: GOOD, 2: broken})
    for _ in range(3):
        assert names(roster.refresh()) == ["p0001"]
    assert caplog.text.count("no images") == 1
    grid.answers[2] = OTHER
    roster.refresh()
    assert names(roster.refresh()) == ["p0001", "p0002"]


def test_when_nobody_is_left_the_run_waits_and_then_ends():
    grid, roster, _ = gathered({1: GOOD})
    grid.answers.clear()
    with pytest.raises(QuorumError, match="resume=true"):
        roster.refresh()


def test_the_superlink_may_answer_for_a_node_that_it_has_given_up(caplog):
    opened = Round()
    (one,) = people(1)
    opened.sessions[one.node_id] = (one, Session(one.client, one.task, None, "joint", 5, steps_done=5))
    asked = Message(content=RecordDict(), message_type=MessageType.TRAIN, dst_node_id=one.node_id)
    asked.metadata.__dict__["_message_id"] = "asked"
    opened.messages.append(asked)
    reply = Message(error=Error(5, "Error: Node Unavailable"), reply_to=asked)
    reply.metadata.__dict__["_src_node_id"] = 1
    assert sort_replies(opened, [reply], WEIGHTS, MOVED) == []
    assert opened.problems == ["node 100, client p0000, task denoise, joint: Error: Node Unavailable"]
    assert opened.lost == {100}


def test_an_error_of_a_node_s_own_does_not_put_it_in_doubt():
    opened = Round()
    (one,) = people(1)
    opened.sessions[one.node_id] = (one, Session(one.client, one.task, None, "joint", 5, steps_done=5))
    asked = Message(content=RecordDict(), message_type=MessageType.TRAIN, dst_node_id=one.node_id)
    sort_replies(opened, [Message(error=Error(1001, "ModelError"), reply_to=asked)], WEIGHTS, MOVED)
    assert opened.lost == set()


def test_a_node_that_could_not_reach_the_body_service_is_asked_again():
    """So that with wire.carrier=auto it is told to use messages, where it was sure of the stream."""
    opened = Round()
    (one,) = people(1)
    opened.sessions[one.node_id] = (one, Session(one.client, one.task, None, "joint", 5, steps_done=5))
    asked = Message(content=RecordDict(), message_type=MessageType.TRAIN, dst_node_id=one.node_id)
    sort_replies(opened, [Message(error=Error(UNREACHABLE, "no way"), reply_to=asked)], WEIGHTS, MOVED)
    assert opened.lost == {one.node_id}


def test_a_question_that_cannot_be_sent_is_reported_and_not_waited_for(caplog):
    grid = Answers({1: GOOD, 2: OTHER})
    push = grid.push_messages
    grid.push_messages = lambda messages: [None if i == "message-2" else i for i in push(messages)]
    roster = Roster(grid, config(enrol_timeout_s=20, wait_for_nodes_s=0.05), Probe("", b"", ""))
    began = time.monotonic()
    assert names(roster.gather()) == ["p0001"]
    assert time.monotonic() - began < 10
    assert "node 2: the question could not be sent to it" in caplog.text
    assert names(roster.refresh()) == ["p0001", "p0002"]  # asked again


@pytest.mark.parametrize(("count", "slots", "most"), [(100, 2, 2), (3, 8, 3), (5, 0, 5), (0, 0, 0)])
def test_as_many_are_at_work_at_once_as_there_are_slots(count, slots, most):
    assert at_once(people(count, slots)) == most


def test_one_whose_node_has_no_slots_waits_for_nobody():
    assert at_once([*people(3, slots=2), *people(1, slots=0)]) == 4


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
BODY_ARRAYS = tensors_to_arrays({"body/w": torch.ones(2, 3)})
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
        opened.sessions[one.node_id] = (one, Session(one.client, one.task, None, phase, 5, steps_done=5))
        message = Message(content=RecordDict(), message_type=MessageType.TRAIN, dst_node_id=one.node_id)
        if isinstance(content, Error):
            replies.append(Message(error=content, reply_to=message))
        elif content is not None:
            replies.append(Message(content=content, reply_to=message))
    averages = Averages([(one.task, one.client) for one, _ in opened.sessions.values()], "uniform")
    kind = MOVED if expect_weights else SCORES
    usable = sort_replies(opened, reversed(replies), WEIGHTS, kind, averages if expect_weights else None)
    assert [reply.participant.client for reply in usable] == ["p0000"]
    assert all(problem.startswith("node 101, client p0001, task denoise") for problem in opened.problems)
    assert len(opened.problems) == 1
    return opened.problems[0], averages.result().get("denoise")


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
    problem, (head, tail) = sort(reply)
    assert says in problem
    assert torch.equal(head["w"], part(2.0)["w"])
    assert torch.equal(tail["w"], part(3.0)["w"])


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


@pytest.mark.parametrize("bad", [Error(1001, "ModelError"), content(head=part(float("nan")))], ids=["error", "nan"])
def test_nobody_s_weights_wait_for_a_client_that_is_left_out(bad):
    opened, replies = Round(), []
    for one, answer in zip(people(2), (bad, content()), strict=True):
        opened.sessions[one.node_id] = (one, Session(one.client, one.task, None, "joint", 5, steps_done=5))
        asked = Message(content=RecordDict(), message_type=MessageType.TRAIN, dst_node_id=one.node_id)
        is_error = isinstance(answer, Error)
        replies.append(Message(**{"error" if is_error else "content": answer}, reply_to=asked))
    averages = Averages([(one.task, one.client) for one, _ in opened.sessions.values()], "uniform")
    assert len(sort_replies(opened, replies, WEIGHTS, MOVED, averages)) == 1
    assert averages._here == {}


def test_an_unknown_node_is_named_and_its_weights_are_not_used(caplog):
    opened = Round()
    message = Message(content=RecordDict(), message_type=MessageType.TRAIN, dst_node_id=999)
    assert sort_replies(opened, [Message(content=content(), reply_to=message)], WEIGHTS, MOVED) == []
    assert opened.problems == ["node 999: a reply that nobody asked for"]
    assert "node 999" in caplog.text


def test_a_client_that_says_it_is_done_before_the_service_saw_all_its_steps_is_left_out():
    opened = Round()
    (one,) = people(1)
    opened.sessions[one.node_id] = (one, Session(one.client, one.task, None, "joint", 5, steps_done=4))
    message = Message(content=RecordDict(), message_type=MessageType.TRAIN, dst_node_id=one.node_id)
    assert sort_replies(opened, [Message(content=content(), reply_to=message)], WEIGHTS, MOVED) == []
    assert "5 steps" in opened.problems[0]
    assert "4 that the body service saw" in opened.problems[0]


def test_a_second_reply_of_one_node_is_not_used():
    opened = Round()
    (one,) = people(1)
    opened.sessions[one.node_id] = (one, Session(one.client, one.task, None, "joint", 5, steps_done=5))
    message = Message(content=RecordDict(), message_type=MessageType.TRAIN, dst_node_id=one.node_id)
    replies = [Message(content=content(), reply_to=message) for _ in range(2)]
    assert len(sort_replies(opened, replies, WEIGHTS, MOVED)) == 1
    assert len(opened.problems) == 1
