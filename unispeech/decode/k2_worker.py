"""The other end of `k2_process.K2Process`: runs a `K2Decoder` on what comes in as JSON lines.

Started in the environment of `utils/setup_k2.sh`, so it needs torch, numpy and k2 alone and runs
under Python 3.9. Arrays come as npz files, whose names are in the lines.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
from typing import Any, TextIO

import numpy as np

from unispeech.decode.fst import Graph
from unispeech.decode.k2 import K2Decoder, version
from unispeech.errors import UnispeechError


def main() -> int:
    """Answer every line until the input ends."""
    # The parent decides what Ctrl-C means and ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Libraries print to descriptor 1; the answers keep the pipe for themselves.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    lines: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_read, args=(sys.stdin, lines), daemon=True).start()
    decoder: K2Decoder | None = None
    while True:
        request = json.loads(lines.get())
        answer: dict[str, Any]
        try:
            if request["call"] == "open":
                decoder = _open(request)
                answer = {"result": {"k2": version(), "device": decoder.device}}
            else:
                assert decoder is not None
                answer = {"result": _call(decoder, request)}
        except UnispeechError as error:
            facts = {k: v if v is None else str(v) for k, v in vars(error).items()}
            answer = {"error": type(error).__name__, "facts": facts}
        except Exception as error:
            answer = {"error": "", "facts": {"what": f"{type(error).__name__}: {error}"}}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _read(source: TextIO, lines: queue.Queue[str]) -> None:
    for line in source:
        lines.put(line)
    # The parent is gone, perhaps killed: nobody waits for what is being computed.
    os._exit(0)


def _open(request: dict[str, Any]) -> K2Decoder:
    with np.load(request["arrays"], allow_pickle=False) as arrays:
        graphs = {name: _graph(arrays, name) for name in request["graphs"]}
    rescoring = graphs.get("rescoring")
    return K2Decoder(graphs["lg"], rescoring=rescoring, **request["settings"])


def _graph(arrays: Any, name: str) -> Graph:
    start, states, arcs = (arrays[f"{name}_{part}"] for part in ("start", "states", "arcs"))
    return Graph(b"", int(start), states, arcs)


def _call(decoder: K2Decoder, request: dict[str, Any]) -> Any:
    if request["call"] == "set_scales":
        return decoder.set_scales(*request["arguments"])
    with np.load(request["arrays"], allow_pickle=False) as arrays:
        frames, widths, values = arrays["frames"], arrays["widths"], arrays["values"]
    ends = np.cumsum(frames * widths)[:-1]
    pieces = zip(np.split(values, ends), frames, widths)  # noqa: B905 (Python 3.9 has no strict)
    emissions = [values.reshape(rows, columns) for values, rows, columns in pieces]
    if request["call"] == "decode":
        return decoder.decode(emissions)
    return decoder.nbest(emissions, *request["arguments"])


if __name__ == "__main__":
    sys.exit(main())
