"""How a policy's passes run where it acts: one operation at a time, compiled, or recorded.

- none: each operation is launched by itself.
- inductor: TorchInductor makes few kernels of a pass, each launched by itself.
- manual: the same kernels, recorded as a CUDA graph, which the host launches as one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from vla.core.kept import user_cache
from vla.core.shown import brief, listed
from vla.policies.config import CheckpointError

if TYPE_CHECKING:
    import torch

MODES = ("none", "inductor", "manual")
# Runs of a pass before it is recorded, in which kernels are chosen and memory is set aside.
RUNS_BEFORE = 3
# Names the folder where Inductor keeps what it compiled, in place of the user's cache.
CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
# Sets of shapes of one pass, which Dynamo counts by its code.
MOST_SHAPES = 64
_is_plain = False


def require_mode(name: str, device: str) -> None:
    """Raises CheckpointError for a mode that is not known, or that the device does not have."""
    if name not in MODES:
        raise CheckpointError(f"unknown compile {brief(name)}; known: {listed(MODES)}")
    if name == "manual" and not device.startswith("cuda"):
        raise CheckpointError(
            f"compile 'manual' records CUDA graphs, and the device is '{device}'; use 'inductor' "
            "or 'none' there"
        )


def compiled(function: Callable[..., Any], mode: str) -> Callable[..., Any]:
    """A function of tensors as a mode runs it: one graph for each set of their shapes.

    The function may change tensors in place that it knows otherwise; they must stay where they are.
    Results may be overwritten by the next call.
    """
    if mode == "none":
        return function
    # Nodes and commands declare the modes before they load torch.
    import torch
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    # Torch sets it to that folder when its compiler is imported.
    if os.environ.get(CACHE_VARIABLE) in (None, default_cache_dir()):
        os.environ[CACHE_VARIABLE] = str(user_cache() / "compiled")
    limit = torch._dynamo.config.recompile_limit
    torch._dynamo.config.recompile_limit = max(limit, MOST_SHAPES)
    torch._dynamo.config.allow_rnn = True
    # On a processor the calls of small kernels cost much of a pass, unless C++ makes them.
    in_cpp = not torch.cuda.is_available()
    graph = torch.compile(function, fullgraph=True, dynamic=False, options={"cpp_wrapper": in_cpp})
    return Prepared(function, graph if mode == "inductor" else RecordedGraphs(graph))


@contextmanager
def plain_passes() -> Iterator[None]:
    """Has passes run as with "none": torch compiles again for another number of threads."""
    global _is_plain
    _is_plain = True
    try:
        yield
    finally:
        _is_plain = False


class Prepared:
    """A compiled function, which is first run plainly once.

    In its first pass constants are made, and transformers puts hooks into its modules.
    """

    def __init__(self, plain: Callable[..., Any], function: Callable[..., Any]):
        self._plain, self._function = plain, function
        self._is_prepared = False

    def __call__(self, *inputs: torch.Tensor) -> Any:
        """The function's results."""
        from vla.policies.images import keeping_constants

        if _is_plain:
            return self._plain(*inputs)
        if not self._is_prepared:
            with keeping_constants():
                self._plain(*inputs)
            self._is_prepared = True
        return self._function(*inputs)


class RecordedGraphs:
    """A function on a GPU, recorded once for each set of shapes and replayed from then on.

    Nothing waits for the device. Results lie in memory that the next replay overwrites.
    """

    def __init__(self, function: Callable[..., Any]):
        self._function = function
        self._recorded: dict[tuple, tuple[torch.cuda.CUDAGraph, tuple, Any]] = {}

    def __call__(self, *inputs: torch.Tensor) -> Any:
        """The function's results, of tensors on its device."""
        shapes = tuple((value.shape, value.dtype) for value in inputs)
        if shapes not in self._recorded:
            self._recorded[shapes] = self._record(inputs)
        graph, own, results = self._recorded[shapes]
        for mine, given in zip(own, inputs, strict=True):
            mine.copy_(given)
        graph.replay()
        return results

    def _record(self, inputs: tuple) -> tuple[torch.cuda.CUDAGraph, tuple, Any]:
        import torch

        own = tuple(value.clone() for value in inputs)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(RUNS_BEFORE):
                self._function(*own)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            results = self._function(*own)
        return graph, own, results
