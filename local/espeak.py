"""Speech and phone times from the espeak-ng library that the package espeakng-loader brings."""

from __future__ import annotations

import ctypes
import importlib
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from unispeech.errors import DependencyError

# Names and numbers of espeak-ng's speak_lib.h.
AUDIO_OUTPUT_SYNCHRONOUS = 2
INITIALIZE_PHONEME_EVENTS = 1
INITIALIZE_PHONEME_IPA = 2
EVENT_LIST_TERMINATED = 0
EVENT_PHONEME = 7
CHARS_UTF8 = 1
RATE, PITCH, RANGE = 1, 3, 4
STRESS_MARKS = "\u02c8\u02cc"


class Voice(NamedTuple):
    """An espeak-ng voice: `name` ("en-us+f2"), rate in words per minute, pitch and range 0-99."""

    name: str
    rate: int
    pitch: int
    pitch_range: int


class Phone(NamedTuple):
    """One phone (IPA, without stress marks), times in seconds."""

    symbol: str
    start: float
    duration: float


class _Identity(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Identity),
    ]


_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
)


def find_library() -> tuple[str, str]:
    """Paths of the espeak-ng library and of its data.

    Raises:
        DependencyError: the package espeakng-loader is missing.
    """
    try:
        loader: Any = importlib.import_module("espeakng_loader")
    except ImportError:
        raise DependencyError(
            "speech synthesis needs espeak-ng",
            remedy="pip install espeakng-loader (it brings the library; nothing else is needed)",
        ) from None
    return str(loader.get_library_path()), str(loader.get_data_path())


class Espeak:
    """The library, loaded and initialised; one per process, because its state is global.

    Raises:
        DependencyError: the package is missing or the library does not start.
    """

    def __init__(self) -> None:
        library, data = find_library()
        try:
            self._library = ctypes.CDLL(library)
        except OSError as error:
            raise DependencyError(
                "the espeak-ng library does not load", where=library, found=error
            ) from None
        options = INITIALIZE_PHONEME_EVENTS | INITIALIZE_PHONEME_IPA
        self.sampling_rate = int(
            self._library.espeak_Initialize(AUDIO_OUTPUT_SYNCHRONOUS, 0, data.encode(), options)
        )
        if self.sampling_rate <= 0:
            raise DependencyError("espeak-ng does not start", where=data)
        self._chunks: list[npt.NDArray[np.int16]] = []
        self._starts: list[tuple[str, int]] = []
        # Rough voices draw from the C library's generator, breathy ones from espeak-ng's own.
        self._c_library = ctypes.CDLL(None)
        # The library keeps only a pointer: the callback must live as long as it does.
        self._callback = _Callback(self._collect)
        self._library.espeak_SetSynthCallback(self._callback)

    def speak(
        self, text: str, voice: Voice, seed: int
    ) -> tuple[npt.NDArray[np.float32], list[Phone]]:
        """The waveform, float32 (samples,) in [-1, 1] at `sampling_rate`, and its phones.

        `seed` fixes the breath and roughness that some voices have; the library's echo and
        filters also remember the call before, so equal results need equal sequences of calls.

        Raises:
            DependencyError: espeak-ng does not have the voice.
        """
        self._chunks, self._starts = [], []
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(seed))
        self._c_library.srand(ctypes.c_uint(seed))
        if self._library.espeak_SetVoiceByName(voice.name.encode()) != 0:
            raise DependencyError(f"espeak-ng has no voice '{voice.name}'")
        for parameter, value in ((RATE, voice.rate), (PITCH, voice.pitch)):
            self._library.espeak_SetParameter(parameter, value, 0)
        self._library.espeak_SetParameter(RANGE, voice.pitch_range, 0)
        data = text.encode()
        self._library.espeak_Synth(
            ctypes.c_char_p(data), ctypes.c_size_t(len(data) + 1), 0, 0, 0, CHARS_UTF8, None, None
        )
        samples = np.concatenate([*self._chunks, np.zeros(0, np.int16)])
        return samples.astype(np.float32) / 32768.0, self._phones(len(samples))

    def _collect(self, wave: Any, count: int, events: Any) -> int:
        if wave and count > 0:
            self._chunks.append(np.ctypeslib.as_array(wave, (count,)).copy())
        index = 0
        while events[index].type != EVENT_LIST_TERMINATED:
            event = events[index]
            if event.type == EVENT_PHONEME:
                # All eight bytes may be used, so there need not be a terminating zero.
                name = ctypes.string_at(ctypes.addressof(event.id), 8).split(b"\0")[0]
                self._starts.append((name.decode("utf-8", "ignore"), event.sample))
            index += 1
        return 0

    def _phones(self, samples: int) -> list[Phone]:
        ends = [start for _, start in self._starts[1:]] + [samples]
        phones = []
        for (name, start), end in zip(self._starts, ends, strict=True):
            symbol = name.strip(STRESS_MARKS)
            # Pauses have no symbol.
            if symbol and end > start:
                seconds = (start / self.sampling_rate, (end - start) / self.sampling_rate)
                phones.append(Phone(symbol, *seconds))
        return phones
