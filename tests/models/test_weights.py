"""Weights as people have them: read, or told how to save them."""

import argparse
import pickle
from io import BytesIO
from typing import Any

import pytest
import torch
from torch import nn

from models.errors import ConfigurationError
from models.weights import read_state_dict


def pt(content: Any, **options: Any) -> bytes:
    sink = BytesIO()
    torch.save(content, sink, **options)
    return sink.getvalue()


def torchscript() -> bytes:
    sink = BytesIO()
    torch.jit.save(torch.jit.script(nn.Linear(3, 2)), sink)
    return sink.getvalue()


STATE = nn.Linear(3, 2).state_dict()


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("content", [STATE, {"state_dict": STATE, "epoch": 3}])
def test_state_dicts_of_any_age_are_read(content: Any, is_zip: bool) -> None:
    found = read_state_dict(pt(content, _use_new_zipfile_serialization=is_zip))
    assert {name: tensor.tolist() for name, tensor in found.items()} == {n: t.tolist() for n, t in STATE.items()}


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (torchscript(), "a TorchScript archive"),
        (b"\x08\x07\x12\x07tf2onnx" + bytes(range(200)), "neither safetensors nor a .pt state dict"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "neither safetensors nor a .pt state dict"),
        (pt({"state_dict": STATE, "hyper_parameters": argparse.Namespace(lr=1)}), r"objects of argparse\.Namespace"),
        (
            pt({"state_dict": STATE, "x": argparse.Namespace(lr=1)}, _use_new_zipfile_serialization=False),
            "more than ten",
        ),
        (pt(nn.Linear(3, 2)), r"objects of torch\.nn\.modules\.linear\.Linear"),
        (pt({"model_state_dict": STATE, "epoch": 1}), "such as 'model_state_dict', which is a OrderedDict"),
        (pt({**STATE, "epoch": 1}), "such as 'epoch', which is a int"),
        (pt(torch.zeros(3)), "hold a Tensor, not a state dict"),
        (pt(STATE)[:300], "or are damaged"),
        (pickle.dumps(STATE), "more than tensors"),
    ],
)
def test_anything_else_is_refused_with_how_to_save_it(weights: bytes, message: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"{message}.*save the state dict alone") as raised:
        read_state_dict(weights)
    assert "weights_only" not in str(raised.value)
    assert "\n" not in str(raised.value)
