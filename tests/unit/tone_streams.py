"""A small set of two mixtures of tones with references, separated streams and recognised words."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import soundfile
from lhotse import Recording, SupervisionSegment

from unispeech.data.manifests import write_cuts

RATE = 16000
# recording -> condition, utterances (speaker, start, duration, words)
SESSIONS = {
    "s1": ("0S", [("A", 0.0, 1.0, "one two"), ("B", 1.0, 1.0, "three")]),
    "s2": ("OV40", [("A", 0.0, 1.5, "one two three"), ("C", 0.9, 1.1, "four five")]),
}
HEARD = {
    "s1-stream1-0000": "one two", "s1-stream1-0001": "three", "s2-stream1-0000": "one two four",
    "s2-stream2-0000": "five",
}  # fmt: skip
# recording -> pieces of each stream
ACTIVE = {
    "s1": [[(0.0, 1.0), (1.0, 2.0)], [(0.5, 0.55)]],
    "s2": [[(0.0, 1.5)], [(0.9, 2.0)]],
}


def tone(number: int, seconds: float) -> np.ndarray:
    samples = round(seconds * RATE)
    return (0.1 * np.sin(2 * np.pi * number * np.arange(samples) / 1600)).astype(np.float32)


def put(path: Path, audio: np.ndarray) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, audio, RATE, "FLOAT" if path.suffix == ".wav" else "PCM_24")
    return str(path)


def make_sets(folder: Path) -> None:
    """Mixtures of tones with references and streams: on each stream, a tenth of the other tone."""
    mixtures, streams, texts = [], [], []
    for name, (condition, talk) in SESSIONS.items():
        sources = np.zeros((2, 2 * RATE), np.float32)
        segments = []
        for row, (speaker, start, duration, words) in enumerate(talk):
            first = round(start * RATE)
            part = tone(100 + 50 * row, duration)
            sources[row, first : first + len(part)] = part
            unit = f"{name}-{row}"
            segments.append(
                SupervisionSegment(unit, name, start, duration, text=words, speaker=speaker)
            )
        files = [put(folder / "ref" / f"{name}-{k}.wav", own) for k, own in enumerate(sources)]
        put(folder / "mix" / f"{name}.wav", sources.sum(0))
        cut = Recording.from_file(folder / "mix" / f"{name}.wav", recording_id=name).to_cut()
        cut.id, cut.supervisions = name, segments
        cut.custom = {"condition": condition, "references": files}
        mixtures.append(cut)
        for number, own in enumerate(ACTIVE[name], start=1):
            other = sources[2 - number]
            audio = sources[number - 1] + 0.1 * other
            path = folder / "streams" / "joint" / "test" / name / f"stream{number}.flac"
            put(path, audio)
            one = Recording.from_file(path, recording_id=f"{name}-stream{number}").to_cut()
            one.id = f"{name}-stream{number}"
            one.supervisions = [
                SupervisionSegment(f"{one.id}-{k:04d}", one.id, a, b - a)
                for k, (a, b) in enumerate(own)
            ]
            one.custom = {"mixture": name, "stream": number, "condition": condition}
            streams.append(one)
    texts = [f"{name} {words}".strip() + "\n" for name, words in HEARD.items()]
    write_cuts(mixtures, folder / "test.jsonl.gz")
    place = folder / "streams" / "joint" / "test"
    write_cuts(streams, place / "streams.jsonl.gz")
    (place / "separate.json").write_text(json.dumps({"method": "mask", "model_sha256": "ab" * 32}))
    (folder / "text").write_text("".join(texts))
