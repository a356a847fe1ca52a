"""Contrast with quantized frames: of wav2vec 2.0 and UniSpeech, and of whole utterances."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Contrast(NamedTuple):
    """Sums over the frames that entered the loss."""

    loss: Tensor
    """Scalar, nats."""
    correct: Tensor
    """Scalar: frames whose positive is more similar than every distractor; for whole utterances
    the sum over frames of the share of comparisons that are told right."""
    frames: int


def cosines(queries: Tensor, keys: Tensor, temperature: float) -> Tensor:
    """Cosine similarity of every query with every key over the temperature.

    Args:
        queries: `(S, E)`.
        keys: `(N, E)`.
        temperature: 0.1 in the papers.

    Returns:
        `(S, N)` float32, also under autocast.
    """
    with torch.autocast(queries.device.type, enabled=False):
        normalised = [F.normalize(x.float(), dim=-1, eps=1e-8) for x in (queries, keys)]
        return normalised[0] @ normalised[1].t() / temperature


def contrastive(
    context: Tensor,
    targets: Tensor,
    candidates: Tensor,
    negatives: Tensor,
    equal: Tensor | None = None,
    temperature: float = 0.1,
) -> Contrast:
    """Cross entropy of the true frame among distractors (wav2vec 2.0, equation 3).

    All similarities are one matrix product, from which the distractors are picked: gathering the
    vectors of K distractors for each frame first takes K / N times the memory.

    Args:
        context: `(S, E)` outputs at the masked frames.
        targets: `(S, E)` quantized frames, the positives.
        candidates: `(N, E)` quantized frames that the distractors are drawn from.
        negatives: `(S, K)` int64 rows of `candidates`; -1 is none.
        equal: `(S, K)` bool, distractors that equal the positive and do not count; None compares
            the vectors, which misses equal codes that were rounded differently.
        temperature: divisor of the cosines.
    """
    rows = negatives.clamp(min=0)
    if equal is None:
        equal = (candidates[rows] == targets.unsqueeze(1)).all(-1)
    with torch.autocast(context.device.type, enabled=False):
        positive = F.cosine_similarity(context.float(), targets.float(), dim=-1, eps=1e-8)
    distractors = cosines(context, candidates, temperature).gather(1, rows)
    distractors = distractors.masked_fill(equal | (negatives < 0), float("-inf"))
    logits = torch.cat([(positive / temperature).unsqueeze(1), distractors], dim=1)
    loss = F.cross_entropy(
        logits, logits.new_zeros(len(logits), dtype=torch.int64), reduction="sum"
    )
    # With strict comparison a collapsed model, where all are equal, has no hits.
    correct = (positive / temperature > distractors.amax(1)).sum()
    return Contrast(loss, correct, len(logits))


def utterance_contrast(
    queries: Tensor,
    targets: Tensor,
    instances: Tensor,
    utterances: Tensor,
    form: Literal["binary", "softmax"] = "binary",
    temperature: float = 0.1,
) -> Contrast:
    """Tell frames of one's own utterance from those of others (UniSpeech-SAT, section 2.2).

    Args:
        queries: `(S, E)` projected states of the masked frames.
        targets: `(S, E)` projected codewords of the same frames.
        instances: `(S, K)` int64 frames that each frame is compared with, beside its own.
        utterances: `(S,)` int64 utterance of each frame.
        form: `binary` is the released code's cross entropy over the single comparisons,
            `softmax` the paper's: each frame of the utterance against all that were drawn.
        temperature: divisor of the cosines.

    Returns:
        The loss is a mean over frames (`binary`: over comparisons) times the number of frames.
    """
    own = torch.arange(len(queries), device=queries.device).unsqueeze(1)
    compared = torch.cat([own, instances], dim=1)
    logits = cosines(queries, targets, temperature).gather(1, compared)
    same = utterances[compared] == utterances.unsqueeze(1)
    if form == "binary":
        mean = F.binary_cross_entropy_with_logits(logits, same.to(logits.dtype))
        loss = mean * len(queries)
    else:
        log_probs = torch.log_softmax(logits, dim=1).masked_fill(~same, 0.0)
        loss = -(log_probs.sum(1) / same.sum(1)).sum()
    right = ((logits > 0) == same).float().mean(1).sum()
    return Contrast(loss, right, len(queries))


def diversity(prob_perplexity: Tensor, codewords: int) -> Tensor:
    """Share of the codewords that is not used, 0 when all are used alike.

    Args:
        prob_perplexity: scalar, summed over the groups.
        codewords: of all groups together.
    """
    return (codewords - prob_perplexity) / codewords
