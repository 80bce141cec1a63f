"""Configuration: what is offered composes, and what does not fit is explained."""

import dataclasses
import itertools

import pytest
from flwr.app import DEFAULT_TTL

from tavit_flwr.config import compose, conf_dir, from_json, to_dict, to_json
from tavit_flwr.errors import ConfigError

GROUPS = sorted(path.name for path in conf_dir().iterdir() if path.is_dir() and path.name != "task")
CHOICES = [
    (group, path.stem) for group in GROUPS for path in sorted((conf_dir() / group).glob("*.yaml"))
]  # fmt: skip


@pytest.fixture(scope="module")
def tiny():
    return compose("experiment=tiny")


def test_the_default_composes():
    config = compose()
    assert config.name == "demo"
    assert set(config.tasks) == set(config.clients)
    assert config.schedule.phases


@pytest.mark.parametrize(("group", "choice"), CHOICES, ids=["=".join(one) for one in CHOICES])
def test_every_choice_composes_and_survives_json(group, choice):
    extra = {
        ("data", "folder"): ["data.folder=/images"],
        ("data", "paired"): ["data.folder=/images", "clients=[derain]"],
    }.get((group, choice), [])
    if group == "experiment":
        text = (conf_dir() / group / f"{choice}.yaml").read_text()
        extra = ["data.folder=/images"] if "/data: folder" in text or "/data: paired" in text else []
    config = compose([f"{group}={choice}", *extra])
    assert from_json(to_json(config)) == config


def test_the_tiny_experiment_is_what_it_says(tiny):
    assert tiny.model.preset == "tiny"
    assert tiny.clients == ["denoise", "deblock"]
    assert sorted(tiny.tasks) == ["deblock", "denoise"]
    assert [phase.kind for phase in tiny.schedule.phases] == ["task-specific", "task-agnostic"]


def test_a_group_chosen_on_the_command_line_wins():
    config = compose("experiment=tiny model=paper schedule=paper")
    assert config.model.preset == "paper"
    assert config.schedule == compose("schedule=paper").schedule
    assert compose("experiment=tiny schedule.cycles=7 seed=3").schedule.cycles == 7


def test_words_are_split_as_a_shell_does():
    config = compose("experiment=tiny data=folder 'clients=[denoise, derain]' data.folder=\"/a b\"")
    assert config.clients == ["denoise", "derain"]
    assert config.data.folder == "/a b"
    assert list(config.tasks) == ["denoise", "derain"]


