"""Configuration of labels, crops, mixing and batches."""

from __future__ import annotations

from typing import Annotated, Literal

import pydantic

from unispeech.config import Config, Paths

Units = Literal["letters", "bpe", "phones"]
"""What tokens are: letters of the transcripts, sentencepiece's pieces of their words, or phones of
the field `phones`."""

TextUnits = Literal["words", "letters", "pieces"]
"""Units of a language model: words, letters with `|` after every word, or sentence pieces."""

Speeds = Annotated[
    tuple[Annotated[float, pydantic.Field(ge=0.5, le=2)], ...], pydantic.Field(min_length=1)
]
"""Speeds of which each utterance draws one in each epoch; Kaldi's recipes take 0.9, 1 and 1.1."""


class KMeansConfig(Config):
    """Clustering; defaults are the settings of HuBERT's simple_kmeans."""

    engine: Literal["sklearn", "faiss"] = "sklearn"
    """`sklearn`: scikit-learn's MiniBatchKMeans. `faiss`: all frames in every iteration, from one
    start, on the GPUs where faiss is built for them (faiss-gpu-cu12); settings that only
    mini-batches have are then refused."""
    clusters: int = pydantic.Field(100, ge=2, le=65536)
    seed: int = 0
    init: Literal["k-means++", "random"] = "k-means++"
    max_iter: int = pydantic.Field(100, ge=1)
    batch_size: int = pydantic.Field(10000, ge=1)
    """Mini-batches."""
    tol: float = 0.0
    """Mini-batches."""
    max_no_improvement: int = 100
    """Mini-batches."""
    n_init: int = pydantic.Field(20, ge=1)
    """Mini-batches."""
    reassignment_ratio: float = 0.0
    """Mini-batches."""

    @pydantic.model_validator(mode="after")
    def _of_the_engine(self) -> KMeansConfig:
        names = ("batch_size", "tol", "max_no_improvement", "n_init", "reassignment_ratio")
        fields = type(self).model_fields
        changed = [name for name in names if getattr(self, name) != fields[name].default]
        if self.engine == "faiss" and changed:
            raise ValueError(f"engine faiss has no {', '.join(changed)}; leave it at its default")
        return self


class LabelConfig(Config):
    """What is clustered; defaults are HuBERT's first iteration."""

    feature: Literal["mfcc", "layer"] = "mfcc"
    cmvn: bool = False
    """Normalise the MFCC of each utterance (mean and variance). HuBERT does not; where corpora
    differ in channel and level, clusters otherwise tell these apart instead of sounds."""
    checkpoint: str = ""
    """Trained model whose layer is clustered."""
    layer: int = pydantic.Field(6, ge=0)
    """0 is the encoder input, 6 the output of the sixth layer (HuBERT's second iteration)."""
    share: float = pydantic.Field(0.1, gt=0, le=1)
    """Share of the first manifest's utterances that the clusters are fitted on."""
    kmeans: KMeansConfig = KMeansConfig()


class CropConfig(Config):
    """Lengths in pre-training; defaults are HuBERT's (250,000 and 32,000 samples)."""

    max_seconds: float = pydantic.Field(15.625, gt=0)
    """Longer utterances give a random piece of this length."""
    min_seconds: float = pydantic.Field(2.0, ge=0)
    """Shorter utterances are left out."""
    multiple_seconds: float = pydantic.Field(0.0, ge=0)
    """Round the length of a batch down to a multiple of this; 0 does not. Shapes that repeat are
    faster where kernels are compiled for each shape (bf16 on a CPU, torch.compile)."""
    rows: Literal["crop", "pad"] = "crop"
    """Crop a batch to its shortest utterance (the reference) or pad it to its longest."""


class MixingConfig(Config):
    """Defaults are WavLM's: one utterance in five is mixed, one mix in ten is with noise."""

    prob: float = pydantic.Field(0.2, ge=0, le=1)
    noise_prob: float = pydantic.Field(0.1, ge=0, le=1)
    """Share of the mixes that take noise, when there is a noise manifest."""
    snr: tuple[float, float] = (-5.0, 5.0)
    """Decibels of the utterance over the mixed-in utterance."""
    noise_snr: tuple[float, float] = (-5.0, 20.0)
    max_share: float = pydantic.Field(0.5, gt=0, le=1)
    """Longest overlap as a share of the utterance; up to a half, the first speaker dominates."""
    stream: Literal["batch", "reference"] = "batch"
    """`reference`: the released collater's draws in its order, in which an utterance may be mixed
    with itself and with rows that are already mixed."""
    where: Literal["loader", "device"] = "loader"
    """`device`: the processes that read audio only draw; the training process mixes, on its GPU
    where it has one. The same mixes, but for rounding."""


