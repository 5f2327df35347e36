"""Chains of the fake tasks."""

CHAIN = ("move_slider_left", "open_drawer", "turn_on_led", "move_slider_right", "close_drawer")


def get_sequences(num_sequences=1000, num_workers=None):
    """Pairs of an initial state and five names, as CALVIN's."""
    turned = [CHAIN[number % 5 :] + CHAIN[: number % 5] for number in range(num_sequences)]
    return [({"slider": "left", "led": number % 2}, chain) for number, chain in enumerate(turned)]
