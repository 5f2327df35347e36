"""A checkpoint behind OpenAI's chat completions: answers, and what is refused."""

from __future__ import annotations

import base64
import http.client
import io
import json
import threading
from random import Random

import numpy as np
import pytest
import torch
from fuzz.mutation import mutate_bytes, mutate_tree
from PIL import Image
from tiny_checkpoint import save_tiny_checkpoint

from vla.evaluation import chat_requests
from vla.evaluation.chat_requests import ChatError, read_chat_request
from vla.evaluation.chat_server import ChatHTTPServer
from vla.policies.parts import ReasoningPart
from vla_cli.parser import main


def data_uri(image: np.ndarray, form: str = "PNG", mode: str = "RGB") -> str:
    encoded = io.BytesIO()
    Image.fromarray(image).convert(mode).save(encoded, form)
    return f"data:image/{form.lower()};base64,{base64.b64encode(encoded.getvalue()).decode()}"


def asked(*content, **more) -> dict:
    parts = [
        {"type": "text", "text": entry}
        if isinstance(entry, str)
        else {"type": "image_url", "image_url": {"url": data_uri(entry), "detail": "low"}}
        for entry in content
    ]
    return {"model": "tiny", "messages": [{"role": "user", "content": parts}], **more}


@pytest.fixture(scope="module")
def part(tmp_path_factory, contract):
    folder = save_tiny_checkpoint(tmp_path_factory.mktemp("chat") / "tiny", contract, scale=3.0)
    return ReasoningPart.from_pretrained(folder)


@pytest.fixture(scope="module")
def server(part):
    with ChatHTTPServer(part, "tiny") as serving:
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        yield serving
        serving.shutdown()
        thread.join()


@pytest.fixture
def call(server):
    """Sends a request over one connection; gives status and what was answered."""
    connection = http.client.HTTPConnection(*server.server_address, timeout=60)

    def send(body=None, path="/v1/chat/completions", method="POST", **headers):
        content = json.dumps(body) if isinstance(body, dict) else body
        told = {"Content-Type": "application/json"} | headers
        connection.request(method, path, content, told)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())

    yield send
    connection.close()


@pytest.fixture
def image():
    return np.random.default_rng(4).integers(0, 256, (96, 96, 3), dtype=np.uint8)


def test_an_answer_is_what_the_model_says_of_that_image(call, part, image):
    status, answer = call(asked("what is on the table?", image, max_tokens=60))
    assert status == 200 and answer["object"] == "chat.completion" and answer["model"] == "tiny"
    (choice,) = answer["choices"]
    assert choice["message"]["role"] == "assistant"
    text = part.ask({"front": image, "wrist": image}, "what is on the table?")
    assert choice["message"]["content"] == text and text
    other = call(asked("what is on the table?", 255 - image, max_tokens=60))[1]
    used = answer["usage"]
    assert used["total_tokens"] == used["prompt_tokens"] + used["completion_tokens"]
    image_tokens = part.config.backbone.image_tokens
    blind = call(asked("what is on the table?", max_tokens=60))[1]
    assert used["prompt_tokens"] - blind["usage"]["prompt_tokens"] >= image_tokens
    said = {entry["choices"][0]["message"]["content"] for entry in (answer, other, blind)}
    assert len(said) > 1, "what it says depends on what it sees"


def test_the_limit_cuts_an_answer_and_is_told(call, image):
    cut = call(asked("what is it?", image, max_tokens=2))[1]
    assert cut["choices"][0]["finish_reason"] == "length" and cut["usage"]["completion_tokens"] == 2
    newer = call(asked("what is it?", image, max_completion_tokens=2, max_tokens=50))[1]
    assert newer["choices"] == cut["choices"]


def test_images_of_any_size_and_kind_are_seen(call, image):
    wide = np.concatenate([image, image], axis=1)
    for form, mode in (
        ("PNG", "RGBA"),
        ("PNG", "P"),
        ("PNG", "L"),
        ("JPEG", "RGB"),
        ("WEBP", "RGB"),
    ):
        body = asked("what is it?", max_tokens=3)
        url = {"type": "image_url", "image_url": {"url": data_uri(wide, form, mode)}}
        body["messages"][0]["content"].append(url)
        assert call(body)[0] == 200, (form, mode)
    assert call(asked(image, "first?", wide, max_tokens=3))[0] == 200, "two images"


def test_a_conversation_goes_on():
    body = asked("what is it?", "quickly")
    body["messages"] = [
        {"role": "system", "content": "Be brief."},
        *body["messages"],
        {"role": "assistant", "content": "a can"},
        {"role": "user", "content": "which colour?"},
    ]
    read = read_chat_request(json.dumps(body).encode())
    assert read.turns == (("Be brief.\nwhat is it?\nquickly", "a can"), ("which colour?", ""))
    assert read.max_tokens == 512 and read.images == []


def test_the_model_is_listed(call, server):
    status, listed = call(method="GET", path="/v1/models")
    assert status == 200 and [entry["id"] for entry in listed["data"]] == ["tiny"]
    assert call(method="GET", path="/v1/models/tiny")[1] == listed["data"][0]
    assert server.address.startswith("http://127.0.0.1:") and server.address.endswith("/v1")


