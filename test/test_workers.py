"""Benchmarks in a process of another Python environment: messages, and all that goes wrong."""

from __future__ import annotations

import ast
import io
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from fake_workers import calvin_data, fake_python
from hypothesis import given
from hypothesis import strategies as st

from vla.envs.base import EnvironmentFailure, SuiteError
from vla.envs.calvin.suite import CalvinSuite
from vla.envs.libero.suite import LiberoSuite
from vla.envs.metaworld.suite import MetaWorldSuite
from vla.envs.simpler.suite import SimplerSuite
from vla.envs.simpler_instruct.suite import SimplerInstruct
from vla.envs.worker import served
from vla.envs.worker.process import WorkerCommand, WorkerProcess

ROOT = Path(__file__).parents[1]
SUITES = [
    (CalvinSuite, "calvin"),
    (SimplerSuite, "simpler"),
    (SimplerInstruct, "simpler_instruct"),
    (MetaWorldSuite, "metaworld"),
    (LiberoSuite, "libero"),
]
ECHO = """
import os, sys, numpy as np
class Echo:
    CALLS = ("echo", "leave", "path", "hidden_nan", "spawn")
    def echo(self, fields, arrays): return fields, arrays
    def leave(self, fields, arrays): os._exit(7)
    def path(self, fields, arrays): return {"path": sys.path, "environment": dict(os.environ)}, {}
    def hidden_nan(self, fields, arrays): return {"value": float("nan")}, {}
    def spawn(self, fields, arrays):
        import subprocess
        return {"pid": subprocess.Popen(["sleep", "600"]).pid}, {}
    def private(self, fields, arrays): return {}, {}
def open_benchmark(**settings):
    return Echo()
"""


def command(tmp_path: Path, adapter: str = ECHO, **changes) -> WorkerCommand:
    path = tmp_path / "adapter.py"
    path.write_text(adapter)
    return WorkerCommand("fake", Path(sys.executable), path, "run `make fake`", **changes)


@pytest.fixture
def echo(tmp_path):
    worker = WorkerProcess(command(tmp_path))
    yield worker
    worker.close()


# Messages


@given(
    st.dictionaries(
        st.text(max_size=5),
        st.tuples(
            st.sampled_from(served.DTYPES), st.lists(st.integers(0, 4), max_size=4), st.integers(0)
        ),
        max_size=4,
    )
)
def test_a_message_comes_back_as_it_was(arrays):
    made = {
        name: (np.random.default_rng(seed).integers(0, 2, shape) * 1.5).astype(dtype)
        for name, (dtype, shape, seed) in arrays.items()
    }
    fields = {"a": [1, None, "ü\n"], "b": {"c": 0.1}}
    stream = io.BytesIO(served.encode_message("kind", fields, made))
    kind, told, specs = served.decode_header(stream.readline())
    assert (kind, told) == ("kind", fields)
    back = served.decode_arrays(specs, stream.read())
    assert back.keys() == made.keys()
    for name, value in made.items():
        assert back[name].dtype == value.dtype
        np.testing.assert_array_equal(back[name], value)


def line(**changes) -> bytes:
    import json

    message = {"protocol": 1, "kind": "done", "fields": {}, "arrays": []} | changes
    return json.dumps(message).encode() + b"\n"


@pytest.mark.parametrize(
    ("header", "error"),
    [
        (b"hello\n", "its header is no JSON: b'hello"),
        (b"\xff\xfe\n", "no JSON"),
        (b"[" * 100_000 + b"\n", "no JSON|no line"),
        (line()[:-1], "no line with one JSON object"),
        (b"[1]\n", "no line with one JSON object"),
        (line(protocol=2), "it is of protocol 2, and this side has protocol 1"),
        (line(protocol="x" * 500), "it is of protocol 'x+, and"),
        (line(kind=3), "lacks kind, fields or arrays"),
        (line(fields=[]), "lacks kind, fields or arrays"),
        (line(arrays=[["a", "uint8", [1]]] * 17), "17 arrays; 16 are allowed"),
        (line(arrays=[["a", "uint8", [1]]] * 2), "two of its arrays have one name"),
        (line(arrays=[["a", "object", [1]]]), "the type 'object'; allowed: "),
        (line(arrays=[["a", ["uint8"], [1]]]), "the type .'uint8'.; allowed"),
        (line(arrays=[["a", "uint8", [-1]]]), r"the shape \[-1\]"),
        (line(arrays=[["a", "uint8", [True]]]), r"the shape \[True\]"),
        (line(arrays=[["a", "uint8", [1] * 7]]), "the shape"),
        (line(arrays=[["a", "uint8", [1e3]]]), "the shape"),
        (line(arrays=[["a", "uint8"]]), r"not \[name, dtype, shape\]"),
        (line(arrays=[["a", "uint8", [1 << 20, 65]]]), "more than 67108864 bytes"),
        (line(arrays=[["a", "float64", [1 << 26] * 6]]), "more than 67108864 bytes"),
        (line(fields={"a": "x" * (1 << 20)}), "header is longer than 1048576 bytes"),
    ],
)
def test_what_is_no_message_is_refused(header, error):
    with pytest.raises(served.MessageError, match=error):
        served.decode_header(header)


