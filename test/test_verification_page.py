"""The page of verification in a browser: rated by keys, reloaded, and its table taken over."""

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from browser import CHROMIUM, Browser
from PIL import Image

from vla.contract.embodiment import load_contract
from vla.core.resources import contract_path
from vla.datasets.frames import DatasetError
from vla.datasets.sample import RobotSample
from vla.datasets.windows import Timeline
from vla.language_action.clips import with_origin
from vla.language_action.segments import (
    Segment,
    Segmentation,
    read_segmentation,
    write_segmentation,
)
from vla.language_action.verification_page import Assignment, assigned, write_pages
from vla_cli import main

BRIDGE = load_contract(contract_path("widowx_bridge"))
FRAMES = 30


class Filmed:
    """Two episodes at 10 Hz whose images are as grey as their frame's number says."""

    contract = BRIDGE
    episode_ends = np.array([FRAMES, 2 * FRAMES])

    def states(self) -> np.ndarray:
        return np.zeros((2 * FRAMES, 8), np.float32)

    def actions(self) -> np.ndarray:
        return np.zeros((2 * FRAMES, 7), np.float32)

    def timeline(self) -> Timeline:
        return Timeline(np.tile(0.1 * np.arange(FRAMES), 2), self.episode_ends)

    def episode_tasks(self) -> list[str]:
        return ['put <b>it</b> & "go"</script>', "open"]

    def sample(self, index: int, generator: np.random.Generator) -> RobotSample:
        grey = np.full((48, 64, 3), 4 * index, np.uint8)
        images = {camera.name: grey for camera in BRIDGE.cameras}
        return RobotSample(images, self.states()[index], self.actions(), "go", source="filmed")


MOVE = Segment("move", 0.0, 1.0, "EMPTY", "move the gripper left <i>now</i>")
GRASP = Segment("grasp", 1.0, 2.0, "HOLDING", "close the gripper on it")
LIFT = Segment("lift", 2.0, 2.9, "HOLDING", "lift the object up")
PARTS = (MOVE, GRASP, LIFT)
CUT = Segmentation("filmed </script>", "rules", {0: 2.9, 1: 2.9}, {0: PARTS, 1: PARTS[:2]})


def write(folder: Path, **options) -> list[Path]:
    folder.mkdir(exist_ok=True)
    segmentation = with_origin(CUT, Filmed())
    write_segmentation(segmentation, folder / "segments.json")
    pages = write_pages(segmentation, Filmed(), folder / "page.html", **options)
    return list(pages)


def values_of(page: Path) -> dict:
    found = re.findall(r'<script type="application/json" id="values">(.*?)</script>',
                       page.read_text(), re.DOTALL)  # fmt: skip
    return json.loads(found[0])


def test_the_page_and_its_clips_need_no_network(tmp_path):
    (page,) = write(tmp_path)
    text = page.read_text()
    assert "://" not in text and "default-src 'none'" in text and text.count("</script>") == 2
    values = values_of(page)
    assert values["digest"] == CUT.digest and len(values["segments"]) == 5
    for shown in values["segments"]:
        strip = np.asarray(Image.open(tmp_path / shown["clip"]))
        assert strip.shape[0] == shown["frames"] * values["height"]
        first = 4 * (FRAMES * shown["episode"] + round(10 * shown["start"]))
        greys = strip[values["height"] // 2 :: values["height"], 5, 0].astype(int)
        assert np.abs(greys - (first + 4 * np.arange(shown["frames"]))).max() <= 3
    assert values["segments"][0]["frames"] == 10  # The frame at its end is the next one's.


@pytest.mark.parametrize("seed", [0, 5])
def test_segments_are_divided_and_a_share_goes_to_two(seed):
    pages = assigned(100, Assignment(limit=50, annotators=3, share=0.2, seed=seed))
    rated = [index for page in pages for index in page]
    counts = np.bincount(rated, minlength=100)
    assert np.count_nonzero(counts) == 50 and np.count_nonzero(counts == 2) == 10
    assert counts.max() == 2 and all(page == sorted(set(page)) for page in pages)
    assert pages == assigned(100, Assignment(limit=50, annotators=3, share=0.2, seed=seed))
    assert pages != assigned(100, Assignment(limit=50, annotators=3, share=0.2, seed=seed + 1))
    assert assigned(4, Assignment()) == [[0, 1, 2, 3]]


def test_each_annotator_has_a_page(tmp_path):
    pages = write(tmp_path, assignment=Assignment(annotators=2, share=0.4))
    assert [page.name for page in pages] == ["page_1.html", "page_2.html"]
    seen = [{(s["episode"], s["segment"]) for s in values_of(p)["segments"]} for p in pages]
    assert len(seen[0] | seen[1]) == 5 and len(seen[0] & seen[1]) == 2


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"camera": "nose"}, "there is no camera 'nose'; known: "),
        ({"assignment": Assignment(annotators=9)}, "no segment is left for annotator 6"),
    ],
)
def test_a_page_that_cannot_be_written_leaves_nothing(tmp_path, options, says):
    with pytest.raises(DatasetError, match=says):
        write(tmp_path, **options)
    assert [path.name for path in tmp_path.iterdir()] == ["segments.json"]


