"""What holds for the repository as a whole: sizes, layers, documentation, links."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
IGNORED = {"__pycache__", "build", "dist", "exp", "corpora"}


def repository_files() -> list[Path]:
    """Tracked files and those that could be added; all files where there is no git."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listing = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listing.returncode == 0:
        names = [name for name in listing.stdout.split("\0") if name]
    else:
        found = (path.relative_to(ROOT) for path in ROOT.rglob("*"))
        names = [
            str(path)
            for path in found
            if not IGNORED & set(path.parts) and (path.parts[0][0] != "." or path.parts[0] == ".ci")
        ]
    return sorted(ROOT / name for name in names if (ROOT / name).is_file())


FILES = repository_files()
PYTHON = [path for path in FILES if path.suffix == ".py"]
RECIPES = [path for path in FILES if path.match("egs/*/run.sh")]


def name_of(path: Path) -> str:
    """Path relative to the root, with forward slashes."""
    return path.relative_to(ROOT).as_posix()


def in_folders(*folders: str) -> list[Path]:
    """Python files below some top-level folders."""
    return [path for path in PYTHON if path.relative_to(ROOT).parts[0] in folders]


def tree(path: Path) -> ast.Module:
    """The syntax tree of a Python file."""
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def lines(path: Path) -> int:
    """Number of lines of a text file."""
    return len(path.read_text(encoding="utf-8").splitlines())


def line_limit(path: Path) -> int | None:
    """The greatest number of lines a file may have, or None."""
    name = name_of(path)
    if path in RECIPES:
        return 120
    if name == "unispeech/train/loop.py":
        return 300
    if path.match("unispeech/commands/*.py"):
        return 150
    return 400 if path.suffix == ".py" else None


def test_files_are_short() -> None:
    """A file that grows past its limit holds more than one idea."""
    limits = {path: limit for path in FILES if (limit := line_limit(path)) is not None}
    long = {name_of(p): lines(p) for p, limit in limits.items() if lines(p) > limit}
    assert long == {}


def test_functions_are_short() -> None:
    """At most 60 lines each, docstring included."""
    long = [
        f"{name_of(path)}:{node.lineno} {node.name}: {length} lines"
        for path in in_folders("unispeech", "local", "utils")
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := (node.end_lineno or node.lineno) - node.lineno + 1) > 60
    ]
    assert long == []


Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def public_definitions(body: list[ast.stmt], inside: str = "") -> Iterator[tuple[str, Definition]]:
    """Public functions and classes of a module, and the public methods of the latter."""
    for node in body:
        if not isinstance(node, Definition):
            continue
        if isinstance(node, ast.ClassDef):
            if not node.name.startswith("_"):
                yield f"{inside}{node.name}", node
                yield from public_definitions(node.body, f"{inside}{node.name}.")
        elif not node.name.startswith("_") or node.name in ("__init__", "__call__"):
            yield f"{inside}{node.name}", node


def is_typed(node: ast.FunctionDef | ast.AsyncFunctionDef, is_method: bool) -> bool:
    """Whether every argument and the result have an annotation."""
    given = node.args
    arguments = [*given.posonlyargs, *given.args]
    static = any(isinstance(d, ast.Name) and d.id == "staticmethod" for d in node.decorator_list)
    if is_method and not static:
        arguments = arguments[1:]
    arguments += [*given.kwonlyargs, *filter(None, (given.vararg, given.kwarg))]
    return node.returns is not None and all(a.annotation is not None for a in arguments)


def test_public_names_are_typed_and_documented() -> None:
    """Functions and methods have types and docstrings, classes and modules docstrings."""
    wrong = []
    for path in in_folders("unispeech", "local", "utils"):
        module = tree(path)
        if not ast.get_docstring(module):
            wrong.append(f"{name_of(path)}: no docstring")
        for name, node in public_definitions(module.body):
            where = f"{name_of(path)}:{node.lineno} {name}"
            if not name.endswith("__") and not ast.get_docstring(node):
                wrong.append(f"{where}: no docstring")
            if not isinstance(node, ast.ClassDef) and not is_typed(node, "." in name):
                wrong.append(f"{where}: not fully typed")
    assert wrong == []


