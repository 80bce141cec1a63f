"""The page: what it shows, that it needs nothing else, that names cannot break it, and a real browser opens it."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
from PIL import Image

from tavit_flwr.config import compose, to_dict
from tavit_flwr.server.page import read_pictures, render
from tavit_flwr.server.page.charts import Series, bars, lines
from tavit_flwr.server.page.shape import times

CONFIG = to_dict(compose("experiment=tiny"))


def history(tasks=("denoise", "deblock"), clients=1, rounds=2, left_out=()):
    found = []
    for task in tasks:
        found.append(scores(task, 0, "before training", 0.0, 20.0))
    for number in range(1, rounds + 1):
        phase = "task-specific" if number % 2 else "task-agnostic"
        for task in tasks:
            found.append(
                {
                    "event": "train", "round": number, "cycle": number / 2, "phase": phase, "task": task,
                    "clients": [f"{task}-{index}" for index in range(clients)], "round_bytes_up": 3 * 2**20,
                    "round_bytes_down": 2**20, "round_wall_s": 9.0, "round_session_s": 8.0, "compute_s": 5.0,
                    "wait_s": 2.0, "server_s": 1.5, "body_s": 0.5, "loss_first": 0.2, "loss_last": 0.1,
                    "loss_mean": 0.1 / number,
                    "left_out": list(left_out),
                }
            )  # fmt: skip
            found.append(scores(task, number, phase, number / 2, 20.0 + number))
    return found


def scores(task, number, phase, cycle, psnr_db):
    return {
        "event": "evaluate", "round": number, "cycle": cycle, "phase": phase, "task": task, "images": 2,
        "psnr_db": psnr_db, "ssim": psnr_db / 50, "input_psnr_db": 20.0, "input_ssim": 0.4, "left_out": [],
    }  # fmt: skip


def page(lines_=None, **options):
    options = {"rounds": 2, "rounds_planned": 2, "final": True} | options
    return render(history() if lines_ is None else lines_, CONFIG, **options)


class Checker(HTMLParser):
    """Collects what a page asks for and what a reader without eyes gets."""

    void = frozenset({"meta", "img", "input"})

    def __init__(self):
        super().__init__()
        self.open, self.sources, self.unlabelled, self.problems = [], [], [], []

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.sources += [attributes[key] for key in ("src", "href") if key in attributes]
        if tag == "img" and "alt" not in attributes:
            self.unlabelled.append(attributes)
        if tag == "svg" and not (attributes.get("role") == "img" and attributes.get("aria-label")):
            self.unlabelled.append(attributes)
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.problems.append(tag)


def checked(text):
    checker = Checker()
    checker.feed(text)
    assert checker.problems == []
    assert checker.open == []
    assert checker.unlabelled == []
    assert all(source.startswith("data:") for source in checker.sources), "the page asks for other files"
    assert "http://" not in text
    assert "https://" not in text
    return text


def test_scores_gain_and_marks():
    text = checked(page())
    assert "+2.00" in text  # 22 after 20
    first = text[text.index("PSNR of held-out images") :]
    first = first[: first.index("</svg>")]
    assert first.count("<circle") == 2 * 2  # before training, after the task-agnostic phase
    assert first.count('<path d="M') == 2 * 1  # crosses after the task-specific one


def test_a_running_page_loads_itself_again_and_a_final_one_does_not():
    assert 'http-equiv="refresh"' in page(final=False)
    assert 'http-equiv="refresh"' not in page(final=True)


def test_who_took_part_and_who_failed():
    text = page(history(left_out=["node 7, client x: gone"]))
    assert "round 1, task-specific: node 7, client x: gone" in text
    assert text.count("class=yes") == 2 * 2
    assert "Nobody was left out." in page()


def test_bytes_and_seconds_are_a_rounds_and_not_a_tasks():
    """Two tasks share a round's lines: its totals count once."""
    text = page()
    assert "up: 3 MiB" in text
    assert "Flower and the rest: 2 s" in text