class BatchingConfig(Config):
    """Dynamic bucketing by duration."""

    max_seconds: float = pydantic.Field(87.5, gt=0)
    """Audio in one batch of one process, after cropping (HuBERT Base: 1.4 M samples)."""
    buckets: int = pydantic.Field(30, ge=1)
    shuffle_buffer: int = pydantic.Field(2000, ge=1)
    """Cuts that each worker holds to draw batches from, where training reads shards; a cut of 15 s
    is about a quarter of a megabyte of FLAC. The order then depends on the number of workers too.
    Ours; more shuffles better."""
    workers: int = pydantic.Field(2, ge=0)
    """Processes that read audio; 0 reads in the training process."""


class NoiseRatiosConfig(Config):
    """Decibels of the speech over a noise of each kind, drawn evenly; defaults are wespeaker's."""

    noise: tuple[float, float] = (0.0, 15.0)
    speech: tuple[float, float] = (10.0, 30.0)
    music: tuple[float, float] = (5.0, 15.0)


class SpeakerBatchingConfig(Config):
    """Batches of crops of one length."""

    size: int = pydantic.Field(128, ge=1)
    """Utterances in one batch of one process."""
    order: Literal["utterances", "speakers"] = "utterances"
    """`utterances`: every utterance once an epoch. `speakers`: class-balanced, every speaker as
    often as any other; an epoch still has as many batches."""
    shuffle_buffer: int = pydantic.Field(2000, ge=1)
    """Cuts that each worker holds to draw batches from, where training reads shards."""
    workers: int = pydantic.Field(2, ge=0)
    """Processes that read audio; 0 reads in the training process."""


class SpeakerDataConfig(Config):
    """Training of a speaker model; defaults are those of the WavLM authors' recipe.

    They gave them in unilm issue 695: crops of 3 s, augmentation of six utterances in ten, no
    speed classes. What they did not say (how ratios are drawn) is wespeaker's.
    """

    train: Paths = ()
    """Manifests to train on, or one folder of shards."""
    valid: Paths = ()
    """Manifests to validate on."""
    speakers: str = ""
    """File with one training speaker a line, in the order of the classes; empty takes those of
    the manifests, sorted. Shards need it."""
    crop_seconds: float = pydantic.Field(3.0, gt=0)
    """Length of every crop; shorter utterances are repeated."""
    min_seconds: float = pydantic.Field(0.3, ge=0)
    """Shorter utterances are left out."""
    speeds: Speeds = (1.0,)
    """Each utterance draws one; a speaker at another speed than the first is another class. The
    first is 1, so that dropping the others leaves the classes of the speakers first."""
    augment_prob: float = pydantic.Field(0.6, ge=0, le=1)
    """Share of the crops that get either reverberation or noise."""
    reverb_share: float = pydantic.Field(0.5, ge=0, le=1)
    """Share of the augmented crops that get reverberation, where there are both."""
    snr: NoiseRatiosConfig = NoiseRatiosConfig()
    noise: Paths = ()
    """Manifests of noises; the field `kind` of a cut is noise, speech or music."""
    rir: Paths = ()
    """Manifests of impulse responses."""
    batching: SpeakerBatchingConfig = SpeakerBatchingConfig()

    @pydantic.field_validator("speeds")
    @classmethod
    def _first_is_one(cls, speeds: tuple[float, ...]) -> tuple[float, ...]:
        if speeds[0] != 1.0 or len(set(speeds)) < len(speeds):
            raise ValueError("the first speed must be 1, and each must be there once")
        return speeds


Range = tuple[float, float]
"""Limits of a value that is drawn evenly."""