def test_only_used_tasks_are_kept():
    assert list(compose("experiment=tiny clients=[derain]").tasks) == ["derain"]


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["model=smal"], r"model to be one of.*'smal'.*did you mean 'small'"),
        (["experiment=tyny"], r"did you mean 'tiny'"),
        (["schedule.cycle=2"], r"'schedule.cycle'.*did you mean 'schedule.cycles'"),
        (["optimiser.client.learning_rate=1"], r"known configuration key"),
        (["sed=3"], r"did you mean 'seed'"),
        (["clients=[denoise,deblurr]"], r"'deblurr'.*did you mean 'deblur'"),
        (["clients=[]"], r"at least one client"),
        (["schedule.cycles=two"], r"'two'.*schedule.cycles=two"),
        (["data.halve_jpeg=perhaps"], r"'perhaps'"),
        (["schedule.cycles=0"], r"above zero.*schedule.cycles"),
        (["schedule.phases=[{kind: joint, rounds: 1, steps: 0}]"], r"schedule.phases\[0\].steps"),
        (["schedule.phases=[{kind: joint, rounds: -1, steps: 2}]"], r"schedule.phases\[0\].rounds"),
        (["schedule.phases=[{kind: join, rounds: 1, steps: 2}]"], r"did you mean 'joint'"),
        (["schedule.phases=[]"], r"at least one phase"),
        (["data.source=folders"], r"did you mean 'folder'"),
        (["federation.quorum=1.5"], r"federation.quorum"),
        (["federation.quorum=0"], r"federation.quorum"),
        (["federation.cohort=some"], r"federation.cohort"),
        (["optimiser.client.lr=0"], r"optimiser.client.lr"),
        (["optimiser.client.decay=cosinus"], r"optimiser.client.decay.*did you mean 'cosine'"),
        (["wire.step_timeout_s=-1"], r"wire.step_timeout_s"),
        (["bodies=[natural, '../x']"], r"names of tasks and bodies.*'\.\./x'"),
        (["tasks.denoise.body=natral"], r"\['natural', 'ct'\].*'natral'.*tasks\.denoise\.body.*did you mean 'natural'"),
        (["tasks.denoise.body=medical"], r"'medical'.*first named in 'bodies'"),
        (["bodies=[]"], r"tasks\.denoise\.body"),
        (["+foo=1"], r"'foo'"),
        (["+data.fodler=1"], r"did you mean 'data.folder'"),
        (["++seed=1"], r"'seed'"),
        (["~seed"], r"'seed'"),
        (["seed=1=["], r"expected"),
        (["optimiser.client.lr=nan"], r"optimiser.client.lr"),
        (["wire.step_timeout_s=inf"], r"wire.step_timeout_s"),
        (["optimiser.client.beta1=1"], r"\[0, 1\).*1\.0.*optimiser\.client\.beta1"),
        (["optimiser.server.beta2=-0.1"], r"optimiser\.server\.beta2"),
        (["data.held_out=0"], r"data\.held_out"),
        (["model.time_step=-1"], r"model\.time_step"),
        (["wire.listen=foo"], r"host:port.*'foo'.*wire\.listen"),
        (["wire.listen=localhost:65536"], r"wire\.listen"),
        (["wire.advertise=localhost:0"], r"wire\.advertise"),
        (["wire.listen=0.0.0.0:9092"], r"none, and wire\.listen=0\.0\.0\.0:9092.*wire\.advertise"),
        (["name=../../x"], r"'\.\./\.\./x'.*'name'"),
        (["output_dir=outputs"], r"absolute folder.*'outputs'.*output_dir"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_does_not_fit_is_explained(overrides, says):
    with pytest.raises(ConfigError, match=says):
        compose(["experiment=tiny", *overrides])


def test_a_task_may_have_a_body_of_its_own():
    config = compose(["experiment=tiny", "bodies=[natural, medical]", "tasks.denoise.body=medical"])
    assert {task: one.body for task, one in config.tasks.items()} == {"denoise": "medical", "deblock": "natural"}


@pytest.mark.parametrize(
    "overrides",
    [
        ["wire.listen=localhost:9092"], ["wire.listen='[::1]:0'"], ["output_dir='~/outputs'"],
        ["wire.listen=0.0.0.0:9092", "wire.advertise=server.example.org:9092"],
    ],
)  # fmt: skip
def test_addresses_and_folders_of_usual_forms_compose(overrides):
    compose(["experiment=tiny", *overrides])


def test_an_unclosed_quote_is_explained():
    with pytest.raises(ConfigError):
        compose("experiment=tiny 'clients=[denoise")


def test_options_of_presets_and_degradations_may_be_added():
    config = compose(
        ["experiment=tiny", "+model.overrides.body_layers=3", "+tasks.denoise.options.clip=true",
         "tasks.denoise.options.sigma_255=15"]
    )  # fmt: skip
    assert config.model.overrides == {"body_layers": 3}
    assert config.tasks["denoise"].options == {"sigma_255": 15, "clip": True}


def test_every_number_that_must_be_positive_is_checked(tiny):
    """A zero or negative number must never reach a run; the message names the key."""
    numbers = [
        key
        for key in all_keys(to_dict(tiny))
        if key.endswith(("_s", "_mib", "batch_size", "stride", "crop", "cycles", "max_sessions", "min_nodes", "lr"))
        and not isinstance(_get(tiny, key), dict)
    ]
    assert len(numbers) > 12
    for key in numbers:
        with pytest.raises(ConfigError, match=key):
            compose(["experiment=tiny", f"{key}=-1"])


def deadlines(*overrides):
    config = compose(["experiment=tiny", *overrides])
    return config.wire.session_timeout_s, config.federation.round_timeout_s


def test_deadlines_follow_the_longest_session():
    steps = "schedule.phases=[{kind: joint, rounds: 1, steps: 9}, {kind: joint, rounds: 9, steps: 400}]"
    assert deadlines(steps) == (120 + 400 * 60, 120 + 400 * 60 + 600)
    assert deadlines(steps, "wire.step_timeout_s=10", "wire.join_timeout_s=5") == (5 + 4000, 5 + 4000 + 600)
    assert deadlines() == (3600, 4200)  # evaluation has steps of its own


def test_deadlines_end_where_flower_forgets_the_round():
    assert deadlines("model=paper", "schedule=paper") == (DEFAULT_TTL - 600, DEFAULT_TTL)


def test_deadlines_that_are_given_are_kept():
    assert deadlines("wire.session_timeout_s=60", "federation.round_timeout_s=30") == (60, 30)
    assert deadlines("wire.session_timeout_s=60") == (60, 660)


def all_keys(node, prefix=""):
    inner = node.items() if isinstance(node, dict) else ()
    return [prefix.rstrip("."), *(key for name, value in inner for key in all_keys(value, f"{prefix}{name}."))]


def _get(config, key):
    for name in key.split("."):
        config = config[name] if isinstance(config, dict) else getattr(config, name)
    return dataclasses.asdict(config) if dataclasses.is_dataclass(config) else config


def test_clients_may_be_counted():
    config = compose("experiment=tiny 'clients=[denoise*3, deblock, denoise*2]'")
    assert config.clients == ["denoise"] * 3 + ["deblock"] + ["denoise"] * 2
    assert to_dict(config)["clients"] == config.clients
    assert compose("experiment=tiny 'clients=[denoise*1]'").clients == ["denoise"]


def test_a_message_grows_with_the_number_of_tasks_and_not_of_clients(tiny):
    many = compose("experiment=tiny 'clients=[denoise*3000, deblock*2000]'")
    assert len(to_json(many)) < len(to_json(tiny)) + 20
    assert from_json(to_json(many)) == many


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ("denoise*0", "how many"), ("denoise*", "how many"), ("denoise*-1", "how many"), ("denoise*2*2", "how many"),
        ("denoise*99999, deblock*2", "100,000 clients"), ("denoize*3", "did you mean 'denoise'"),
    ],
)  # fmt: skip
def test_counts_that_cannot_be(entry, says):
    with pytest.raises(ConfigError, match=says):
        compose(["experiment=tiny", f"clients=[{entry}]"])


@pytest.mark.parametrize("text", ["", "[]", "null", "{", '{"nme": 1}', '{"seed": "many"}', '{"clients": 5}'])
def test_json_of_another_form_is_refused(text):
    with pytest.raises(ConfigError):
        from_json(text)


def test_json_is_validated_like_everything_else(tiny):
    import json

    changed = to_dict(tiny) | {"keep_checkpoints": 0}
    with pytest.raises(ConfigError, match="keep_checkpoints"):
        from_json(json.dumps(changed))


def test_to_json_is_stable(tiny):
    again = compose("experiment=tiny")
    assert to_json(again) == to_json(tiny)
    assert len(set(itertools.chain([to_json(again), to_json(from_json(to_json(again)))]))) == 1
