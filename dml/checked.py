"""Values read from YAML: immutable, typed, refused with one line when something is unknown or wrong."""

import math
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from dml.files import whole


class Checked(BaseModel):
    """Base of what a user writes in a file: unknown keys and wrong types are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @classmethod
    def check(cls, values: Any, origin: str) -> Self:
        """Build from plain values; ValueError with one line: the origin, the key, the value, what was expected."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ValueError(f"{origin}: {_explain(error, cls)}") from None

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a YAML file."""
        return cls.check(read_yaml(path), str(path))

    def save(self, path: Path) -> None:
        """Write as YAML with sorted keys: equal values are equal bytes."""
        text = yaml.safe_dump(self.model_dump(mode="json"), sort_keys=True, allow_unicode=True)
        with whole(path) as temporary:
            temporary.write_text(text, encoding="utf-8")


def read_yaml(path: Path) -> Any:
    """The content of a YAML file; ValueError with one line if it is missing or not YAML."""
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _NoDuplicates)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a text file ({error})") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None


def looks_numeric(value: Any) -> bool:
    """Whether a value is text that reads as a number, as YAML makes of 1e-5."""
    try:
        return isinstance(value, str) and math.isfinite(float(value))
    except ValueError:
        return False


class _NoDuplicates(yaml.SafeLoader):
    """YAML takes the last of two equal keys in silence; here they are an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = next((str(key) for key in keys if keys.count(key) > 1), None)
        if twice:
            raise yaml.constructor.ConstructorError(
                None, None, f"the key '{twice}' stands there twice", node.start_mark
            )
        return super().construct_mapping(node, deep)


def _explain(error: ValidationError, model: type[BaseModel]) -> str:
    first = error.errors()[0]
    key = ".".join(map(str, first["loc"]))
    if first["type"] == "extra_forbidden":
        return f"unknown key '{key}'; known keys here: {', '.join(_model_at(model, first['loc'][:-1]).model_fields)}"
    if first["type"] == "missing":
        return f"the key '{key}' is missing"
    if first["type"] == "value_error":
        return f"{key + ': ' if key else ''}{first['ctx']['error']}"
    if first["type"] in ("model_type", "dict_type"):
        return f"{key + ': ' if key else ''}expected keys with values (key: value), not {first['input']!r}"
    hint = ""
    if isinstance(first["input"], str) and first["type"] in ("float_type", "int_type"):
        hint = " (a number without quotes; YAML reads 1e-5 as text: write 1.0e-5)"
    return f"{key + ': ' if key else ''}{first['msg'][0].lower()}{first['msg'][1:]}, not {first['input']!r}{hint}"


def _model_at(model: type[BaseModel], place: tuple) -> type[BaseModel]:
    """The model that holds the key at a place of the file: list positions and free names lead no deeper."""
    for part in place:
        if part in model.model_fields:
            model = _inner_model(model.model_fields[part].annotation) or model
    return model


def _inner_model(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_inner_model, getattr(annotation, "__args__", ()))), None)
