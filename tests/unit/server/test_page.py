"""The page: what it shows, that it needs nothing else, that names cannot break it, and a real browser opens it."""

import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from tavit_flwr.config import compose, to_dict
from tavit_flwr.server.page import read_pictures, render, stop_page
from tavit_flwr.server.page.charts import Series, bars, lines
from tavit_flwr.server.page.shape import times, traffic

CONFIG = to_dict(compose("experiment=tiny"))


def history(tasks=("denoise", "deblock"), clients=1, rounds=2, left_out=(), failed=()):
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
                    "left_out": list(left_out), "failed": list(failed),
                }
            )  # fmt: skip
            found.append(scores(task, number, phase, number / 2, 20.0 + number))
    return found


def scores(task, number, phase, cycle, psnr_db):
    return {
        "event": "evaluate", "round": number, "cycle": cycle, "phase": phase, "task": task, "images": 2,
        "psnr_db": psnr_db, "ssim": psnr_db / 50, "input_psnr_db": 20.0, "input_ssim": 0.4, "left_out": [],
        "clients": [f"{task}-0"], "evaluation_bytes_up": 2**20, "evaluation_bytes_down": 2**19,
        "evaluation_wall_s": 3.0, "client_s": 2.0, "server_s": 1.0, "body_s": 0.75,
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


def test_the_page_of_a_run_that_failed_says_why_and_does_not_load_itself_again(tmp_path):
    path = tmp_path / "report.html"
    stop_page(path, "nobody ever ran")
    assert not path.exists()
    path.write_text(page(final=False))
    stop_page(path, "QuorumError: <b>nobody</b>")
    text = checked(path.read_text())
    assert "Stopped: QuorumError: &lt;b&gt;nobody&lt;/b&gt;" in text
    assert "(stopped)</title>" in text
    for gone in ("Running", "(running)", "refresh"):
        assert gone not in text
    path.write_text(page())
    stop_page(path, "too late")
    assert "too late" not in path.read_text()


def test_who_took_part_who_failed_and_who_was_not_asked():
    text = page(
        history(left_out=["node 7, client x: gone"], failed=["x"]),
        participants={"x": "denoise", "never": "deblock", "denoise-0": "denoise", "deblock-0": "deblock"},
    )
    assert "round 1, task-specific: node 7, client x: gone" in text
    assert text.count("class=yes>✓") == 2 * 2
    rows = dict(re.findall(r"<tr><td>([\w-]+)</td><td>\w+</td>((?:<td.*?</td>)+)</tr>", text))
    assert rows["x"] == "<td class=no>✗</td>" * 2
    assert rows["never"] == "<td>–</td>" * 2
    assert "Nobody was left out." in page()


def test_bytes_and_seconds_are_a_rounds_and_not_a_tasks():
    """Two tasks share a round's lines: its totals count once."""
    text = page()
    assert "up: 3 MiB" in text
    assert "Flower and the rest: 2 s" in text


def test_evaluation_has_bytes_and_seconds_of_its_own():
    assert dict(traffic(history()))["evaluation"] == (3.0, 1.5)  # before training and after two rounds
    assert dict(times(history()))["evaluation"] == (0.0, 0.0, 0.75, 2.25, 3.0, 3.0)
    bare = [{**line, "evaluation_bytes_up": 0, "evaluation_bytes_down": 0} for line in history()]
    assert "evaluation" not in dict(traffic(bare))


def test_who_cannot_see_hears_the_values():
    text = page()
    assert "PSNR of held-out images by half cycle, a line a task. denoise: 20 at 0, 21 at 0.5, 22 at 1; deblock" in text
    assert "seconds by phase and place, s. task-specific: clients compute 5, wire 0.5" in text
    long = lines([Series("s", [(x, float((x - 6) ** 2)) for x in range(20)])], title="t", x_label="x", y_label="y")
    assert "s: 36 at 0, 0 at 6, 169 at 19" in long
    assert text.count('tabindex="0"') == 3  # boxes that scroll, and the configuration


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


def noisy(folder, name, wide=640, high=480):
    """A client's picture of one held-out image, as hard to compress as noise makes it."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(sum(name.encode())).integers(0, 256, (high, 3 * wide + 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / name, compress_level=1)
    return folder / name


def test_pictures_are_embedded_each_panel_once(tmp_path):
    files = [noisy(tmp_path / client, f"low-dose-{number}.png", 50, 40) for client in ("a", "b") for number in (1, 2)]
    pictures = read_pictures(files)
    assert [(one.name, one.width, one.height, set(one.panels)) for one in pictures] == [
        (f"low-dose {number}", 50, 40, {"degraded", "restored", "clean"}) for number in (1, 2)
    ]
    text = checked(page(pictures=pictures))
    assert 'type="range"' in text
    for panel, address in pictures[0].panels.items():
        assert text.count(address) == 1
        assert f'alt="low-dose 1: {panel} image"' in text
    assert "they stay with the clients" not in text
    assert "they stay with the clients" in page()


def test_pictures_become_smaller_until_they_fit(tmp_path):
    (whole,) = read_pictures([noisy(tmp_path, "denoise-1.png")])
    assert (whole.width, whole.height) == (640, 480)
    (small,) = read_pictures([tmp_path / "denoise-1.png"], most_bytes=200_000)
    assert sum(map(len, small.panels.values())) <= 200_000
    assert small.width / small.height == pytest.approx(4 / 3, rel=0.02)


def test_the_fewer_the_tasks_the_more_pictures_of_each(tmp_path):
    files = [noisy(tmp_path, f"task{task}-{number}.png", 8, 8) for task in range(6) for number in (1, 2, 3)]
    assert [one.name for one in read_pictures(files[:6])] == [f"task{task} {n}" for task in (0, 1) for n in (1, 2, 3)]
    assert [one.name for one in read_pictures(files)] == [f"task{task} {n}" for task in range(6) for n in (1, 2)]


def test_charts_of_odd_numbers():
    assert "Nothing yet" in lines([], title="t", x_label="x", y_label="y")
    assert "Nothing yet" in bars([("a", (0.0, 0.0))], ("up", "down"), title="t", unit="s")
    for values in ([1.0], [1.0, 1.0], [1e-12, 1e9], [-5.0, 5.0]):
        drawn = lines([Series("s", list(enumerate(values)))], title="t", x_label="x", y_label="y")
        places = [float(one) for one in re.search(r'points="([^"]+)"', drawn).group(1).replace(",", " ").split()]
        assert all(0 <= place <= 440 for place in places)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """The page of 100 clients of ten tasks and 50 rounds, whose clients left three noisy pictures of each task."""
    folder, tasks = tmp_path_factory.mktemp("pictures"), [f"task{n}" for n in range(10)]
    first = noisy(folder, f"{tasks[0]}-1.png")
    files = [first.with_name(f"{task}-{number}.png") for task in tasks for number in (1, 2, 3)]
    for file in files[1:]:
        shutil.copyfile(first, file)
    lines_ = history(tasks=tasks, clients=10, rounds=50)
    return page(lines_, rounds=50, rounds_planned=50, pictures=read_pictures(files))


def test_a_hundred_clients_fifty_rounds_and_noise_of_ten_tasks_stay_below_five_megabytes(large):
    assert len(large.encode()) < 5_000_000
    assert large.count("class=yes>✓") == 100 * 50
    assert large.count('<figure class="compare">') == 10


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Open a page, with scripts of one's own before and after it, and give the title that it then has."""
    found = next((path for name in ("chromium", "chromium-browser") if (path := shutil.which(name))), None)
    if found is None:
        if os.environ.get("TAVIT_BROWSER"):
            pytest.fail("TAVIT_BROWSER is set, and there is no Chromium")
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    folder = tmp_path_factory.mktemp("browser")
    quiet = ("--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking")

    def open_page(text, script, width=1200):
        file = folder / "page.html"
        file.write_text(
            text.replace("<head>", f"<head><script>{ERRORS}</script>").replace("</body>", script + "</body>")
        )
        shown = subprocess.run(
            [found, "--headless", "--no-sandbox", *quiet, "--disable-component-update", "--disable-sync",
             f"--window-size={width},800", "--dump-dom", f"--user-data-dir={folder / 'profile'}", file.as_uri()],
            capture_output=True, text=True, timeout=120, check=True,
        )  # fmt: skip
        return json.loads(re.search(r"<title>(.*?)</title>", shown.stdout).group(1))

    return open_page


ERRORS = "window.onerror = m => document.title = JSON.stringify('ERROR ' + m);"
PROBE = """<script>
var box = document.querySelector('.compare'), slider = box.querySelector('input'), choice = box.querySelector('select');
slider.value = 20; slider.dispatchEvent(new Event('input'));
choice.value = 'clean'; choice.dispatchEvent(new Event('change'));
document.title = JSON.stringify({
  at: box.querySelector('.stage').style.getPropertyValue('--at'),
  under: [...box.querySelectorAll('.under')].filter(e => getComputedStyle(e).display != 'none').map(e => e.alt),
  fits: document.documentElement.scrollWidth <= window.innerWidth,
  charts: document.querySelectorAll('svg').length,
  unreachable: [...document.querySelectorAll('.wide, pre')].filter(e => e.tabIndex != 0).length});
</script>"""
LOADED = """<script>
document.title = '"never"';
addEventListener('load', () => setTimeout(() => {
  document.title = JSON.stringify({elements: document.querySelectorAll('*').length,
    opened_ms: performance.getEntriesByType('navigation')[0].loadEventEnd});
}));
</script>"""


@pytest.mark.slow
@pytest.mark.parametrize("width", [400, 1200])
def test_a_real_browser_runs_it_without_complaint(browser, tmp_path, width):
    made = {"commit": "0" * 40, "overrides": "experiment=tiny data.folder=/a/very/long/path " * 5}
    text = page(pictures=read_pictures([noisy(tmp_path, "denoise-1.png", 50, 40)]), provenance=made)
    assert browser(text, PROBE, width) == {
        "at": "20%", "under": ["denoise 1: clean image"], "fits": True, "charts": 5, "unreachable": 0,
    }  # fmt: skip


@pytest.mark.slow
def test_a_large_page_opens_with_few_elements(browser, large, record_property):
    """What takes time is each element; a second or so is reported with `--junit-xml`, and not judged."""
    opened = browser(large, LOADED)
    record_property("opened_ms", opened["opened_ms"])
    assert large.count("class=yes>✓") < opened["elements"] < 15_000


def trained(rounds=2, **changes):
    return [line | changes for line in history(rounds=rounds) if line["event"] == "train"]


def test_seconds_by_place_add_up_to_the_wall():
    specific, agnostic = times(trained(rounds=3))
    assert specific == ("task-specific", (10.0, 1.0, 2.0, 1.0, 4.0, 0.0))  # two of the three rounds
    assert sum(agnostic[1]) == 9.0


def test_the_server_is_not_charged_while_clients_compute():
    assert times(trained(rounds=1, server_s=6.0, body_s=4.0)) == [("task-specific", (5.0, 0.0, 0.0, 2.0, 2.0, 0.0))]
