"""How a study names a loss or miner of pytorch-metric-learning (PML), and ranges in place of its arguments.

A description is {Class: {argument: value}}, for example {"CircleLoss": {"m": {"low": 0.2, "high": 0.6}, "gamma": 80}}.
A value may be a range ({low, high[, log][, integer]} or {choices}), which is searched under the argument's name, or the
description of another object of PML, whose arguments are named distance_power and the like; the miner's begin with
miner_. Reading descriptions needs neither torch nor PML: `dml.pml` builds the objects.
"""

from collections.abc import Callable, Mapping
from typing import Any

from dml.checked import looks_numeric

Description = Mapping[str, Mapping[str, Any] | None]


def ranges(loss: Description, miner: Description | None = None) -> dict[str, dict]:
    """Name -> range, for every range in the two descriptions. ValueError if two have the same name."""
    found: dict[str, dict] = {}

    def collect(name: str, searched: dict) -> None:
        if name in found:
            raise ValueError(f"two arguments of the PML loss and miner are searched as '{name}': give one a value")
        found[name] = searched

    _replace_ranges(loss, "", collect)
    _replace_ranges(miner, "miner", collect)
    return found


def with_parameters(
    loss: Description, miner: Description | None, parameters: Mapping[str, Any]
) -> tuple[Description, Description | None]:
    """The descriptions with values in place of ranges. ValueError if the names are not exactly those of `ranges`."""
    expected = ranges(loss, miner)
    for name in sorted(expected.keys() ^ parameters.keys()):
        what = "has no value" if name in expected else "is no range"
        raise ValueError(f"'{name}' {what} in the PML loss or miner; ranges: {', '.join(sorted(expected)) or 'none'}")

    def value_of(name: str, searched: dict) -> Any:
        return parameters[name]

    return _replace_ranges(loss, "", value_of), _replace_ranges(miner, "miner", value_of)


def refuse_numbers_as_text(*descriptions: Any) -> None:
    """ValueError naming a value that YAML took for text although it is a number."""
    waiting = list(descriptions)
    while waiting:
        value = waiting.pop()
        if isinstance(value, Mapping):
            for key, inner in value.items():
                if looks_numeric(inner):
                    raise ValueError(f"{key}: expected a number, not {inner!r} (YAML reads 1e-5 as text: 1.0e-5)")
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def is_description(value: Any) -> bool:
    """Whether a value describes an object: one key, a class name, which begins with a capital letter."""
    return isinstance(value, Mapping) and len(value) == 1 and str(next(iter(value)))[:1].isupper()


def class_and_arguments(description: Description) -> tuple[str, Mapping[str, Any]]:
    """The two parts of a description. ValueError if its arguments are not named."""
    [(class_name, arguments)] = description.items()
    if not isinstance(arguments, Mapping | None):
        raise ValueError(f"PML's {class_name}: expected {{argument: value}}, not {arguments!r}")
    return class_name, arguments or {}


def _replace_ranges(value: Any, name: str, replacement: Callable[[str, dict], Any]) -> Any:
    if is_description(value):
        class_name, arguments = class_and_arguments(value)
        return {class_name: {k: _replace_ranges(v, _join(name, k), replacement) for k, v in arguments.items()}}
    if _is_range(value):
        return replacement(name, dict(value))
    if isinstance(value, Mapping):
        return {key: _replace_ranges(inner, _join(name, str(key)), replacement) for key, inner in value.items()}
    if isinstance(value, list):
        return [_replace_ranges(inner, _join(name, str(place)), replacement) for place, inner in enumerate(value)]
    return value


def _is_range(value: Any) -> bool:
    return isinstance(value, Mapping) and ("choices" in value or {"low", "high"} <= value.keys())


def _join(prefix: str, name: str) -> str:
    return f"{prefix}_{name}" if prefix else name
