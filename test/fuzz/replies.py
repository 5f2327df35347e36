"""Annotation replies: what a model may say, and what a server may send around it."""

from __future__ import annotations

import asyncio
import json
from random import Random

from chat_server import GOOD, Reply, chat_server

from fuzz.mutation import mutate_text, mutate_tree
from fuzz.report import Report
from vla.annotation.endpoint import Endpoint, EndpointConfig, user_message
from vla.annotation.replies import LONGEST_CAPTION, LONGEST_TEXT, REPLY_SCHEMA, read_reply
from vla.datasets.sample import Annotation


def fuzz_replies(report: Report, count: int, seed: int) -> None:
    """Reads `count` replies; every fourth comes through a server that mutates its whole answer."""
    random = Random(seed)
    bodies = [_body(random) for _ in range(count // 4)]

    def answer(request: dict, number: int) -> Reply:
        return Reply(body=bodies[number % len(bodies)])

    for number in range(count - len(bodies)):
        content = _content(random)
        report.try_case(
            "annotation replies",
            f"reply {number}",
            lambda text=content: read_reply(text, "pick up the can"),
            _wrong,
        )
    with chat_server(answer) as server:
        config = EndpointConfig(
            base_url=server.url, model="fuzz", timeout=10.0, first_pause=0.001, longest_pause=0.01
        )
        for number in range(len(bodies)):
            report.try_case(
                "annotation replies", f"body {number}", lambda: asyncio.run(_ask(config)), _wrong
            )


async def _ask(config: EndpointConfig) -> Annotation:
    endpoint = Endpoint(config, 1, REPLY_SCHEMA)
    try:
        completion = await endpoint.complete([user_message("say")], attempts=1)
    finally:
        await endpoint.close()
    return read_reply(completion.text, "pick up the can")


def _content(random: Random) -> str:
    if random.randrange(3) == 0:
        return mutate_text(random, json.dumps(GOOD))
    return json.dumps(mutate_tree(random, GOOD, random.choice((1, 2))))


def _body(random: Random) -> str:
    body = json.loads(Reply(content=_content(random)).encoded())
    if random.randrange(3) == 0:
        return mutate_text(random, json.dumps(body)).encode(errors="replace").decode()
    return json.dumps(mutate_tree(random, body))


def _wrong(annotation: Annotation) -> str | None:
    """What no training data may hold."""
    pairs = annotation.question_answers + annotation.command_rewrites + annotation.contexts
    texts = [(annotation.caption, LONGEST_CAPTION)]
    texts += [(text, LONGEST_TEXT) for pair in pairs for text in pair]
    for text, most in texts:
        if not text.strip() or len(text) > most or not text.isprintable():
            return f"a text is {text[:80]!r}"
    return None
