"""The operator page's server: viewers, control, commands, and what fuzzing can't break."""

from __future__ import annotations

import asyncio
import random

import aiohttp
import pytest
from page_robot import CAMERAS, PageClient, ScriptedRobot, run, served

from vla.page.commands import FIELDS, CommandAnswer, PageCommand
from vla.page.control import GRACE, ControlLease
from vla.page.episodes import EpisodeShelf


@pytest.fixture
def shelf(tmp_path, contract):
    shelf = EpisodeShelf(tmp_path / "bags")
    yield shelf
    shelf.close()


class Steps:
    """A clock that the test moves."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_one_viewer_has_control_until_it_gives_it():
    lease = ControlLease(60.0)
    assert lease.holder is None and not lease.use(1)
    assert lease.take(1) == "" and lease.holder == 1 and lease.use(1)
    assert "viewer 1 has control" in lease.take(2)
    assert not lease.use(2)
    lease.give(2)
    assert lease.holder == 1, "nobody gives what another has"
    lease.give(1)
    assert lease.holder is None and lease.take(2) == ""


def test_control_of_an_idle_or_lost_operator_can_be_taken():
    clock = Steps()
    lease = ControlLease(60.0, clock)
    lease.take(1)
    clock.now += 59.0
    assert lease.take(2) and lease.use(1)
    clock.now += 59.0
    assert lease.take(2), "the operator has just used it"
    clock.now += 1.5
    assert lease.take(2) == "" and lease.holder == 2
    lease.leave(2)
    clock.now += GRACE - 1.0
    lease.come_back(2)
    clock.now += GRACE
    assert lease.holder == 2 and lease.use(2), "it came back in time"
    lease.leave(2)
    clock.now += GRACE + 0.1
    assert lease.holder is None


def test_one_operator_commands_and_everybody_may_stop(shelf):
    async def work():
        async with served(shelf) as (first, robot):
            second = PageClient(first.session, first.url)
            assert (await first.send("take"))[0] == 409, "not without an open page"
            await first.open()
            await second.open()
            assert (await first.send("resume")) == (
                409, {"success": False, "message": "take control first"}
            )  # fmt: skip
            assert (await first.send("take"))[0] == 200
            status, answer = await second.send("take")
            assert status == 409 and f"viewer {first.number} has control" in answer["message"]
            assert (await second.send("instruct", {"text": "go"}))[0] == 409
            assert (await second.send("stop"))[0] == 200
            assert (await second.send("emergency_stop", "{no JSON"))[0] == 200
            assert (await first.send("resume")) == (200, {"success": True, "message": "done"})
            assert [c.name for c in robot.done] == ["stop", "emergency_stop", "resume"]
            await first.send("give")
            assert (await second.send("take"))[0] == 200
            while (await first.message("state"))["operator"] != second.number:
                pass
            robot.answer = CommandAnswer(False, "the emergency stop is in force")
            assert (await second.send("resume")) == (
                200, {"success": False, "message": "the emergency stop is in force"}
            )  # fmt: skip

    run(work())


def test_a_viewer_that_reconnects_is_the_same_one(shelf):
    async def work():
        async with served(shelf) as (client, _):
            await client.open()
            await client.send("take")
            number, earlier = client.number, client.socket
            again = PageClient(client.session, client.url)
            await again.open(client.key)
            assert again.number == number, "also before the server noticed that the link broke"
            assert (await earlier.receive(20.0)).type is not None
            while not earlier.closed:
                await earlier.receive(20.0)
            assert earlier.close_code == 4001
            assert (await again.message("state"))["operator"] == number
            assert (await again.send("resume"))[0] == 200
            stranger = PageClient(client.session, client.url)
            await stranger.open("a key that nobody has")
            assert stranger.number != number

    run(work())


VALID = {
    "instruct": ({"text": " pick the\nred block ", "mode": "think"},
                 {"text": "pick the red block", "mode": "think"}),
    "record_start": ({"note": "a\nb"}, {"instruction": "", "note": "a\nb"}),
    "record_stop": ({"outcome": "discard"}, {"outcome": "discard", "note": ""}),
    "record_label": ({"outcome": "success"}, {"episode": "", "outcome": "success", "note": ""}),
    "record_mark": ({"name": "grasp"}, {"name": "grasp"}),
    "record_recent": ({"seconds": 5}, {"seconds": 5.0, "outcome": "", "note": ""}),
    "load_adapter": ({"path": "/a/b"}, {"path": "/a/b"}),
}  # fmt: skip


def test_each_command_reaches_the_robot_with_its_fields(shelf):
    async def work():
        async with served(shelf) as (client, robot):
            await client.open()
            await client.send("take")
            for name in FIELDS:
                given, read = VALID.get(name, ({}, {}))
                assert (await client.send(name, given))[0] == 200, name
                assert robot.done[-1] == PageCommand(name, read)

    run(work())


@pytest.mark.parametrize(
    ("name", "body", "said"),
    [
        ("instruct", {}, "needs 'text'"),
        ("instruct", {"text": ""}, "the instruction is empty"),
        ("instruct", {"text": "x" * 1001}, "1001 characters"),
        ("instruct", {"text": "a\u202eb"}, "cannot be seen"),
        ("instruct", {"text": 5}, "must be text"),
        ("instruct", {"text": "go", "mode": "fly"}, "mode must be one of 'act', 'think', 'ask'"),
        ("instruct", {"text": "go", "speed": 1}, "unknown entries: speed"),
        ("instruct", "[]", "must be a mapping"),
        ("instruct", '{"text": "a", "text": "b"}', "twice"),
        ("instruct", "[" * 5000, "deep"),
        ("instruct", b"\xff\xfe", "can't decode"),
        ("record_stop", {"outcome": "great"}, "outcome must be one of"),
        ("record_recent", {"seconds": -1}, "seconds"),
        ("record_recent", '{"seconds": NaN}', "finite"),
        ("load_adapter", {"path": "a" * 5000}, "5000 characters"),
    ],
)  # fmt: skip
def test_a_bad_command_is_refused_and_says_why(shelf, name, body, said):
    async def work():
        async with served(shelf) as (client, robot):
            await client.open()
            await client.send("take")
            status, answer = await client.send(name, body)
            assert status == 400 and said in answer["message"]
            assert not robot.done

    run(work())


def test_images_are_made_once_for_all_and_only_while_somebody_watches(shelf):
    async def work():
        async with served(shelf) as (first, robot):
            await asyncio.sleep(0.1)
            assert robot.pictures == 0
            viewers = [PageClient(first.session, first.url) for _ in range(5)]
            for viewer in viewers:
                await viewer.open()
            stamps = []
            for _ in range(4):
                for viewer in viewers:
                    stamps.append((await viewer.message("front"))["stamp"])
            assert robot.pictures < 5 * len(set(stamps)) + 40, "one for all, not one for each"
            assert len(set(stamps)) < len(stamps)

    run(work())


def test_a_slow_viewer_gets_the_newest_image_and_slows_nobody(shelf):
    async def work():
        async with served(shelf) as (fast, robot):
            slow = PageClient(fast.session, fast.url)
            await slow.open()
            await fast.open()
            first = await slow.newest("front")
            while robot.pictures < 100:
                await fast.message("front")
            # It has not said yet that it has shown the first one.
            held_back = robot.pictures
            await slow.socket.send_str("front")
            second = await slow.newest("front")
            assert first["stamp"] < 50 and second["stamp"] >= held_back - 2 * len(CAMERAS)

    run(work())


def test_200_fuzzed_requests_and_frames_break_nothing(shelf):
    generator = random.Random(20)
    pieces = ["{", "}", '"text"', ":", "null", "[", "]", "1e999", "\\u0000", "\x00", "ü", "act",
              '"mode"', ",", "-", "true", "../", "%2e%2e", "?", "#", "\u202e"]  # fmt: skip

    def junk(most: int) -> str:
        return "".join(generator.choice(pieces) for _ in range(generator.randrange(most)))

    async def request(client: PageClient, robot: ScriptedRobot) -> None:
        method = generator.choice(["GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD", "TRACE"])
        places = [f"/api/{name}" for name in FIELDS if name not in ("stop", "emergency_stop")]
        places += ["/video/", "/login", "/live", "/api/", "/", "/api/episodes?before="]
        path = generator.choice(places) + generator.choice(["", "", junk(6).replace("#", "")])
        headers = {"X-Viewer": generator.choice([client.key, "x", ""])}
        body = generator.choice([junk(40), junk(400), "9" * 70_000, '{"text": "go"}'])
        async with client.session.request(
            method, client.url + path.replace("\x00", "%00"), data=body, headers=headers
        ) as answer:
            await answer.read()
            assert answer.status < 500, (method, path, body[:80])

    async def frame(client: PageClient) -> None:
        async with client.session.ws_connect(f"{client.url}/live?key={client.key}x") as socket:
            data = "!" + junk(60) * generator.choice([1, 1, 500])
            if generator.random() < 0.5:
                await socket.send_str(data)
            else:
                await socket.send_bytes(data.encode())
            while not socket.closed:
                await socket.receive(20.0)
            assert socket.close_code in (1002, 1007, 1008, 1009), socket.close_code

    async def raw(client: PageClient) -> None:
        port = int(client.url.rsplit(":", 1)[1])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(bytes(generator.randrange(256) for _ in range(200)) + b"\r\n\r\n")
        assert b" 500 " not in await reader.read(200)
        writer.close()

    async def work():
        async with served(shelf) as (client, robot):
            await client.open()
            # As a browser does all the time; else the server gives it up.
            reading = asyncio.create_task(client.message("never"))
            await client.send("take")
            for index in range(200):
                if index % 4 == 0:
                    await frame(client)
                elif index % 20 == 1:
                    await raw(client)
                else:
                    await request(client, robot)
            robot.done.clear()
            assert (await client.send("instruct", {"text": "go"}))[0] == 200
            assert robot.done == [PageCommand("instruct", {"text": "go", "mode": ""})]
            assert not reading.done()
            reading.cancel()

    run(work())


def test_too_many_viewers_are_refused(shelf, monkeypatch):
    monkeypatch.setattr("vla.page.server.MOST_VIEWERS", 2)

    async def work():
        async with served(shelf) as (client, _):
            others = [PageClient(client.session, client.url) for _ in range(2)]
            for other in others:
                await other.open()
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await client.open()
            assert refused.value.status == 503

    run(work())


def test_a_robot_that_fails_is_reported_and_the_server_goes_on(shelf):
    class Failing(ScriptedRobot):
        def picture(self, camera):
            if not self.raises:
                self.raises = [KeyError("no such thing")]
                raise self.raises[0]
            return super().picture(camera)

        async def carry_out(self, command):
            self.raises.append(RuntimeError("the graph <broke>"))
            raise self.raises[-1]

    async def work():
        async with served(shelf, robot=Failing()) as (client, _):
            await client.open()
            await client.message("front")
            status, answer = await client.send("stop")
            assert (status, answer["message"]) == (500, "it failed: the graph <broke>")
            await client.message("state")

    run(work())
