"""Weights as people have them are read; nothing of a file is built but tensors."""

import argparse
import functools
import pickle
from collections.abc import Callable
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from models import forms
from models.errors import ConfigurationError
from models.weights import load_into


def pt(content: Any, **options: Any) -> bytes:
    sink = BytesIO()
    torch.save(content, sink, **options)
    return sink.getvalue()


TRAINED = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(3, 2))
STATE = TRAINED.state_dict()
OTHER = {name: tensor + 1 for name, tensor in STATE.items()}
ADAM = {"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]}


def named(begin: str) -> dict[str, Any]:
    return {f"{begin}{name}": tensor for name, tensor in STATE.items()}


def fresh() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(3, 2))


class Harm:
    """Leaves a file if it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return open, (str(self.mark), "w")


class Node:
    """Holds its values in a state of its own, as configurations of OmegaConf do."""

    def __init__(self) -> None:
        self.content = {"lr": 0.1}

    def __getstate__(self) -> Any:
        return {"_content": self.content, "_parent": None}

    def __setstate__(self, state: Any) -> None:
        raise AssertionError("an object of a checkpoint was built")


CHECKPOINTS: dict[str, tuple[Any, str]] = {
    "a state dict": (STATE, ""),
    "beside an epoch": ({"state_dict": STATE, "epoch": 3}, "the state dict at 'state_dict'"),
    "beside an optimizer": ({"model": STATE, "optimizer": ADAM, "loss": 0.1}, "the state dict at 'model'"),
    "of DataParallel": (named("module."), "names without the beginning 'module.'"),
    "compiled and parallel": (named("_orig_mod.module."), "names without the beginning '_orig_mod.module.'"),
    "of Lightning": (
        {
            "state_dict": {**named("model."), "criterion.weight": torch.ones(2)},
            "hyper_parameters": argparse.Namespace(lr=1e-3),
            "callbacks": {"ModelCheckpoint": {"best": np.float64(0.5), "path": Path("x")}},
        },
        "the state dict at 'state_dict', names without the beginning 'model.', 1 other tensors left out",
    ),
    "with the twins of an average": (
        {"state_dict": {**named("model."), **{f"model_ema.module.{name}": value for name, value in OTHER.items()}}},
        "the state dict at 'state_dict', names without the beginning 'model.', 9 other tensors left out",
    ),
    "of Lightning with its configuration": (
        {
            "state_dict": named("model._orig_mod."),
            "hyper_parameters": {"cfg": Node(), "args": argparse.Namespace(act=functools.partial(print))},
            "loops": {"fit_loop": {"state_dict": {}}},
            "optimizer_states": [ADAM],
            "rng": np.random.default_rng(0).integers(9, size=3),
        },
        "the state dict at 'state_dict', names without the beginning 'model._orig_mod.'",
    ),
    "of nnU-Net": (
        {
            "network_weights": STATE,
            "optimizer_state": ADAM,
            "grad_scaler_state": {"scale": 65536.0},
            "init_args": {"plans": {"a": [1, 2]}, "fold": 0, "device": torch.device("cpu")},
            "logging": {"train_losses": [np.float32(0.5)], "dice_per_class_or_region": [[np.float64(0.3)]]},
            "trainer_name": "nnUNetTrainer",
            "inference_allowed_mirroring_axes": (0, 1, 2),
        },
        "the state dict at 'network_weights'",
    ),
}


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_checkpoints_of_any_age_are_read(name: str, is_zip: bool) -> None:
    content, taken = CHECKPOINTS[name]
    module = fresh()
    assert load_into(module, pt(content, _use_new_zipfile_serialization=is_zip)) == taken
    assert all(torch.equal(tensor, STATE[name]) for name, tensor in module.state_dict().items())


def test_safetensors_with_a_longer_name_are_read() -> None:
    module = fresh()
    assert load_into(module, safetensors.torch.save(named("module."))) == "names without the beginning 'module.'"
    assert torch.equal(module.state_dict()["0.weight"], STATE["0.weight"])


def test_of_two_state_dicts_one_is_named() -> None:
    data = pt({"model": OTHER, "ema": {"model": STATE}})
    with pytest.raises(ConfigurationError, match=r"model\.weights_key: name .* there are 'model', 'ema\.model'"):
        load_into(fresh(), data)
    with pytest.raises(ConfigurationError, match=r"there is no state dict at 'mean', nor .*; there are"):
        load_into(fresh(), data, "mean")
    module = fresh()
    load_into(module, data, "ema.model")
    assert torch.equal(module.state_dict()["0.weight"], STATE["0.weight"])


def test_a_key_leads_into_the_names_of_safetensors() -> None:
    data, module = safetensors.torch.save({**named("model.encoder."), "model.decoder.weight": torch.ones(2)}), fresh()
    with pytest.raises(ConfigurationError, match=r"set `model\.weights_key: model\.encoder`"):
        load_into(module, data)
    with pytest.raises(ConfigurationError, match=r"there is no state dict at 'encoder'"):
        load_into(module, data, "encoder")
    load_into(module, data, "model.encoder")
    assert torch.equal(module.state_dict()["0.weight"], STATE["0.weight"])


@pytest.mark.parametrize("place", ["", "state_dict"])
def test_a_network_that_is_there_twice_with_other_numbers_is_refused_until_one_is_named(place: str) -> None:
    both = {**named("model."), **{f"net.{name}": tensor for name, tensor in OTHER.items()}}
    data = pt({place: both} if place else both)
    key = f"{place}.net".strip(".")
    with pytest.raises(ConfigurationError, match=rf"begin with 'model.' and 'net.'.* such as '{key[:-3]}model'"):
        load_into(fresh(), data)
    module = fresh()
    load_into(module, data, key)
    assert torch.equal(module.state_dict()["0.weight"], OTHER["0.weight"])


def test_a_network_that_is_there_twice_with_the_same_numbers_is_taken_once() -> None:
    module = fresh()
    said = load_into(module, pt({**named("net."), **named("model.")}))
    assert said == "names without the beginning 'model.', 9 other tensors left out"
    assert torch.equal(module.state_dict()["0.weight"], STATE["0.weight"])


@pytest.mark.parametrize("key", ["teacher.backbone", "teacher"])
def test_a_key_may_lead_on_to_the_beginning_of_names(key: str) -> None:
    data = pt({"student": named("module.backbone."), "teacher": {**named("backbone."), "head.weight": torch.ones(2)}})
    if key == "teacher":
        with pytest.raises(ConfigurationError, match=r"set `model\.weights_key: teacher\.backbone`"):
            load_into(fresh(), data, key)
        return
    module = fresh()
    assert load_into(module, data, key) == "the state dict at 'teacher.backbone'"
    assert torch.equal(module.state_dict()["0.weight"], STATE["0.weight"])


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (b"\x08\x07\x12\x07tf2onnx" + bytes(range(200)), "neither safetensors nor a .pt state dict"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
            "a pointer of Git LFS .* `git lfs pull`",
        ),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "neither safetensors nor a .pt state dict"),
        (pt(fresh()), "the file holds no state dict, .* save the state dict alone"),
        (pt({**STATE, "epoch": 1}), "the file holds no state dict, .* save the state dict alone"),
        (pt(torch.zeros(3)), "the file holds no state dict, .* save the state dict alone"),
        (pt(STATE)[:300], "is damaged"),
        (pt({"0.weight": torch.zeros(2, 1, 3, 3)}), "5 of 9 tensors are missing|tensors are missing"),
        (pt({name: tensor.to(torch.int8) for name, tensor in STATE.items()}), "8 tensors are torch.int8, such as"),
        (
            pt({name: tensor.to(torch.float8_e4m3fn) for name, tensor in STATE.items()}),
            "tensors are torch.float8_e4m3fn",
        ),
        (pt({name: tensor.to(torch.complex64) for name, tensor in STATE.items()}), "tensors are torch.complex64"),
        (pt({name: tensor.to("meta") for name, tensor in STATE.items()}), r"'0.weight' has no numbers \(meta\)"),
        (pt({**STATE, "0.weight": STATE["0.weight"].to_sparse()}), "'0.weight' has torch.sparse_coo"),
        (pt({**STATE, "0.weight": STATE["0.weight"] / 0}), "1 of 8 tensors hold NaN or infinite .* such as '0.weight'"),
        (pt({**STATE, "1.running_var": torch.full((2,), torch.nan)}), "such as '1.running_var': the training diverged"),
        (pt({**named("module."), "module.spare": torch.ones(1)}), "are not known, such as 'module"),
    ],
)
def test_what_does_not_fit_is_refused(weights: bytes, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as raised:
        load_into(fresh(), weights)
    assert "weights_only" not in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_mask_is_infinite_as_buffer_and_as_parameter() -> None:
    def masked() -> nn.Module:
        module, mask = nn.Linear(3, 3), torch.full((3, 3), -torch.inf).triu(1)
        module.register_buffer("mask", mask.clone())
        module.register_parameter("fixed", nn.Parameter(mask, requires_grad=False))
        return module

    state = masked().state_dict()
    module = masked()
    load_into(module, pt(state))
    assert all(torch.equal(tensor, state[name]) for name, tensor in module.state_dict().items())
    with pytest.raises(ConfigurationError, match="'weight': the training diverged"):
        load_into(module, pt({**state, "weight": state["weight"] / 0}))
    with pytest.raises(ConfigurationError, match="'fixed': the training diverged"):
        load_into(module, pt({**state, "fixed": state["fixed"] * 0}))


@pytest.mark.parametrize("save", [pt, lambda content: pt(content, _use_new_zipfile_serialization=False), pickle.dumps])
@pytest.mark.parametrize(
    "within",
    [
        lambda harm: {"state_dict": STATE, "hyper_parameters": harm},
        lambda harm: {"state_dict": {**STATE, "0.weight": harm}},
        lambda harm: harm,
    ],
)
def test_no_object_of_a_checkpoint_is_built(save: Callable[[Any], bytes], within: Any, tmp_path: Path) -> None:
    mark = tmp_path / "harm"
    data = save(within(Harm(mark)))
    with suppress(ConfigurationError):
        load_into(fresh(), data)
    assert not mark.exists()


def _of_length(length: int) -> bytes:
    """Write safetensors whose header has the given length."""
    for padding in range(length):
        data = safetensors.torch.save(STATE, {"about": "-" * padding})
        if int.from_bytes(data[:8], "little") == length:
            return data
    raise AssertionError


@pytest.mark.parametrize("length", [0x280, 0x480, 0x508, 0x1008])
def test_safetensors_may_begin_like_another_format(length: int) -> None:
    data = _of_length(length)
    assert data[0] in (0x80, 0x08)  # a pickle, and an ONNX model
    module = fresh()
    assert forms.recognise(data) is None
    load_into(module, data)
    assert all(torch.equal(module.state_dict()[name], tensor) for name, tensor in STATE.items())
