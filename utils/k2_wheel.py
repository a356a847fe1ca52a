"""Print the address of the k2 wheel that fits the torch and the Python running this.

    python utils/k2_wheel.py [INDEX]

k2 is built anew for each torch; its own index lists every wheel, for CPUs on one page and for CUDA
on another. Ends with 69 and one line when the index cannot be read or has no such wheel.
"""

from __future__ import annotations

import platform
import re
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterable

INDEX = "https://k2-fsa.github.io/k2"
SECONDS = 5.0

# As k2-1.24.4.dev20250807+cpu.torch2.8.0-cp312-cp312-manylinux_2_17_x86_64.whl
NAME = re.compile(
    r"k2-(?P<version>[^-+]+)\+(?P<device>cpu|cuda[\d.]+)\.torch(?P<torch>[^-]+)"
    r"-(?P<python>cp\d+)-cp\d+-(?P<platform>[^-]+)\.whl"
)


def choose(links: Iterable[str], torch: str, cuda: str | None) -> str | None:
    """The newest wheel among `links` for a torch, its CUDA, this Python and this machine."""
    wanted = {
        "device": f"cuda{cuda}" if cuda else "cpu",
        "torch": torch.split("+")[0],
        "python": f"cp{sys.version_info.major}{sys.version_info.minor}",
    }
    system = "macosx" if sys.platform == "darwin" else sys.platform
    fitting: dict[tuple[int, ...], str] = {}
    for link in links:
        found = NAME.fullmatch(urllib.parse.unquote(link).split("#")[0].rpartition("/")[2])
        if found is None or any(found[key] != value for key, value in wanted.items()):
            continue
        tags = found["platform"]
        if system in tags and (platform.machine() in tags or "universal2" in tags):
            fitting[tuple(map(int, re.findall(r"\d+", found["version"])))] = link
    return fitting[max(fitting)] if fitting else None


def links_of(page: str, address: str) -> list[str]:
    """The absolute addresses that an HTML page links to."""
    found = re.findall(r"""href=["']([^"']+)["']""", page)
    return [urllib.parse.urljoin(address, link) for link in found]


def main(arguments: list[str]) -> int:
    """Look for the wheel."""
    try:
        import torch
    except ImportError as error:
        print(f"k2_wheel.py: torch cannot be imported ({error})", file=sys.stderr)
        return 69
    cuda = torch.version.cuda
    index = (arguments or [INDEX])[0].rstrip("/")
    address = f"{index}/{'cuda' if cuda else 'cpu'}.html"
    try:
        with urllib.request.urlopen(address, timeout=SECONDS) as answer:
            page = answer.read().decode("utf-8", "replace")
    except (OSError, ValueError) as error:
        print(f"k2_wheel.py: {address} cannot be read ({error})", file=sys.stderr)
        return 69
    link = choose(links_of(page, address), torch.__version__, cuda)
    if link is None:
        print(f"k2_wheel.py: {address} has no k2 for torch {torch.__version__}", file=sys.stderr)
        return 69
    print(link)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
