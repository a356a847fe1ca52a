"""Typed configuration: pydantic models filled from YAML files and `key=value` overrides.

Files merge left to right, then the overrides; unknown keys, wrong types and values out of range
are `ConfigError`s that name the source, the key, what was found and what is allowed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import pydantic
import yaml

from unispeech.errors import ConfigError, nearest

COMMAND_LINE = "command line"

_Flat = dict[tuple[str, ...], str]


class Config(pydantic.BaseModel):
    """Base of every configuration section: frozen, unknown keys forbidden.

    A section that is given in part keeps the rest of its field's default, so that a file holds
    differences only, at any depth.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, validate_default=True)

    @pydantic.model_validator(mode="before")
    @classmethod
    def _complete_sections(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        complete = dict(values)
        for name, field in cls.model_fields.items():
            given, default = complete.get(name), field.default
            if isinstance(given, dict) and isinstance(default, Config):
                base = default.model_dump()
                # A section of another kind has keys and defaults of its own.
                if given.get("kind", base.get("kind")) == base.get("kind"):
                    complete[name] = _overlay(base, given)
        return complete


def _overlay(base: dict[str, Any], update: dict[str, Any]) -> dict[str, Any]:
    """`base` with the keys of `update`, section by section."""
    merged = dict(base)
    for key, value in update.items():
        old = merged.get(key)
        both = isinstance(old, dict) and isinstance(value, dict)
        merged[key] = _overlay(old, value) if both else value  # type: ignore[arg-type]
    return merged


ConfigT = TypeVar("ConfigT", bound=Config)


def _as_tuple(value: Any) -> Any:
    return (value,) if isinstance(value, str) and value else value or ()


Paths = Annotated[tuple[str, ...], pydantic.BeforeValidator(_as_tuple)]
"""Several paths; a single one needs no brackets."""


def load(
    schema: type[ConfigT], files: Sequence[str | Path] = (), overrides: Sequence[str] = ()
) -> ConfigT:
    """Build a `schema` from YAML files (merged left to right) and dotted `key=value` overrides.

    Raises:
        ConfigError: a file is missing or not YAML, or a value does not fit the schema.
    """
    tree: dict[str, Any] = {}
    origin: _Flat = {}
    for file in files:
        _merge(tree, _read_yaml(Path(file)), str(file), origin)
    for text in overrides:
        _merge(tree, _parse_override(text), COMMAND_LINE, origin)
    try:
        return schema.model_validate(tree)
    except pydantic.ValidationError as error:
        raise _explain(error, schema, origin) from None


def dump(config: Config) -> str:
    """The resolved configuration as YAML, itself a valid input of `load`."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def flatten(config: Config) -> dict[str, Any]:
    """`{"section.key": value}` of every leaf, for comparing two configurations."""
    return dict(_leaves(config.model_dump(mode="json")))


def defaults(config: Config) -> dict[str, Any]:
    """The flat defaults of the settings of `config`; required settings have none."""
    optional = {n for n, field in type(config).model_fields.items() if not field.is_required()}
    own = type(config).model_construct()
    found = dict(_leaves(own.model_dump(mode="json", include=optional)))
    for name in type(config).model_fields:
        section = getattr(config, name)
        if isinstance(section, Config):
            found |= {f"{name}.{key}": value for key, value in defaults(section).items()}
    return found


def _leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            "cannot read the configuration file",
            where=path,
            found=error.strerror,
            remedy="give an existing YAML file to --config",
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError("not valid YAML", where=path, found=reason) from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError("the top level must be a mapping", where=path, found=type(tree).__name__)
    return tree


def _parse_override(text: str) -> dict[str, Any]:
    key, separator, value = text.partition("=")
    names = key.split(".")
    if not separator or not all(names):
        raise ConfigError(
            "not an override", where=COMMAND_LINE, expected="key=value", found=f"'{text}'"
        )
    tree: Any = value
    if value.startswith(("[", "{")):
        try:
            tree = yaml.safe_load(value)
        except yaml.YAMLError:
            raise ConfigError(
                f"the value of '{key}' is not valid YAML", where=COMMAND_LINE, found=f"'{value}'"
            ) from None
    else:
        # A path may look like a mapping or a comment; only plain scalars are converted.
        with contextlib.suppress(yaml.YAMLError):
            scalar = yaml.safe_load(value)
            if scalar is None or isinstance(scalar, bool | int | float):
                tree = scalar if value else ""
        if isinstance(tree, str) and _is_number(tree):
            tree = float(tree)
    for name in reversed(names):
        tree = {name: tree}
    return tree  # type: ignore[no-any-return]


def _is_number(text: str) -> bool:
    # YAML 1.1 reads "1e-4" as a string because it has no decimal point.
    try:
        float(text)
    except ValueError:
        return False
    return True


def _merge(
    tree: dict[str, Any],
    update: dict[str, Any],
    source: str,
    origin: _Flat,
    path: tuple[str, ...] = (),
) -> None:
    for key, value in update.items():
        here = (*path, str(key))
        if isinstance(value, dict) and isinstance(tree.get(key), dict):
            _merge(tree[key], value, source, origin, here)
        elif isinstance(value, dict):
            tree[key] = {}
            origin[here] = source
            _merge(tree[key], value, source, origin, here)
        else:
            is_text_number = isinstance(value, str) and _is_number(value)
            tree[key] = float(value) if is_text_number else value
            origin[here] = source


def _explain(error: pydantic.ValidationError, schema: type[Config], origin: _Flat) -> ConfigError:
    first = error.errors(include_url=False)[0]
    location, valid = _resolve(schema, tuple(str(part) for part in first["loc"]))
    key = ".".join(location)
    source = next(
        (origin[location[:n]] for n in range(len(location), 0, -1) if location[:n] in origin),
        "defaults",
    )
    more = len(error.errors()) - 1
    remedy = f"{more} more problem(s) after this one" if more else None
    if first["type"] == "extra_forbidden":
        return ConfigError(
            f"unknown key '{key}'{nearest(location[-1], valid)}",
            where=source,
            expected=f"one of {', '.join(sorted(valid))}",
            remedy=remedy,
        )
    if first["type"] == "missing":
        return ConfigError(f"key '{key}' is missing", where=source, remedy=remedy)
    found = repr(first.get("input"))
    return ConfigError(
        f"key '{key}': {first['msg']}",
        where=source,
        found=found if len(found) < 80 else found[:77] + "...",
        remedy=remedy,
    )


def _resolve(schema: type[Config], location: Iterable[str]) -> tuple[tuple[str, ...], list[str]]:
    """The keys of pydantic's location without the kinds in it, and those its last section has."""
    sections = [schema]
    keys = []
    for part in location:
        of_kind = [s for s in sections if _kind(s) == part]
        if of_kind and not any(part in s.model_fields for s in sections):
            sections = of_kind
            continue
        keys.append(part)
        annotations = [s.model_fields[part].annotation for s in sections if part in s.model_fields]
        inner = [c for a in annotations for c in (a, *getattr(a, "__args__", ()))]
        nested = [c for c in inner if isinstance(c, type) and issubclass(c, Config)]
        sections = nested or sections
    return tuple(keys), sorted({name for section in sections for name in section.model_fields})


def _kind(section: type[Config]) -> object:
    return section.model_fields["kind"].default if "kind" in section.model_fields else None
