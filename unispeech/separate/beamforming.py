"""Mask-based MVDR beamforming."""

from __future__ import annotations

import torch
from torch import Tensor

FLOOR = 1e-10
"""Least weight of a bin in a covariance."""
LOADING = 1e-6
"""Share of the mean power over the channels that is added to the interference's covariance."""
LEAST_FRAMES = 10.0
"""Frames' worth of bins that a speaker must have; less says nothing about where he is."""


def covariance_weights(masks: Tensor, speakers: int) -> Tensor:
    """How much each bin says about each speaker and about all noise, `(S + 1, T, bins)`.

    All of a bin belongs to the greatest mask, as in NOTSOFAR's beamformer. With known masks that
    gains 3 dB over the masks as weights, and soft weights in between gain no more.

    Args:
        masks: `(K, T, bins)`; those of noise, behind the speakers', are added up.
        speakers: S.
    """
    together = torch.cat([masks[:speakers], masks[speakers:].sum(0, keepdim=True)])
    best = together.argmax(0, keepdim=True)
    return torch.zeros_like(together).scatter_(0, best, 1.0).clamp(min=FLOOR)


def mvdr_filters(spectra: Tensor, weights: Tensor, reference: int = 0) -> Tensor:
    """Filters that keep one speaker as the reference channel hears him, with the least rest.

    Source: Souden et al. 2010; interference of a speaker are the other speakers and the noise.
    `w = C_n^-1 C_s u / tr(C_n^-1 C_s)`, in double precision, with a loaded C_n.

    Args:
        spectra: `(C, T, bins)` complex of the mixture.
        weights: `(S + 1, T, bins)` of `covariance_weights`, or any others.
        reference: channel.

    Returns:
        `(S, bins, C)` complex128. A stream is `sum_c conj(w_c) y_c`.
    """
    channels = spectra.permute(2, 0, 1).to(torch.complex128)
    covariances = []
    for weight in weights:
        weighted = channels * weight.T.unsqueeze(1).double()
        covariances.append(weighted @ channels.mH)
    total = torch.stack(covariances).sum(0)
    identity = torch.eye(len(spectra), dtype=torch.complex128, device=spectra.device)
    unit = identity[:, reference]
    filters = []
    for own in covariances[:-1]:
        rest = total - own
        power = rest.diagonal(dim1=1, dim2=2).real.mean(1)
        loaded = rest + (LOADING * power + 1e-30)[:, None, None] * identity
        ratio = torch.linalg.solve(loaded, own)
        trace = ratio.diagonal(dim1=1, dim2=2).real.sum(1)
        is_empty = trace < 1e-20
        kept = ratio[:, :, reference] / trace.masked_fill(is_empty, 1.0).unsqueeze(1)
        filters.append(torch.where(is_empty.unsqueeze(1), unit, kept))
    return torch.stack(filters)


def mvdr(
    spectra: Tensor,
    masks: Tensor,
    speakers: int,
    kept: slice = slice(None),
) -> Tensor:
    """Beamformed streams `(S, T', bins)`.

    A speaker whose weights sum to less than `LEAST_FRAMES` has no direction: his stream is the
    masked reference channel.

    Args:
        spectra: `(C, T, bins)` complex of the mixture; channel 0 is the reference.
        masks: `(K, T, bins)`, those of speakers first.
        speakers: S.
        kept: frames that are filtered; covariances are those of all T.
    """
    weights = covariance_weights(masks, speakers)
    filters = mvdr_filters(spectra, weights)
    heard = spectra[:, kept].to(torch.complex128)
    streams = torch.einsum("sfc,ctf->stf", filters.conj(), heard).to(spectra.dtype)
    masked = masks[:speakers, kept] * spectra[0, kept]
    has_place = weights[:speakers].sum(1).mean(1) >= LEAST_FRAMES
    return torch.where(has_place[:, None, None], streams, masked)
