"""The demo's verdict: it fails when Flower, a client or a task does, whatever the exit codes say."""

import io
import json

import pytest
from rich.console import Console

from simulations.demo import gather_pictures, report
from simulations.flower import Flower, RunOutcome
from simulations.places import federation_config
from simulations.processes import free_port

ROW = {"images": 2, "psnr_db": 28.0, "input_psnr_db": 19.0, "ssim": 0.8, "before": {"psnr_db": 19.0}}


@pytest.fixture
def verdict(tmp_path):
    def make(row=ROW, left_out=(), status="finished:completed", results=True):
        if results:
            totals = {"steps": 10, "wall_s": 2.0, "bytes_up": 1, "bytes_down": 1}
            (tmp_path / "results.json").write_text(json.dumps({"tasks": {"denoise": row}, **totals}))
            (tmp_path / "metrics.jsonl").write_text(json.dumps({"event": "train", "left_out": list(left_out)}) + "\n")
        console = Console(file=io.StringIO(), width=200)
        code = report(console, RunOutcome(1, status, ""), tmp_path, [])
        return code, console.file.getvalue()

    return make


def test_a_good_run_is_a_table_and_three_places(verdict, tmp_path):
    code, text = verdict()
    assert code == 0
    assert "+9.00" in text
    for place in ("results.json", "pictures", "checkpoints"):
        assert str(tmp_path / place) in text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"row": ROW | {"psnr_db": 18.9}}, "denoise ended at 18.90 dB, not above its input's 19.00 dB"),
        ({"left_out": ["node 7, client p0001: gone"]}, "node 7, client p0001: gone"),
        ({"status": "finished:failed"}, "finished:failed"),
        ({"results": False}, "no results were written"),
    ],
)
def test_anything_wrong_is_a_failure(verdict, change, said):
    code, text = verdict(**change)
    assert code == 1
    assert said in text


def test_pictures_are_gathered_each_image_once(tmp_path):
    for client in ("p0001", "p0002"):
        folder = tmp_path / "state" / "run" / client / "pictures"
        folder.mkdir(parents=True)
        for number in (1, 2):
            (folder / f"deblock-{number}.png").write_bytes(client.encode())
    gathered = gather_pictures(tmp_path / "state", tmp_path / "out")
    assert [(path.name, path.read_text()) for path in gathered] == [
        ("deblock-1.png", "p0001"), ("deblock-2.png", "p0001"),
    ]  # fmt: skip


def test_the_federation_lets_all_clients_run_at_once():
    assert federation_config(5) == "num-supernodes=5 client-resources-num-cpus=1 init-args-num-cpus=5"
    assert federation_config(100, 8) == "num-supernodes=100 client-resources-num-cpus=1 init-args-num-cpus=8"
    assert federation_config(100, 8, cluster=True) == "num-supernodes=100 client-resources-num-cpus=1"


def test_a_run_joins_a_ray_cluster_only_when_told(tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert Flower(tmp_path, {}).env["RAY_ADDRESS"] == "local"
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert Flower(tmp_path, {}).env["RAY_ADDRESS"] == "10.0.0.1:6379"


@pytest.mark.parametrize(("clients", "gpus", "share"), [(3, 1, 0.3333), (5, 2, 0.3333), (2, 4, 1.0)])
def test_clients_share_the_gpus(clients: int, gpus: int, share: float) -> None:
    config = federation_config(clients, gpus=gpus)
    assert config.endswith(f" client-resources-num-gpus={share} init-args-num-gpus={gpus}")
    assert share * -(-clients // gpus) <= 1
    assert 1024 < free_port() < 65536
