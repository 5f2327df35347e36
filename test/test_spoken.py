"""Which of a bag's instructions were in force, where more than one node may have announced some."""

from types import SimpleNamespace

import pytest
from bag_files import write_demonstration
from recorded_robot import CONTRACT as CONTRACT_PATH
from vla_ros.msg import Instruction, PolicyStatus

from vla.bags.frames import read_frames
from vla.bags.spoken import SpokenInstructions
from vla.contract.embodiment import load_contract
from vla.datasets.frames import DatasetError

CONTRACT = load_contract(CONTRACT_PATH)
FIRST = "pick up the cup"
FOREIGN = (42, "dance")


def spoken(*said, told=()):
    """said: id and text, one each second; told: what statuses say."""
    found = SpokenInstructions("/vla/instruction")
    for received, (number, text) in enumerate(said):
        found.announce(Instruction(instruction_id=number, instruction=text, mode="act"), received)
    for number, text in told:
        found.confirm(PolicyStatus(instruction_id=number, instruction=text))
    return found


def test_without_a_status_each_holds_until_the_next():
    found = spoken((7, "a"), (7, "a"), (0, ""), (8, "b"), (8, "b"))
    assert found.in_force([-1, 0, 1, 2, 3, 9], "x") == ["x", "a", "a", "x", "b", "b"]


@pytest.mark.parametrize("told", [(), ((7, "a"), (8, "b"))])
def test_one_that_is_stopped_and_resumed_is_no_second_source(told):
    found = spoken((7, "a"), (0, ""), (7, "a"), (8, "b"), (0, ""), (0, ""), (8, "b"), told=told)
    assert found.in_force([0, 2, 3, 6], "a") == ["a", "a", "b", "b"]


@pytest.mark.parametrize(
    "said",
    [
        ((7, "a"), FOREIGN, (7, "a"), FOREIGN),
        (FOREIGN, (7, "a"), FOREIGN),
        # Of the same id, and of a text that was given before.
        ((7, "a"), (7, "dance"), (7, "a")),
        ((7, "a"), (0, ""), (8, "b"), (7, "a")),
    ],
)
def test_ids_that_alternate_are_refused_where_no_status_tells(said):
    with pytest.raises(DatasetError, match=r"of two nodes: id \d+ \('.*'\) comes back after id"):
        spoken(*said).in_force([0], "a")


def test_only_what_a_status_confirms_counts():
    said = ((7, "a"), FOREIGN, (7, "a"), (7, "dance"), FOREIGN, (8, "b"), FOREIGN, (0, ""))
    found = spoken(*said, told=((0, ""), (7, "a"), (8, "b")))
    assert found.in_force(range(8), "a") == ["a"] * 5 + ["b"] * 3
    # The recorder may have taken the foreign one for its label.
    assert found.in_force([-1, 0], "dance") == ["a", "a"]
    assert spoken(FOREIGN, told=((0, ""),)).in_force([0], "dance") == [""]


def test_two_that_statuses_confirm_in_turn_are_refused():
    found = spoken((7, "a"), FOREIGN, (7, "a"), told=((7, "a"), FOREIGN))
    with pytest.raises(DatasetError, match="leave this episode out"):
        found.in_force([0], "a")


def test_questions_and_messages_of_other_definitions():
    found = spoken((7, "a"))
    found.announce(Instruction(instruction_id=9, instruction="what?", mode="ask"), 1)
    found.announce(Instruction(instruction_id=7, instruction="a", mode="act"), 2)
    assert found.in_force([1, 2], "x") == ["a", "a"]
    with pytest.raises(TypeError):
        found.confirm(SimpleNamespace(instruction_id=[7], instruction="a"))


def in_bag(folder, said, told):
    """Instructions of the frames of a bag: said, told: second, id and text."""
    more = [
        (second, "vla/instruction", Instruction(instruction_id=n, instruction=text, mode="act"))
        for second, n, text in said
    ] + [
        (second, "vla/status", PolicyStatus(instruction_id=n, instruction=text))
        for second, n, text in told
    ]
    bag = write_demonstration(folder, CONTRACT, 2.0, more=more)
    return set(read_frames(bag, CONTRACT, lambda images: None).instructions)


@pytest.mark.slow
def test_a_bag_with_foreign_instructions(tmp_path):
    said = [(i / 10, *((7, FIRST), FOREIGN)[i % 2]) for i in range(20)]
    told = [(0.1, 7, FIRST), (0.3, 7, FIRST)]
    assert in_bag(tmp_path / "told", said, told) == {FIRST}
    with pytest.raises(DatasetError, match="/robot/vla/instruction' has instructions of two nodes"):
        in_bag(tmp_path / "untold", said, [])
    assert in_bag(tmp_path / "resumed", [(0.1, 7, "x"), (0.5, 0, ""), (0.9, 7, "x")], []) == {
        FIRST,
        "x",
    }
