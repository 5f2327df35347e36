"""Feeds everything that reads other people's input with seeded nonsense: `make fuzz`.

Writes output/fuzz.json: cases, slowest case and what went wrong, by target. The exit status is 1
where anything did. VLA_FUZZ_SEED takes another seed, whose cases are other ones.
"""

from __future__ import annotations

import os
import resource
import sys
import tempfile
import time
from pathlib import Path

from fuzz.bags import fuzz_bags
from fuzz.checkpoints import fuzz_checkpoints
from fuzz.contracts import fuzz_contracts
from fuzz.datasets import fuzz_datasets
from fuzz.graph import fuzz_graph
from fuzz.replies import fuzz_replies
from fuzz.report import Report

ROOT = Path(__file__).resolve().parents[2]
OUTPUT = ROOT / "output" / "fuzz.json"
# A file that asks for more memory than this is nonsense that was accepted [bytes].
MEMORY = 8 << 30


def main() -> int:
    """The exit status."""
    seed = int(os.environ.get("VLA_FUZZ_SEED", "0"))
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        report = Report(Path(folder))
        fuzz_contracts(report, 300, seed)
        fuzz_checkpoints(report, 150, seed)
        fuzz_bags(report, 20, 200, seed)
        fuzz_datasets(report, 130, seed)
        fuzz_replies(report, 400, seed)
        fuzz_graph(report, 250, seed)
    report.write(OUTPUT, seed=seed, seconds=round(time.monotonic() - began, 1))
    print(f"{'target':<34} {'cases':>6} {'refused':>8} {'slowest [s]':>12}")
    for target in report.targets.values():
        slowest = f"{target.slowest:.2f}"
        print(f"{target.name:<34} {target.cases:>6} {target.refused:>8} {slowest:>12}")
    for finding in report.findings:
        print(f"{finding.kind}: {finding.target}: {finding.case}: {finding.detail[:200]}")
    print(f"{len(report.findings)} findings in {OUTPUT.relative_to(ROOT)}")
    return 1 if report.findings else 0


if __name__ == "__main__":
    sys.exit(main())
