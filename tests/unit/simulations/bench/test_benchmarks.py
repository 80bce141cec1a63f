"""The benchmarks' own arithmetic; two small ones whole. Times are never asserted."""

import importlib
import json

import pytest
import torch

from simulations.bench import __main__ as every
from simulations.bench import breakdown, cases, phases, scale, steps, unsplit, wire_bytes, wire_types
from simulations.bench.record import NAMES
from simulations.bench.rig import Stopwatch
from simulations.bench.watch import Watch, disk_mib, family
from simulations.flower import RunOutcome
from tavit_flwr.config import compose
from tavit_flwr.errors import SessionError


@pytest.mark.parametrize("name", every.BENCHMARKS)
def test_every_benchmark_is_a_command_that_tells_what_it_measures(name, capsys):
    module = importlib.import_module(f"simulations.bench.{name}")
    with pytest.raises(SystemExit) as ended:
        module.main(["--help"])
    assert ended.value.code == 0
    told = capsys.readouterr().out
    assert "--quick" in told
    assert f"python -m simulations.bench.{name}" in told


def test_bytes_are_counted_by_wire_type(tmp_path, monkeypatch):
    monkeypatch.setattr(wire_bytes, "PRESETS", ("tiny",))
    monkeypatch.setattr(wire_bytes, "STEPS", 2)
    records = wire_bytes.main(["--quick", "--output", str(tmp_path / "bytes.json")])
    assert [one.name for one in records] == ["bytes_ratio/bfloat16", "bytes_ratio/int8"]
    rows = json.loads((tmp_path / "bytes.json").read_text())["rows"]
    assert {(row["phase"], row["type"]) for row in rows} == {
        (phase, kind) for phase in ("task-specific", "task-agnostic") for kind in ("float32", "bfloat16", "int8")
    }
    assert all(row["frame_bytes"] < min(row["stream_bytes"], row["message_bytes"]) for row in rows)
    sizes = {(row["phase"], row["type"]): row["frame_bytes"] for row in rows}
    tensor = 4 * 32 * 16 * 16 * 4
    assert 4 * tensor < sizes["task-specific", "float32"] < 4.1 * tensor
    assert 0.5 < records[0].ratio < 0.51
    assert 0.25 < records[1].ratio < 0.3


def rows_of(*ratios):
    return [
        {
            "carrier": "simulation", "preset": "small", "clients": 2, "phase": phase,
            "split_ms": 10 * ratio, "unsplit_ms": 10.0,
        }
        for ratio in ratios
        for phase in ("task-specific", "task-agnostic")
    ]  # fmt: skip


def test_a_record_of_steps_is_of_both_phases_round_by_round():
    rows = rows_of(1.0, 2.0, 3.0)
    rows[0]["split_ms"] = 20.0  # the first round's task-specific phase
    (one,) = steps.records(rows)
    assert one.name == "step_ratio/simulation/small/2"
    assert (one.baseline, one.ratio) == (10.0, 2.0)
    assert one.spread == pytest.approx(0.75)


def test_a_record_of_scale_takes_each_ten_beside_the_hundred():
    rows = [
        {"clients": clients, "client_round_ms": ms, "memory_mib": 1000 * ms}
        for clients, ms in ((10, 2.0), (100, 3.0), (10, 4.0))
    ]
    time, memory = scale.records(rows)
    assert (time.name, time.value, time.baseline, time.ratio) == ("scale_time/100_vs_10", 3.0, 3.0, 1.125)
    assert time.spread > 0
    assert memory.ratio == 1.125
    assert scale.records(rows[:1]) == []


def test_frozen_parts_stand_beside_moving_ones():
    """Heads and tails move in the task-specific phase, the body in the other one."""
    specific, agnostic = (
        phases.StepTime(name, 3.0 * factor, factor, dict.fromkeys(phases.PASSES, factor))
        for name, factor in (("task-specific", 2.0), ("task-agnostic", 1.0))
    )
    rows = {row["what"]: (row["frozen_ms"], row["moving_ms"]) for row in phases.compared(specific, agnostic)}
    assert rows["client"] == (3000, 6000)
    assert rows["server"] == (2000, 1000)
    assert rows["head backward"] == rows["tail forward"] == (1000, 2000)
    assert rows["body backward"] == (2000, 1000)


def test_autocast_counts_in_the_unsplit_loop_and_in_a_client(make_images, tmp_path):
    torch.set_num_threads(1)
    given = cases.words("tiny", 1, make_images(tmp_path / "photographs"), "compute.autocast=bfloat16")
    loop = unsplit.UnsplitLoop(cases.config_of(given))
    client = breakdown.Client(cases.config_of(given), loop.batch_of_first, Stopwatch())
    parts = (loop._body, loop._clients[0].head, loop._clients[0].tail, client._head, client._tail)
    assert all(part.tavit_autocast for part in parts)


def test_types_are_compared_at_equal_steps(make_images, tmp_path):
    """The bytes are the type's, and so is what it loses; the same type loses nothing."""
    pictures = make_images(tmp_path / "photographs", 4)
    trained = []
    for number, kind in enumerate(("float32", "float32", "int8")):
        smaller = ("data.held_out=1", "evaluation.stride=32", "compute.client_threads=1", "compute.server_threads=1")
        given = wire_types.experiment(pictures, 6, *wire_types.TYPES[kind], *smaller, preset="tiny")
        pair = wire_types.Pair(compose(given), tmp_path / str(number))
        trained.append(wire_types.Trained(pair, pair.train(), pair.score("float32", "float32")[0]))
    plain, again, int8 = trained
    assert plain.bytes_a_step == again.bytes_a_step
    assert plain.psnr_db == again.psnr_db
    assert int8.psnr_db != plain.psnr_db
    row = wire_types.compared([(int8.psnr_db, int8.bytes_a_step)], [plain], plain.bytes_a_step, 0.1)
    assert row["lost_db"] == plain.psnr_db - int8.psnr_db
    assert 0.25 < row["share"] < 0.35
    assert plain.pair.score_without_features() != plain.psnr_db == plain.pair.score("float32", "float32")[0]


