"""What the launcher makes of launch files: arguments, includes, conditions, rules, errors."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from launcher_prefix import (
    PACKAGE,
    SHOW,
    expander,
    make_prefix,
    own_words,
    words,
    write,
)

from vla_nodes.launcher.arguments import declared_arguments, format_arguments, parse_arguments
from vla_nodes.launcher.command import main
from vla_nodes.launcher.document import LaunchError
from vla_nodes.launcher.expansion import Expansion, expand


@pytest.fixture
def environment(tmp_path):
    return make_prefix(tmp_path / "prefix")


@pytest.fixture
def run(tmp_path, environment):
    return expander(tmp_path, environment)


def rules(expansion: Expansion) -> list[str]:
    """Return the remapping rules of the only process."""
    (process,) = expansion.processes
    command = process.command
    return [word for flag, word in pairwise(command) if flag == "-r"]


# Arguments


def test_an_argument_has_its_default_and_takes_another_value(run):
    body = f'<arg name="a" default="x"/><node {SHOW} args="$(var a)"/>'
    assert words(run(body)) == ["x"]
    assert words(run(body, a="y")) == ["y"]


def test_a_default_can_use_an_earlier_argument(run):
    body = '<arg name="a" default="1"/><arg name="b" default="$(var a)2"/>'
    assert words(run(f'{body}<node {SHOW} args="$(var b)"/>', a="7")) == ["72"]


def test_a_required_argument_is_asked_for(run):
    with pytest.raises(LaunchError, match=r"main.launch.xml:2: <arg>: .*'a' \(the one\).*a:=VALUE"):
        run('<arg name="a" description="the one"/>')


def test_only_a_choice_is_accepted(run):
    body = '<arg name="a" default="1"><choice value="1"/><choice value="2"/></arg>'
    run(body, a="2")
    with pytest.raises(LaunchError, match="'a' is '3'; it must be one of: 1, 2"):
        run(body, a="3")


def test_an_unused_argument_is_pointed_out(run):
    (warning,) = run('<arg name="typo" default=""/>', tpyo="1").warnings
    assert "'tpyo' is not used; known are: typo" in warning


def test_words_of_the_command_line():
    assert parse_arguments(["a:=1", "b:=x:=y", "a:=2"]) == {"a": "2", "b": "x:=y"}
    for word in ("a", "a:=", ":=1", "a=1"):
        with pytest.raises(LaunchError, match="name:=value"):
            parse_arguments([word])


def test_show_args_lists_files_that_are_included(tmp_path, environment):
    write(tmp_path, '<arg name="inner" description="of the inner file"/>', "inner.launch.xml")
    path = write(
        tmp_path,
        '<arg name="outer" default="$(var x)"/><group if="$(var outer)">'
        '<include file="$(dirname)/inner.launch.xml"/></group>'
        '<include file="$(var outer)/unknown.launch.xml"/>',
    )
    arguments = declared_arguments(path, environment)
    assert [(a.name, a.default, a.conditional) for a in arguments] == [
        ("outer", "$(var x)", False),
        ("inner", None, True),
    ]
    text = format_arguments(arguments)
    assert "'outer':\n        no description given\n        (default: '$(var x)')" in text
    assert "'inner':*\n        of the inner file" in text


# Includes, groups, conditions


def test_an_include_passes_arguments_and_leaves_them_set(tmp_path, run):
    write(
        tmp_path,
        f'<arg name="a"/><arg name="own" default="o"/><node {SHOW} args="$(var a) $(dirname)"/>',
        "inner.launch.xml",
    )
    expansion = run(
        '<arg name="x" default="1"/><include file="$(dirname)/inner.launch.xml">'
        f'<arg name="a" value="$(var x)2"/></include><node {SHOW} args="$(var a) $(var own)"/>'
    )
    assert [own_words(p) for p in expansion.processes] == [["12", str(tmp_path)], ["12", "o"]]


def test_an_include_must_pass_what_is_required(tmp_path, run):
    write(tmp_path, '<group><arg name="a"/></group>', "inner.launch.xml")
    body = '<let name="a" value="1"/>\n<include file="$(dirname)/inner.launch.xml"/>'
    with pytest.raises(LaunchError, match=r'main.launch.xml:3: <include>.*<arg name="a"'):
        run(body)


def test_an_include_in_a_group_changes_nothing_outside(tmp_path, run):
    write(tmp_path, '<arg name="a" default="inner"/>', "inner.launch.xml")
    body = (
        '<group><include file="$(dirname)/inner.launch.xml"/></group>'
        f'<node {SHOW} args="$(var a outer)"/>'
    )
    assert words(run(body)) == ["outer"]


def test_a_file_that_includes_itself_is_refused(run):
    with pytest.raises(LaunchError, match="files include each other"):
        run('<include file="$(filename)"/>')


def test_an_included_file_is_named_in_its_errors(tmp_path, run):
    write(tmp_path, '<let name="a" value="1"/>\n<let name="b"/>', "inner.launch.xml")
    with pytest.raises(LaunchError, match=r"inner.launch.xml:3: <let>: attribute 'value' is miss"):
        run('<include file="$(dirname)/inner.launch.xml"/>')


@pytest.mark.parametrize(
    "value, runs", [("true", True), ("1", True), ("False", False), ("0", False)]
)
@pytest.mark.parametrize("tag", ["node", "group", "include", "executable"])
def test_conditions(tmp_path, run, tag, value, runs):
    write(tmp_path, f"<node {SHOW}/>", "inner.launch.xml")
    body = {
        "node": f"<node {SHOW} CONDITION/>",
        "group": f"<group CONDITION><node {SHOW}/></group>",
        "include": '<include file="$(dirname)/inner.launch.xml" CONDITION/>',
        "executable": '<executable cmd="true" CONDITION/>',
    }[tag]
    for condition, expected in (("if", runs), ("unless", not runs)):
        text = body.replace("CONDITION", f'{condition}="$(var c)"')
        assert len(run(text, c=value).processes) == expected


def test_a_condition_holds_for_let_and_set_env_too(run):
    body = (
        '<let name="a" value="1" if="false"/><set_env name="B" value="1" unless="true"/>'
        f'<node {SHOW} args="$(var a none) $(env B none)"/>'
    )
    assert words(run(body)) == ["none", "none"]


def test_a_condition_that_is_none_is_refused(run):
    with pytest.raises(LaunchError, match="must be true, false, 1 or 0, got 'maybe'"):
        run(f'<node {SHOW} if="maybe"/>')


def test_a_group_keeps_its_changes_to_itself(run):
    changes = '<let name="a" value="in"/><set_env name="E" value="in"/>'
    after = f'<node {SHOW} args="$(var a out) $(env E out)"/>'
    assert words(run(f"<group>{changes}</group>{after}")) == ["out", "out"]
    assert words(run(f'<group scoped="false">{changes}</group>{after}')) == ["in", "in"]


def test_a_group_that_forwards_nothing_keeps_what_it_is_told(run):
    body = (
        '<let name="a" value="1"/><let name="b" value="2"/><set_env name="E" value="x"/>'
        '<group forwarding="false"><keep name="a" value="$(var a)0"/>'
        f'<node {SHOW} args="$(var a) $(var b none) $(env E none)"/></group>'
    )
    assert words(run(body)) == ["10", "none", "none"]


# Namespaces, remaps, environment, parameters


@pytest.mark.parametrize("push", ["push_ros_namespace", "push-ros-namespace"])
@pytest.mark.parametrize(
    "pushed, own, expected",
    [
        ("a", None, "/a"),
        ("a", "b", "/a/b"),
        ("a", "/b", "/b"),
        ("", None, "/"),
        ("/a/", "b/", "/a/b"),
    ],
)
def test_namespaces(run, push, pushed, own, expected):
    attribute = "" if own is None else f'namespace="{own}"'
    body = f'<group><{push} namespace="{pushed}"/><node {SHOW} name="n" {attribute}/></group>'
    assert rules(run(body)) == ["__node:=n", f"__ns:={expected}"]


def test_a_namespace_ends_with_its_group(run):
    body = f'<group><push_ros_namespace namespace="a"/></group><node {SHOW}/>'
    assert rules(run(body)) == []


def test_remaps_of_the_scope_come_before_those_of_the_node(run):
    body = f'<set_remap from="a" to="b"/><node {SHOW}><remap from="c" to="$(var d)"/></node>'
    assert rules(run(body, d="/e")) == ["a:=b", "c:=/e"]


def test_environment_of_scope_and_node(run, environment):
    environment["GONE"] = "1"
    body = (
        '<set_env name="A" value="1"/><append_env name="A" value="2"/>'
        '<append_env name="A" value="0" prepend="true" separator=","/><unset_env name="GONE"/>'
        f'<node {SHOW}><env name="B" value="$(env A)"/></node><executable cmd="true"/>'
    )
    node, executable = run(body).processes
    assert node.environment["A"] == node.environment["B"] == "0,1:2"
    assert "B" not in executable.environment and "GONE" not in node.environment
    reset = run('<set_env name="GONE" value="2"/><reset_env/><executable cmd="true"/>')
    assert reset.processes[0].environment["GONE"] == "1"


def test_words_of_args_and_the_order_of_the_command(run):
    body = (
        f'<node {SHOW} name="n" args="a$(var x)b \'c d\' $(var x) $(var x)$(var x)" '
        'ros_args="--log-level $(var level)"/>'
    )
    (process,) = run(body, x="1 2", level="debug").processes
    assert list(process.command[1:]) == [
        *["a1 2b", "c d", "1 2", "1 21 2"],
        *["--ros-args", "--log-level", "debug", "--ros-args", "-r", "__node:=n"],
    ]
    assert process.command[0].endswith(f"lib/{PACKAGE}/show") and process.label == "show-1"


def test_an_executable_with_prefix_and_label(run):
    body = f'<executable cmd="$(exec-in-pkg show {PACKAGE}) a" name="x" launch-prefix="nice -n 1"/>'
    (process,) = run(body).processes
    assert process.command[:3] == ("nice", "-n", "1") and process.command[-1] == "a"
    assert process.label == "x-1"


def test_rules_of_running(run):
    body = (
        f'<node {SHOW} respawn="$(var r)" respawn_delay="1.5" respawn_max_retries="2" cwd="/"'
        ' on_exit="shutdown" output="screen" sigterm_timeout="1" sigkill_timeout="0.5"/>'
    )
    (process,) = run(body, r="true").processes
    assert (process.respawn, process.respawn_delay, process.respawn_max_retries) == (True, 1.5, 2)
    assert process.shutdown_on_exit and process.output == "screen"
    assert process.working_directory == "/"
    assert (process.sigterm_timeout, process.sigkill_timeout) == (1.0, 0.5)


# What is refused, with file, line and element


@pytest.mark.parametrize(
    "body, message",
    [
        ("<timer period='1'/>", "<timer>: this element cannot be run by this launcher"),
        (f"<node {SHOW} color='x'/>", "<node>: attribute 'color' is not supported; known are: a"),
        ("<node pkg='a'/>", "<node>: attribute 'exec' is missing"),
        (f"<node {SHOW}><arg name='a'/></node>", "<arg>: this element is not supported inside <no"),
        (f"<node {SHOW}><env name='a' value='b' if='1'/></node>", "<env>: attribute 'if' is not s"),
        (f"<node {SHOW} if='1' unless='1'/>", "<node>: 'if' and 'unless' cannot both"),
        (f"<node {SHOW} name='a-b'/>", "<node>: 'a-b' cannot be a node name"),
        (f"<node {SHOW} namespace='a b'/>", "<node>: '/a b' cannot be a namespace"),
        (f"<node {SHOW} output='tty'/>", "<node>: output is 'tty'; it must be one of"),
        (f"<node {SHOW} on_exit='respawn'/>", "<node>: on_exit is 'respawn'; the only choice"),
        (f"<node {SHOW} respawn='often'/>", "<node>: expected true or false, got 'often'"),
        (f"<node {SHOW} respawn_delay='$(var d)'/>", r"<node>: expected a plain float"),
        (f"<node {SHOW} respawn_delay='-1'/>", "<node>: expected a number of at least 0"),
        (f'<node {SHOW} args="it\'s"/>', "<node>: cannot split 'it's' into words"),
        ("<node pkg='nowhere' exec='x'/>", "<node>: package 'nowhere' is not installed"),
        (f"<node pkg='{PACKAGE}' exec='x'/>", "<node>: package 'demo_package' has no executable"),
        ("<include file='/missing.launch.xml'/>", "<include>: there is no launch file"),
        ("<group scoped='$(var s)'/>", "<group>: expected true or false"),
        ("<let name='a'>", " not well-formed XML: mismatched tag"),
    ],
)
def test_errors_name_file_line_and_element(run, body, message):
    with pytest.raises(LaunchError) as error:
        run(body)
    text = str(error.value)
    assert "\n" not in text
    place, _, rest = text.partition("main.launch.xml:")
    assert place.endswith("/")
    line, _, rest = rest.partition(":")
    assert line == ("3" if "mismatched" in message else "2")
    assert rest.lstrip().startswith(message.lstrip())


def test_a_mistake_behind_a_false_condition_is_found(run):
    with pytest.raises(LaunchError, match="<nod>"):
        run('<group if="false"><nod/></group>')


def test_other_files_are_refused(tmp_path, environment):
    python_file = tmp_path / "a.launch.py"
    python_file.touch()
    with pytest.raises(LaunchError, match="only launch files in XML"):
        expand(python_file, {}, environment, tmp_path)
    other = tmp_path / "other.xml"
    other.write_text("<robot/>")
    with pytest.raises(LaunchError, match="outermost element must be <launch>"):
        expand(other, {}, environment, tmp_path)


# The command


def test_the_command_finds_files_and_prints(tmp_path, environment, monkeypatch, capsys):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    folder = tmp_path / "prefix/share" / PACKAGE / "launch"
    path = write(folder, f'<arg name="a"/><node {SHOW} args="$(var a)"/>', "x.launch.xml")
    for words_given in ([str(path), "a:=1 2"], [PACKAGE, "x.launch.xml", "a:=1 2"]):
        assert main([*words_given, "--print"]) == 0
        assert "lib/demo_package/show '1 2' --ros-args" in capsys.readouterr().out
    assert main([PACKAGE, "x.launch.xml", "--show-args"]) == 0
    assert "    'a':\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([PACKAGE, "missing.launch.xml"], "has no launch file 'missing.launch.xml' .*x.launch.xml"),
        ([PACKAGE], "for a package give also the file"),
        (["nowhere", "x.launch.xml"], "package 'nowhere' is not installed"),
        (["some/where.launch.xml"], "there is no launch file 'some/where.launch.xml'"),
        ([PACKAGE, "x.launch.xml", "a=1"], "'a=1' is not of the form name:=value"),
        ([PACKAGE, "x.launch.xml"], "launch argument 'a' has no default"),
    ],
)
def test_the_command_says_in_one_line_what_is_wrong(
    tmp_path, environment, monkeypatch, capsys, arguments, message
):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    folder = tmp_path / "prefix/share" / PACKAGE / "launch"
    write(folder, '<arg name="a"/>', "x.launch.xml")
    assert main(arguments) == 1
    output = capsys.readouterr()
    assert output.out == "" and output.err.count("\n") == 1
    assert re.search(message, output.err)
