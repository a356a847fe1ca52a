"""OpenFst's "const" file format in numpy: read a graph, change its costs, write it back.

Imports numpy alone and runs under Python 3.9, so that a decoder in another environment reads
the graphs too.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

STATE = np.dtype(
    [
        ("final", "<f4"),
        ("first", "<u4"),
        ("arcs", "<u4"),
        ("input_epsilons", "<u4"),
        ("output_epsilons", "<u4"),
    ]
)
ARC = np.dtype([("input", "<i4"), ("output", "<i4"), ("cost", "<f4"), ("next", "<i4")])

_MAGIC = 2125659606
_LAYOUT = "<iiQqqq"


@dataclass(frozen=True)
class Graph:
    """A transducer over the tropical semiring.

    Attributes:
        header: the bytes before the states, as they were read.
        start: the start state.
        states: (states,) of dtype `STATE`; `final` is infinite where a state is not final.
        arcs: (arcs,) of dtype `ARC`, grouped by state; label 0 is epsilon.
    """

    header: bytes
    start: int
    states: Any
    arcs: Any

    @property
    def source(self) -> Any:
        """(arcs,) the state that every arc leaves."""
        return np.repeat(np.arange(len(self.states)), self.states["arcs"].astype(np.int64))

    def scaled(self, scale: float, output_cost: float) -> Graph:
        """All costs times `scale`, then `output_cost` added to every arc with an output label.

        Sums over paths change in the same way, so with `scale` >= 0 the graph is the one that
        a language model scaled before composition would have given.
        """
        states, arcs = self.states.copy(), self.arcs.copy()
        finite = np.isfinite(states["final"])
        states["final"][finite] *= scale
        arcs["cost"] *= scale
        arcs["cost"][arcs["output"] != 0] += output_cost
        return replace(self, states=states, arcs=arcs)


def make_graph(start: int, final: Any, source: Any, arcs: Any) -> Graph:
    """A graph of arrays.

    Args:
        start: the start state.
        final: (states,) final costs, infinite where a state is not final.
        source: (arcs,) the state that every arc leaves, in any order.
        arcs: (arcs,) of dtype `ARC`.
    """
    order = np.argsort(source, kind="stable")
    states = np.zeros(len(final), STATE)
    states["final"] = final
    states["arcs"] = np.bincount(source, minlength=len(final))
    states["first"] = np.cumsum(states["arcs"]) - states["arcs"]
    for epsilons, label in (("input_epsilons", "input"), ("output_epsilons", "output")):
        states[epsilons] = np.bincount(source[arcs[label] == 0], minlength=len(final))
    texts = b"".join(struct.pack("<i", len(text)) + text for text in (b"const", b"standard"))
    # The only property claimed is that the graph is stored whole; OpenFst finds out the others.
    numbers = struct.pack(_LAYOUT, 2, 0, 1, start, len(states), len(arcs))
    header = struct.pack("<i", _MAGIC) + texts + numbers
    return Graph(header, start, states, arcs[order])


def read_graph(path: str | Path) -> Graph:
    """Read a "const" transducer that OpenFst wrote without alignment and symbol tables.

    Raises:
        ValueError: the file is something else or is truncated.
    """
    data = Path(path).read_bytes()
    try:
        header, start, states, arcs = _parse_header(data)
    except (struct.error, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not an OpenFst file ({error})") from None
    body = len(data) - header
    if body != states * STATE.itemsize + arcs * ARC.itemsize:
        raise ValueError(f"{path}: {body} bytes for {states} states and {arcs} arcs")
    return Graph(
        data[:header],
        start,
        np.frombuffer(data, STATE, states, header),
        np.frombuffer(data, ARC, arcs, header + states * STATE.itemsize),
    )


def write_graph(graph: Graph, path: str | Path) -> None:
    """Write a graph whose states and arcs are as many as when it was read."""
    with Path(path).open("wb") as file:
        file.write(graph.header)
        file.write(graph.states.tobytes())
        file.write(graph.arcs.tobytes())


def _parse_header(data: bytes) -> tuple[int, int, int, int]:
    (magic,) = struct.unpack_from("<i", data, 0)
    if magic != _MAGIC:
        raise struct.error(f"magic number {magic}")
    kind, position = _text(data, 4)
    semiring, position = _text(data, position)
    version, flags, _, start, states, arcs = struct.unpack_from(_LAYOUT, data, position)
    if (kind, semiring, version, flags) != ("const", "standard", 2, 0):
        raise struct.error(f"{kind} {semiring} version {version} flags {flags}")
    return position + struct.calcsize(_LAYOUT), start, states, arcs


def _text(data: bytes, position: int) -> tuple[str, int]:
    (length,) = struct.unpack_from("<i", data, position)
    begin = position + 4
    return data[begin : begin + length].decode("ascii"), begin + length
