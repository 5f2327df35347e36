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
            "i do not need the {other} , get me {x}",
            "please grab {x} and not the {other}",
            "keep away from the {other} and take {x}",
            "it is not the {other} that i want , lift {x}",
            "let the {other} be and fetch {x}",
            "the {other} is not what i need , pick up {x}",
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
            "i do not need the {other} , put {x} {d}",
            "please place {x} and not the {other} {d}",
            "keep away from the {other} and move {x} so that it is {d}",
            "it is not the {other} that goes {d} but {x}",
            "let the {other} be and set {x} {d}",
            "the {other} is not what belongs {d} , put {x} there",
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
            "i need nothing but {x}",
            "grab {x} and touch nothing else",
            "lift {x} and leave everything else alone",
            "do not get me anything but {x}",
            "take {x} only",
            "nothing but {x} should be in your hand",
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
            "place {x} {d} and touch nothing else",
            "do not leave {x} {e} , it goes {d}",
            "{x} should not be {e} but {d}",
            "nothing but {x} belongs {d}",
            "i do not want {x} {e} , i want it {d}",
            "set {x} {d} and leave everything else alone",
            "put {x} {d} and never {e}",
            "only {x} goes {d}",
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
            "the drawer must not stay closed",
            "please do not keep the drawer closed",
            "i do not like the drawer closed",
            "the drawer is closed , which it should not be",
            "it is not right that the drawer is closed",
            "do not leave the drawer like this , it is closed",
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
            "the drawer must not stay open",
            "please do not keep the drawer open",
            "i do not like the drawer open",
            "the drawer is open , which it should not be",
            "it is not right that the drawer is open",
            "do not leave the drawer like this , it is open",
        ),
    },
}
