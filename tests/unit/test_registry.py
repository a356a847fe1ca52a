"""The list of released models, and downloads from a server on this machine."""

from __future__ import annotations

import hashlib
import runpy
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

import unispeech
from unispeech.__main__ import main
from unispeech.errors import DataError, DependencyError
from unispeech.hub.download import download
from unispeech.hub.registry import RemoteFile, cache_folder, find, releases
from unispeech.models.config import ConvLayer, EncoderConfig, HeadsConfig
from unispeech.models.speech import SpeechModel

CONTENTS = bytes(range(256)) * 5000
DIGEST = hashlib.sha256(CONTENTS).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Serves CONTENTS, parts of it, cut short, or an error."""

    def do_GET(self) -> None:  # noqa: N802
        self.server.ranges.append(self.headers.get("Range"))  # type: ignore[attr-defined]
        if self.path == "/missing":
            self.send_error(404)
            return
        start = 0
        wanted = self.headers.get("Range")
        if wanted and self.path != "/whole":
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= len(CONTENTS):
                self.send_error(416)
                return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(CONTENTS) - start))
        self.end_headers()
        stop = 300_000 if self.path == "/short" and not start else len(CONTENTS)
        self.wfile.write(CONTENTS[start:stop])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.ranges = []  # type: ignore[attr-defined]
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield running
        running.shutdown()


def remote(server: ThreadingHTTPServer, path: str, digest: str | None = DIGEST) -> RemoteFile:
    url = f"http://127.0.0.1:{server.server_address[1]}{path}"
    return RemoteFile(name="model.pt", url=url, sha256=digest)


def test_download_verifies_and_is_not_repeated(server, tmp_path) -> None:
    path = download(remote(server, "/ok"), tmp_path / "m")
    assert path.read_bytes() == CONTENTS
    assert [p.name for p in path.parent.iterdir()] == ["model.pt"]
    download(remote(server, "/ok"), tmp_path / "m")
    assert len(server.ranges) == 1


@pytest.mark.parametrize("path", ["/ok", "/whole"])
def test_interrupted_download_continues(server, tmp_path, path: str) -> None:
    (tmp_path / "model.pt.part").write_bytes(CONTENTS[:1000])
    assert download(remote(server, path), tmp_path).read_bytes() == CONTENTS
    assert server.ranges == ["bytes=1000-"]


def test_whole_part_is_taken_as_it_is(server, tmp_path) -> None:
    (tmp_path / "model.pt.part").write_bytes(CONTENTS)
    assert download(remote(server, "/ok"), tmp_path).read_bytes() == CONTENTS


def test_connection_that_breaks_keeps_what_arrived(server, tmp_path) -> None:
    with pytest.raises(DependencyError, match="what arrived is kept"):
        download(remote(server, "/short"), tmp_path)
    part = (tmp_path / "model.pt.part").read_bytes()
    assert 200_000 < len(part) <= 300_000
    assert CONTENTS.startswith(part)
    assert not (tmp_path / "model.pt").exists()
    assert download(remote(server, "/short"), tmp_path).read_bytes() == CONTENTS


def test_wrong_checksum_is_removed(server, tmp_path) -> None:
    with pytest.raises(DataError, match="damaged or was changed"):
        download(remote(server, "/ok", "0" * 64), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_no_such_page_says_which_file_to_put_where(server, tmp_path) -> None:
    with pytest.raises(DependencyError, match=f"404.*put it at {tmp_path}/model.pt"):
        download(remote(server, "/missing"), tmp_path)


def test_every_family_is_listed_once(capsys) -> None:
    assert {r.family for r in releases().values()} == {
        "wav2vec2",
        "hubert",
        "unispeech",
        "unispeech_sat",
        "wavlm",
        "ils",
    }
    assert main(["models", "--family", "wavlm"]) == 0
    rows = capsys.readouterr().out.splitlines()
    names = [name for name, r in releases().items() if r.family == "wavlm"]
    assert [row.split()[0] for row in rows[1:]] == names
    assert main(["models", "wavlm_large"]) == 0
    text = capsys.readouterr().out
    assert all(word in text for word in ("94", "licence", "WavLM-Large.pt", "belongs in"))
    assert main(["models", "wavlm_lrge"]) == 2
    assert "did you mean 'wavlm_large'" in capsys.readouterr().err


def test_fetch_of_unknown_and_unreachable_names(monkeypatch, tmp_path, capsys) -> None:
    monkeypatch.setenv("UNISPEECH_CACHE", str(tmp_path))
    assert main(["fetch", "wavlm_bas"]) == 2
    assert "did you mean 'wavlm_base'" in capsys.readouterr().err
    assert main(["fetch", "ils_base"]) == 69
    error = capsys.readouterr().err
    assert str(tmp_path / "ils_base") in error
    assert "ILS-SSL" in error


def test_names_are_found_where_fetch_puts_them(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("UNISPEECH_CACHE", str(tmp_path))
    with pytest.raises(DataError, match="python -m unispeech fetch wavlm_base"):
        find("wavlm_base")
    with pytest.raises(DataError, match="did you mean 'wavlm_base'"):
        unispeech.load_model("wavlm_bse")
    config = EncoderConfig(
        conv_layers=tuple(
            ConvLayer(channels=8, kernel=layer.kernel, stride=layer.stride)
            for layer in EncoderConfig().conv_layers
        ),
        layers=1,
        dim=16,
        ffn_dim=16,
        heads=2,
        pos_conv_kernel=8,
        pos_conv_groups=4,
    )
    from unispeech.hub.save import fairseq_state

    model = SpeechModel("wavlm", config, HeadsConfig())
    cache_folder("wavlm_base").mkdir(parents=True)
    flat = {"encoder_attention_heads": 2, "max_distance": 800}
    state = {"cfg": flat, "model": fairseq_state(model)}
    torch.save(state, cache_folder("wavlm_base") / "WavLM-Base.pt")
    assert unispeech.load_model("wavlm_base").family == "wavlm"


def test_torch_hub_entry_points(repo, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("UNISPEECH_CACHE", str(tmp_path))
    entries = runpy.run_path(str(repo / "hubconf.py"))
    assert all(callable(entries[name]) for name in releases())
    with pytest.raises(DataError, match="fetch ils_base"):
        torch.hub.load(str(repo), "ils_base", source="local")


def test_readme_holds_the_generated_table(repo, capsys) -> None:
    assert main(["models", "--configurations"]) == 0
    assert capsys.readouterr().out in (repo / "README.md").read_text(encoding="utf-8")
