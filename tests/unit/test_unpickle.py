"""Foreign checkpoints are read without running anything that is in them."""

from __future__ import annotations

import argparse
import collections
import os
import pickle
import random
import sys
import types
from enum import Enum
from pathlib import Path

import pytest
import torch

from unispeech.__main__ import main
from unispeech.errors import DataError
from unispeech.hub.unpickle import read_pickle


class Evil:
    """Runs a command when it is unpickled by pickle itself."""

    def __init__(self, folder: Path) -> None:
        self.command = f"touch {folder}/executed"

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.fixture
def foreign(monkeypatch) -> dict[str, type]:
    """Classes under the names of fairseq and omegaconf while a file is written."""
    made = {}
    for package in ("fairseq", "fairseq.data", "fairseq.dataclass", "omegaconf"):
        monkeypatch.setitem(sys.modules, package, types.ModuleType(package))
    for module, names in {
        "fairseq.data.dictionary": ["Dictionary"],
        "omegaconf.dictconfig": ["DictConfig"],
        "omegaconf.listconfig": ["ListConfig"],
        "omegaconf.nodes": ["AnyNode"],
        "omegaconf.base": ["ContainerMetadata"],
    }.items():
        monkeypatch.setitem(sys.modules, module, types.ModuleType(module))
        for name in names:
            made[name] = type(name, (), {"__module__": module})
            setattr(sys.modules[module], name, made[name])
    choice = Enum("LAYER", {"default": "default"}, module="fairseq.dataclass.constants")
    # The Pythons that the released files were written with, and today's; 3.11.0 to .3 differ.
    choice.__reduce_ex__ = lambda self, _: (type(self), (self.value,))  # type: ignore[method-assign]
    module = types.ModuleType("fairseq.dataclass.constants")
    module.LAYER = choice  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "fairseq.dataclass.constants", module)
    return {**made, "choice": choice}


def omega(foreign: dict[str, type], value: object) -> object:
    """What omegaconf pickles for a value: containers of nodes that know their parents."""
    kind = "DictConfig" if isinstance(value, dict) else "ListConfig"
    if not isinstance(value, dict | list):
        node = foreign["AnyNode"]()
        node.__dict__.update(_val=value, _metadata=foreign["ContainerMetadata"]())
        return node
    container = foreign[kind]()
    items = value.items() if isinstance(value, dict) else enumerate(value)
    children = {key: omega(foreign, item) for key, item in items}
    for child in children.values():
        child.__dict__["_parent"] = container  # type: ignore[attr-defined]
    content = children if isinstance(value, dict) else list(children.values())
    container.__dict__.update(_content=content, _metadata=foreign["ContainerMetadata"]())
    return container


@pytest.mark.parametrize("is_new", [True, False])
def test_settings_of_the_training_become_plain(tmp_path, foreign, is_new: bool) -> None:
    dictionary = foreign["Dictionary"]()
    dictionary.symbols = ["<s>", "A"]
    contents = {
        "args": argparse.Namespace(arch="hubert", w2v_args=argparse.Namespace(dropout=0.1)),
        "cfg": omega(foreign, {"model": {"layers": [1, 2]}, "task": {"normalize": True}}),
        "task_state": {"dictionary": dictionary},
        "history": collections.defaultdict(list, {"loss": [1.0]}),
        "mode": foreign["choice"].default,
        "model": collections.OrderedDict(weight=torch.arange(3.0)),
    }
    torch.save(contents, tmp_path / "x.pt", _use_new_zipfile_serialization=is_new)
    read = read_pickle(tmp_path / "x.pt")
    assert read["args"] == {"arch": "hubert", "w2v_args": {"dropout": 0.1}}
    assert read["cfg"] == {"model": {"layers": [1, 2]}, "task": {"normalize": True}}
    assert read["task_state"] == {"dictionary": {"symbols": ["<s>", "A"]}}
    assert read["history"] == {"loss": [1.0]}
    assert read["mode"] == "default"
    assert torch.equal(read["model"]["weight"], torch.arange(3.0))


@pytest.mark.parametrize("is_new", [True, False])
def test_nothing_is_executed(tmp_path, capsys, is_new: bool) -> None:
    path = tmp_path / "evil.pt"
    torch.save({"model": Evil(tmp_path)}, path, _use_new_zipfile_serialization=is_new)
    arguments = ["export", "--to", "safetensors", "--output", str(tmp_path / "o")]
    assert main([*arguments, "--model", str(path)]) == 65
    assert f"{os.name}.system" in capsys.readouterr().err
    assert not (tmp_path / "executed").exists()
    assert not (tmp_path / "o").exists()


def test_plain_pickles_are_refused_too(tmp_path) -> None:
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        path = tmp_path / f"{protocol}.pt"
        path.write_bytes(pickle.dumps({"model": Evil(tmp_path)}, protocol))
        with pytest.raises(DataError):
            read_pickle(path)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "name", ["builtins.eval", "builtins.getattr", "subprocess.Popen", "numpy.load", "typing.get"]
)
def test_other_names_are_refused_by_name(tmp_path, name: str) -> None:
    module, function = name.rsplit(".", 1)
    payload = b"\x80\x02c" + f"{module}\n{function}\n".encode() + b"X\x01\x00\x00\x001\x85R."
    import zipfile

    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        archive.writestr("x/data.pkl", payload)
        archive.writestr("x/version", "3\n")
    with pytest.raises(DataError, match=f"harmless.*{name}"):
        read_pickle(tmp_path / "x.pt")


def test_missing_empty_and_cut_off(tmp_path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_pickle(tmp_path / "none.pt")
    (tmp_path / "empty.pt").touch()
    with pytest.raises(DataError, match="empty file"):
        read_pickle(tmp_path / "empty.pt")
    for is_new in (True, False):
        path = tmp_path / "x.pt"
        torch.save({"w": torch.randn(500)}, path, _use_new_zipfile_serialization=is_new)
        whole = path.read_bytes()
        for share in (0.01, 0.3, 0.9, 0.999):
            path.write_bytes(whole[: int(len(whole) * share)])
            with pytest.raises(DataError, match="copy or download|download it again"):
                read_pickle(path)


def test_endless_containers_are_refused(tmp_path) -> None:
    loop: dict[str, object] = {}
    loop["self"] = loop
    torch.save(loop, tmp_path / "x.pt")
    with pytest.raises(DataError, match="without an end"):
        read_pickle(tmp_path / "x.pt")


@pytest.mark.parametrize("is_new", [True, False])
def test_mutated_files_give_a_value_or_our_error(tmp_path, is_new: bool) -> None:
    path = tmp_path / "x.pt"
    contents = {
        "args": argparse.Namespace(arch="hubert"),
        "model": {f"layer.{i}": torch.randn(3) for i in range(4)},
    }
    torch.save(contents, path, _use_new_zipfile_serialization=is_new)
    whole = path.read_bytes()
    draw = random.Random(5)
    refused = 0
    for _ in range(150):
        mutated = bytearray(whole)
        for _ in range(draw.choice([1, 2, 8])):
            position = draw.randrange(len(mutated))
            if draw.random() < 0.2:
                del mutated[position : position + draw.randrange(1, 40)]
            else:
                mutated[position] = draw.randrange(256)
        path.write_bytes(mutated)
        try:
            read_pickle(path)
        except DataError:
            refused += 1
    assert refused > 0
