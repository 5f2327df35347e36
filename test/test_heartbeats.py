"""What is concluded from heartbeats."""

from vla.control.heartbeats import Heartbeats

NODE = "/action_expert"


def watched():
    return Heartbeats([NODE, "/reasoning"], 0.1)


def test_a_node_that_never_sent_one_is_not_judged():
    heartbeats = watched()
    assert heartbeats.stopped(1e6) == set()
    assert not heartbeats.beats(NODE)


def test_stops_after_the_limit_and_goes_on_with_the_next_beat():
    heartbeats = watched()
    heartbeats.beat(NODE, 1, 10.0)
    assert heartbeats.beats(NODE)
    assert heartbeats.stopped(10.09) == set()
    assert heartbeats.stopped(10.11) == {NODE}
    assert heartbeats.stopped(10.12) == {NODE}
    assert heartbeats.beat(NODE, 1, 10.2) is False, "the same life"
    assert heartbeats.stopped(10.25) == set()


def test_beats_that_waited_while_nobody_looked_count_as_heard_then():
    heartbeats = watched()
    heartbeats.beat(NODE, 1, 10.0)
    heartbeats.beat(NODE, 1, 11.0)
    assert heartbeats.stopped(11.05) == set()


def test_another_life_of_the_same_name_cannot_cover_up_a_death():
    heartbeats = watched()
    heartbeats.beat(NODE, 1, 10.0)
    for step in range(1, 20):
        now = 10.0 + 0.02 * step
        taken = heartbeats.beat(NODE, 2, now)
        if heartbeats.stopped(now):
            break
        assert not taken
    assert 0.1 < now - 10.0 < 0.13
    assert heartbeats.beat(NODE, 2, now + 0.02) is True, "a new life has taken its place"
    assert heartbeats.stopped(now + 0.03) == set()
    heartbeats.beat(NODE, 1, now + 0.1)
    assert heartbeats.stopped(now + 0.13) == {NODE}, "the first life does not speak for the second"


def test_beats_of_other_nodes_say_nothing():
    heartbeats = watched()
    heartbeats.beat(NODE, 1, 10.0)
    heartbeats.beat("/left" + NODE, 1, 10.1)
    heartbeats.beat("/stranger", 1, 10.1)
    heartbeats.beat("/reasoning", 1, 10.1)
    assert heartbeats.stopped(10.15) == {NODE}
    assert not heartbeats.beats("/stranger")


def test_only_what_has_stopped_is_forgotten():
    heartbeats = watched()
    heartbeats.beat(NODE, 1, 10.0)
    heartbeats.beat("/reasoning", 1, 10.1)
    assert heartbeats.stopped(10.15) == {NODE}
    heartbeats.forget_stopped()
    assert heartbeats.stopped(10.16) == set()
    assert heartbeats.stopped(10.25) == {"/reasoning"}
