"""What the launcher makes of parameters in launch files: types, nesting, files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from launcher_prefix import SHOW, expander, make_prefix, parameters_of
from rclpy.context import Context

from vla_nodes.launcher.document import LaunchError


@pytest.fixture
def environment(tmp_path):
    return make_prefix(tmp_path / "prefix")


@pytest.fixture
def run(tmp_path, environment):
    return expander(tmp_path, environment)


def value_of(run, attributes: str, **arguments: str) -> object:
    expansion = run(f'<node {SHOW}><param name="p" {attributes}/></node>', **arguments)
    return parameters_of(expansion.processes[0].command)["p"]


@pytest.mark.parametrize(
    "attributes, expected",
    [
        ('value="5"', 5),
        ('value="5.0"', 5.0),
        ('value="true"', True),
        ('value="off"', False),
        ('value="some text"', "some text"),
        ('value=""', ""),
        ("value=\"'5'\"", "5"),
        ('value="5" type="str"', "5"),
        ('value="5" type="float"', 5.0),
        ('value="1" type="bool"', True),
        ('value="a: b: c"', "a: b: c"),
        ('value="[1, 2]"', [1, 2]),
        ('value="[1.0, 2.5]" type="list_of_float"', [1.0, 2.5]),
        ('value="[a, $(var x)b]"', ["a", "7b"]),
        ('value="[$(var x), $(var x)0]"', [7, 70]),
        ('value="a;$(var x)b" value-sep=";"', ["a", "7b"]),
        ('value="1;2" value-sep=";"', [1, 2]),
        ('value="$(var x)"', 7),
        ('value="$(var x).0"', 7.0),
        ('value="$(var x)" type="str"', "7"),
        ('value="$(var x)" type="float"', 7.0),
        ("value=\"$(var none '')\"", ""),
        (r'value="\$(var x)"', "$(var x)"),
    ],
)
def test_types_of_parameter_values(run, attributes, expected):
    value = value_of(run, attributes, x="7")
    assert value == expected and type(value) is type(expected)


@pytest.mark.parametrize(
    "attributes, message",
    [
        ('value="[1, a]"', "not all of one type"),
        ('value="[1.0, 2]"', "not all of one type"),
        ('value="[1, 2]" type="list_of_float"', "not all float"),
        ('value="[$(var x), 8]" type="list_of_str"', "not all of one type"),
        ('value="null"', 'add type="str"'),
        ('value="{a: 1}"', 'add type="str"'),
        ('value="2020-01-01"', 'add type="str"'),
        ('value="1.5" type="int"', "'1.5' is not int"),
        ('value="$(var x)" type="bool"', "'text' is not bool"),
        ('value="1" type="number"', "unknown type 'number'"),
        ("", "needs either 'value' or nested"),
        ('from="file"', "needs either 'name' or 'from'"),
    ],
)
def test_parameter_values_that_are_refused(run, attributes, message):
    with pytest.raises(LaunchError, match=f"main.launch.xml:2: <param>: .*{message}"):
        value_of(run, attributes, x="text")


def test_nested_parameters_are_joined_with_dots(run):
    body = (
        f'<node {SHOW}><param name="a"><param name="b" value="1"/>'
        '<param name="$(var c)"><param name="d" value="2"/></param></param></node>'
    )
    expansion = run(body, c="x")
    assert parameters_of(expansion.processes[0].command) == {"a.b": 1, "a.x.d": 2}


def test_parameter_files_and_values_keep_their_order(tmp_path, run):
    file = tmp_path / "values.yaml"
    file.write_text("/**:\n  ros__parameters: {rate: 10.0, name: $(var n)}\n")
    body = (
        f'<set_parameter name="all" value="[1, 2]"/><node {SHOW} name="x" namespace="ns">'
        f'<param from="{file}" allow_substs="true"/><param name="rate" value="$(var rate)"/></node>'
    )
    expansion = run(body, n="text", rate="20.0")
    command = expansion.processes[0].command
    assert parameters_of(command) == {"rate": 20.0, "name": "text"}
    assert command[command.index("-p") + 1] == "all:=[1, 2]"
    # A value of one node is addressed to that node, so that it beats a file for all nodes.
    assert Path(command[-1]).read_text().startswith("/ns/x:\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    "value", ["!!bool x", "!!int ''", "!!timestamp x", "1:" * 400 + "1.0", "[" * 2000]
)
def test_a_value_that_is_no_yaml_is_text(value, run):
    for attribute in ("", 'type="str"'):
        expansion = run(f'<node {SHOW}><param name="a" value="{value}" {attribute}/></node>')
        assert parameters_of(expansion.processes[0].command) == {"a": value}


def test_a_missing_parameter_file_is_pointed_out_and_left_out(run):
    expansion = run(f'\n<node {SHOW}>\n<param from="/missing.yaml"/></node>')
    assert "main.launch.xml:4: there is no parameter file '/missing.yaml'" in expansion.warnings[0]
    assert "--params-file" not in expansion.processes[0].command


NO_PARAMETERS = {
    "utf16": (b"\xff\xfe", "not UTF-8"),
    "list": (b"/**: {ros__parameters: [1,2]}\n", "has no mapping of parameters"),
    "nothing": (b"/**:\n  ros__parameters:\n", "has no mapping of parameters"),
    "flat": (b"rate: 10.0\n", "'rate' has no mapping of parameters"),
    "sequence": (b"- rate\n", "no mapping of nodes"),
    "alias": (b"a: {ros__parameters: {b: &x 1, c: *x}}\n", "alias 'x'"),
    "empty value": (b"a: {ros__parameters: {b: }}\n", "'b' has no value"),
    "lists in a list": (b"a: {ros__parameters: {b: [[1], [2]]}}\n", "a list holds lists"),
    "torn": (b"a: {ros__parameters: {b: 1", "line "),
    "deep": (b"{a: " * 5000, "deep"),
    "pipe": (None, "a pipe"),
}


@pytest.mark.parametrize("way", ["from", "substituted", "for all", "in ros_args"])
@pytest.mark.parametrize("name", NO_PARAMETERS)
def test_a_file_that_holds_no_parameters_is_refused_before_anything_starts(
    tmp_path, run, name, way
):
    content, says = NO_PARAMETERS[name]
    file = tmp_path / "b.yaml"
    os.mkfifo(file) if content is None else file.write_bytes(content)
    body = {
        "from": f'<node {SHOW}><param from="{file}"/></node>',
        "substituted": f'<node {SHOW}><param from="{file}" allow_substs="true"/></node>',
        "for all": f'<set_parameters_from_file filename="{file}"/><node {SHOW}/>',
        "in ros_args": f'<node {SHOW} ros_args="--params-file {file}"/>',
    }[way]
    with pytest.raises(LaunchError) as told:
        run(body)
    assert str(file) in str(told.value) and says in str(told.value)
    assert "\n" not in str(told.value)


HONEST_PARAMETERS = [
    "",
    "# nothing yet\n",
    "{}\n",
    "n: {ros__parameters: {}}\n",
    "/**:\n  ros__parameters:\n    rate: 10.0\n",
    "/*/n: {ros__parameters: {rate: 1.0, gains: {p: 1.0, 2: 0.5, on: true}}}\n",
    "/left: {arm: {n: {ros__parameters: {day: 2026-01-01, names: [a, b], none: [], text: ''}}}}\n",
    "/**: {ros__parameters: {a: 1}}\n/**: {ros__parameters: {b: !!str 2, c: .nan}}\n",
    "\ufeffn: {ros__parameters: {a: 1}}\n---\nm: {ros__parameters: {b: 1}}\n",
]


@pytest.mark.parametrize("text", HONEST_PARAMETERS)
def test_what_nodes_take_for_parameters_is_handed_on(tmp_path, run, text):
    file = tmp_path / "b.yaml"
    file.write_text(text)
    command = run(f'<node {SHOW}><param from="{file}"/></node>').processes[0].command
    assert command[command.index("--params-file") + 1] == str(file)
    # The judge is what a node reads its command line by.
    context = Context()
    context.init([*command[command.index("--ros-args") :]])
    context.shutdown()
