"""What may go wrong in a fake benchmark: FAKE_FAULT names it, each happens FAKE_TIMES."""

import os
import signal
import sys
from pathlib import Path


def here(place):
    """Does what FAKE_FAULT asks for at this place, such as "kill step"; counts in a file."""
    print(f"fake benchmark at {place}")
    os.write(1, b"\x00\xff{} printed past Python\n")
    kind, _, where = os.environ.get("FAKE_FAULT", "").partition(" ")
    count = Path(os.environ.get("FAKE_COUNT", os.devnull))
    if where != place or len(count.read_bytes()) >= int(os.environ.get("FAKE_TIMES", "1")):
        return
    with count.open("ab") as file:
        file.write(b"x")
    if kind == "kill":
        print("about to die", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    elif kind == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif kind == "raise":
        raise RuntimeError("the physics exploded")
    elif kind == "exit":
        os._exit(3)
