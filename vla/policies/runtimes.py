"""What computes a policy's parts: torch as it is, or OpenVINO from an export of the weights.

- auto: OpenVINO where it is installed and an export of these weights is there, else eager.
- eager: torch.
- openvino: the export is made where there is none; where it can't be, eager, with the reason.
- openvino_bf16: the same export, computed in bfloat16 where the processor has fast products of it,
  which changes actions by up to a few hundredths of their normalised range.

An export is made once per checkpoint and kept beside it, in `exports`; where that folder can't be
written, in the user's cache. It belongs to the weights as they are, the adapter's included, and to
the versions of the programs that made it.
"""

from __future__ import annotations

import hashlib
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import vla
from vla.core.kept import make_once, user_cache
from vla.core.text import one_line

if TYPE_CHECKING:
    import torch

AUTO, OPENVINO = "auto", "openvino"
# What OpenVINO computes in, by runtime.
PRECISIONS = {OPENVINO: "f32", "openvino_bf16": "bf16"}
RUNTIMES = (AUTO, "eager", *PRECISIONS)
FOLDER, FILE = "exports", "model.xml"  # beside a checkpoint, and in the folder of an export
# Arrays in, arrays out, each of the shape that it was exported for.
Computation = Callable[..., np.ndarray]


class RuntimeUnavailable(ValueError):
    """Why a part can't be computed by another runtime, in one sentence: it stays as it is."""


@dataclass(frozen=True)
class Exportable:
    """A pass that can be exported."""

    name: str
    # Makes what has one result, of operations that OpenVINO knows: none asks for gradients.
    module: Callable[[], torch.nn.Module]
    example: tuple[torch.Tensor, ...]  # arguments of the shapes that it will be given


def openvino_computation(
    given: Exportable,
    checkpoint: Path,
    weights_id: str,
    threads: int,
    make: bool = True,
    precision: str = "f32",
) -> Computation:
    """A pass by OpenVINO on the CPU.

    checkpoint: folder that the export is kept in. weights_id: of the module's weights as they are.
    make: whether to make the export where there is none, which takes half a minute or so.
    precision: of PRECISIONS. Raises RuntimeUnavailable.
    """
    openvino = _openvino()
    import torch

    shapes = [tuple(value.shape) for value in given.example]
    facts = (weights_id, given.name, shapes, vla.__version__, torch.__version__)
    digest = hashlib.sha256(repr((*facts, openvino.__version__)).encode()).hexdigest()[:24]
    name = f"{given.name.replace(' ', '_')}-{digest}"

    def export(folder: Path) -> None:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Tracing warns of what is constant here.
            module = given.module()
            module(*given.example)  # Makes constants, which would not be real ones while it traces.
            program = torch.export.export(module, given.example)
            converted = openvino.convert_model(program)
        # Weights stay in float32: halves would not equal what torch computes.
        openvino.save_model(converted, folder / FILE, compress_to_fp16=False)

    try:
        file = _kept(checkpoint, name, export if make else None) / FILE
        settings = {
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": precision,
            "PERFORMANCE_HINT": "LATENCY",
        }
        compiled = openvino.Core().compile_model(file, "CPU", settings)
    except RuntimeUnavailable:
        raise
    except Exception as error:  # torch and OpenVINO raise whatever they meet
        raise RuntimeUnavailable(
            f"OpenVINO can't compute this policy ({one_line(error, 300)}); it runs eagerly"
        ) from error
    request = compiled.create_infer_request()

    def compute(*arguments: np.ndarray) -> np.ndarray:
        # A copy: the next inference overwrites the result.
        return request.infer(dict(enumerate(arguments)))[0].copy()

    return compute


def require_float32_on_cpu(device: str, dtype: torch.dtype) -> None:
    """Raises RuntimeUnavailable elsewhere."""
    if device != "cpu" or str(dtype) != "torch.float32":
        raise RuntimeUnavailable(
            "OpenVINO computes weights in float32 on the CPU only, so this policy runs eagerly; "
            "give device cpu and dtype float32"
        )


def _kept(checkpoint: Path, name: str, export: Callable[[Path], None] | None) -> Path:
    """The folder of an export, which is made where there is none."""
    beside, cached = checkpoint / FOLDER / name, user_cache() / FOLDER / name
    if beside.is_dir() or cached.is_dir():
        return beside if beside.is_dir() else cached
    if export is None:
        raise RuntimeUnavailable(
            "there is no export of these weights yet, so they run eagerly; the next start of the "
            "policy with them makes it"
        )
    try:
        make_once(beside, export)
    except OSError:  # The folder can't be written.
        make_once(cached, export)
        return cached
    return beside


def _openvino() -> Any:
    """OpenVINO, without what would report its use to its makers. Raises RuntimeUnavailable."""
    # It does without this package, which otherwise sends an event at each import and conversion.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino
    except ImportError as error:
        raise RuntimeUnavailable(
            "OpenVINO is not installed, so the policy runs eagerly; "
            "install it with: pip install 'vla_ros[openvino]'"
        ) from error
    return openvino
