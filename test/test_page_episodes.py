"""Recorded episodes on the operator page: their list, their videos, over real HTTP."""

from __future__ import annotations

from io import BytesIO

import av
import pytest
from bag_files import write_demonstration
from page_robot import run, served

from vla.bags.labels import label_episode
from vla.bags.writer import BagError
from vla.page.episodes import PAGE, EpisodeShelf
from vla.playback.footage import PlaybackError


@pytest.fixture
def shelf(tmp_path, contract):
    shelf = EpisodeShelf(tmp_path / "bags")
    yield shelf
    shelf.close()


def test_episodes_are_listed_the_newest_first(tmp_path, contract, shelf):
    assert shelf.listed() == {"episodes": [], "count": 0, "more": False}
    for name in ("e1", "e2"):
        write_demonstration(tmp_path / "bags" / name, contract, 0.2)
    listed = shelf.listed()
    assert [episode["name"] for episode in listed["episodes"]] == ["e2", "e1"]
    assert listed["episodes"][0]["outcome"] == "success"
    assert listed["episodes"][0]["instruction"] == "pick up the cup"
    label_episode(tmp_path / "bags" / "e2", "failure")
    assert shelf.listed()["episodes"][0]["outcome"] == "failure", "a new label is seen"
    (tmp_path / "bags" / "e1" / "metadata.yaml").write_text("[")
    damaged = shelf.listed()["episodes"][1]
    assert damaged["name"] == "e1" and "correct it" in damaged["flaw"]
    assert not damaged["has_video"]


def test_a_long_list_comes_in_pages(tmp_path, contract, shelf):
    for index in range(PAGE + 2):
        folder = tmp_path / "bags" / f"e{index:03}"
        folder.mkdir(parents=True)
        (folder / "metadata.yaml").write_text("[")
    first = shelf.listed()
    assert len(first["episodes"]) == PAGE and first["more"] and first["count"] == PAGE + 2
    rest = shelf.listed(first["episodes"][-1]["name"])
    assert [episode["name"] for episode in rest["episodes"]] == ["e001", "e000"]
    assert not rest["more"]


@pytest.mark.parametrize("compressed", [False, True])
def test_a_video_shows_all_cameras_and_can_be_sought_in(tmp_path, contract, shelf, compressed):
    write_demonstration(tmp_path / "bags" / "e1", contract, 1.0, compressed=compressed)

    async def work():
        async with served(shelf) as (client, _):
            answer = await client.get("/video/e1")
            assert answer.status == 200 and answer.headers["Content-Type"] == "video/mp4"
            with av.open(BytesIO(answer.body)) as container:
                stream = container.streams.video[0]
                assert stream.width >= 2 * 96 and stream.height > 96
                assert sum(1 for _ in container.decode(stream)) >= 9
            part = await client.get("/video/e1", Range="bytes=0-99")
            assert part.status == 206 and len(part.body) == 100
            for name in ("e2", "%2e%2e%2fbags", "..%2f..%2fetc", "e1%2fmetadata.yaml", "%00"):
                answer = await client.get(f"/video/{name}")
                assert answer.status == 404, name

    run(work())


def test_a_video_is_made_once_and_again_after_a_change(tmp_path, contract, shelf):
    folder = write_demonstration(tmp_path / "bags" / "e1", contract, 0.3)
    first = shelf.video("e1")
    assert shelf.video("e1") == first
    label_episode(folder, "failure")
    assert shelf.video("e1") != first


def test_an_episode_without_images_has_no_video(tmp_path, contract, shelf):
    silent = {camera.topic: (0.0, 1.0) for camera in contract.cameras}
    write_demonstration(tmp_path / "bags" / "e1", contract, 0.3, silent=silent)
    with pytest.raises(PlaybackError, match="e1"):
        shelf.video("e1")
    with pytest.raises(BagError, match="no episode 'e2'"):
        shelf.video("e2")
