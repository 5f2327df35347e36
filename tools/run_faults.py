#!/usr/bin/env python3
"""Runs all fault cases of docs/safety.md and writes output/faults.json: `make faults`.

For each case: by how much the commanded motion passed each limit at worst (0 where it was kept, SI
units), and how long the arm took to hold, counted from what `since` says.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OUTPUT = ROOT / "output" / "faults.json"
LIMIT = 0.3


def main() -> int:
    """The exit status of the tests."""
    with tempfile.TemporaryDirectory() as folder:
        lines = Path(folder) / "cases.jsonl"
        lines.touch()
        command = [sys.executable, "-m", "pytest", "-q", "-m", "faults", str(ROOT / "test")]
        status = subprocess.run(
            command, cwd=ROOT, env=os.environ | {"VLA_FAULTS": str(lines)}
        ).returncode
        cases = [json.loads(line) for line in lines.read_text().splitlines()]
    OUTPUT.parent.mkdir(exist_ok=True)
    OUTPUT.write_text(json.dumps({"longest_hold": LIMIT, "cases": cases}, indent=1) + "\n")
    print(f"{'case':<52} {'excess':>8} {'hold [ms]':>10}  counted from")
    for case in cases:
        worst = max(case["over"].values(), default=0.0)
        hold = "-" if case["hold_seconds"] is None else f"{1e3 * case['hold_seconds']:.0f}"
        print(f"{case['case']:<52} {worst:>8.3g} {hold:>10}  {case['since']}")
    print(f"{len(cases)} cases in {OUTPUT.relative_to(ROOT)}")
    return status


if __name__ == "__main__":
    sys.exit(main())
