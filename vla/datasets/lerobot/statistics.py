"""A LeRobot data set's statistics of each feature: extremes, moments and quantiles."""

from __future__ import annotations

from typing import Any

import numpy as np

from vla.core.statistics import RunningStatistics

# About this many pixels of an image are counted, on a grid.
COUNTED_PIXELS = 4096
QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}


class PixelStatistics:
    """Counts pixels of any number of images uint8 [H, W, 3], all of about the same weight."""

    def __init__(self) -> None:
        self.images = 0
        self._counts = np.zeros((3, 256), np.int64)

    def add(self, image: np.ndarray) -> None:
        """Counts an image's pixels, of a large one a part."""
        height, width = image.shape[:2]
        stride = max(1, round((height * width / COUNTED_PIXELS) ** 0.5))
        counted = image[::stride, ::stride]
        for channel in range(3):
            self._counts[channel] += np.bincount(counted[..., channel].ravel(), minlength=256)
        self.images += 1

    def merge(self, other: PixelStatistics) -> None:
        """Adds what another has counted."""
        self.images += other.images
        self._counts += other._counts

    def summary(self) -> dict[str, Any]:
        """min, max, mean, std and quantiles as nested lists [3, 1, 1], of values 0 to 1; count."""
        values = np.arange(256) / 255
        total = self._counts.sum(axis=1)
        mean = self._counts @ values / total
        variance = self._counts @ values**2 / total - mean**2
        below = np.cumsum(self._counts, axis=1) / total[:, None]
        statistics = {
            "min": values[(self._counts > 0).argmax(axis=1)],
            "max": values[255 - (self._counts[:, ::-1] > 0).argmax(axis=1)],
            "mean": mean,
            "std": np.sqrt(np.clip(variance, 0.0, None)),
        }
        for name, share in QUANTILES.items():
            statistics[name] = values[(below >= share - 1e-12).argmax(axis=1)]
        nested = {name: entry.reshape(3, 1, 1).tolist() for name, entry in statistics.items()}
        return nested | {"count": [self.images]}


class FeatureStatistics:
    """Statistics of features that are numbers, by episode and of all of them."""

    def __init__(self) -> None:
        self._running: dict[str, RunningStatistics] = {}
        self._quantiles: dict[str, list[dict[str, np.ndarray]]] = {}
        self._lengths: dict[str, list[int]] = {}

    def add(self, name: str, values: np.ndarray) -> dict[str, list]:
        """Adds an episode's values [N] or [N, D] of a feature, and returns its statistics."""
        table = values.reshape(len(values), -1).astype(np.float64)
        if name not in self._running:
            columns = tuple(str(column) for column in range(table.shape[1]))
            self._running[name] = RunningStatistics(columns)
        rows = np.quantile(table, list(QUANTILES.values()), axis=0)
        quantiles = dict(zip(QUANTILES, rows, strict=True))
        self._running[name].add(table)
        self._quantiles.setdefault(name, []).append(quantiles)
        self._lengths.setdefault(name, []).append(len(table))
        moments = {
            "min": table.min(axis=0),
            "max": table.max(axis=0),
            "mean": table.mean(axis=0),
            "std": table.std(axis=0),
        }
        return _plain(moments | quantiles, len(table))

    def summary(self) -> dict[str, dict[str, list]]:
        """Statistics of all episodes, by feature.

        The quantiles between the outer two are means of the episodes', as lerobot has them.
        """
        return {name: self._summary(name) for name in self._running}

    def _summary(self, name: str) -> dict[str, list]:
        summary = self._running[name].summary()
        exact = {
            kind: getattr(summary, kind) for kind in ("min", "max", "mean", "std", "q01", "q99")
        }
        lengths = self._lengths[name]
        inner = {
            kind: np.average([q[kind] for q in self._quantiles[name]], axis=0, weights=lengths)
            for kind in QUANTILES
            if kind not in exact
        }
        return _plain(exact | inner, sum(lengths))


def _plain(arrays: dict[str, np.ndarray], count: int) -> dict[str, list]:
    return {name: values.tolist() for name, values in arrays.items()} | {"count": [count]}