# What the modules of a layer may import: the packages of unispeech they may use, and libraries
# beyond these (and beyond the standard library). Packages not listed are free to use neither.
BASE = {"errors", "config", "storage"}
EVERYWHERE = {"torch", "numpy", "pydantic", "yaml"}
LAYERS: dict[str, tuple[set[str], set[str]]] = {
    "errors": (set(), set()),
    "config": (BASE, set()),
    "storage": (BASE, set()),
    "kernels": (BASE, {"triton"}),
    "models": (BASE | {"losses", "kernels"}, {"safetensors"}),
    "losses": (BASE, set()),
    "data": (BASE, {"lhotse", "scipy", "sentencepiece", "sklearn", "soundfile", "tqdm"}),
    "decode": (
        BASE | {"models", "losses", "data", "hub"},
        {"k2", "kaldifst", "kaldi_decoder", "kaldilm", "flashlight", "kenlm", "scipy", "tqdm"},
    ),
    "diarize": (BASE, {"scipy", "sklearn"}),
    "score": (BASE, {"scipy", "kaldialign", "meeteval", "pesq", "pystoi"}),
    "train": (BASE | {"models", "losses", "data"}, {"tensorboard", "tqdm"}),
    "hub": (
        BASE | {"models", "losses", "data"},
        {"safetensors", "onnxscript", "onnxruntime", "tqdm", "urllib3"},
    ),
    "separate": (BASE | {"models", "losses", "data"}, {"scipy"}),
    "report": (BASE | {"models", "losses", "data"}, {"matplotlib", "jinja2", "scipy", "sklearn"}),
    "commands": (
        BASE
        | {"models", "losses", "data", "decode", "diarize", "separate", "score"}
        | {"train", "hub", "report"},
        {"tqdm"},
    ),
}
# Libraries that one module alone may know, as a pattern of file names.
ONLY_IN = {
    "lhotse": r"(unispeech/data|local)/.*",
    "kaldialign": r"unispeech/score/wer\.py",
    "meeteval": r"unispeech/score/multi_stream\.py",
    "pesq": r"unispeech/score/separation\.py",
    "pystoi": r"unispeech/score/separation\.py",
    "tensorboard": r"unispeech/train/log\.py",
    "torch.utils.tensorboard": r"unispeech/train/log\.py",
    "matplotlib": r"unispeech/report/.*",
    "jinja2": r"unispeech/report/.*",
    "transformers": r"(unispeech/hub|tests)/.*",
    "sentencepiece": r"(unispeech/data|local)/.*",
    "triton": r"unispeech/kernels/triton_.*\.py",
}
ONE_MODULE = ("kaldifst", "kaldi_decoder", "k2", "kaldilm")


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and full name of everything a file imports, at any depth."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = ".".join(parts[: -node.level]) if node.level else ""
            module = ".".join(filter(None, (start, node.module)))
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


def is_or_is_inside(name: str, module: str) -> bool:
    """Whether a dotted name is the module or something in it."""
    return name == module or name.startswith(module + ".")


def layer_of(path: Path) -> str:
    """The first name below unispeech: "errors", "models" ..."""
    return path.relative_to(ROOT).with_suffix("").parts[1]


def forbidden(layer: str, name: str) -> bool:
    """Whether a module of `layer` may not import `name`."""
    packages, libraries = LAYERS[layer]
    top, _, rest = name.partition(".")
    if top == "unispeech":
        package = rest.split(".")[0]
        # `from unispeech import __version__` and the like
        return package in LAYERS and package != layer and package not in packages
    own = EVERYWHERE if layer not in BASE else {"pydantic", "yaml"}
    return top not in sys.stdlib_module_names and top not in own | libraries


def test_layers() -> None:
    """Lower layers know nothing of higher ones; nobody imports commands."""
    wrong = []
    for path in in_folders("unispeech"):
        layer = layer_of(path)
        if layer in ("__init__", "__main__"):
            continue
        assert layer in LAYERS, f"{name_of(path)}: give its package a row in LAYERS"
        wrong += [
            f"{name_of(path)}:{line} imports {name}"
            for line, name in imports(path)
            if forbidden(layer, name)
        ]
    assert wrong == []


def test_nobody_imports_commands() -> None:
    """Commands are ends: __main__ loads them by name; they share what begins with "_"."""
    wrong = [
        f"{name_of(path)}:{line}"
        for path in in_folders("unispeech", "local", "utils")
        if name_of(path) != "unispeech/__main__.py"
        for line, name in imports(path)
        if is_or_is_inside(name, "unispeech.commands")
        and not (layer_of(path) == "commands" and name.startswith("unispeech.commands._"))
    ]
    assert wrong == []