def test_names_from_nodes_are_text():
    evil = "<script>alert(1)</script>"
    lines_ = history(left_out=[evil])
    for line in lines_:
        if line["event"] == "train":
            line["clients"] = [evil]
    text = page(lines_)
    assert evil not in text
    assert "&lt;script&gt;" in text


def test_an_empty_run_has_a_page():
    assert "No evaluation yet." in checked(page([], final=False, rounds=0))


def test_pictures_are_embedded_once_a_task(tmp_path):
    for client in ("a", "b"):
        Image.new("RGB", (3 * 50 + 8, 40), "red").save(tmp_path / f"low-dose-{client}.png")
    pictures = read_pictures(tmp_path.glob("*.png"))
    assert [(one.task, one.width, one.height, set(one.panels)) for one in pictures] == [
        ("low-dose", 50, 40, {"degraded", "restored", "clean"})
    ]
    text = checked(page(pictures=pictures))
    assert 'type="range"' in text
    assert "they stay with the clients" not in text
    assert "they stay with the clients" in page()


def test_charts_of_odd_numbers():
    assert "Nothing yet" in lines([], title="t", x_label="x", y_label="y")
    assert "Nothing yet" in bars([("a", (0.0, 0.0))], ("up", "down"), title="t", unit="s")
    for values in ([1.0], [1.0, 1.0], [1e-12, 1e9], [-5.0, 5.0]):
        drawn = lines([Series("s", list(enumerate(values)))], title="t", x_label="x", y_label="y")
        places = [float(one) for one in re.search(r'points="([^"]+)"', drawn).group(1).replace(",", " ").split()]
        assert all(0 <= place <= 640 for place in places)


def test_a_hundred_clients_and_fifty_rounds_stay_below_five_megabytes():
    text = page(history(tasks=[f"task{n}" for n in range(10)], clients=10, rounds=50), rounds=50, rounds_planned=50)
    assert len(text.encode()) < 5_000_000
    assert text.count("class=yes") == 100 * 50


@pytest.mark.slow
def test_a_real_browser_runs_it_without_complaint(tmp_path):
    browser = next((path for name in ("chromium", "chromium-browser") if (path := shutil.which(name))), None)
    if browser is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    Image.new("RGB", (3 * 50 + 8, 40), "red").save(tmp_path / "denoise-a.png")
    text = page(pictures=read_pictures(tmp_path.glob("*.png")))
    probe = (
        "<script>window.onerror = m => document.title = 'ERROR ' + m;</script>",
        "<script>var s = document.querySelector('.compare input'); s.value = 20; s.dispatchEvent(new Event('input'));"
        "document.title = JSON.stringify({at: document.querySelector('.stage').style.getPropertyValue('--at'),"
        "fits: document.documentElement.scrollWidth <= window.innerWidth,"
        "charts: document.querySelectorAll('svg').length});</script>",
    )
    file = tmp_path / "page.html"
    file.write_text(text.replace("<head>", "<head>" + probe[0]).replace("</body>", probe[1] + "</body>"))
    found = subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=400,800", "--dump-dom",
         f"--user-data-dir={tmp_path / 'profile'}", file.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    title = re.search(r"<title>(.*?)</title>", found.stdout).group(1)
    assert json.loads(title) == {"at": "20%", "fits": True, "charts": 5}


def test_seconds_by_place_add_up_to_the_wall():
    specific, agnostic = times(history(rounds=3))
    assert specific == ("task-specific", (10.0, 1.0, 2.0, 1.0, 4.0))  # two of the three rounds
    assert sum(agnostic[1]) == 9.0


def test_the_server_is_not_charged_while_clients_compute():
    lines = [
        line | {"server_s": 6.0, "body_s": 4.0} if line["event"] == "train" else line for line in history(rounds=1)
    ]
    assert times(lines) == [("task-specific", (5.0, 0.0, 0.0, 2.0, 2.0))]
