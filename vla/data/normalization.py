"""Normalisation of states and actions by quantiles, stored with dataset and checkpoint."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vla.data.statistics import NormalizationError


@dataclass(frozen=True)
class NormStats:
    """Quantiles per dimension; `scaled` [D] is False where values pass through (a binary gripper).

    A value v becomes clip(2 (v - q01) / (q99 - q01) - 1, -1, 1) (BOUNDS_Q99, as in InstructVLA); a
    dimension that never changes becomes 0.
    """

    names: tuple[str, ...]
    q01: np.ndarray
    q99: np.ndarray
    scaled: np.ndarray

    def normalize(self, values: np.ndarray) -> np.ndarray:
        """Values [..., D] to about -1..1."""
        span = self.q99 - self.q01
        moving = span > 1e-6
        scaled = np.where(moving, 2 * (values - self.q01) / np.where(moving, span, 1) - 1, 0.0)
        return np.where(self.scaled, np.clip(scaled, -1.0, 1.0), values).astype(np.float32)

    def denormalize(self, values: np.ndarray) -> np.ndarray:
        """Model outputs [..., D] back to SI units; pass-through dimensions become 0 or 1."""
        values = np.asarray(values, dtype=np.float64)
        scaled = 0.5 * (np.clip(values, -1.0, 1.0) + 1.0) * (self.q99 - self.q01) + self.q01
        return np.where(self.scaled, scaled, (values >= 0.5).astype(np.float64))


def measure(
    values: np.ndarray,
    names: tuple[str, ...],
    binary: tuple[str, ...] = (),
    smallest_span: float = 0.0,
) -> NormStats:
    """Statistics of values [N, D]; dimensions named in `binary` pass through.

    smallest_span: least distance between the quantiles; without it a dimension that hardly moves
    would have its noise blown up to full scale. Raises NormalizationError when there are no values
    or some are not finite.
    """
    values = np.asarray(values, dtype=np.float64).reshape(-1, len(names))
    if len(values) == 0 or not np.isfinite(values).all():
        raise NormalizationError("statistics need at least one value, all of them finite")
    q01, q99 = np.quantile(values, [0.01, 0.99], axis=0)
    missing = np.clip(smallest_span - (q99 - q01), 0.0, None) / 2
    q01, q99 = q01 - missing, q99 + missing
    return NormStats(names, q01, q99, np.array([name not in binary for name in names]))


def write_norm_stats(stats: dict[str, NormStats], path: str | Path) -> None:
    """Writes statistics by kind ("state", "action") as JSON."""
    plain = {
        kind: {
            "names": list(entry.names),
            "q01": entry.q01.tolist(),
            "q99": entry.q99.tolist(),
            "scaled": entry.scaled.tolist(),
        }
        for kind, entry in stats.items()
    }
    Path(path).write_text(json.dumps(plain, indent=2) + "\n")


def read_norm_stats(path: str | Path, names: dict[str, tuple[str, ...]]) -> dict[str, NormStats]:
    """Reads statistics and checks that they are for these dimensions, by kind.

    Raises NormalizationError that says what is missing or differs.
    """
    try:
        plain = json.loads(Path(path).read_text())
        stats = {
            kind: NormStats(
                tuple(entry["names"]),
                np.array(entry["q01"], dtype=np.float64),
                np.array(entry["q99"], dtype=np.float64),
                np.array(entry["scaled"], dtype=bool),
            )
            for kind, entry in plain.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise NormalizationError(
            f"normalisation statistics {path} cannot be read: {error}"
        ) from error
    for kind, expected in names.items():
        if kind not in stats:
            raise NormalizationError(f"{path} has no statistics for '{kind}'")
        if stats[kind].names != tuple(expected):
            raise NormalizationError(
                f"{path}: '{kind}' is for {list(stats[kind].names)}, "
                f"the contract has {list(expected)}"
            )
        if not len(stats[kind].q01) == len(stats[kind].q99) == len(expected):
            raise NormalizationError(f"{path}: '{kind}' has values for other dimensions")
    return stats