def test_libraries_stay_where_they_belong() -> None:
    """A library with an uncertain future is known to one place."""
    wrong = []
    homes: dict[str, set[str]] = {library: set() for library in ONE_MODULE}
    for path in in_folders("unispeech", "local", "utils"):
        for line, name in imports(path):
            for library, pattern in ONLY_IN.items():
                if is_or_is_inside(name, library) and not re.fullmatch(pattern, name_of(path)):
                    wrong.append(f"{name_of(path)}:{line} imports {name}")
            for library in ONE_MODULE:
                if is_or_is_inside(name, library):
                    homes[library].add(name_of(path))
    assert wrong == []
    for library, places in homes.items():
        assert len(places) <= 1, f"{library} is imported in {sorted(places)}"
        assert all(place.startswith("unispeech/decode/") for place in places), library


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a fresh interpreter at the root of the repository."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_models_import_with_torch_and_numpy_alone() -> None:
    """No other package of ours is needed to script the models."""
    blocked = {library for _, libraries in LAYERS.values() for library in libraries}
    result = run_python(
        f"import sys; sys.modules.update(dict.fromkeys({sorted(blocked)}))\nimport unispeech.models"
    )
    assert result.returncode == 0, result.stderr


def test_import_unispeech_loads_nothing_heavy() -> None:
    """`import unispeech` and the list of commands are instant."""
    result = run_python(
        "import sys, unispeech, unispeech.__main__\n"
        "print([m for m in ('torch', 'numpy', 'lhotse', 'matplotlib') if m in sys.modules])"
    )
    assert result.stdout.strip() == "[]", result.stdout + result.stderr


def test_no_symlinks_and_no_local_folders_in_recipes() -> None:
    """What two recipes need is in local/ or in the package."""
    assert [name_of(path) for path in FILES if path.is_symlink()] == []
    assert [name_of(path) for path in FILES if path.match("egs/*/local/*")] == []


def test_no_big_files() -> None:
    """Data and checkpoints have no place in the repository."""
    assert [name_of(path) for path in FILES if path.stat().st_size > 1_000_000] == []


def test_no_paths_of_one_machine() -> None:
    """Nothing refers to folders that only one developer has."""
    words = [b"/%s/" % name for name in (b"work", b"root")] + [b"/tmp" + b"/bash"]
    found = [name_of(p) for p in FILES if any(word in p.read_bytes() for word in words)]
    assert found == []


MARKDOWN = [path for path in FILES if path.suffix == ".md"]


@pytest.mark.parametrize("path", MARKDOWN, ids=name_of)
def test_links_resolve(path: Path) -> None:
    """Relative links lead to files, and their anchors to headings."""
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        linked = (path.parent / file).resolve() if file else path
        assert linked.exists(), f"{target} leads nowhere"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", linked.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = [re.sub(r"[^\w\- ]", "", h).lower().replace(" ", "-") for h in headings]
            assert anchor in slugs, f"{target}: no such heading"


def test_configurations_are_yaml() -> None:
    """Every shipped configuration parses to a mapping."""
    for path in FILES:
        if path.suffix in (".yaml", ".yml") and "conf" in path.parts:
            value = yaml.safe_load(path.read_text(encoding="utf-8"))
            assert value is None or isinstance(value, dict), name_of(path)


def stage_table() -> dict[str, dict[int, str]]:
    """The table of egs/README.md: recipe -> stage number -> name."""
    rows = [
        [cell.strip() for cell in line.strip().strip("|").split("|")]
        for line in (ROOT / "egs" / "README.md").read_text(encoding="utf-8").splitlines()
        if line.startswith("|")
    ]
    head, body = rows[0], [row for row in rows if row[0].isdigit()]
    return {
        recipe: {int(row[0]): row[1] for row in body if row[column] not in ("", "-")}
        for column, recipe in enumerate(head)
        if column >= 2
    }


@pytest.mark.parametrize("path", RECIPES, ids=name_of)
def test_stages_agree_with_the_table(path: Path) -> None:
    """Stage numbers and names are the same in every recipe."""
    text = path.read_text(encoding="utf-8")
    found = re.findall(r'^[^#\n]*\bstage (\d+) "([^":]*)', text, re.MULTILINE)
    assert {int(number): name for number, name in found} == stage_table()[path.parent.name]
