"""Interpreters that have the benchmarks of test/fake_benchmarks, with faults on request."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

FAKES = Path(__file__).parent / "fake_benchmarks"


def fake_python(
    folder: Path, *benchmarks: str, fault: str = "", times: int = 1, python: str = sys.executable
) -> Path:
    """An interpreter in a folder, in which these benchmarks are "installed".

    fault: see fake_benchmarks/faults.py; it happens `times` times in all.
    """
    count = folder / "faults"
    count.write_bytes(b"")
    paths = ":".join(str(FAKES / name) for name in (".", *benchmarks))
    script = folder / "python"
    script.write_text(
        f"#!/bin/sh\necho noise of a wrapper\nexport PYTHONPATH={shlex.quote(paths)}\n"
        f"export FAKE_FAULT={shlex.quote(fault)} FAKE_TIMES={times}\n"
        f"export FAKE_COUNT={shlex.quote(str(count))} PYTHONDONTWRITEBYTECODE=1\n"
        f"export XDG_CACHE_HOME={shlex.quote(str(folder / 'cache'))}\n"
        f'exec {shlex.quote(python)} "$@"\n'
    )
    script.chmod(0o755)
    return script


def calvin_data(folder: Path) -> Path:
    """A data set that has what CALVIN's scene is read from."""
    configuration = folder / "data" / "validation" / ".hydra"
    configuration.mkdir(parents=True, exist_ok=True)
    (configuration / "merged_config.yaml").write_text("{}\n")
    return folder / "data"
