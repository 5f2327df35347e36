"""Sentence templates of reworded instructions, by kind, task family and split.

Templates of the split "test" are never trained on; their words mostly are. Slots: {x} the object,
{d} where it goes ("in the bowl"), {e} where it does not go, {dest} the bowl or plate, {color} of
the object, {other} another object's name, {drawer} the drawer, {verb} one that need not be
known, since the rest says enough.
"""

from __future__ import annotations

Bank = dict[str, dict[str, tuple[str, ...]]]

# Commands in other words: no verb or noun of the plain phrasing in tasks.py.
PARAPHRASE: Bank = {
    "pick": {
        "train": (
            "raise {x}",
            "raise {x} off the table",
            "i would like {x} in your hand",
            "collect {x}",
            "seize {x} and raise it",
            "close your fingers around {x} and bring it up",
            "let me see {x} up in the air",
            "{x} should be in your gripper",
            "i would like to see you holding {x}",
            "bring {x} up from the table",
            "have your gripper carry {x} up",
            "i need {x} off the table",
            "{verb} {x} up",
            "{verb} {x} off the table",
            "please {verb} {x} up from the table",
            "would you {verb} {x} up into the air",
            "your fingers should close around {x}",
            "{x} is to leave the table",
            "bring {x} into the air",
            "raise {x} high up",
            "go and collect {x}",
        ),
        "test": (
            "i would like to see {x} in the air",
            "have {x} in your hand",
            "bring your gripper to {x} and raise it",
            "collect {x} and let me see it",
            "{x} should be up in the air",
        ),
    },
    "place": {
        "train": (
            "{x} should end up {d}",
            "transfer {x} so that it is {d}",
            "let {x} rest {d}",
            "carry {x} over and leave it {d}",
            "i would like {x} to be {d}",
            "deposit {x} {d}",
            "bring {x} over , it goes {d}",
            "lay {x} {d}",
            "raise {x} and let go of it {d}",
            "i would like to see {x} {d}",
            "{verb} {x} {d}",
            "please {verb} {x} {d}",
            "would you {verb} {x} {d}",
            "go and {verb} {x} {d}",
            "{x} is to be {d}",
            "make sure that {x} is {d}",
            "see to it that {x} gets {d}",
            "get rid of {x} , it goes {d}",
            "bring {x} to where it belongs , which is {d}",
            "have {x} sit {d}",
        ),
        "test": (
            "i would like {x} to end up {d}",
            "leave {x} {d}",
            "carry {x} over and let it rest {d}",
            "{x} goes {d}",
            "bring {x} over so that it is {d}",
        ),
    },
    "open_drawer": {
        "train": (
            "draw the {drawer} out",
            "bring the {drawer} out of the cabinet",
            "make the {drawer} stick out",
            "expose what is inside the {drawer}",
            "have the {drawer} stand out",
            "i would like to see inside the {drawer}",
            "extend the {drawer}",
            "let the {drawer} come out all the way",
            "{verb} the {drawer} out",
            "{verb} the {drawer} out of the cabinet",
            "give me a look into the {drawer}",
            "the {drawer} is to come out of the cabinet",
            "bring out the {drawer}",
            "let the {drawer} roll out",
        ),
        "test": (
            "i would like the {drawer} to come out",
            "make the {drawer} come out of the cabinet",
            "have the {drawer} stick out all the way",
            "draw out the {drawer}",
        ),
    },
    "close_drawer": {
        "train": (
            "bring the {drawer} back in",
            "tuck the {drawer} in",
            "return the {drawer} to the cabinet",
            "let the {drawer} disappear in the cabinet",
            "seal the {drawer}",
            "make the {drawer} go back into the cabinet",
            "have the {drawer} go all the way in",
            "shove the {drawer} back",
            "{verb} the {drawer} back in",
            "{verb} the {drawer} back into the cabinet",
            "the {drawer} is to go back into the cabinet",
            "let the {drawer} roll back in",
            "no part of the {drawer} should stick out",
            "make the {drawer} end where the cabinet ends",
        ),
        "test": (
            "i would like the {drawer} to go back in",
            "make the {drawer} disappear in the cabinet",
            "bring the {drawer} back into the cabinet",
            "tuck the {drawer} back in",
        ),
    },
    "store": {
        "train": (
            "{x} should end up {d}",
            "transfer {x} so that it is {d}",
            "let {x} rest {d}",
            "carry {x} over and leave it {d}",
            "i would like {x} to be {d}",
            "raise {x} and let go of it {d}",
        ),
        "test": (
            "i would like {x} to end up {d}",
            "leave {x} {d}",
            "carry {x} over and let it rest {d}",
        ),
    },
}

