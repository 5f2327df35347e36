"""A policy that runs on a server, used as if it ran here."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from serving import save_linear_checkpoint
from tiny_adapter import save_tiny_adapter
from tiny_robovlm import observation

from vla.control.committed import CommittedActions
from vla.policies.parts import ActionPart, ReasoningPart
from vla.policies.reasoning_session import ReasoningSession, Refresh
from vla.serving.engine import Engine
from vla.serving.link import LinkError, ServerLink
from vla.serving.policy import ServedPolicy
from vla.serving.remote import RemoteAction, RemoteReasoning
from vla.serving.server import PolicyServer, ServerAccess

SECONDS = 60.0
WORDS = "pick the red block"


@pytest.fixture(scope="module")
def adapter(checkpoint, tmp_path_factory):
    return save_tiny_adapter(checkpoint, tmp_path_factory.mktemp("adapter") / "red")


@pytest.fixture(scope="module")
def server(checkpoint, adapter):
    policy = ServedPolicy.from_pretrained(checkpoint, adapters={"red": adapter})
    served = PolicyServer(Engine(policy))
    served.start()
    yield served
    served.close()


def test_both_parts_answer_as_the_checkpoint_does(server, checkpoint):
    reasoning = RemoteReasoning(ServerLink(server.address, SECONDS))
    local = ReasoningPart.from_pretrained(checkpoint)
    assert reasoning.contract == local.contract and reasoning.features == local.features
    seen = observation(1)
    latent = reasoning.act(seen, WORDS)
    np.testing.assert_allclose(latent, local.act(seen, WORDS), atol=1e-5)
    text, thought = reasoning.think_and_act(seen, WORDS)
    expected = local.think_and_act(seen, WORDS)
    assert text == expected[0]
    np.testing.assert_allclose(thought, expected[1], atol=1e-5)
    np.testing.assert_allclose(
        reasoning.act(seen, WORDS, "the can"), local.act(seen, WORDS, "the can"), atol=1e-5
    )
    assert reasoning.ask(seen.images, "what is it ?") == local.ask(seen.images, "what is it ?")
    action = RemoteAction(ServerLink(server.address, SECONDS))
    head = ActionPart.from_pretrained(checkpoint)
    before = CommittedActions(np.full((6, 7), 0.001), 2)
    for more in ({}, {"before": before, "max_guidance": 1.0}):
        given = (seen.images, seen.state, latent, 3)
        np.testing.assert_allclose(
            action.action_chunk(*given, **more), head.action_chunk(*given, **more), atol=1e-5
        )
    reasoning.close()
    action.close()


def test_adapters_have_names_there(server, checkpoint, adapter):
    reasoning = RemoteReasoning(ServerLink(server.address, SECONDS))
    with pytest.raises(LinkError, match="no adapter '/tmp/red'; it has: red"):
        reasoning.open_adapter("/tmp/red")
    seen = observation(1)
    for name, folder in (("red", adapter), ("", "")):
        reasoning.set_adapter(reasoning.open_adapter(name) if name else None)
        local = ReasoningPart.from_pretrained(checkpoint, adapter=folder)
        assert reasoning.checkpoint_id == local.checkpoint_id
        np.testing.assert_allclose(reasoning.act(seen, WORDS), local.act(seen, WORDS), atol=1e-5)
    reasoning.close()


def test_a_jpeg_changes_the_action_a_little(server):
    raw, jpeg = (
        RemoteReasoning(ServerLink(server.address, SECONDS), transport)
        for transport in ("raw", "jpeg")
    )
    seen = observation(1)
    exact, near = raw.act(seen, WORDS), jpeg.act(seen, WORDS)
    assert 0 < np.abs(exact - near).max() < 0.5 * np.abs(exact).max()
    raw.close()
    jpeg.close()


def test_a_session_of_steps_runs_on_a_server(server, checkpoint):
    remote = RemoteReasoning(ServerLink(server.address, SECONDS))
    sessions = [
        ReasoningSession(part, Refresh(2, 2))
        for part in (remote, ReasoningPart.from_pretrained(checkpoint))
    ]
    for step in range(3):
        there, here = (own.step(observation(step, 0.1 * step), WORDS, True) for own in sessions)
        assert (there.text, there.new_text, there.new_action) == (
            here.text,
            here.new_text,
            here.new_action,
        )
        np.testing.assert_allclose(there.action, here.action, atol=1e-5)
    remote.close()


def test_a_server_that_vanishes_and_comes_back(contract, tmp_path):
    folders = [save_linear_checkpoint(tmp_path / str(n), contract, n) for n in range(2)]

    def serve(folder, port=0):
        server = PolicyServer(Engine(ServedPolicy.from_pretrained(folder)), ServerAccess(port=port))
        server.start()
        return server

    server = serve(folders[0])
    address, port = server.address, int(server.address.rpartition(":")[2])
    part, seen = RemoteReasoning(ServerLink(address, SECONDS)), observation(0)
    first = part.act(seen, WORDS)
    server.close()
    for _ in range(2):
        with pytest.raises(LinkError, match=f"the server {address} is away .*: is 'vla serve'"):
            part.act(seen, WORDS)
    with pytest.raises(LinkError, match="is away"):
        RemoteReasoning(ServerLink(address, SECONDS))
    server = serve(folders[0], port)
    np.testing.assert_array_equal(part.act(seen, WORDS), first)
    server.close()
    server = serve(folders[1], port)
    with pytest.raises(LinkError, match="is away"):
        part.act(seen, WORDS)  # the connection of before
    with pytest.raises(LinkError, match="has another checkpoint now"):
        part.act(seen, WORDS)
    server.close()


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("http://127.0.0.1:1", "is no address: give ws://HOST:PORT"),
        ("ws://127.0.0.1:1", "is away"),
    ],
)
def test_an_address_without_a_server(address, says):
    with pytest.raises(LinkError, match=says):
        ServerLink(address, SECONDS).metadata()


@pytest.mark.slow
def test_a_robots_side_needs_no_torch():
    code = "import sys, vla.serving.remote, vla.policies.reasoning_session as _;"
    code += "sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
