"""A camera that is frozen: the arm moves and the image does not."""

import numpy as np

from vla.observations.frozen_images import REST, FrozenImages

STILL, MOVED = np.zeros(7), np.full(7, 0.06)
IMAGE, OTHER = bytes(100), bytes(99) + b"1"
PERIOD = 0.05


def play(camera, places, image=IMAGE, start=0.0):
    """What the camera is called at each of the places, one in each period."""
    return [
        camera.is_frozen(image, np.full(7, place), start + row * PERIOD)
        for row, place in enumerate(places)
    ]


def test_the_same_image_of_an_arm_that_moved_is_frozen_until_another_comes():
    camera = FrozenImages(0.05)
    assert not camera.is_frozen(IMAGE, STILL, 0.0)
    assert camera.is_frozen(IMAGE, MOVED, 0.1)
    assert camera.is_frozen(IMAGE, MOVED, 0.2)
    assert not camera.is_frozen(OTHER, MOVED, 0.3)
    assert not camera.is_frozen(OTHER, MOVED + 0.04, 0.4)


def test_an_arm_at_rest_and_images_that_change_are_as_they_should_be():
    camera = FrozenImages(0.05)
    assert not any(play(camera, np.zeros(100)))
    for number in range(20):
        assert not camera.is_frozen(bytes([number]) * 100, MOVED * number, 10.0 + number)


def test_an_arm_that_is_back_where_the_image_was_taken_is_what_it_shows():
    camera = FrozenImages(0.05)
    way = np.linspace(0.0, 0.5, 20)
    assert any(play(camera, [*way, *way[::-1]]))
    assert not camera.is_frozen(IMAGE, STILL, 2.1)


def test_joints_that_jump_are_no_motion():
    """Forged states among the real ones of an arm at rest."""
    camera = FrozenImages(0.1)
    assert not any(play(camera, [0.0, 1.0, 0.0, 0.0, 1.0, 1.0, 1.0, 0.0] * 20))
    assert not any(play(camera, np.zeros(100), start=10.0))


def test_what_was_first_seen_with_forged_joints_does_not_stay_frozen():
    camera = FrozenImages(0.1)
    play(camera, np.zeros(5))
    # The image changes while the forged joints are there, and they glide back as an arm would.
    glide = np.linspace(0.8, 0.0, 30)
    assert any(play(camera, glide, OTHER, start=0.25))
    at_rest = play(camera, np.zeros(int(2 * REST / PERIOD)), OTHER, start=0.25 + 30 * PERIOD)
    assert at_rest[0] and not at_rest[-1]


def test_a_camera_that_is_really_frozen_gets_one_more_try_and_no_third():
    camera = FrozenImages(0.1)
    place, time, moved = 0.0, 0.0, 0.0
    for _ in range(2000):
        frozen = camera.is_frozen(IMAGE, np.full(7, place), time)
        if not frozen:
            place, moved = place + 0.01, moved + 0.01
        time += PERIOD
    assert 0.2 <= moved <= 0.25


def test_a_clock_that_goes_back_begins_anew():
    camera = FrozenImages(0.1)
    assert any(play(camera, np.linspace(0.0, 0.3, 20), start=100.0))
    assert not any(play(camera, np.full(10, 0.3)))
