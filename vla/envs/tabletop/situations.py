"""Sentence templates from which a task follows without being named; see sentences.py."""

from __future__ import annotations

from vla.envs.tabletop.sentences import Bank

# A situation or a wish; what to do about it is left to the robot.
IMPLIED: Bank = {
    "pick": {
        "train": (
            "i want to clean the table under {x}",
            "i want to see {x} from below",
            "how heavy is {x} ? find out",
            "i want to know what is under {x}",
            "show me the bottom of {x}",
            "i cannot reach {x} , help me",
        ),
        "test": (
            "i want to see the bottom of {x}",
            "show me what is under {x}",
            "i want to know how heavy {x} is",
            "help me , i cannot reach {x}",
        ),
    },
    "place": {
        "train": (
            "{x} belongs {d}",
            "serve {x} {d}",
            "i want to find {x} {d} later",
            "the {dest} is empty but it is meant for {x}",
            "the {dest} is for {x}",
            "keep {x} {d} for me",
            "the {dest} is waiting for {x}",
        ),
        "test": (
            "{x} is meant to be served {d}",
            "the {dest} is empty , it is waiting for {x}",
            "i want to keep {x} {d}",
            "later i want to find {x} {d}",
        ),
    },
    "open_drawer": {
        "train": (
            "i need something out of the drawer",
            "i want to put my keys into the drawer",
            "there is something in the drawer that i need",
            "i want to look into the drawer",
            "my spoon is in the drawer and i need it",
            "what is inside the drawer ? i want to know",
            "i am going to fill the drawer",
            "my hands are full and this has to go into the drawer",
            "there is still room for my gloves in the drawer",
            "i forgot a pen in the drawer",
            "i cannot get at what is in the drawer",
            "we keep the tape in the drawer and now we need it",
            "these letters are to be kept in the drawer",
            "where is my ring ? it may be in the drawer",
            "let me check what we have in the drawer",
            "i would like to fill the drawer with paper",
            "my watch must be somewhere in the drawer",
            "hand me nothing , i only want to reach into the drawer",
            "the tools are in the drawer and work is about to begin",
            "nobody can reach into the drawer as it is",
            "this cup is going to be stored in the drawer",
            "all of this should be put into the drawer",
            "i am going to take my phone from the drawer",
            "help me find the scissors , they may be in the drawer",
            "the drawer needs some air inside",
        ),
        "test": (
            "i need my keys , they are in the drawer",
            "i want to know what is in the drawer",
            "my spoon has to go into the drawer",
            "i am looking for something in the drawer",
        ),
    },
    "close_drawer": {
        "train": (
            "someone could bump into the open drawer",
            "the drawer is in the way",
            "i am done with the drawer",
            "dust gets into the drawer",
            "i do not need the drawer any more",
            "we are leaving , make the cabinet tidy",
            "nobody should look into the drawer",
            "the cabinet looks untidy",
            "i have taken all that i wanted from the drawer",
            "i put my gloves into the drawer , that was all",
            "i found my pen , so we are finished with the drawer",
            "my knee keeps hitting the drawer",
            "the cat will sleep in the drawer if it stays like this",
            "the tape is back in the drawer where we keep it",
            "keep the dust away from what is in the drawer",
            "there is no room to walk past the drawer",
            "what is in the drawer should stay private",
            "i have what i was looking for in the drawer",
            "everything is in the drawer now , so we can go",
            "guests are coming and the drawer looks bad",
            "the drawer sticks out too far",
            "somebody left the drawer like that , it looks untidy",
            "work is over , the drawer has no more use today",
            "hide what is in the drawer",
        ),
        "test": (
            "the open drawer is in the way",
            "i am done , make the cabinet tidy",
            "the drawer looks untidy",
            "i got what i need from the drawer",
        ),
    },
}
# The same for what only one object of the scene is: of its color, the only can, the only block.
SOMETHING_OF_COLOR: Bank = {
    "pick": {
        "train": (
            "hand me something {color}",
            "i am looking for something {color}",
            "i need something {color}",
            "my favorite color is {color} , give me something that i like",
        ),
        "test": ("i want something {color} , hand it to me", "give me something {color}"),
    },
    "place": {
        "train": (
            "the {dest} needs something {color}",
            "something {color} is missing {d}",
            "serve something {color} {d}",
        ),
        "test": ("i want something {color} {d}", "the {dest} is for something {color}"),
    },
}
ONLY_CAN: Bank = {
    "pick": {
        "train": (
            "i am thirsty",
            "i want to drink something",
            "where is my drink ?",
            "bring me something to drink",
        ),
        "test": ("i want something to drink", "help me , i am thirsty"),
    },
    "place": {
        "train": ("serve the drink {d}", "the drink belongs {d}", "keep my drink {d}"),
        "test": ("i want to find the drink {d}", "the {dest} is waiting for my drink"),
    },
}
ONLY_BLOCK: Bank = {
    "pick": {
        "train": (
            "i want to build a tower and need one more piece",
            "i am missing a piece for my tower",
            "my tower needs something to build with",
        ),
        "test": ("i need a piece to build a tower", "give me something to build with"),
    },
    "place": {
        "train": ("the piece for my tower belongs {d}", "keep my piece to build with {d}"),
        "test": ("i want to find the piece for my tower {d}",),
    },
}