def test_data_without_images_have_no_page(tmp_path, monkeypatch):
    sample = Filmed().sample(0, np.random.default_rng(0))
    monkeypatch.setattr(Filmed, "sample", lambda *_: replace(sample, images={}))
    with pytest.raises(DatasetError, match=r"has no image of .* to show"):
        write(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["segments.json"]


def test_a_page_is_not_overwritten(tmp_path):
    (page,) = write(tmp_path)
    with pytest.raises(DatasetError, match=r"page\.html is there already; name another page"):
        write(tmp_path)
    assert page.exists() and (tmp_path / "page_clips").is_dir()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if CHROMIUM is None:
        pytest.skip("no Chromium here")
    with Browser(tmp_path_factory.mktemp("browser")) as made:
        yield made


def test_a_table_that_is_rated_by_keys_is_taken_over(tmp_path, browser, capsys):
    (page,) = write(tmp_path)
    browser.open(page)
    assert browser.text("instruction") == MOVE.instruction
    assert 'episode 0: put <b>it</b> & "go"</script>' in browser.text("times")
    assert browser.value("document.querySelectorAll('main i, main b').length") == 0
    browser.value("document.getElementById('strip').decode()")
    assert browser.value("document.getElementById('strip').naturalHeight") == 10 * 192
    browser.value("document.getElementById('annotator').blur()")
    browser.press("3")
    assert "Enter your name first" in browser.text("notice")
    browser.type('Anna "A", 2')
    browser.press("Enter", "3", "d", "ArrowRight", "1", "a", "ArrowRight", "2", "ArrowLeft")
    assert browser.text("instruction") == GRASP.instruction
    browser.reload()
    assert browser.text("count") == "segment 2 of 5, 3 rated"
    browser.press("2", "n")  # Changes the 1, then goes to the first without a rating.
    assert browser.text("count") == "segment 4 of 5, 3 rated"
    browser.press("0", "s", "Enter", "1", "x")
    assert browser.text("count") == "segment 5 of 5, 4 rated"
    table = browser.saved()
    assert table.name == "ratings_Anna_A_2.csv"
    with table.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["quality"] + row["confidence"] for row in rows] == ["32", "20", "2", "01"]
    assert {row["annotator"] for row in rows} == {'Anna "A", 2'}
    assert main(["data", "verify", str(tmp_path), "--apply", str(table)]) == 0
    assert "3 are kept, 75.0% of those that are rated" in capsys.readouterr().out
    made = read_segmentation(tmp_path).episodes
    assert [segment.quality for segment in (*made[0], *made[1])] == [3, 2, 2, 0, None]
    assert not [event for event in browser.events if event["method"] == "Runtime.exceptionThrown"]
    asked = [event["params"]["request"]["url"] for event in browser.events
             if event["method"] == "Network.requestWillBeSent"]  # fmt: skip
    assert asked and all(url.startswith(("file:", "blob:")) for url in asked)


@pytest.mark.slow
def test_ratings_survive_where_a_browser_keeps_nothing(tmp_path, browser):
    (page,) = write(tmp_path / "other", assignment=Assignment(limit=2, seed=3))
    forbid = "Object.defineProperty(window, 'localStorage', {get() { throw new Error('no'); }});"
    script = browser.call("Page.addScriptToEvaluateOnNewDocument", source=forbid)
    browser.open(page)
    browser.type("Ben")
    browser.press("Enter", "3", "n", "2")
    assert "forgets the ratings" in browser.text("notice")
    browser.call("Page.reload")
    dialog = "Page.javascriptDialogOpening"  # Asks whether to leave; the ratings are not saved.
    if browser.wait_any(dialog, "Page.loadEventFired")["method"] == dialog:
        browser.call("Page.handleJavaScriptDialog", accept=True)
        browser.wait("Page.loadEventFired")
    assert browser.text("count") == "segment 2 of 2, 2 rated"
    browser.call("Page.removeScriptToEvaluateOnNewDocument", identifier=script["identifier"])
