"""The server, asked over real sockets: by bytes that openpi's client sent, and by our own."""

from __future__ import annotations

import socket
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from serving import OBSERVATION, STATE, gated_engine, save_linear_checkpoint
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from vla.policies.policy import Policy
from vla.serving.engine import REPLACED
from vla.serving.server import PolicyServer, ServerAccess, ServingError
from vla.serving.wire import pack, unpack
from vla_cli import main

# Every byte that openpi_client 0.1.2 sent, by tools/check_with_openpi.py: the handshake, and one
# observation with two images of 8 x 6, a float32 state and an int64 seed.
RECORDING = Path(__file__).parent / "data" / "openpi_client.bin"
SECONDS = 60.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory, contract):
    return save_linear_checkpoint(tmp_path_factory.mktemp("linear"), contract)


@contextmanager
def serving(folder, access: ServerAccess | None = None, **settings):
    """A server and its gate."""
    engine, gate = gated_engine(folder, **settings)
    server = PolicyServer(engine, access)
    server.start()
    try:
        yield server, gate
    finally:
        gate.open()
        server.close()


@pytest.fixture(scope="module")
def shared(folder):
    with serving(folder, ServerAccess(most_bytes=100_000)) as both:
        yield both


@contextmanager
def robot(server, **options):
    """A connection whose metadata has been read."""
    with connect(server.address, compression=None, **options) as connection:
        unpack(connection.recv(SECONDS))
        yield connection


def ask(connection, **changes):
    connection.send(pack(OBSERVATION | changes))
    answer = connection.recv(SECONDS)
    return answer if isinstance(answer, str) else unpack(answer)


def expected_chunk(folder) -> np.ndarray:
    policy = Policy.from_pretrained(folder)
    policy.reset("go up")
    return policy.chunk({}, np.array(STATE, np.float32))


def frame(stream) -> bytes:
    """The content of one whole binary frame of a server (RFC 6455, section 5.2)."""
    head = stream.read(2)
    assert head[0] == 0x82  # final, binary
    size = head[1]
    if size >= 126:
        size = int.from_bytes(stream.read(2 if size == 126 else 8), "big")
    return stream.read(size)


def test_openpis_client_gets_its_chunk(shared, folder, contract):
    server, _ = shared
    host, port = server.address.removeprefix("ws://").split(":")
    with socket.create_connection((host, int(port)), SECONDS) as raw:
        raw.sendall(RECORDING.read_bytes())
        stream = raw.makefile("rb")
        assert stream.readline().startswith(b"HTTP/1.1 101")
        while stream.readline().strip():
            pass
        told, answer = unpack(frame(stream)), unpack(frame(stream))
    assert told["contract"]["name"] == contract.name and told["features"]["horizon"] == 16
    np.testing.assert_allclose(answer["actions"], expected_chunk(folder), atol=1e-6)
    assert answer["checkpoint_id"] == told["checkpoint_id"]
    assert answer["server_timing"]["batch"] == 1


def test_a_wrong_request_gets_a_sentence_and_the_connection_lives(shared, folder):
    with robot(shared[0]) as connection:
        for content, says in (
            (b"\xc1", "no MessagePack"),
            ("hello", "send MessagePack as a binary frame"),
            (pack({"observation/state": STATE}), "unknown entries: observation/state"),
            (pack(OBSERVATION | {"adapter": "red"}), "there is no adapter 'red'; there is: none"),
        ):
            connection.send(content)
            answer = connection.recv(SECONDS)
            assert isinstance(answer, str) and says in answer and "\n" not in answer
        np.testing.assert_allclose(ask(connection)["actions"], expected_chunk(folder), atol=1e-6)


def test_a_frame_that_is_too_large_ends_its_connection_alone(shared):
    with robot(shared[0]) as large, robot(shared[0]) as other:
        large.send(b"\x00" * 100_001)
        with pytest.raises(ConnectionClosed) as closed:
            large.recv(SECONDS)
        assert closed.value.rcvd.code == 1009
        assert "actions" in ask(other)


def test_health_needs_no_connection(shared):
    address = shared[0].address.replace("ws:", "http:")
    with urllib.request.urlopen(f"{address}/healthz", timeout=SECONDS) as answer:
        assert (answer.status, answer.read()) == (200, b"OK\n")


def test_pages_of_a_browser_are_refused(shared):
    with pytest.raises(InvalidStatus, match="403"):
        connect(shared[0].address, origin="http://example.org")


def test_requests_that_wait_run_together(shared):
    server, gate = shared
    gate.shut()
    with robot(server) as first, robot(server) as a, robot(server) as b, robot(server) as c:
        first.send(pack(OBSERVATION))
        gate.wait_for_batch()
        for connection in (a, b, c):
            connection.send(pack(OBSERVATION))
        wait_until(lambda: len(server.engine._jobs) == 3)
        gate.open()
        assert unpack(first.recv(SECONDS))["server_timing"]["batch"] == 1
        sizes = [unpack(own.recv(SECONDS))["server_timing"]["batch"] for own in (a, b, c)]
        assert sorted(sizes) == [1, 2, 2]


