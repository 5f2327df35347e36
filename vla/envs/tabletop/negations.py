"""Sentence templates that say what is not wanted; see sentences.py."""

from __future__ import annotations

from vla.envs.tabletop.sentences import Bank

# One object is named to be left alone, {x} is the other one.
CONTRAST: Bank = {
    "pick": {
        "train": (
            "do not touch the {other} , get {x}",
            "not the {other} , take {x} instead",
            "leave the {other} alone and pick up {x}",
            "i do not want the {other} , grab {x}",
            "the {other} stays where it is , but grab {x}",
            "i said {x} , so do not take the {other}",
            "instead of the {other} , lift {x}",
        ),
        "test": (
            "do not touch the {other} , lift {x} instead",
            "could you grab {x} and let the {other} stay where it is ?",
            "the {other} stays where it is , but please take {x}",
            "it is not the {other} i want in your gripper , it is {x}",
            "keep your fingers off the {other} , and get {x}",
        ),
    },
    "place": {
        "train": (
            "do not touch the {other} , put {x} {d}",
            "not the {other} , place {x} {d} instead",
            "leave the {other} alone and put {x} {d}",
            "i do not want the {other} {d} but {x}",
            "the {other} stays where it is , but {x} goes {d}",
            "i said {x} , so do not put the {other} {d}",
            "instead of the {other} , put {x} {d}",
        ),
        "test": (
            "put {x} {d} and leave the {other} where it is",
            "the {other} stays where it is now , but {x} goes {d}",
            "do not move the {other} , place {x} {d} instead",
            "would you put {x} {d} and keep your hands off the {other} ?",
            "i want {x} {d} , not the {other}",
            "nobody should touch the {other} , it is {x} that belongs {d}",
        ),
    },
    "store": {
        "train": (
            "do not touch the {other} , put {x} {d}",
            "not the {other} , place {x} {d} instead",
        ),
        "test": ("put {x} {d} , not the {other}", "do not put the {other} {d} but {x}"),
    },
}
# Negation around a name, and for the drawer around its state.
NOTHING_BUT: Bank = {
    "pick": {
        "train": (
            "touch nothing but {x} and pick it up",
            "leave everything but {x} on the table",
            "take nothing except {x}",
            "i want {x} and nothing else",
            "do not take anything that is not {x}",
            "keep your hand off everything but {x} , and lift that",
            "only {x} is to be picked up",
        ),
        "test": (
            "pick up nothing but {x}",
            "do not lift anything except {x}",
            "i want nothing else than {x} in your gripper",
            "do not let {x} stay where it is , pick it up",
            "there is nothing i need you to grab but {x}",
            "{x} should not be left on the table , take it",
        ),
    },
    "store": {
        "train": ("put nothing but {x} {d}", "{x} does not go {e} but {d}"),
        "test": ("do not put {x} {e} but {d}",),
    },
    "place": {
        "train": (
            "put nothing but {x} {d}",
            "i want nothing except {x} {d}",
            "put {x} {d} , not {e}",
            "{x} does not go {e} but {d}",
            "{x} must not be {e} , so put it {d}",
            "put {x} not {e} but {d}",
            "never leave {x} {e} , place it {d}",
            "do not drop {x} {e} , drop it {d}",
            "{x} goes somewhere else than {e}",
            "only {x} should be {d}",
            "do not put anything {d} that is not {x}",
            "{x} and nothing else goes {d}",
            "keep your hand off everything but {x} , which goes {d}",
        ),
        "test": (
            "do not put {x} {e} but {d}",
            "place nothing but {x} {d}",
            "{x} should never go {e} , so put it {d}",
            "do not leave {x} on the table , it should be {d}",
            "not {e} but {d} is where i want you to place {x}",
            "i do not want anything except {x} to be put {d}",
            "do not drop {x} anywhere else than {d}",
        ),
    },
    "open_drawer": {
        "train": (
            "the drawer should not stay closed",
            "do not leave the drawer closed",
            "i do not want the drawer to be closed",
            "the drawer is not open , but it should be",
            "nothing but the drawer should be open",
            "a closed drawer is not what i want",
            "why is the drawer not open ?",
            "the drawer must not be closed any longer",
            "i can not have the drawer closed",
            "never let the drawer be shut",
            "it is not good that the drawer is closed",
            "no closed drawer , please",
            "the drawer should be anything but closed",
        ),
        "test": (
            "do not keep the drawer shut , please",
            "the drawer is not open yet , but it should be",
            "a closed drawer is not what we need now",
            "why is the drawer still not open ?",
        ),
    },
    "close_drawer": {
        "train": (
            "the drawer should not stay open",
            "do not leave the drawer open",
            "i do not want the drawer to be open",
            "the drawer is not closed , but it should be",
            "nothing should be open , not even the drawer",
            "an open drawer is not what i want",
            "why is the drawer not closed ?",
            "the drawer must not be open any longer",
            "i can not have the drawer open",
            "never let the drawer be left open",
            "it is not good that the drawer is open",
            "no open drawer , please",
            "the drawer should be anything but open",
        ),
        "test": (
            "do not leave the drawer open , please",
            "i do not want the drawer to be open any longer",
            "the drawer is not closed yet , but it must be",
            "an open drawer is not what we need now",
            "why is the drawer still not shut ?",
        ),
    },
}
