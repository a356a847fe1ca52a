"""An encoder with the heads of its objective, as one module that returns a loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unispeech.losses.contrastive import contrastive, diversity, utterance_contrast
from unispeech.losses.masked import masked_prediction
from unispeech.models.config import EncoderConfig
from unispeech.models.ctc import ctc_loss
from unispeech.models.draws import Draws
from unispeech.models.encoder import Encoder, EncoderOutput, FrontEnd
from unispeech.models.heads import FrameContrastHead, Heads, UtteranceContrastHead
from unispeech.models.objective import (
    SPECIAL_LABELS,
    FrameContrastConfig,
    MaskedPredictionConfig,
    MultitaskConfig,
    ObjectiveConfig,
    UtteranceContrastConfig,
    heads_of,
)
from unispeech.models.quantizer import GumbelQuantizer, Quantized, gumbel_noise


class Targets(NamedTuple):
    """What a batch is trained towards; which fields there are depends on the objective."""

    labels: tuple[Tensor, ...] = ()
    """For each label set `(B, n)` int64 clusters, -1 where there is none."""
    ratios: tuple[int, ...] = ()
    """Label frames per encoder frame of each set (2 at 100 Hz, 1 at 50 Hz)."""
    tokens: Tensor | None = None
    """`(sum of token_lengths,)` int64 CTC targets without blanks; None when not transcribed."""
    token_lengths: Tensor | None = None
    """`(B,)` int64."""


class ObjectiveOutput(NamedTuple):
    """Loss terms as sums, so that they can be normalised over the global batch."""

    loss: Tensor
    """Scalar to back-propagate: the weighted sum."""
    sample_size: int
    """Frames that normalise the loss."""
    terms: dict[str, Tensor]
    """Detached sums over `sample_size` frames, in nats, and hits."""
    log_probs: Tensor | None = None
    """`(B, T, tokens)` of the CTC layer (multitask)."""
    lengths: Tensor | None = None
    """`(B,)` int64 valid frames, with `log_probs`."""


class PretrainingModel(nn.Module):
    """HuBERT, WavLM, ILS-SSL, UniSpeech-SAT, wav2vec 2.0 or UniSpeech in pre-training.

    The weights are named as in `SpeechModel`.

    Args:
        encoder: configuration of the encoder.
        objective: what is trained.
        clusters: number of labels of each label set.
        tokens: outputs of the CTC layer, blank first (multitask).
    """

    def __init__(
        self,
        encoder: EncoderConfig,
        objective: ObjectiveConfig,
        clusters: Sequence[int] = (),
        tokens: int = 0,
    ) -> None:
        super().__init__()
        self.objective = objective
        self.encoder = Encoder(encoder)
        self.heads = Heads(encoder, heads_of(encoder, objective, clusters, tokens))
        label = self.heads.label or self.heads.layer_label
        if isinstance(objective, MaskedPredictionConfig) and objective.label_init == "normal":
            assert label is not None
            nn.init.normal_(label.label_embeddings)

    def forward(
        self, waveforms: Tensor, lengths: Tensor | None, targets: Targets, draws: Draws
    ) -> ObjectiveOutput:
        """Loss of one batch.

        Args:
            waveforms: `(B, N)` float32, cropped, mixed and normalised.
            lengths: `(B,)` int64 valid samples, or None when nothing is padded.
            targets: labels or tokens.
            draws: all random choices but those of dropout; `models.draws` makes them, or
                `Draws.of` takes them.
        """
        frames = draws.time_mask.shape[1]
        front = self.encoder.front_end(waveforms, lengths, frames)
        time_mask = draws.time_mask.to(waveforms.device, non_blocking=True)
        keep = self._needs_states
        output = self.encoder.encode(front, time_mask, dropped=draws.dropped, keep=keep)
        draws = _on_device(draws, waveforms.device)
        if isinstance(self.objective, MaskedPredictionConfig):
            return self._masked_prediction(self.objective, front, output, targets, draws)
        if isinstance(self.objective, MultitaskConfig):
            return self._multitask(self.objective, front, output, targets, draws)
        return self._contrastive(self.objective, front, output, draws)

    @property
    def _needs_states(self) -> bool:
        """Whether the loss looks at layers below the last."""
        own = self.objective
        has_contrast = isinstance(own, MaskedPredictionConfig) and own.utterance is not None
        return has_contrast or self.heads.layer_label is not None

    def _masked_prediction(
        self,
        config: MaskedPredictionConfig,
        front: FrontEnd,
        output: EncoderOutput,
        targets: Targets,
        draws: Draws,
    ) -> ObjectiveOutput:
        size = len(draws.masked)
        terms, correct = self._predict(config, output, targets, draws.masked, "masked")
        terms |= {"correct": correct, "masked_frames": torch.tensor(size)}
        loss = config.masked_weight * terms["masked"]
        if config.unmasked_weight > 0:
            unmasked, _ = self._predict(config, output, targets, draws.unmasked, "unmasked")
            terms |= unmasked
            loss = loss + config.unmasked_weight * terms["unmasked"]
            size += len(draws.unmasked)
        if config.utterance is not None:
            extra, extra_terms = self._utterance(config.utterance, output, draws, size)
            loss, terms = loss + extra, terms | extra_terms
        return _with_penalty(config.penalty_weight, front, loss, size, terms)

    def _predict(
        self,
        config: MaskedPredictionConfig,
        output: EncoderOutput,
        targets: Targets,
        where: Tensor,
        name: str,
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Cross entropy over layers and label sets, and the hits of the last layer.

        Only the frames that are predicted go through the head.
        """
        terms: dict[str, Tensor] = {}
        correct = output.last.new_zeros((), dtype=torch.int64)
        tables = self.heads.config.label_tables
        frames = output.last.shape[1]
        labels = [
            own[:, : frames * ratio : ratio].flatten()[where] + SPECIAL_LABELS
            for own, ratio in zip(targets.labels, targets.ratios, strict=True)
        ]
        for layer, projected, table in self._projections(output, where):
            parts = [projected] * len(tables)
            if self._is_chunked:
                parts = list(projected.chunk(len(tables), -1))
            sets = zip(parts, torch.split(table, list(tables)), labels, strict=True)
            results = [masked_prediction(p, t, y, config.temperature) for p, t, y in sets]
            correct = results[0].correct
            loss = torch.stack([result.loss for result in results]).sum()
            terms[name] = terms[name] + loss if name in terms else loss
            if config.predict_layers:
                terms[f"{name}_layer{layer}"] = loss
        return terms, correct

    @property
    def _is_chunked(self) -> bool:
        config = self.heads.config
        return config.untied and len(config.label_tables) > 1 and self.heads.label is not None

    def _projections(
        self, output: EncoderOutput, where: Tensor
    ) -> list[tuple[int, Tensor, Tensor]]:
        """For each predicting layer its number, projected frames `(S, E)` and class table."""
        layered = self.heads.layer_label
        if layered is None:
            label = self.heads.label
            assert label is not None
            assert label.final_proj is not None
            hidden = output.last.flatten(0, 1)[where]
            return [(self.encoder.config.layers, label.final_proj(hidden), label.label_embeddings)]
        result = []
        for index, layer in enumerate(self.heads.config.predict_layers):
            hidden = output.layers[layer].flatten(0, 1)[where]
            if layered.post_layer_norm is not None:
                hidden = layered.post_layer_norm[index](hidden)
            table = layered.label_embeddings
            own = table[index] if table.ndim == 3 else table
            result.append((layer, layered.final_proj[index](hidden), own))
        return result

    def _utterance(
        self, config: UtteranceContrastConfig, output: EncoderOutput, draws: Draws, size: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        head = self.heads.utterance
        assert isinstance(head, UtteranceContrastHead)
        assert draws.negatives is not None
        states = output.layers[config.layer].flatten(0, 1)[draws.masked]
        if head.layer_norm_for_extract is not None:
            states = head.layer_norm_for_extract(states)
        quantized = _quantize(head.quantizer, states, draws, 0)
        instances = draws.negatives
        # A frame without any other to compare with is compared with itself.
        own = torch.arange(len(instances), device=instances.device).unsqueeze(1)
        contrast = utterance_contrast(
            head.spk_proj(states),
            head.project_q(quantized.vectors[0]),
            torch.where(instances < 0, own, instances),
            draws.masked // output.last.shape[1],
            config.form,
            config.temperature,
        )
        # The reference scales the mean by the frames of the content loss.
        contrast_loss = contrast.loss * (size / max(contrast.frames, 1))
        unused = size * diversity(quantized.prob_perplexity, _codewords(head.quantizer))
        terms = {
            "contrast": contrast_loss,
            "contrast_correct": contrast.correct,
            **_usage(quantized, size),
        }
        return config.weight * contrast_loss + config.diversity_weight * unused, terms

    def _contrastive(
        self, config: FrameContrastConfig, front: FrontEnd, output: EncoderOutput, draws: Draws
    ) -> ObjectiveOutput:
        head = self.heads.contrast
        assert isinstance(head, FrameContrastHead)
        assert draws.negatives is not None
        features = F.dropout(front.features, config.feature_dropout, self.training)
        quantized = _quantize(head.quantizer, features.flatten(0, 1)[draws.masked], draws, 0)
        context = output.last.flatten(0, 1)[draws.masked]
        targets = head.project_q(quantized.vectors[0])
        if config.transposed:
            targets = head.final_proj(targets)
        else:
            context = head.final_proj(context)
        codes = quantized.codes[0]
        loss, terms = _frame_contrast(
            config, context, (targets, codes), (targets, codes), draws.negatives, quantized
        )
        return _with_penalty(config.penalty_weight, front, loss, len(draws.masked), terms)

    def _multitask(
        self,
        config: MultitaskConfig,
        front: FrontEnd,
        output: EncoderOutput,
        targets: Targets,
        draws: Draws,
    ) -> ObjectiveOutput:
        head, proj = self.heads.contrast, self.heads.proj
        assert isinstance(head, FrameContrastHead)
        assert proj is not None
        assert draws.negatives is not None
        valid, order = torch.cat([draws.masked, draws.unmasked]).sort()
        features = F.dropout(front.features, config.feature_dropout, self.training)
        flat = features.flatten(0, 1)
        positives = _quantize(head.quantizer, flat[draws.masked], draws, 0)
        # A second draw of codewords: for the distractors, and for the frames that are replaced.
        everywhere = _quantize(head.quantizer, flat[valid], draws, 1)
        codewords = head.final_proj(head.project_q(everywhere.vectors[0]))
        loss, terms = _frame_contrast(
            config,
            output.last.flatten(0, 1)[draws.masked],
            (head.final_proj(head.project_q(positives.vectors[0])), positives.codes[0]),
            (codewords, everywhere.codes[0]),
            draws.negatives,
            positives,
        )
        size = len(draws.masked)
        if targets.tokens is None:
            # The same terms everywhere: processes add them up.
            terms |= {name: loss.new_zeros(()) for name in ("ctc", "tokens")}
            return _with_penalty(config.penalty_weight, front, loss, size, terms)
        hidden = _replaced(output.last, codewords, valid, draws.replace)
        hidden = F.dropout(hidden, config.final_dropout, self.training)
        log_probs = F.log_softmax(proj(hidden).float(), dim=-1)
        assert targets.token_lengths is not None
        ctc = ctc_loss(log_probs, output.lengths, targets.tokens, targets.token_lengths)
        loss = config.ctc_weight * ctc + (1.0 - config.ctc_weight) * loss
        terms |= {"ctc": ctc, "tokens": targets.token_lengths.sum()}
        weight = config.penalty_weight * (1.0 - config.ctc_weight)
        result = _with_penalty(weight, front, loss, size, terms)
        return result._replace(log_probs=log_probs, lengths=output.lengths)


def _on_device(draws: Draws, device: torch.device) -> Draws:
    def moved(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor.to(device, non_blocking=True)

    return draws._replace(
        masked=draws.masked.to(device, non_blocking=True),
        unmasked=draws.unmasked.to(device, non_blocking=True),
        negatives=moved(draws.negatives),
        replace=moved(draws.replace),
    )


def _quantize(quantizer: GumbelQuantizer, frames: Tensor, draws: Draws, index: int) -> Quantized:
    """Quantize `(S, C)` frames with the noise number `index` of the draws."""
    if draws.temperature is None:
        return quantizer(frames.unsqueeze(0))  # type: ignore[no-any-return]
    if draws.gumbel:
        noise = draws.gumbel[index].to(frames.device)
    else:
        generator = torch.Generator(frames.device).manual_seed(draws.gumbel_seed + index)
        shape = (len(frames) * quantizer.config.groups, quantizer.config.codes)
        noise = gumbel_noise(frames.new_empty(shape), generator)
    return quantizer(frames.unsqueeze(0), draws.temperature, noise)  # type: ignore[no-any-return]


def _codewords(quantizer: GumbelQuantizer) -> int:
    return quantizer.config.groups * quantizer.config.codes


def _usage(quantized: Quantized, size: int) -> dict[str, Tensor]:
    """Perplexities times frames, as the other terms are."""
    return {
        "code_perplexity": quantized.code_perplexity * size,
        "prob_perplexity": quantized.prob_perplexity * size,
    }


def _frame_contrast(
    config: FrameContrastConfig,
    context: Tensor,
    positives: tuple[Tensor, Tensor],
    candidates: tuple[Tensor, Tensor],
    negatives: Tensor,
    quantized: Quantized,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Contrast and diversity; positives and candidates are vectors with their codes."""
    # Distractors with the positive's codes are found by the codes: straight-through gradients
    # round equal vectors differently.
    theirs = candidates[1][negatives.clamp(min=0)]
    equal = (theirs == positives[1].unsqueeze(1)).all(-1)
    result = contrastive(
        context, positives[0], candidates[0], negatives, equal, config.temperature
    )
    codewords = config.quantizer.groups * config.quantizer.codes
    unused = result.frames * diversity(quantized.prob_perplexity, codewords)
    terms = {
        "contrast": result.loss,
        "correct": result.correct,
        "masked_frames": torch.tensor(result.frames),
        "diversity": unused,
        **_usage(quantized, result.frames),
    }
    return result.loss + config.diversity_weight * unused, terms


def _replaced(hidden: Tensor, codewords: Tensor, valid: Tensor, replace: Tensor | None) -> Tensor:
    """Hidden states `(B, T, D)` with codewords `(V, D)` of the `valid` frames where asked for."""
    if replace is None:
        return hidden
    flat = hidden.flatten(0, 1)
    swapped = flat.index_copy(0, valid, codewords.to(flat.dtype))
    return torch.where(replace.flatten().unsqueeze(1), swapped, flat).view_as(hidden)


def _with_penalty(
    weight: float, front: FrontEnd, loss: Tensor, size: int, terms: dict[str, Tensor]
) -> ObjectiveOutput:
    terms["penalty"] = front.penalty * size
    loss = loss + weight * terms["penalty"]
    return ObjectiveOutput(loss, size, {k: v.detach() for k, v in terms.items()})
