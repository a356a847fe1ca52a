"""Graphs of a model for other runtimes: TorchScript and ONNX."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim

from unispeech.errors import DataError, DependencyError
from unispeech.models.speaker import SpeakerModel
from unispeech.models.speech import SpeechModel
from unispeech.storage import atomic_path

TOLERANCE = 1e-4

Sizes = tuple[tuple[int, int], ...]
SIZES: Sizes = ((1, 16000), (3, 23456), (2, 400))
"""Utterances and samples of the batches that a written file is checked on."""
SPEAKER_SIZES: Sizes = ((1, 16000), (3, 23456), (2, 8000))


class Exported(nn.Module):
    """What is written: waveforms in, the final output and the CTC logits, if any, out.

    Args:
        model: in evaluation mode.
    """

    def __init__(self, model: SpeechModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, waveforms: Tensor) -> Tensor:
        """`(B, N)` float32 to `(B, T, D)`, or `(B, T, tokens)` for a recogniser."""
        last: Tensor = self.model(waveforms).last
        return last if self.model.heads.proj is None else self.model.heads.proj(last)


class ExportedSpeaker(nn.Module):
    """What is written of a speaker model: waveforms in, embeddings out.

    Args:
        model: in evaluation mode.
    """

    def __init__(self, model: SpeakerModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, waveforms: Tensor) -> Tensor:
        """`(B, N)` float32 to `(B, E)`."""
        embeddings: Tensor = self.model(waveforms)
        return embeddings


def export_torchscript(model: SpeechModel, path: Path) -> float:
    """Write a TorchScript file for batches of utterances of one length.

    Returns:
        The largest difference to the model on a batch of another size.

    Raises:
        DataError: the written file does not give the model's outputs.
    """
    wrapper = Exported(model).eval()
    with torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trace, load = torch.jit.trace, torch.jit.load
        traced = trace(wrapper, _example(1, 16000), check_trace=False)  # type: ignore[no-untyped-call]
        with atomic_path(path) as temporary:
            torch.jit.save(traced, temporary)
            loaded = load(temporary)  # type: ignore[no-untyped-call]
            return _checked(wrapper, loaded, path, SIZES)


def export_onnx(model: SpeechModel | SpeakerModel, path: Path) -> float:
    """Write an ONNX file with dynamic batch and length and check it in onnxruntime.

    Args:
        model: an encoder or recogniser, or a speaker model.
        path: file to write.

    Returns:
        The largest difference to the model on batches of other sizes.

    Raises:
        DependencyError: onnx or onnxruntime is not installed.
        DataError: the written file does not give the model's outputs.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  torch's exporter needs it
    except ImportError as error:
        raise DependencyError(
            f"{error.name} is not installed",
            remedy='pip install -c constraints.txt -e ".[onnx]"',
        ) from None
    wrapper: nn.Module
    if isinstance(model, SpeakerModel):
        wrapper, sizes = ExportedSpeaker(model).eval(), SPEAKER_SIZES
    else:
        wrapper, sizes = Exported(model).eval(), SIZES
    with torch.no_grad(), warnings.catch_warnings(), atomic_path(path) as temporary:
        warnings.simplefilter("ignore")
        torch.onnx.export(
            wrapper,
            (_example(2, 17000),),
            str(temporary),
            input_names=["waveforms"],
            output_names=["output"],
            dynamo=True,
            verbose=False,
            external_data=False,
            dynamic_shapes={"waveforms": {0: Dim.DYNAMIC, 1: Dim.DYNAMIC}},
        )
        session = onnxruntime.InferenceSession(str(temporary), providers=["CPUExecutionProvider"])

        def run(waveforms: Tensor) -> Tensor:
            (output,) = session.run(None, {"waveforms": waveforms.numpy()})
            return torch.from_numpy(output)

        return _checked(wrapper, run, path, sizes)


def _example(batch: int, samples: int) -> Tensor:
    generator = torch.Generator().manual_seed(batch * samples)
    return 0.1 * torch.randn(batch, samples, generator=generator)


def _checked(model: nn.Module, other: object, path: Path, sizes: Sizes) -> float:
    worst = 0.0
    for batch, samples in sizes:
        waveforms = _example(batch, samples)
        expected, found = model(waveforms), other(waveforms)  # type: ignore[operator]
        if expected.shape != found.shape:
            raise DataError(
                "the exported model gives another shape",
                where=path,
                expected=tuple(expected.shape),
                found=tuple(found.shape),
            )
        worst = max(worst, float((expected - found).abs().max()))
    if worst > TOLERANCE:
        raise DataError(
            "the exported model gives other outputs",
            where=path,
            expected=f"differences below {TOLERANCE:g}",
            found=f"{worst:g}",
        )
    return worst