def test_the_newest_request_of_a_robot_replaces_the_one_that_waits(shared):
    server, gate = shared
    gate.shut()
    with robot(server) as connection:
        connection.send(pack(OBSERVATION))
        gate.wait_for_batch()
        connection.send(pack(OBSERVATION))
        wait_until(lambda: len(server.engine._jobs) == 1)
        waiting = server.engine._jobs[0]
        connection.send(pack(OBSERVATION))
        wait_until(lambda: waiting not in server.engine._jobs)
        gate.open()
        first, second, third = (connection.recv(SECONDS) for _ in range(3))
    assert second == REPLACED
    assert "actions" in unpack(first) and "actions" in unpack(third)


def test_a_robot_that_vanishes_costs_the_others_nothing(shared):
    server, gate = shared
    gate.shut()
    with robot(server) as first, robot(server) as other:
        first.send(pack(OBSERVATION))
        gate.wait_for_batch()
        with robot(server) as gone:
            gone.send(pack(OBSERVATION))
            wait_until(lambda: len(server.engine._jobs) == 1)
            gone.socket.shutdown(socket.SHUT_RDWR)
        wait_until(lambda: not server.engine._jobs)
        gate.open()
        assert "actions" in unpack(first.recv(SECONDS))
        assert ask(other)["server_timing"]["batch"] == 1


def test_one_that_fails_does_not_fail_the_others(folder, monkeypatch):
    with serving(folder) as (server, gate):
        part = server.engine.policy.reasoning
        act = part.act_together

        def act_together(turns):
            if any(turn.instruction == "break" for turn in turns):
                raise RuntimeError("out of\nmemory")
            return act(turns)

        monkeypatch.setattr(part, "act_together", act_together)
        gate.shut()
        with robot(server) as first, robot(server) as broken, robot(server) as sound:
            first.send(pack(OBSERVATION))
            gate.wait_for_batch()
            broken.send(pack(OBSERVATION | {"prompt": "break"}))
            sound.send(pack(OBSERVATION))
            wait_until(lambda: len(server.engine._jobs) == 2)
            gate.open()
            assert broken.recv(SECONDS) == "the model failed: out of memory"
            assert "actions" in unpack(sound.recv(SECONDS))


def test_overload_refuses_the_newest_with_a_reason(folder):
    with serving(folder, ServerAccess(most_connections=2)) as (server, _), robot(server):
        with robot(server):
            with pytest.raises(InvalidStatus) as refused:
                connect(server.address)
            assert refused.value.response.status_code == 503
            assert b"2 connections are served already" in refused.value.response.body
        wait_until(lambda: server._open == 1)
        with robot(server) as later:
            assert "actions" in ask(later)


def test_more_requests_than_can_be_answered_in_time_are_refused(folder):
    with (
        serving(folder, longest_wait=1e-9) as (server, gate),
        robot(server) as first,
        robot(server) as second,
        robot(server) as third,
    ):
        assert "actions" in ask(first)  # from now on it is known how long a batch takes
        gate.shut()
        first.send(pack(OBSERVATION))
        gate.wait_for_batch()
        second.send(pack(OBSERVATION))
        wait_until(lambda: len(server.engine._jobs) == 1)
        assert "overloaded: 1 requests wait" in ask(third)
        gate.open()
        assert "actions" in unpack(second.recv(SECONDS))


def test_a_token_is_asked_for(folder):
    with serving(folder, ServerAccess(token="0123456789abcdef")) as (server, _):
        for headers in ({}, {"Authorization": "Api-Key 0123456789abcdeF"}):
            with pytest.raises(InvalidStatus) as refused:
                connect(server.address, additional_headers=headers)
            assert refused.value.response.status_code == 401
            assert b"Authorization: Api-Key TOKEN" in refused.value.response.body
        right = {"Authorization": "Api-Key 0123456789abcdef"}
        with robot(server, additional_headers=right) as connection:
            assert "actions" in ask(connection)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "robot.local"])
def test_other_machines_need_a_token_and_tls(host, tmp_path):
    pem = tmp_path / "x.pem"
    pem.write_text("no certificate")
    for access in (
        ServerAccess(host),
        ServerAccess(host, token="t" * 16),
        ServerAccess(host, 0, "", "a", "b"),
    ):
        with pytest.raises(ServingError, match="can be reached from other machines"):
            access.context()
    with pytest.raises(ServingError, match="are no certificate and its key"):
        ServerAccess(host, 0, "t" * 16, str(pem), str(pem)).context()
    with pytest.raises(ServingError, match="both --certificate and --key"):
        ServerAccess("127.0.0.1", 0, "", str(pem)).context()


def wait_until(is_so) -> None:
    deadline = time.monotonic() + SECONDS
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--host", "0.0.0.0"], "give --token-file, --certificate and --key, or listen at"),
        (["--port", "70000"], "--port takes 0 to 65535, got 70000"),
        (["--connections", "0"], "numbers above 0"),
        (["--token-file", "short"], "must hold 16 printable ASCII characters or more"),
        (["--adapter", "red"], "--adapter takes NAME=FOLDER, each name once, got 'red'"),
        (["--checkpoint", "nowhere"], "there is no checkpoint nowhere"),
    ],
)
def test_the_command_refuses_what_it_cannot_serve(words, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "short").write_text("secret\n")
    assert main(["serve", *words]) == 2
    assert says in capsys.readouterr().err
