"""k2 in an environment of its own: the same calls as `k2.K2Decoder`, made in another process.

k2 is built for one version of torch each. Where none fits the running torch,
`utils/setup_k2.sh` makes a small environment with an older torch, and this module runs
`k2_worker` in it. Graphs and emissions go there as npz files, calls and answers as lines of JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from unispeech import errors
from unispeech.decode.fst import Graph
from unispeech.decode.nbest import Hypothesis
from unispeech.errors import DependencyError, UnispeechError

SETUP = "bash utils/setup_k2.sh"
STAMP = "unispeech.stamp"

# The folder of this package goes last, because the packages beside it may be of another Python.
_START = """
import sys
sys.path.append(sys.argv[1])
from unispeech.decode.k2_worker import main
sys.exit(main())
"""

Emission = npt.NDArray[np.float32]


def environment_folder() -> Path:
    """Where `utils/setup_k2.sh` makes its environment: $UNISPEECH_K2, else in the user's cache."""
    given = os.environ.get("UNISPEECH_K2")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(given) if given else cache / "unispeech" / "k2-1.23.4"


def find_python() -> Path | None:
    """The interpreter that has k2: $UNISPEECH_K2_PYTHON, else that of a finished environment."""
    given = os.environ.get("UNISPEECH_K2_PYTHON")
    if given:
        return Path(given) if os.access(given, os.X_OK) else None
    folder = environment_folder()
    python = folder / "bin" / "python"
    return python if (folder / STAMP).is_file() and os.access(python, os.X_OK) else None


class K2Process:
    """A `K2Decoder` in another process; the arguments are the same.

    The process ends with this object, with `close`, or with the program.

    Args:
        lg: LG as `fst.read_graph` gives it.
        tokens: number of columns the emissions must have, the blank included.
        beam: hypotheses this much worse than the best (natural logarithm) are dropped.
        max_active: most states kept per frame.
        min_active: states kept whatever the beam.
        device: where to decode, "cuda" when there is one and nothing is given.
        rescoring: a grammar whose costs replace those of LG's language model.
        lattice_beam: paths this much worse than the best are not in the lattices.
        cache: file that keeps the composed graph; "" keeps none.

    Raises:
        DependencyError: there is no environment with k2, or it does not work.
        DataError: the graph does not fit the tokens.
    """

    name = "k2"
    batch = 16

    def __init__(
        self,
        lg: Graph,
        tokens: int,
        beam: float = 14.0,
        max_active: int = 10000,
        min_active: int = 200,
        device: str = "",
        rescoring: Graph | None = None,
        lattice_beam: float = 8.0,
        cache: str | Path = "",
    ) -> None:
        python = find_python()
        if python is None:
            raise DependencyError("no environment with k2 was found", remedy=SETUP)
        self._worker = _Worker(python)
        self._close = weakref.finalize(self, self._worker.stop)
        settings = {
            "tokens": tokens,
            "beam": beam,
            "max_active": max_active,
            "min_active": min_active,
            "device": device,
            "lattice_beam": lattice_beam,
            "cache": str(Path(cache).absolute()) if cache else "",
        }
        graphs = {"lg": lg} if rescoring is None else {"lg": lg, "rescoring": rescoring}
        arrays = {
            f"{name}_{part}": getattr(graph, part)
            for name, graph in graphs.items()
            for part in ("start", "states", "arcs")
        }
        opened = self._worker.call(arrays, call="open", settings=settings, graphs=list(graphs))
        self.version = str(opened["k2"])
        self.device = str(opened["device"])

    def set_scales(self, lm_scale: float, word_insertion: float) -> None:
        """Weigh the language model, and add `word_insertion` to the log score of every word."""
        self._worker.call(None, call="set_scales", arguments=[lm_scale, word_insertion])

    def decode(self, emissions: Sequence[Emission]) -> list[tuple[list[int], float, bool]]:
        """Decode as `k2.K2Decoder.decode` does, errors included."""
        found = self._worker.call(_pack(emissions), call="decode")
        return [(list(words), float(score), bool(final)) for words, score, final in found]

    def nbest(self, emissions: Sequence[Emission], count: int) -> list[list[Hypothesis]]:
        """The best different word sequences as `k2.K2Decoder.nbest` finds them."""
        found = self._worker.call(_pack(emissions), call="nbest", arguments=[count])
        return [
            [Hypothesis(tuple(words), acoustic, lm) for words, acoustic, lm in hypotheses]
            for hypotheses in found
        ]

    def close(self) -> None:
        """End the process; safe to call again."""
        self._close()


class _Worker:
    """The process, its pipes and the folder in which arrays are handed over."""

    def __init__(self, python: Path) -> None:
        self._python = python
        self._folder = tempfile.mkdtemp(prefix="unispeech-k2-")
        self._log: IO[str] = open(Path(self._folder) / "log", "w+", encoding="utf-8")  # noqa: SIM115
        package = Path(errors.__file__).parent.parent
        try:
            # -I: what PYTHONPATH and the current folder hold is of another Python.
            self._process = subprocess.Popen(
                [str(python), "-I", "-c", _START, str(package)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                text=True,
                encoding="utf-8",
            )
        except OSError as error:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise DependencyError(
                "the environment of k2 does not start", where=python, found=error, remedy=SETUP
            ) from None

    def call(self, arrays: dict[str, Any] | None, **request: Any) -> Any:
        """Send one request and wait for its answer; after an interrupt the process is ended."""
        try:
            if arrays is not None:
                request["arrays"] = str(Path(self._folder) / "arrays.npz")
                np.savez(request["arrays"], **arrays)
            answer = self._exchange(json.dumps(request))
        except BaseException:
            self.stop()
            raise
        if "error" not in answer:
            return answer["result"]
        self._raise(answer["error"], answer["facts"])

    def _exchange(self, line: str) -> dict[str, Any]:
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        answer = ""
        with contextlib.suppress(BrokenPipeError, ValueError):
            process.stdin.write(line + "\n")
            process.stdin.flush()
            answer = process.stdout.readline()
        if not answer.endswith("\n"):
            raise self._ended()
        return dict(json.loads(answer))

    def _raise(self, name: str, facts: dict[str, Any]) -> Any:
        kind = getattr(errors, name, None) if name else None
        if isinstance(kind, type) and issubclass(kind, UnispeechError):
            raise kind(facts.pop("what"), **facts)
        self.stop()
        raise DependencyError("k2 failed", where=self._python, found=facts["what"], remedy=SETUP)

    def _ended(self) -> DependencyError:
        code = self._process.wait()
        self._log.seek(0)
        last = (self._log.read().strip().splitlines() or ["nothing on its standard error"])[-1]
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return DependencyError(
            "the process that runs k2 ended",
            where=self._python,
            found=f"{how}: {last}",
            remedy=f"{SETUP} --check",
        )

    def stop(self) -> None:
        """End the process at once and remove the folder."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._log):
            with contextlib.suppress(OSError):
                if pipe is not None:
                    pipe.close()
        shutil.rmtree(self._folder, ignore_errors=True)


def _pack(emissions: Sequence[Emission]) -> dict[str, Any]:
    """The utterances as one flat array, with the shape of each."""
    # Other than two dimensions: one column each, which the decoder refuses by its number.
    flat = [np.asarray(e, np.float32) if e.ndim == 2 else e.reshape(-1, 1) for e in emissions]
    return {
        "frames": np.array([len(e) for e in flat], np.int64),
        "widths": np.array([e.shape[1] for e in flat], np.int64),
        "values": np.concatenate([e.ravel() for e in flat] or [np.zeros(0, np.float32)]),
    }
