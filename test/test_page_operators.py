"""Who commands through the operator page when several want to, are slow, or vanish."""

from __future__ import annotations

import asyncio

import pytest
from page_robot import PageClient, run, served

from vla.page.episodes import EpisodeShelf


@pytest.fixture
def shelf(tmp_path):
    shelf = EpisodeShelf(tmp_path / "bags")
    yield shelf
    shelf.close()


def test_of_many_who_want_control_at_once_one_has_it(shelf):
    async def work():
        async with served(shelf) as (first, robot):
            viewers = [PageClient(first.session, first.url) for _ in range(10)]
            for viewer in viewers:
                await viewer.open()
            taken = await asyncio.gather(*(viewer.send("take") for viewer in viewers))
            assert sorted(status for status, _ in taken) == [200] + [409] * 9
            told = await asyncio.gather(
                *(viewer.send("instruct", {"text": f"go {viewer.number}"}) for viewer in viewers)
            )
            assert [status for status, _ in told] == [status for status, _ in taken]
            (command,) = robot.done
            operator = viewers[[status for status, _ in taken].index(200)]
            assert command.fields["text"] == f"go {operator.number}"

    run(work())


def test_a_command_that_comes_slowly_counts_only_if_its_sender_still_has_control(shelf):
    async def work():
        async with served(shelf) as (slow, robot):
            other = PageClient(slow.session, slow.url)
            await slow.open()
            await other.open()
            await slow.send("take")
            begun, go_on = asyncio.Event(), asyncio.Event()

            async def body():
                yield b'{"text": '
                begun.set()
                await go_on.wait()
                yield b'"go"}'

            post = slow.session.post(
                f"{slow.url}/api/instruct", data=body(), headers={"X-Viewer": slow.key}
            )
            sending = asyncio.create_task(post.__aenter__())
            await begun.wait()
            await slow.send("give")
            assert (await other.send("take"))[0] == 200
            go_on.set()
            answer = await sending
            assert answer.status == 409 and not robot.done
            answer.release()

    run(work())


def test_an_operator_who_vanishes_loses_control_and_holds_nobody_up(shelf, monkeypatch):
    monkeypatch.setattr("vla.page.server.HEARTBEAT", 1.0)
    monkeypatch.setattr("vla.page.control.GRACE", 0.5)

    async def work():
        async with served(shelf) as (gone, _):
            other = PageClient(gone.session, gone.url)
            await gone.open()
            await other.open()
            assert (await gone.send("take"))[0] == 200
            # From here on it reads nothing, so it answers no ping either.
            operators = []
            while None not in operators:
                assert (await other.message("front"))["stamp"] > 0
                operators.append((await other.message("state"))["operator"])
            assert operators[0] == gone.number
            assert (await other.send("take"))[0] == 200
            assert (await other.message("state"))["viewers"] == 1

    run(work())
