"""Where scripts write: never over what they did not make, and wherever a path may lead."""

from contextlib import contextmanager

import pytest
from flwr.cli.build import get_filtered_fab_paths

from simulations import demo
from simulations.flower import ROOT, RunOutcome
from simulations.folders import app_alone, own_folder
from tavit_flwr.config import compose


def test_a_new_and_an_empty_folder_are_taken(tmp_path):
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "new" / "one", tmp_path / "empty"):
        assert [path.name for path in own_folder(folder, "demo").iterdir()] == [".made-by-simulations-demo"]


def test_what_the_script_made_is_replaced_or_kept(tmp_path):
    folder = own_folder(tmp_path / "out", "demo")
    (folder / "results.json").touch()
    assert (own_folder(folder, "demo", keep=True) / "results.json").exists()
    assert not (own_folder(folder, "demo") / "results.json").exists()


def test_what_another_made_is_never_touched(tmp_path):
    other = own_folder(tmp_path / "federation", "federation")
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").touch()
    (tmp_path / "file").touch()
    for folder in (mine, other, tmp_path / "file"):
        for keep in (True, False):
            with pytest.raises(SystemExit, match="choose another --output"):
                own_folder(folder, "demo", keep=keep)
    assert (mine / "thesis.tex").exists()
    assert (tmp_path / "file").is_file()


class FakeFlower:
    """Takes note of the overrides, and says that the run failed."""

    def __init__(self):
        self.asked = []

    def run(self, overrides, clients, **options):
        self.asked.append(compose(overrides))
        return RunOutcome(1, "finished:failed", "")


@pytest.fixture
def flower(monkeypatch):
    fake = FakeFlower()

    @contextmanager
    def local_flower(home, environment):
        home.mkdir()
        yield fake

    monkeypatch.setattr(demo, "local_flower", local_flower)
    return fake


@pytest.mark.parametrize("name", ["plain", "with space", "a,b=c(d)", "it's", "${HOME}", 'quo"te'])
def test_the_demo_writes_where_it_was_told(flower, tmp_path, name):
    output = tmp_path / name
    assert demo.main(["experiment=tiny", "schedule.phases=[{kind: joint, steps: 2}]", "--output", str(output)]) == 1
    (config,) = flower.asked
    assert config.output_dir == str(output)
    assert [(phase.kind, phase.steps) for phase in config.schedule.phases] == [("joint", 2)]


def test_the_demo_replaces_its_folder_unless_it_resumes(flower, tmp_path):
    output = tmp_path / "out"
    words = ["experiment=tiny", "--output", str(output)]
    demo.main(words)
    for path in (output / "checkpoints", output / "state"):
        path.mkdir()
    demo.main(["resume=true", *words])
    assert (output / "checkpoints").is_dir()
    assert (output / "state").is_dir()
    assert flower.asked[-1].resume
    demo.main(words)
    assert not (output / "checkpoints").exists()


@pytest.mark.parametrize("wrong", ["sed=1", "tasks.denoise.degradation=nois", "data=folder", "output_dir=/elsewhere"])
def test_wrong_overrides_cost_nothing(flower, tmp_path, wrong):
    output = own_folder(tmp_path / "out", "demo")
    (output / "results.json").touch()
    with pytest.raises(SystemExit, match="ConfigError"):
        demo.main(["experiment=tiny", wrong, "--output", str(output)])
    assert (output / "results.json").exists()
    assert flower.asked == []


def test_the_app_alone_is_what_flower_packs_of_the_package_and_its_configuration_and_goes_again(tmp_path):
    with app_alone(ROOT, tmp_path) as app:
        packed = get_filtered_fab_paths({str(path.relative_to(app)): path for path in app.rglob("*")}, {})
        assert {name.split("/")[0] for name in packed} == {"tavit_flwr", "conf", "README.md", "LICENSE"}
        for folder, kind in (("tavit_flwr", "*.py"), ("conf", "*.yaml")):
            assert {str(path.relative_to(ROOT)) for path in (ROOT / folder).rglob(kind)} <= set(packed)
        assert (app / "pyproject.toml").read_bytes() == (ROOT / "pyproject.toml").read_bytes()
    assert list(tmp_path.iterdir()) == []