# Around a reference that is new; the verbs are those of the plain phrasing.
REFERRING: Bank = {
    "pick": {
        "train": (
            "pick up {x}",
            "please grab {x}",
            "can you lift {x}",
            "get me {x}",
            "grasp {x} now",
            "i want you to fetch {x}",
            "find {x} and pick it up",
            "look for {x} and take it",
            "would you pick up {x}",
            "let us take {x}",
            "go and get {x}",
            "it would be nice if you could lift {x}",
            "i am asking you to grab {x}",
            "pick {x} up",
            "next , take hold of {x}",
            "the thing to grasp is {x}",
        ),
        "test": (
            "could you take {x}",
            "your task is to pick up {x}",
            "find {x} and grab it for me",
            "i need you to lift {x}",
            "now fetch {x}",
        ),
    },
    "place": {
        "train": (
            "put {x} {d}",
            "please place {x} {d}",
            "move {x} so that it is {d}",
            "can you drop {x} {d}",
            "set {x} down {d}",
            "find {x} and put it {d}",
            "i want you to put {x} {d}",
            "take {x} and place it {d}",
            "would you put {x} {d}",
            "let us move {x} , it should be {d}",
            "go and place {x} {d}",
            "it would be nice if you could put {x} {d}",
            "i am asking you to set {x} {d}",
            "grab {x} and drop it {d}",
            "next , put {x} {d}",
            "what belongs {d} is {x}",
            "get {x} and put it {d}",
        ),
        "test": (
            "could you set {x} {d}",
            "your task is to put {x} {d}",
            "find {x} and drop it {d}",
            "i need {x} to be {d}",
            "now place {x} {d} for me",
        ),
    },
    "open_drawer": {
        "train": (
            "open {x}",
            "please pull open {x}",
            "can you slide open {x}",
            "find {x} and open it",
            "would you open {x}",
            "go and open {x}",
            "open {x} for me",
            "it would be nice if you could open {x}",
        ),
        "test": (
            "could you open {x}",
            "your task is to pull {x} open",
            "now slide {x} open for me",
        ),
    },
    "close_drawer": {
        "train": (
            "close {x}",
            "please shut {x}",
            "can you push {x} closed",
            "find {x} and close it",
            "would you close {x}",
            "go and shut {x}",
            "close {x} for me",
            "it would be nice if you could close {x}",
        ),
        "test": ("could you close {x}", "your task is to shut {x}", "now push {x} closed for me"),
    },
    "store": {
        "train": (
            "put {x} {d}",
            "please place {x} {d}",
            "move {x} so that it is {d}",
            "find {x} and put it {d}",
            "take {x} and place it {d}",
        ),
        "test": (
            "could you set {x} {d}",
            "your task is to put {x} {d}",
            "i need {x} to be {d}",
        ),
    },
}
# The drawer by what it looks like.
DRAWER = {
    "train": (
        "the part of the cabinet that slides",
        "the wooden part with the black handle",
        "what belongs to the black handle",
        "the thing with the black handle",
        "what slides out of the cabinet",
        "the part that can be pulled out",
        "the wooden box in the cabinet",
        "the only thing here that can be opened and closed",
        "the part with a handle",
        "the wooden front of the cabinet",
        "the thing that you can pull on",
        "what moves in and out of the cabinet",
    ),
    "test": ("the part of the cabinet with the black handle", "the wooden part that slides"),
}

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
            "leave the {other} on the table and get {x}",
            "take {x} , not the {other}",
            "do not pick up the {other} but {x}",
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
            "leave the {other} on the table and put {x} {d}",
            "put {x} {d} , not the {other}",
            "do not put the {other} {d} but {x}",
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
        "test": ("pick up nothing but {x}", "leave everything except {x} on the table"),
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
            "touch nothing but {x} and put it {d}",
            "do not put {x} {e} but {d}",
            "leave everything except {x} alone and put it {d}",
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
            "the drawer should not be closed",
            "i do not want the drawer to stay closed",
            "do not let the drawer be closed",
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
            "the drawer should not be open",
            "i do not want the drawer to stay open",
            "do not let the drawer be open",
        ),
    },
}
