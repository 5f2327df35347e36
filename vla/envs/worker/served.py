"""A benchmark's side of the messages, and how both sides write them.

    python served.py ADAPTER.py READ_FD WRITE_FD

Another environment's Python, from 3.8 on, runs this file with nothing but numpy, so it imports
nothing of ours. ADAPTER.py imports the benchmark: its `open_benchmark(**settings)` gives an object
whose attribute `CALLS` names its methods for us. Each takes fields and arrays and returns both:
what JSON can say, and arrays by name. So the kind of a request is "open", with the settings as
fields, or one of CALLS; that of an answer is "done", "missing" where the benchmark can't be
imported, or "failed", both with a field "error".

A message is one line of JSON, {"protocol", "kind", "fields", "arrays": [[name, dtype, shape], ..]},
then the bytes of those arrays in that order, little endian, the last index fastest.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import traceback
from typing import Any, BinaryIO

import numpy as np

PROTOCOL = 1
MOST_HEADER = 1 << 20  # [bytes]
MOST_ARRAYS, MOST_DIMENSIONS = 16, 6
MOST_ARRAY_BYTES = 64 << 20  # of all arrays of a message
DTYPES = ("uint8", "bool", "int64", "float32", "float64")
LONGEST_ERROR = 500  # characters of an error text


class MessageError(ValueError):
    """A message that is none of this protocol; says what is wrong with it."""


def encode_message(kind: str, fields: dict[str, Any], arrays: dict[str, np.ndarray]) -> bytes:
    """The bytes of a message. Raises MessageError for what it can't hold, ValueError for NaN."""
    arrays = {name: np.ascontiguousarray(value) for name, value in arrays.items()}
    entries = [[name, value.dtype.name, list(value.shape)] for name, value in arrays.items()]
    message = {"protocol": PROTOCOL, "kind": kind, "fields": fields, "arrays": entries}
    header = json.dumps(message, allow_nan=False).encode("ascii") + b"\n"
    decode_header(header)
    little = [value.astype(value.dtype.newbyteorder("<"), copy=False) for value in arrays.values()]
    return header + b"".join(value.tobytes() for value in little)


Spec = Any  # (name, dtype, shape) of an array


def decode_header(line: bytes) -> tuple[str, dict[str, Any], list[Spec]]:
    """Kind, fields and (name, dtype, shape) of each array, from a message's first line.

    Raises MessageError unless it is a whole line of this protocol within its bounds.
    """
    if len(line) > MOST_HEADER:
        raise MessageError(f"its header is longer than {MOST_HEADER} bytes")
    try:
        message = json.loads(line.decode("ascii"))
    except (ValueError, RecursionError):
        raise MessageError(f"its header is no JSON: {line[:60]!r}") from None
    if not line.endswith(b"\n") or not isinstance(message, dict):
        raise MessageError(f"its header is no line with one JSON object: {line[:60]!r}")
    if message.get("protocol") != PROTOCOL:
        found = repr(message.get("protocol"))[:20]
        raise MessageError(f"it is of protocol {found}, and this side has protocol {PROTOCOL}")
    kind, fields, arrays = (message.get(key) for key in ("kind", "fields", "arrays"))
    if not (isinstance(kind, str) and isinstance(fields, dict) and isinstance(arrays, list)):
        raise MessageError("its header lacks kind, fields or arrays")
    if len(arrays) > MOST_ARRAYS:
        raise MessageError(f"it has {len(arrays)} arrays; {MOST_ARRAYS} are allowed")
    specs = [_spec(entry) for entry in arrays]
    if array_bytes(specs) > MOST_ARRAY_BYTES:
        raise MessageError(f"its arrays have more than {MOST_ARRAY_BYTES} bytes")
    if len({name for name, _, _ in specs}) < len(specs):
        raise MessageError("two of its arrays have one name")
    return kind, fields, specs


def _spec(entry: Any) -> Spec:
    if not (isinstance(entry, list) and len(entry) == 3 and isinstance(entry[2], list)):
        raise MessageError(f"an array is not [name, dtype, shape]: {repr(entry)[:60]}")
    name, dtype, shape = entry
    if not isinstance(name, str) or dtype not in DTYPES:
        raise MessageError(f"an array has the type {repr(dtype)[:20]}; allowed: {DTYPES}")
    # A truth value is an int, too, and no size.
    sizes = [size for size in shape if type(size) is int and 0 <= size <= MOST_ARRAY_BYTES]
    if len(sizes) < len(shape) or len(shape) > MOST_DIMENSIONS:
        raise MessageError(f"an array has the shape {repr(shape)[:60]}")
    return name, np.dtype(dtype).newbyteorder("<"), tuple(sizes)


def array_bytes(specs: list[Spec]) -> int:
    """How many bytes follow the header of a message with these arrays."""
    total = 0
    for _, dtype, shape in specs:
        size = dtype.itemsize
        for length in shape:  # In Python's whole numbers, which do not overflow
            size *= length
        total += size
    return total


def decode_arrays(specs: list[Spec], payload: bytes) -> dict[str, np.ndarray]:
    """The arrays by name, from the bytes that follow the header."""
    arrays, begin = {}, 0
    for name, dtype, shape in specs:
        end = begin + array_bytes([(name, dtype, shape)])
        flat = np.frombuffer(payload[begin:end], dtype)
        arrays[name] = flat.reshape(shape).astype(dtype.newbyteorder("="))
        begin = end
    return arrays


def serve(adapter: str, incoming: BinaryIO, outgoing: BinaryIO) -> None:
    """Answers the messages of one stream in another until the first ends. Raises MessageError."""
    benchmark: Any = None
    while True:
        line = incoming.readline(MOST_HEADER + 1)
        if not line:
            return
        name, fields, specs = decode_header(line)
        payload = incoming.read(array_bytes(specs))
        if len(payload) < array_bytes(specs):
            return
        try:
            if name == "open":
                benchmark = _load(adapter).open_benchmark(**fields)
                answer = encode_message("done", {"python": sys.version.split()[0]}, {})
            elif benchmark is None or name not in benchmark.CALLS:
                raise MessageError(f"there is no call {name[:40]!r}")
            else:
                result = getattr(benchmark, name)(fields, decode_arrays(specs, payload))
                answer = encode_message("done", *result)
        except Exception as error:
            traceback.print_exc()
            kind = "missing" if name == "open" and isinstance(error, ImportError) else "failed"
            text = f"{type(error).__name__}: {error}"
            answer = encode_message(kind, {"error": text[:LONGEST_ERROR]}, {})
        outgoing.write(answer)
        outgoing.flush()


def _load(adapter: str) -> Any:
    spec = importlib.util.spec_from_file_location("adapter", adapter)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> None:
    """Serves an adapter. Standard output is the benchmark's, which may print what it likes."""
    adapter, reading, writing = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    # The folder of this file comes first on the path, and its modules are none of the benchmark's.
    folder = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [path for path in sys.path if os.path.abspath(path) != folder]
    for descriptor in (reading, writing):
        os.set_inheritable(descriptor, False)
    with os.fdopen(reading, "rb") as incoming, os.fdopen(writing, "wb") as outgoing:
        serve(adapter, incoming, outgoing)


if __name__ == "__main__":
    main()
