"""CRC-32C (Castagnoli), the checksum of TFRecord files, computed on many lanes at once.

A checksum is linear in the bytes: those of equal pieces are computed side by side as one array, and
joined in pairs. The initial value, all ones, is the same as inverting the first four bytes.
"""

from __future__ import annotations

import functools

import numpy as np

POLYNOMIAL = 0x82F63B78
LANE = 512  # Bytes of a piece, a power of two.
_MASK = 0xA282EAD8


def crc32c(data: bytes) -> int:
    """The CRC-32C of some bytes."""
    if len(data) < 4:
        state = 0xFFFFFFFF
        for byte in data:
            state = int(_tables()[0][(state ^ byte) & 0xFF]) ^ (state >> 8)
        return state ^ 0xFFFFFFFF
    # Zeros in front change nothing, as the state begins with 0.
    lanes = -(-len(data) // LANE)
    padded = np.zeros(lanes * LANE, np.uint8)
    padded[-len(data) :] = np.frombuffer(data, np.uint8)
    begin = len(padded) - len(data)
    padded[begin : begin + 4] ^= 0xFF
    return int(_joined(_lane_states(padded.reshape(lanes, LANE)))) ^ 0xFFFFFFFF


def masked_crc32c(data: bytes) -> int:
    """The CRC-32C as TFRecord files store it: rotated by 15 bits, plus a constant."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + _MASK) & 0xFFFFFFFF


def _lane_states(lanes: np.ndarray) -> np.ndarray:
    """The state [L] after each row of bytes [L, LANE], of zero before it."""
    _, table = _tables()
    columns = np.ascontiguousarray(lanes.view("<u2").T)
    states = np.zeros(len(lanes), np.uint32)
    for pair in columns:
        states = table[(states ^ pair) & 0xFFFF] ^ states >> np.uint32(16)
    return states


def _joined(states: np.ndarray) -> np.uint32:
    """The state after all of L pieces of LANE bytes, from the states [L] after each alone."""
    length = LANE
    while len(states) > 1:
        if len(states) % 2:
            states = np.concatenate([np.zeros(1, np.uint32), states])
        states = _advanced(states[0::2], _zeros_table(length)) ^ states[1::2]
        length *= 2
    return states[0]


def _advanced(states: np.ndarray, table: np.ndarray) -> np.ndarray:
    """States [L] after further zeros, by their table [4, 256]."""
    result = table[0, states & 0xFF]
    for place in range(1, 4):
        result = result ^ table[place, states >> np.uint32(8 * place) & 0xFF]
    return result


@functools.cache
def _tables() -> tuple[np.ndarray, np.ndarray]:
    """What the low 16 bits of a state become [65536]: after one byte, and after two."""
    one = np.arange(1 << 16, dtype=np.uint32)
    for _ in range(8):
        one = np.where(one & 1, one >> 1 ^ np.uint32(POLYNOMIAL), one >> 1)
    two = one
    for _ in range(8):
        two = np.where(two & 1, two >> 1 ^ np.uint32(POLYNOMIAL), two >> 1)
    return one.astype(np.uint32), two.astype(np.uint32)


@functools.cache
def _zeros_table(length: int) -> np.ndarray:
    """What each byte of a state becomes after a number of zero bytes, a power of two [4, 256]."""
    if length > 1:
        half = _zeros_table(length // 2)
        return _advanced(half, half)
    shifts = np.array([[0], [8], [16], [24]], np.uint32)
    states = np.arange(256, dtype=np.uint32) << shifts
    return _tables()[0][states & 0xFF] ^ states >> np.uint32(8)
