"""Which instruction a model node follows while somebody else announces some, too."""

from builtin_interfaces.msg import Time
from std_msgs.msg import Header
from vla_ros.msg import Instruction, PolicyStatus

from vla_nodes.core.followed_instruction import FollowedInstruction

OURS = Instruction(instruction_id=7, instruction="open the drawer", mode="act")
NEXT = Instruction(instruction_id=8, instruction="close the drawer", mode="act")
TOLD = PolicyStatus(state=PolicyStatus.EXECUTING, instruction_id=7, instruction="open the drawer")


def foreign(number, text="pick the red block", mode="act"):
    return Instruction(instruction_id=number, instruction=text, mode=mode)


def following():
    followed = FollowedInstruction()
    assert followed.announce(OURS, alone=True)
    followed.confirm(TOLD, alone=True)
    return followed


def test_alone_everything_is_followed_and_a_repetition_is_no_change():
    followed = following()
    assert not followed.announce(OURS, alone=True)
    assert followed.announce(NEXT, alone=True)
    assert followed.announce(Instruction(), alone=True)
    assert followed.instruction.instruction_id == 0


def test_an_instruction_that_was_resumed_starts_over_although_its_stop_was_missed():
    followed = following()
    resumed = Instruction(
        header=Header(stamp=Time(nanosec=150_000_000)),
        instruction_id=OURS.instruction_id,
        instruction=OURS.instruction,
        mode=OURS.mode,
    )
    assert followed.announce(resumed, alone=True)
    assert not followed.announce(resumed, alone=True)


def test_a_foreign_message_changes_nothing():
    followed = following()
    for message in (
        foreign(42),
        foreign(2**63),
        foreign(0, ""),
        foreign(7),
        foreign(7, OURS.instruction, "ask"),
    ):
        assert not followed.announce(message, alone=False)
        assert not followed.confirm(TOLD, alone=False)
        assert followed.instruction == OURS


def test_the_controllers_next_instruction_is_followed_once_its_status_confirms_it():
    followed = following()
    followed.announce(foreign(42), alone=False)
    assert not followed.announce(NEXT, alone=False)
    status = PolicyStatus(instruction_id=8, instruction=NEXT.instruction, state=1)
    assert followed.confirm(status, alone=False)
    assert followed.instruction == NEXT


def test_a_stop_is_followed_and_so_is_what_comes_after():
    followed = following()
    followed.announce(foreign(42), alone=False)
    stopped = PolicyStatus(
        state=PolicyStatus.STOPPED, instruction_id=7, instruction=OURS.instruction
    )
    assert followed.confirm(stopped, alone=False)
    assert followed.instruction.instruction_id == 0
    followed.confirm(TOLD, alone=False)
    followed.announce(OURS, alone=False)
    assert followed.instruction == OURS


def test_a_node_that_hears_the_foreign_one_first_is_set_right():
    followed = FollowedInstruction()
    followed.announce(foreign(42), alone=True)
    followed.announce(OURS, alone=False)
    followed.confirm(TOLD, alone=False)
    assert followed.instruction == OURS


def test_a_flood_of_forged_ones_does_not_hide_the_right_one():
    followed = following()
    for number in range(1000):
        followed.announce(foreign(1000 + number), alone=False)
    followed.announce(NEXT, alone=False)
    followed.confirm(PolicyStatus(instruction_id=8, instruction=NEXT.instruction), alone=False)
    assert followed.instruction == NEXT


def test_while_the_status_is_in_doubt_too_the_instruction_in_force_stays():
    followed = following()
    followed.doubt()
    for message in (foreign(42), foreign(0, ""), NEXT):
        assert not followed.announce(message, alone=False)
        assert followed.instruction == OURS
    # Once the status can be trusted again, what was announced meanwhile counts.
    status = PolicyStatus(instruction_id=8, instruction=NEXT.instruction, state=1)
    assert followed.confirm(status, alone=False)
    assert followed.instruction == NEXT


def test_while_the_status_alone_is_in_doubt_a_stop_is_followed():
    followed = following()
    followed.doubt()
    assert followed.announce(Instruction(), alone=True)
    assert followed.instruction.instruction_id == 0
