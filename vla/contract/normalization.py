"""Normalisation of states and actions, by dimension: how, by which bounds, stored as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vla.core.files import checked_entries, checked_numbers, read_json
from vla.core.shown import brief, listed, shown_path
from vla.core.statistics import BLOCK_ROWS, NormalizationError, RunningStatistics, Summary

# Positions, joint angles with limits, openings: between two quantiles.
ABSOLUTE = "absolute"
# Motion from one step to the next: between two quantiles.
RELATIVE = "relative"
# The same for an angle: wrapped to -pi..pi first, so that a step over the seam is small.
RELATIVE_ANGLE = "relative_angle"
# A full-turn angle [rad]: wrapped to -pi..pi and divided by pi.
ANGLE = "angle"
# 0 or 1, such as a gripper's command: unchanged, and thresholded at 0.5 on the way back.
BINARY = "binary"
KINDS = (ABSOLUTE, RELATIVE, RELATIVE_ANGLE, ANGLE, BINARY)
WRAPPING = (RELATIVE_ANGLE, ANGLE)

# Least distance between the quantiles of a dimension, by vector: in metres, radians or parts of a
# matrix.
SMALLEST_SPANS = {"state": 0.04, "action": 0.02}
# A dimension that spans less than this is constant.
SMALLEST_SPAN = 1e-6
KNOWN = ("count", "mean", "std", "min", "max")
BOUNDS = ("q01", "q99")
MOST_VECTORS, MOST_DIMENSIONS = 100, 1000
LARGEST = 1e15


@dataclass(frozen=True)
class NormStats:
    """How the D dimensions of one vector are normalised, and statistics of their values.

    A value v between quantiles becomes clip(2 (v - q01) / (q99 - q01) - 1, -1, 1) (BOUNDS_Q99, as
    in InstructVLA). A constant dimension becomes 0, and gets its value back.
    """

    names: tuple[str, ...]
    kinds: tuple[str, ...]  # of KINDS, one for each dimension
    q01: np.ndarray  # [D], as all that follow
    q99: np.ndarray
    # The rest are for information only; None where they were not measured.
    count: np.ndarray | None = None
    mean: np.ndarray | None = None
    std: np.ndarray | None = None
    min: np.ndarray | None = None
    max: np.ndarray | None = None

    @property
    def scaled(self) -> np.ndarray:
        """Which dimensions [D] the quantiles bound: all but full angles and binary ones."""
        return ~(self._are(ANGLE) | self._are(BINARY))

    def normalize(self, values: np.ndarray, limit: float = 1.0) -> np.ndarray:
        """Values [..., D] in SI units to about -1..1, float32.

        limit: where they are clipped; above 1, a model sees values beyond the bounds.
        """
        values = wrap_angles(values, self.kinds)
        span = self.q99 - self.q01
        moving = span > SMALLEST_SPAN
        scaled = 2 * (values - self.q01) / np.where(moving, span, 1) - 1
        result = np.clip(np.where(moving, scaled, 0.0), -limit, limit)
        if ANGLE in self.kinds:
            result = np.where(self._are(ANGLE), values / np.pi, result)
        return np.where(self._are(BINARY), values, result).astype(np.float32)

    def denormalize(self, values: np.ndarray) -> np.ndarray:
        """Model outputs [..., D] back to SI units; binary dimensions become 0 or 1."""
        values = np.asarray(values, dtype=np.float64)
        result = 0.5 * (np.clip(values, -1.0, 1.0) + 1.0) * (self.q99 - self.q01) + self.q01
        if ANGLE in self.kinds:
            # Wrapped, not clipped: a little beyond pi is a little above -pi.
            result = np.where(self._are(ANGLE), _wrap(values * np.pi), result)
        return np.where(self._are(BINARY), (values >= 0.5).astype(np.float64), result)

    def _are(self, kind: str) -> np.ndarray:
        return np.array([own == kind for own in self.kinds])


def _wrap(angles: np.ndarray) -> np.ndarray:
    """Angles [rad] in -pi..pi, pi itself left out."""
    turned = np.mod(angles + np.pi, 2 * np.pi) - np.pi
    # The remainder of a tiny negative number is rounded to a whole turn.
    return np.where(turned >= np.pi, -np.pi, turned)


def wrap_angles(values: np.ndarray, kinds: tuple[str, ...]) -> np.ndarray:
    """Values [..., D] with angles wrapped to -pi..pi, the others as they are."""
    values = np.asarray(values)
    wrapping = np.array([kind in WRAPPING for kind in kinds])
    return np.where(wrapping, _wrap(values), values) if wrapping.any() else values


def measure(
    values: np.ndarray,
    names: tuple[str, ...],
    kinds: tuple[str, ...] | None = None,
    smallest_span: float = 0.0,
) -> NormStats:
    """Statistics of values [N, D]: see measure_all."""
    return measure_all([values], names, kinds, smallest_span)


def measure_all(
    arrays: Iterable[np.ndarray],
    names: tuple[str, ...],
    kinds: tuple[str, ...] | None = None,
    smallest_span: float = 0.0,
) -> NormStats:
    """Statistics of all rows of some arrays [N, D], in bounded memory.

    kinds: of the dimensions, by default all "absolute". smallest_span: least distance between the
    quantiles; without it the noise of a dimension that hardly moves would be blown up to full
    scale. Raises NormalizationError when there are no values or some are not finite.
    """
    kinds = kinds or (ABSOLUTE,) * len(names)
    running = RunningStatistics(names)
    for array in arrays:
        for start in range(0, len(array), BLOCK_ROWS):
            running.add(wrap_angles(array[start : start + BLOCK_ROWS], kinds))
    return from_summary(running.summary(), names, kinds, smallest_span)


def from_summary(
    summary: Summary, names: tuple[str, ...], kinds: tuple[str, ...], smallest_span: float = 0.0
) -> NormStats:
    """Normalisation from statistics of wrapped values: see measure_all."""
    missing = np.clip(smallest_span - (summary.q99 - summary.q01), 0.0, None) / 2
    known = {entry: getattr(summary, entry) for entry in KNOWN}
    return NormStats(names, kinds, summary.q01 - missing, summary.q99 + missing, **known)


def clipped_share(stats: NormStats, values: np.ndarray) -> np.ndarray:
    """Share [D] of values [N, D] that these bounds clip, or cannot represent.

    On the values that gave the statistics it is 0.02. Angles are never clipped; of a binary
    dimension, values other than 0 and 1 count.
    """
    if len(values) == 0:
        return np.zeros(len(stats.names))
    outside = np.zeros(len(stats.names))
    for start in range(0, len(values), BLOCK_ROWS):
        block = wrap_angles(values[start : start + BLOCK_ROWS], stats.kinds)
        beyond = (block < stats.q01 - SMALLEST_SPAN) | (block > stats.q99 + SMALLEST_SPAN)
        undecided = (np.abs(block) > SMALLEST_SPAN) & (np.abs(block - 1) > SMALLEST_SPAN)
        outside += np.where(stats._are(BINARY), undecided, beyond & stats.scaled).sum(axis=0)
    return outside / len(values)


def write_norm_stats(stats: dict[str, NormStats], path: str | Path) -> None:
    """Writes statistics by vector ("state", "action") as JSON."""
    plain = {
        vector: {
            "names": list(entry.names),
            "kinds": list(entry.kinds),
            **{
                name: None if getattr(entry, name) is None else getattr(entry, name).tolist()
                for name in (*KNOWN, *BOUNDS)
            },
        }
        for vector, entry in stats.items()
    }
    Path(path).write_text(json.dumps(plain, indent=2) + "\n")


def read_norm_stats(path: str | Path, names: dict[str, tuple[str, ...]]) -> dict[str, NormStats]:
    """Reads statistics and checks that they are for these dimensions, by vector.

    Raises NormalizationError that says what is missing or differs.
    """
    plain, path = read_json(path, NormalizationError), shown_path(path)
    if not isinstance(plain, dict) or len(plain) > MOST_VECTORS:
        raise NormalizationError(
            f"normalisation statistics {path} are no mapping of {listed(names)}; copy them again"
        )
    for vector, expected in names.items():
        if vector not in plain:
            raise NormalizationError(f"{path} has no statistics for '{vector}'")
        own = plain[vector].get("names") if isinstance(plain[vector], dict) else None
        if own is not None and own != list(expected):
            raise NormalizationError(
                f"{path}: '{vector}' is for {brief(own, 150)}, the contract has {list(expected)}"
            )
    return {vector: _entry(values, f"{path}: {brief(vector)}") for vector, values in plain.items()}


def _entry(values: dict, where: str) -> NormStats:
    """One vector's statistics, checked. Raises NormalizationError that begins with `where`."""
    entries = ("names", "kinds", *KNOWN, *BOUNDS)
    checked_entries(values, where, NormalizationError, entries)
    if missing := [entry for entry in entries if entry not in values]:
        raise NormalizationError(f"{where} lacks {', '.join(missing)}")
    texts = {entry: values[entry] for entry in ("names", "kinds")}
    for entry, text in texts.items():
        if not isinstance(text, list) or not all(isinstance(word, str) for word in text):
            raise NormalizationError(f"{where}: {entry} must be a list of words, got {brief(text)}")
    names = tuple(values["names"])
    if odd := sorted(set(values["kinds"]) - set(KINDS)):
        raise NormalizationError(
            f"{where} has unknown kinds: {listed(odd)}; known are {', '.join(KINDS)}"
        )
    numbers = {
        entry: _vector(values[entry], f"{where}: {entry}")
        for entry in (*KNOWN, *BOUNDS)
        if values[entry] is not None or entry in BOUNDS
    }
    for entry, array in (texts | numbers).items():
        if len(array) != len(names):
            raise NormalizationError(
                f"{where}: {entry} has values for other dimensions: {len(array)}, not {len(names)}"
            )
    for low, high in (BOUNDS, ("min", "max")):
        if low in numbers and high in numbers and (numbers[low] > numbers[high]).any():
            first = names[int(np.argmax(numbers[low] > numbers[high]))]
            raise NormalizationError(f"{where}: {low} of {brief(first)} is greater than its {high}")
    if "count" in numbers:
        numbers["count"] = numbers["count"].astype(np.int64)
    return NormStats(names, tuple(values["kinds"]), **numbers)


def _vector(values: Any, where: str) -> np.ndarray:
    numbers = checked_numbers(values, where, NormalizationError, MOST_DIMENSIONS, LARGEST)
    return np.array(numbers, dtype=np.float64)
