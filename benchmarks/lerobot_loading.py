"""How fast lerobot's own loader opens and reads a data set; loading.py runs it.

Runs in lerobot's environment, so it uses nothing of this project. Prints JSON.

    python benchmarks/lerobot_loading.py DATASET HORIZON SAMPLES SEED
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from torch.utils.data import DataLoader


def main(folder: Path, horizon: int, count: int, seed: int) -> None:
    """Opens the set, and reads so many samples with chunks of actions on two processes."""
    fps = json.loads((folder / "meta" / "info.json").read_text())["fps"]
    steps = {"action": [step / fps for step in range(horizon)]}
    begun, worked = time.monotonic(), time.process_time()
    data = LeRobotDataset("local/measured", root=folder, delta_timestamps=steps)
    figures = {"samples": len(data), "seconds": time.monotonic() - begun}
    figures["cpu_seconds"] = time.process_time() - worked
    figures["peak_mb"] = next(
        int(line.split()[1]) / 1000
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmHWM")
    )
    if count:
        order = np.random.default_rng(seed).integers(len(data), size=count + 32).tolist()
        loader = DataLoader(data, batch_size=None, sampler=order, num_workers=2)
        for number, _ in enumerate(loader):
            if number == 31:
                begun = time.monotonic()
        figures["samples_per_second"] = count / (time.monotonic() - begun)
    print(json.dumps(figures | {"decoder": data.video_backend}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:5]))
