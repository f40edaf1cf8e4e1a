"""ONNX graphs, computed by onnxruntime: asked forwards, with neither gradients nor layers."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.errors import ConfigurationError

_TYPES = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16}


def is_onnx(data: bytes) -> bool:
    """Tell whether a file is an ONNX model, by its first field: the version of the format, a small number."""
    return len(data) > 2 and data[0] == 0x08 and 3 <= data[1] <= 64


def load(data: bytes) -> nn.Module:
    """Load an ONNX graph of one input ``(batch, channel, *space)`` whose batch is dynamic.

    Raises
    ------
    ConfigurationError
        If onnxruntime is missing, or the graph is damaged, keeps tensors in other files, or takes anything else.
    """
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise ConfigurationError(
            "model.weights: an ONNX model needs onnxruntime: install it by `pip install cohortlens[onnx]`, here and "
            "where workers run"
        ) from error
    try:
        model = onnx.load_from_string(data)
    except Exception as error:
        raise ConfigurationError("model.weights: the ONNX model is damaged: copy or export it again") from error
    if outside := [tensor.name for tensor in _tensors(model) if tensor.external_data]:
        raise ConfigurationError(
            f"model.weights: the ONNX model keeps {len(outside)} tensors in other files, such as {outside[0]!r}: save "
            "it as one file (`onnx.save(model, file, save_as_external_data=False)`)"
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
    options.log_severity_level = 4
    providers = [name for name in onnxruntime.get_available_providers() if name.startswith(("CUDA", "CPU"))]
    try:
        session = onnxruntime.InferenceSession(data, options, providers=providers)
    except Exception as error:
        raise ConfigurationError(
            f"model.weights: onnxruntime {onnxruntime.__version__} cannot run the ONNX model: {str(error)[:200]}"
        ) from error
    return Graph(session)


def _tensors(part: Any) -> Iterator[Any]:
    """Walk through the stored tensors of a model, those of its functions and of graphs within nodes, too."""
    if hasattr(part, "external_data"):
        yield part
    else:
        for field, value in part.ListFields():
            if field.message_type:
                for one in value if isinstance(value, Sequence) else [value]:
                    yield from _tensors(one)


class Graph(nn.Module):
    """An ONNX graph as a torch module without parameters. Nothing is recorded for a backward pass.

    Parameters
    ----------
    session
        An `onnxruntime.InferenceSession` of one input, whose first axis is dynamic.
    """

    def __init__(self, session: Any) -> None:
        super().__init__()
        inputs = session.get_inputs()
        if len(inputs) != 1 or inputs[0].type not in _TYPES:
            found = ", ".join(f"{one.name} {one.type}" for one in inputs)
            raise ConfigurationError(f"model.weights: the ONNX model takes {found}: one input of floats is explained")
        if isinstance(inputs[0].shape[0], int):
            raise ConfigurationError(
                f"model.weights: the ONNX model takes batches of {inputs[0].shape[0]} alone: export it with a dynamic "
                "first axis (`torch.onnx.export(…, dynamic_shapes=({0: torch.export.Dim('batch')},))`)"
            )
        self._session = session
        self._input, self._type = inputs[0].name, _TYPES[inputs[0].type]
        self._outputs = [output.name for output in session.get_outputs()]

    def __deepcopy__(self, memo: Any) -> "Graph":
        return Graph(self._session)  # a session cannot be copied, and keeps nothing of a call

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        values = images.detach().cpu().numpy().astype(self._type)
        found = self._session.run(self._outputs, {self._input: np.ascontiguousarray(values)})
        outputs = tuple(torch.from_numpy(np.asarray(one)).to(images) for one in found)
        return outputs[0] if len(outputs) == 1 else outputs