MESSAGES = {
    "no JSON": b"{",
    "a JSON object": b"[]",
    "model must be": {"messages": []},
    "there is no model 'gpt'": {**asked("x"), "model": "gpt"},
    "messages must be a list": {"model": "tiny", "messages": []},
    "must have role and content": {"model": "tiny", "messages": ["x"]},
    "content must be text": {"model": "tiny", "messages": [{"role": "user", "content": 3}]},
    "type 'input_audio'": {
        "model": "tiny",
        "messages": [{"role": "user", "content": [{"type": "input_audio"}]}],
    },
    "a data URI": {
        "model": "tiny",
        "messages": [
            {
                "role": "user",
                "content": [{"type": "image_url", "image_url": {"url": "http://localhost/a.png"}}],
            }
        ],
    },
    "an image can't be read": {
        "model": "tiny",
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
                ],
            }
        ],
    },
    "the last message must be": {
        "model": "tiny",
        "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
    },
    "take turns": {
        "model": "tiny",
        "messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}],
    },
    "stream True is not supported": asked("x", stream=True),
    "n 2 is not supported": asked("x", n=2),
    "temperature 0.7 is not supported": asked("x", temperature=0.7),
    "max_tokens must be": asked("x", max_tokens=0),
    "half a surrogate pair": asked("\ud800"),
    "more than 16 images": asked("x", *[np.zeros((2, 2, 3), np.uint8)] * 17),
    "more than 100000 characters": asked("x" * 100_001),
}


@pytest.mark.parametrize("says", MESSAGES)
def test_what_can_not_be_answered_is_refused_in_openais_form(call, says):
    status, answer = call(MESSAGES[says])
    error = answer["error"]
    assert status == (404 if "no model" in says else 400)
    assert says in error["message"] and error["type"] == "invalid_request_error"
    assert {"param", "code"} <= set(error)
    assert call(asked("still there?", max_tokens=1))[0] == 200, "on the same connection"


def test_requests_that_are_none_of_ours_are_refused(call, monkeypatch):
    assert call(method="GET", path="/")[0] == 404
    assert call(asked("x"), path="/v1/completions")[0] == 404
    assert call(asked("x"), **{"Content-Type": "text/plain"})[0] == 415
    status, answer = call(asked("x"), **{"Content-Length": "999999999999"})
    assert status == 413 and "bytes; send smaller images" in answer["error"]["message"]
    assert call(iter([b"{}"]))[0] == 411, "a body in chunks"
    monkeypatch.setattr(chat_requests, "MOST_PIXELS", 100)
    status, answer = call(asked("x", np.zeros((20, 20, 3), np.uint8)))
    assert status == 400 and "20 x 20 pixels; make it smaller" in answer["error"]["message"]
    far = asked("first")
    answered = {"role": "assistant", "content": "yes"}
    far["messages"] += [answered, *asked(np.zeros((4, 4, 3), np.uint8))["messages"]]
    assert "in the first user message" in call(far)[1]["error"]["message"]


def test_a_model_that_fails_is_the_servers_error(call, server, monkeypatch):
    def fails(*arguments):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(server.part, "chat", fails)
    status, answer = call(asked("x"))
    assert status == 500 and answer["error"]["type"] == "server_error"
    assert "out of memory" in answer["error"]["message"]


def test_damaged_requests_are_read_or_refused(image):
    body = asked("what is it?", image[:8, :8], max_tokens=5)
    random, refused = Random(0), 0
    for number in range(300):
        damaged = json.dumps(mutate_tree(random, body)).encode()
        if number % 2:
            damaged = mutate_bytes(random, json.dumps(body).encode())
        try:
            read_chat_request(damaged)
        except ChatError as error:
            assert "\n" not in str(error) and len(str(error)) < 700
            refused += 1
    assert refused > 100


def test_what_can_not_chat_or_listen_is_refused(tmp_path, contract, server, capsys):
    folder = save_tiny_checkpoint(tmp_path / "tiny", contract)
    port = str(server.server_address[1])
    for words, says in (
        (["--port", "70000"], "--port takes 0 to 65535"),
        (["--port", port], "cannot listen at 127.0.0.1"),
    ):
        assert main(["serve-chat", "--checkpoint", str(folder), *words]) == 2
        assert says in capsys.readouterr().err
    assert main(["serve-chat", "--checkpoint", "checkpoints/nano_policy_head"]) == 2
    assert "does not chat" in capsys.readouterr().err


def test_it_serves_in_the_number_type_that_is_asked_for(tmp_path, contract, monkeypatch, capsys):
    folder, found = save_tiny_checkpoint(tmp_path / "tiny", contract), set()

    def ctrl_c(serving: ChatHTTPServer) -> None:
        found.update(weight.dtype for weight in serving.part.module.parameters())
        raise KeyboardInterrupt

    monkeypatch.setattr(ChatHTTPServer, "serve_forever", ctrl_c)
    words = ["serve-chat", "--checkpoint", str(folder), "--port", "0", "--dtype"]
    for name in ("bfloat16", "auto"):
        assert main([*words, name]) == 0
        assert capsys.readouterr().err == "stopped\n"
    assert found == {torch.bfloat16, torch.float32}