class RoomConfig(Config):
    """Rooms of the image method and who stands where in them, in metres and seconds.

    The papers draw room sizes and reverberation times from ranges that are not known here: all
    values are ours. The array is the papers': six microphones on a circle around one.
    """

    width: Range = (3.0, 8.0)
    depth: Range = (3.0, 8.0)
    height: Range = (2.4, 3.5)
    t60: Range = (0.15, 0.5)
    """Reverberation time: seconds in which the sound decays by 60 dB."""
    distance: Range = (0.5, 2.5)
    """From a speaker to the array."""
    mouth: Range = (1.0, 1.8)
    """Height of the speakers."""
    table: Range = (0.7, 1.2)
    """Height of the array."""
    radius: float = pydantic.Field(0.0425, gt=0)
    """Of the array; the papers' (recalled)."""

    @pydantic.model_validator(mode="after")
    def _fits(self) -> RoomConfig:
        for name in ("width", "depth", "height", "t60", "distance", "mouth", "table"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"{name} must be two positive numbers, the lower one first")
        if max(self.mouth[1], self.table[1]) >= self.height[0]:
            raise ValueError("speakers and array must fit below the lowest ceiling")
        return self


class PatternsConfig(Config):
    """Shares of the overlap patterns of two utterances; the patterns are the papers', shares ours.

    About half of the time with speech is then overlapped, as in the papers (recalled).
    """

    single: float = pydantic.Field(0.15, ge=0)
    """One speaker alone."""
    sequential: float = pydantic.Field(0.15, ge=0)
    """One after the other, with a pause."""
    partial: float = pydantic.Field(0.45, ge=0)
    """The end of one over the beginning of the other."""
    inclusive: float = pydantic.Field(0.25, ge=0)
    """The shorter one wholly within the longer one."""

    @pydantic.model_validator(mode="after")
    def _some(self) -> PatternsConfig:
        if self.single + self.sequential + self.partial + self.inclusive <= 0:
            raise ValueError("one of the patterns must have a share")
        return self


class MixtureBatchingConfig(Config):
    """Batches of mixtures of one length."""

    size: int = pydantic.Field(12, ge=1)
    """Mixtures in one batch of one process; the authors take 96 in all (CSS_with_Conformer,
    issue 9)."""
    workers: int = pydantic.Field(2, ge=0)
    """Processes that read and mix audio; 0 does so in the training process."""


class MixtureDataConfig(Config):
    """Mixtures of two speakers, made while reading or stored.

    Energy ratios and noise are those of the papers (recalled); 4 s is the authors' chunk
    (CSS_with_Conformer, issue 9).
    """

    train: Paths = ()
    """Manifests of utterances, which are mixed while reading, or of stored mixtures."""
    valid: Paths = ()
    """Manifests of stored mixtures."""
    noise: Paths = ()
    """Manifests of noises; without one the noise is Gaussian."""
    rir: Paths = ()
    """Manifests of impulse responses; two of the same room (field `room`, else folder) are taken
    for a mixture. Without one there is no room."""
    seconds: float = pydantic.Field(4.0, gt=0)
    """Length of every example, taken anywhere in a mixture."""
    min_seconds: float = pydantic.Field(1.0, ge=0)
    """Shorter utterances are left out."""
    patterns: PatternsConfig = PatternsConfig()
    gap: Range = (0.1, 1.0)
    """Pause of the sequential pattern, in seconds; ours."""
    energy_ratio: Range = (-5.0, 5.0)
    """Decibels of the first speaker over the second, within the example."""
    snr: Range = (0.0, 10.0)
    """Decibels of the speech over the noise, within the example."""
    level: Range = (-33.0, -20.0)
    """Of the mixture, in dB of full scale; ours."""
    reference: Literal["reverberant", "early"] = "reverberant"
    """What is to be estimated: the speaker as heard in the room (the papers), or the direct sound
    and its early reflections alone."""
    early_seconds: float = pydantic.Field(0.05, gt=0)
    """What counts as early, from the direct sound on."""
    batching: MixtureBatchingConfig = MixtureBatchingConfig()

    @pydantic.model_validator(mode="after")
    def _ordered(self) -> MixtureDataConfig:
        for name in ("gap", "energy_ratio", "snr", "level"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name} must have the lower limit first")
        if not 0 <= self.gap[0] <= self.gap[1] < self.seconds:
            raise ValueError("gap must be positive and shorter than an example")
        return self