def test_evaluation_s_own_type_is_the_cheapest_and_loses_less_than_a_hundredth_of_a_db(make_images, tmp_path):
    """Where all that the tail knows of an image has crossed the wire, and weights are such that it counts."""
    given = wire_types.experiment(
        make_images(tmp_path / "photographs", 4), 6, "+model.overrides.head_kind=permuted", "data.held_out=2",
        "evaluation.stride=32", "compute.client_threads=1", "compute.server_threads=1", preset="tiny",
    )  # fmt: skip
    pair = wire_types.Pair(compose(given), tmp_path / "state")
    draws = torch.Generator().manual_seed(0)
    for tensor in pair._tensors.values():
        tensor.add_(0.1 * torch.randn(tensor.shape, generator=draws))
    plain_db, plain_bytes = pair.score("float32", "float32")
    default = compose(given).wire.dtypes.evaluation
    own_db, own_bytes = pair.score(default.up, default.down)
    assert own_bytes < 0.28 * plain_bytes
    assert 0 < abs(plain_db - own_db) < 0.01
    assert plain_db - pair.score_without_features() > 0.1


def test_quick_cases_have_names():
    for carrier, listed in steps.QUICK.items():
        for preset, clients in listed:
            assert NAMES.fullmatch(f"step_ratio/{carrier}/{preset}/{clients}")


class FakeFlower:
    """Writes the lines of a run."""

    def __init__(self, clients):
        self.clients = clients
        self.config = None

    def run(self, overrides, nodes):
        self.config = compose(overrides)
        output = cases.Path(self.config.output_dir)
        output.mkdir(parents=True)
        lines = [
            {"event": "train", "round": number, "phase": phase.kind, "task": task, "clients": [task]}
            for number, phase in enumerate(self.config.schedule.phases, start=1)
            for task in self.clients
        ]
        (output / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return RunOutcome(1, "finished:completed", "")


def test_a_run_is_measured_only_if_every_client_took_part(tmp_path):
    given = cases.words("tiny", 2, tmp_path)
    whole = FakeFlower(["denoise", "deblock"])
    _, lines = cases.train(whole, given, tmp_path / "with space", rounds=1, steps=7, nodes=2)
    assert [line["task"] for line in cases.round_lines(lines, "task-specific")] == ["deblock"]
    assert [(one.kind, one.steps) for one in whole.config.schedule.phases] == [
        ("task-specific", 7), ("task-agnostic", 7)
    ]  # fmt: skip
    with pytest.raises(SessionError, match="every client took part"):
        cases.train(FakeFlower(["denoise"]), given, tmp_path / "other", rounds=1, steps=7, nodes=2)


@pytest.mark.parametrize("faster", [1, 2])
def test_the_unsplit_loop_has_the_faster_number_of_threads(make_images, tmp_path, monkeypatch, faster):
    """Small tensors are slower on all cores than on one: the limit is what this machine can do."""
    monkeypatch.setattr(unsplit, "cores", lambda: 2)
    given = cases.words("tiny", 2, make_images(tmp_path / "photographs"))
    loop = unsplit.UnsplitLoop(cases.config_of(given))
    monkeypatch.setattr(
        loop, "cost", lambda phase, *_: unsplit.Cost(0.1 if loop._threads[phase] == faster else 0.9, 1.0)
    )
    assert loop.threads("task-specific") == faster
    loop._threads = {}
    monkeypatch.setattr(loop, "cost", lambda phase, *_: unsplit.Cost(1.1, 1.0))  # one thread is not even tried
    assert loop.threads("task-specific") == 2


def test_the_unsplit_loop_steps_every_client(make_images, tmp_path):
    loop = unsplit.UnsplitLoop(cases.config_of(cases.words("tiny", 2, make_images(tmp_path / "photographs"))))
    loop._threads = dict.fromkeys(unsplit.PHASE_NAMES, 1)
    for phase, moved in (("task-specific", "client"), ("task-agnostic", "body")):
        before = [loop._clients[0].head, loop._body]
        before = [[one.clone() for one in part.parameters()] for part in before]
        assert loop.median_cost(phase, 2, 2).wall_s > 0
        after = [loop._clients[0].head.parameters(), loop._body.parameters()]
        changed = [
            any(not torch.equal(one, other) for one, other in zip(old, new, strict=True))
            for old, new in zip(before, after, strict=True)
        ]
        assert changed == [moved == "client", moved == "body"]


def test_a_stopwatch_counts_what_a_function_takes():
    class Owner:
        def work(self, value):
            return value + 1

    watch = Stopwatch()
    watch.around(Owner, "work", "work")
    assert Owner().work(1) == 2
    assert watch.calls == {"work": 1}
    assert set(watch.take()) == {"work"}
    assert watch.take() == {}


def test_processor_time_between_two_moments_is_read_between_samples(tmp_path):
    watch = Watch(tmp_path)
    watch._times, watch._totals = [10.0, 20.0, 30.0], [0.0, 5.0, 25.0]
    assert watch.cpu_s(15.0, 25.0) == 12.5
    assert watch.cpu_s(5.0, 35.0) == 25.0


def test_only_what_was_started_with_a_home_is_watched(tmp_path):
    (tmp_path / "file").write_bytes(b"x" * 2**20)
    assert disk_mib(tmp_path) == 1.0
    assert family(tmp_path / "nobody's") == set()
