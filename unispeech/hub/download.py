"""Downloads that continue where they stopped and are verified before they get their name."""

from __future__ import annotations

from pathlib import Path

import urllib3
from tqdm import tqdm

from unispeech.errors import DataError, DependencyError
from unispeech.hub.registry import RemoteFile
from unispeech.storage import sha256

CHUNK = 1 << 16


def download(file: RemoteFile, folder: Path) -> Path:
    """Fetch one file into `folder`, unless it is there.

    The part that arrived before an interruption is kept as `NAME.part` and continued.

    Raises:
        DependencyError: no connection; the message says which file to put where.
        DataError: what arrived has another checksum; it is removed.
    """
    final = folder / file.name
    if final.is_file():
        _verify(final, file)
        return final
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / (file.name + ".part")
    try:
        _receive(file.url, part)
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise DependencyError(
            "cannot download",
            where=file.url,
            found=" ".join(str(error).split())[:200],
            remedy=f"download it elsewhere and put it at {final}, or run the same command again"
            " with a connection; what arrived is kept",
        ) from None
    _verify(part, file)
    part.replace(final)
    return final


def _receive(url: str, part: Path) -> None:
    done = part.stat().st_size if part.is_file() else 0
    pool = urllib3.PoolManager(retries=urllib3.Retry(3, backoff_factor=0.5))
    headers = {"Range": f"bytes={done}-"} if done else {}
    timeout = urllib3.Timeout(connect=10, read=60)
    with pool.request("GET", url, headers=headers, preload_content=False, timeout=timeout) as reply:
        if reply.status == 416:  # nothing is missing
            return
        if reply.status not in (200, 206):
            raise urllib3.exceptions.HTTPError(f"the server answered {reply.status}")
        is_continued = reply.status == 206
        total = int(reply.headers.get("Content-Length", 0)) + (done if is_continued else 0)
        mode = "ab" if is_continued else "wb"
        with (
            part.open(mode) as out,
            tqdm(
                total=total or None,
                initial=done if is_continued else 0,
                unit="B",
                unit_scale=True,
                desc=part.name.removesuffix(".part"),
                disable=None,
            ) as bar,
        ):
            for chunk in reply.stream(CHUNK):
                out.write(chunk)
                bar.update(len(chunk))
        if total and part.stat().st_size != total:
            raise urllib3.exceptions.HTTPError("the connection ended early")


def _verify(path: Path, file: RemoteFile) -> None:
    if file.sha256 is None:
        return
    found = sha256(path)
    if found != file.sha256:
        path.unlink()
        raise DataError(
            "the file is damaged or was changed, it is removed",
            where=path,
            expected=f"sha256 {file.sha256}",
            found=found,
            remedy="fetch it again",
        )