def test_objects_are_never_sent():
    with pytest.raises(served.MessageError, match="the type 'object'"):
        served.encode_message("done", {}, {"a": np.array([object()])})
    with pytest.raises(TypeError):
        served.encode_message("done", {"a": object()}, {})


@pytest.mark.parametrize("name", ["worker/served", "calvin/adapter", "simpler/adapter"])
def test_what_runs_in_the_other_environment_is_python_3_8_and_imports_nothing_of_ours(name):
    text = (ROOT / "vla" / "envs" / f"{name}.py").read_text()
    tree = ast.parse(text, feature_version=(3, 8))
    imported = {
        entry.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for entry in ([node.module] if isinstance(node, ast.ImportFrom) else [node.names[0].name])
    }
    assert "numpy" in imported and not imported & {"vla", "pickle", "vla_nodes"}
    assert "from __future__ import annotations" in text


# The process


def test_a_call_is_answered_by_a_process_without_our_paths(echo, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    image = np.arange(3 * 500 * 500, dtype=np.uint8).reshape(500, 500, 3)
    fields, arrays = echo.call("echo", {"a": [1, "ü"]}, {"image": image, "x": np.float32([0.5])})
    assert fields == {"a": [1, "ü"]}
    np.testing.assert_array_equal(arrays["image"], image)
    assert arrays["x"].dtype == np.float32
    first = echo.pid
    told, _ = echo.call("path")
    assert echo.pid == first
    assert str(ROOT) not in told["path"] and "PYTHONPATH" not in told["environment"]
    assert str(ROOT / "vla" / "envs" / "worker") not in told["path"]


@pytest.mark.parametrize("name", ["private", "__init__", "CALLS"])
def test_only_calls_of_the_adapter_can_be_made(echo, name):
    with pytest.raises(EnvironmentFailure, match=f"failed at '{name}': MessageError: there is no"):
        echo.call(name)


def test_an_answer_that_json_can_not_say_is_a_failure(echo):
    with pytest.raises(EnvironmentFailure, match="failed at 'hidden_nan': ValueError"):
        echo.call("hidden_nan")


def test_a_process_that_ended_is_started_again(echo):
    with pytest.raises(EnvironmentFailure, match="ended while it was asked for 'leave', with stat"):
        echo.call("leave")
    assert echo.pid is None
    assert echo.call("echo", {"again": True})[0] == {"again": True}


def has_ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_children_of_the_process_end_with_it(echo):
    pid = echo.call("spawn")[0]["pid"]
    echo.close()
    # The kernel ends a killed process a moment after the call that kills it.
    for _ in range(1000):
        if has_ended(pid):
            break
        time.sleep(0.01)
    assert has_ended(pid)


def test_a_stopped_process_is_silent_and_ended(tmp_path):
    worker = WorkerProcess(command(tmp_path, answer_seconds=0.5))
    worker.call("echo")
    pid = worker.pid
    os.kill(pid, signal.SIGSTOP)
    # More than a pipe holds, so that not even the request can be written.
    with pytest.raises(EnvironmentFailure, match=r"gave no answer to 'echo' within 0\.5 s"):
        worker.call("echo", {}, {"image": np.zeros(1 << 20, np.uint8)})
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    worker.close()


SENDS = """
import os, sys
class Open: CALLS = ()
writing = int(sys.argv[3])
def open_benchmark():
    os.write(writing, {sent})
    {after}
    return Open()
"""


@pytest.mark.parametrize(
    ("sent", "after", "error"),
    [
        ("b'Loading scene ...\\n'", "", "sent what is no message: its header is no JSON: b'Load"),
        ("b'{{\"protocol\": 9}}\\n'", "", "it is of protocol 9, and this side has protocol 1"),
        ("b'x' * 60000", "while True: os.write(writing, b'x' * 60000)", "header is longer than"),
        (
            "b'{{\"protocol\": 1, \"kind\": \"done\", \"fields\": {{}}, \"arrays\": "
            "[[\"a\", \"uint8\", [9]]]}}\\n123'",
            "os._exit(0)",
            "ended while it was asked for 'open', with status 0",
        ),
        (
            "b'{{\"protocol\": 1, \"kind\": \"done\", \"fields\": {{}}, \"arrays\": []}}\\nmore'",
            "import time; time.sleep(600)",
            "it goes on after its end: b'more",
        ),
    ],
)  # fmt: skip
def test_a_process_that_sends_no_message_is_ended(tmp_path, sent, after, error):
    adapter = SENDS.format(sent=sent.replace("{{", "{").replace("}}", "}"), after=after or "pass")
    worker = WorkerProcess(command(tmp_path, adapter))
    with pytest.raises(EnvironmentFailure, match=error):
        worker.call("anything")
    assert worker.pid is None


@pytest.mark.slow
def test_what_it_printed_last_is_in_the_error_and_bounded(tmp_path):
    adapter = (
        "import sys\nfor number in range(100000): print('line', number)\n"
        "sys.stderr.write('x' * 100000 + 'the last words\\n')\nraise RuntimeError('no scene')\n"
    )
    worker = WorkerProcess(command(tmp_path, adapter))
    with pytest.raises(SuiteError, match="failed at 'open': RuntimeError: no scene") as info:
        worker.call("anything")
    text = str(info.value)
    assert "it printed last: " in text and "RuntimeError" in text and "line 5" not in text
    assert len(text) < 1000 and "\n" not in text


def test_a_benchmark_that_can_not_be_imported_is_not_installed(tmp_path):
    worker = WorkerProcess(command(tmp_path, "import a_benchmark_that_is_not_there\n"))
    with pytest.raises(SuiteError, match=r"'fake' is not installed .*a_benchmark.*: run `make fa"):
        worker.call("anything")
    with pytest.raises(SuiteError, match=r"cannot start /.*no_python.*No such file.*run `make"):
        gone = WorkerCommand("fake", tmp_path / "no_python", tmp_path, "run `make fake`")
        WorkerProcess(gone).call("anything")


# Installation


@pytest.mark.parametrize(("suite", "name"), SUITES)
def test_a_benchmark_without_its_environment_says_what_to_do(suite, name, tmp_path, monkeypatch):
    variable = f"VLA_{name.upper()}_PYTHON"
    monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr("vla.envs.worker.process.MADE", tmp_path)
    sentence = f"environment of its own, which is not there: run `make {name}` .*by {variable}"
    with pytest.raises(SuiteError, match=sentence):
        suite().require_installed()
    monkeypatch.setenv(variable, str(tmp_path / "typo"))
    with pytest.raises(SuiteError, match=r"which has no interpreter '.*typo': run `make"):
        suite().require_installed()


@pytest.mark.parametrize(("suite", "name"), SUITES)
def test_an_environment_without_the_benchmark_says_what_to_do(suite, name, tmp_path, monkeypatch):
    monkeypatch.setenv("VLA_CALVIN_DATA", str(calvin_data(tmp_path)))
    python = fake_python(tmp_path)
    benchmark = suite(python=str(python))
    benchmark.require_installed()
    environment = benchmark.make(benchmark.families[0])
    (episode,) = benchmark.episodes(benchmark.families[0], range(1))
    with pytest.raises(SuiteError, match=f"'{name}' is not installed for .*: run `make {name}`"):
        environment.reset(seed=0, options=episode.options)


def test_calvin_without_its_scene_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.delenv("VLA_CALVIN_DATA", raising=False)
    python = str(fake_python(tmp_path, "calvin"))
    with pytest.raises(SuiteError, match="from a CALVIN data set, and none is named: name one by"):
        CalvinSuite(python=python).require_installed()
    with pytest.raises(SuiteError, match=r"and /.* is none: name one by --set data=FOLDER"):
        CalvinSuite(python=python, data=str(tmp_path)).require_installed()


@pytest.mark.parametrize("name", [name for _, name in SUITES])
def test_an_environment_is_made_from_its_lock_by_a_python_that_must_be_there(name):
    variable = f"VLA_{name.upper()}_BASE"
    script = [str(ROOT / "tools" / "benchmark_environment.sh")]
    environment = os.environ | {variable: "/nowhere/python"}
    done = subprocess.run([*script, name], env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr == (
        f"{name} needs /nowhere/python, which does not run here: install it, or name it, as in "
        f"{variable}=/path/to/python make {name}\n"
    )
    asked = subprocess.run([*script, "chess"], capture_output=True, text=True)
    assert asked.returncode == 2 and "calvin|simpler" in asked.stderr
    folder = ROOT / "environments" / name
    locked = {line.split("==")[0] for line in (folder / "requirements.lock").read_text().split()}
    wanted = [line.split("#")[0].strip() for line in (folder / "requirements.in").open()]
    assert {re.split(r"[=<>\[]", line)[0] for line in wanted if line} <= locked
