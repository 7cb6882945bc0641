"""What we compare are files: `dml/methods/contrastive.py` is the method `contrastive`. The folder is the registry.

Names, literals and fingerprints are read from the source without importing it, so that planning a study never
imports torch.
"""

import ast
import hashlib
import importlib
from collections.abc import Collection, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

KINDS = ("datasets", "trunks", "methods", "metrics", "tables", "figures")
_PACKAGE = Path(__file__).parent


def names(kind: str) -> list[str]:
    """The plug-ins of a kind, sorted: the files of `dml/<kind>/`."""
    return sorted(path.stem for path in (_PACKAGE / kind).glob("*.py") if not path.stem.startswith("_"))


def source_path(kind: str, name: str) -> Path:
    """The file of one plug-in; ValueError with the choices if there is none."""
    if name not in names(kind):
        raise ValueError(f"unknown name '{name}' in {kind}; choose from: {', '.join(names(kind))}")
    return _PACKAGE / kind / f"{name}.py"


def load(kind: str, name: str) -> ModuleType:
    """Import one plug-in."""
    source_path(kind, name)
    return importlib.import_module(f"dml.{kind}.{name}")


def load_class(kind: str, name: str, base: type) -> type:
    """The one subclass of `base` that a plug-in's file defines."""
    module = load(kind, name)
    classes = [
        member
        for member in vars(module).values()
        if isinstance(member, type) and issubclass(member, base) and member.__module__ == module.__name__
    ]
    if len(classes) != 1:
        raise ValueError(f"dml/{kind}/{name}.py: expected one subclass of {base.__name__}, found {len(classes)}")
    return classes[0]


def literal(kind: str, name: str, constant: str, default: Any = None) -> Any:
    """The value of a module-level constant, read from the source. ValueError if it is not a plain literal."""
    for statement in _syntax_tree(source_path(kind, name)).body:
        if constant in _assigned(statement):
            try:
                return ast.literal_eval(statement.value)
            except ValueError:
                raise ValueError(f"dml/{kind}/{name}.py: {constant} must be a plain literal") from None
    return default


def defines(kind: str, name: str, function: str) -> bool:
    """Whether a plug-in's file has a function of this name, its own or a sibling's that it imports."""
    of_file = _syntax_tree(source_path(kind, name)).body
    own = (statement.name for statement in of_file if isinstance(statement, ast.FunctionDef))
    taken = (alias.name for statement in of_file if isinstance(statement, ast.ImportFrom) for alias in statement.names)
    return function in (*own, *taken)


def constructor_arguments(kind: str, name: str) -> dict[str, bool]:
    """What the classes of a plug-in's file, and of the siblings it builds on, take in `__init__`: name -> required."""
    arguments: dict[str, bool] = {}
    for path in _with_siblings(kind, source_path(kind, name)):
        first = not arguments  # what a class passes on to the one it builds on is not required of its own caller
        for node in ast.walk(_syntax_tree(path)):
            if isinstance(node, ast.FunctionDef) and node.name == "__init__":
                positional, own = node.args.args, node.args.kwonlyargs
                required = [a.arg for a in positional[: len(positional) - len(node.args.defaults)]]
                required += [a.arg for a, default in zip(own, node.args.kw_defaults, strict=True) if default is None]
                for a in positional + own:
                    if a.arg != "self":
                        arguments.setdefault(a.arg, first and a.arg in required)
    return arguments


def constructor_defaults(kind: str, name: str) -> dict[str, Any]:
    """The arguments of the `__init__` in a plug-in's file that need not be given, and their values: plain literals."""
    defaults: dict[str, Any] = {}
    for node in ast.walk(_syntax_tree(source_path(kind, name))):
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            given = dict(zip(reversed(node.args.args), reversed(node.args.defaults), strict=False))
            given |= dict(zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True))
            defaults |= {argument.arg: ast.literal_eval(value) for argument, value in given.items() if value}
    return defaults


def fingerprint(kind: str, name: str, leave_out: Collection[str] = ()) -> str:
    """A hash of what a plug-in's code does, the siblings it imports included: see `code_hash`."""
    return code_hash(_with_siblings(kind, source_path(kind, name)), leave_out)


def code_hash(paths: Iterable[Path], leave_out: Collection[str] = ()) -> str:
    """A hash of what files do: comments, docstrings and blank lines do not count, nor the constants to `leave_out`."""
    digest = hashlib.sha256()
    for path in paths:
        tree = _without_docstrings(_syntax_tree(path))
        tree.body = [statement for statement in tree.body if not _assigned(statement) & set(leave_out)]
        digest.update(ast.dump(tree).encode())
    return digest.hexdigest()[:16]


def _with_siblings(kind: str, path: Path) -> list[Path]:
    """A plug-in's file and those of the same folder that it imports, directly or not."""
    found, waiting = [], [path]
    while waiting:
        path = waiting.pop()
        found.append(path)
        imported = _imports(path)
        siblings = (_PACKAGE / kind / f"{name}.py" for name in names(kind) if f"dml.{kind}.{name}" in imported)
        waiting += [sibling for sibling in siblings if sibling not in found + waiting]
    return found


def _imports(path: Path) -> set[str]:
    """The full names of modules, and of what is taken from them, that a file imports."""
    nodes = list(ast.walk(_syntax_tree(path)))
    modules = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    taken_from = [node for node in nodes if isinstance(node, ast.ImportFrom) and node.module]
    members = {f"{node.module}.{alias.name}" for node in taken_from for alias in node.names}
    return modules | members | {node.module for node in taken_from}


def _syntax_tree(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    except SyntaxError as error:
        raise ValueError(f"{path}, line {error.lineno}: not valid Python: {error.msg}") from None


def _assigned(statement: ast.stmt) -> set[str]:
    """The names that a statement assigns a value to."""
    targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
    return {target.id for target in targets if isinstance(target, ast.Name)}


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(getattr(node, "body", None), list):
            node.body = [statement for statement in node.body if not _is_text(statement)]
    return tree


def _is_text(statement: ast.stmt) -> bool:
    """A docstring: of a module, class or function, or below an attribute."""
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )
