"""FSDP2: each process keeps a share of the weights, the gradients and the optimizer's state.

Layers are gathered when they run, the rest of the model for a whole forward and backward pass, and
all of it for a validation, in which processes may have different numbers of batches. Checkpoints
hold whole tensors, so that a training can go on with DDP, alone, or the other way round.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from unispeech.errors import ConfigError, DependencyError
from unispeech.models.conformer import ConformerLayer
from unispeech.models.diarization import EendLayer
from unispeech.models.language_model import Layer
from unispeech.models.transformer import PositionalConv, TransformerLayer

LAYERS = (TransformerLayer, Layer, ConformerLayer, EendLayer)
"""What is gathered and freed as one."""


def shard(model: nn.Module, device: torch.device, precision: str) -> None:
    """Share a model out to all processes, in place; its optimizer is built afterwards.

    Its parameters become DTensors, but for those without dimensions.

    Args:
        model: on its device, with the same weights everywhere.
        device: of this process.
        precision: of the training.

    Raises:
        ConfigError: fp16 with a parameter without dimensions.
        DependencyError: this torch is too old.
    """
    if not hasattr(FSDPModule, "reset_iter_state"):
        raise DependencyError(
            "train.parallel=fsdp needs a newer torch",
            expected="2.13",
            found=torch.__version__,
            remedy="install it, or set train.parallel=ddp",
        )
    # Nothing here changes an output in place, which is what torch warns of.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view")
    scalars = {name: p for name, p in model.named_parameters() if p.ndim == 0}
    trained = [name for name, scalar in scalars.items() if scalar.requires_grad]
    if trained and precision == "fp16":
        raise ConfigError(
            "train.parallel=fsdp cannot scale the loss of this model",
            where="train.precision",
            expected="bf16 or fp32",
            found=f"fp16, and parameters without dimensions: {', '.join(trained)}",
            remedy="set train.precision=bf16 or train.parallel=ddp",
        )
    for name in trained:
        scalars[name].register_post_accumulate_grad_hook(_average_gradient)  # type: ignore[no-untyped-call]
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    common: dict[str, Any] = {"mesh": mesh, "ignored_params": set(scalars.values())}
    for module in model.modules():
        if isinstance(module, LAYERS):
            fully_shard(module, **common, reshard_after_forward=True)
    fully_shard(model, **common, reshard_after_forward=False)


def _average_gradient(scalar: Tensor) -> None:
    # While batches are accumulated the older part is a mean already, and stays the same mean.
    assert scalar.grad is not None
    dist.all_reduce(scalar.grad)
    scalar.grad /= dist.get_world_size()


@contextlib.contextmanager
def all_gathered(model: nn.Module) -> Iterator[None]:
    """Weights whole, so that each process can run the model or a part of it as often as it needs.

    Only between updates; without effect on a model that is not sharded.
    """
    if not isinstance(model, FSDPModule):
        yield
        return
    root, *layers = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for module in (root, *layers):
        module.set_reshard_after_forward(False, recurse=False)
        module.unshard()
    for part in model.modules():
        if isinstance(part, PositionalConv):
            # Gathering changes a weight without giving it a new version.
            part.forget()
    yield
    for module in layers:
        module.set_reshard_after_forward(True, recurse=False)
    # FSDP notes in which order layers ran, to gather ahead; the processes must not differ in that.
    root.reset_iter_state()


@contextlib.contextmanager
def zeros_for_unused(model: nn.Module) -> Iterator[None]:
    """Gradients of zero for what a batch does not use: the kinds of batches may differ by process.

    Without effect on a model that is not sharded.
    """
    if not isinstance(model, FSDPModule):
        yield
        return
    model.set_reduce_scatter_unused_params(True)
    yield
    model.set_reduce_scatter_unused_params(False)


def model_state(model: nn.Module, keep: bool) -> dict[str, Any]:
    """`state_dict` of whole tensors, those of a sharded model on the CPU.

    Args:
        model: all processes call this together where it is sharded.
        keep: whether this process wants the tensors; where not, None stands for what is sharded.
    """
    state = model.state_dict()
    for name, value in state.items():
        state[name] = _whole(value, keep)
    return state


def optimizer_state(optimizer: torch.optim.Optimizer, keep: bool) -> dict[str, Any]:
    """`state_dict` of whole tensors; `keep` as for `model_state`."""
    state = optimizer.state_dict()
    whole = {
        number: {name: _whole(value, keep) for name, value in values.items()}
        for number, values in state["state"].items()
    }
    return {**state, "state": whole}


def load_model(model: nn.Module, state: dict[str, Any]) -> None:
    """`load_state_dict` of whole tensors, which this process's shares take the place of."""
    own = model.state_dict()
    for name, value in state.items():
        state[name] = _share(value, own.get(name))
    model.load_state_dict(state)


def load_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """`load_state_dict` of whole tensors, of which this process takes its shares."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    shares = {
        number: {name: _share(value, parameters[number]) for name, value in values.items()}
        for number, values in state["state"].items()
    }
    # Not every kernel that the state was made with takes shares.
    groups = [
        {**group, "fused": own["fused"]}
        for group, own in zip(state["param_groups"], optimizer.param_groups, strict=True)
    ]
    optimizer.load_state_dict({"state": shares, "param_groups": groups})


def _whole(value: Any, keep: bool) -> Any:
    if not isinstance(value, DTensor):
        return value
    tensor = value.full_tensor()
    return tensor.cpu() if keep else None


def _share(value: Any, like: Any) -> Any:
    # An optimizer's count of steps is a number beside its moments, which have their weight's shape.
    if not isinstance(like, DTensor) or not isinstance(value, Tensor) or value.shape != like.shape:
        return value
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)
