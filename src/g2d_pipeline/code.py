"""Which code an artefact depends on: every definition that its entry points reach, by its syntax tree.

The graph is read from the source files; nothing is imported. A *definition* is a function, class or
assignment at the top level of a module. It depends on the names that it uses, through imports and re-exports.
Comments, docstrings, formatting and annotations do not count."""

import ast
import hashlib
import json
import logging
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from importlib import metadata, util
from pathlib import Path
from typing import Any

from g2d_pipeline.errors import ConfigError
from g2d_pipeline.files import atomic_write, content_hash, fingerprint

logger = logging.getLogger(__name__)

Symbol = tuple[str, str]  # (module without the package's name, definition; "": what runs on import)
DATA = (".j2", ".css", ".csv", ".txt", ".json")  # files beside a module that it reads: templates, lists
# Modules that change no artefact: what a stage shows or logs, where it runs, how its files are fetched.
PRESENTATION = ("", "code", "compute", "engines", "progress", "remote", "signals", "training.logs")
SETTINGS = "config."  # followed from within alone: settings in use are entry points
LARGE = 2000  # modules in a cache, from which on those that were not read this time are dropped
PACKAGE_NAME = __name__.partition(".")[0]
_READ: dict[str, Any] = {}  # what any graph of this process has read, as `CodeGraph._read`
VERSION = f"1, Python {sys.version_info.major}.{sys.version_info.minor}"


@dataclass
class Module:
    """`definitions`: name → (hash of its statements, chains `a.b.c` of names that it uses); "" for statements
    without a name. `imports`: local name → (module, name in it, or "" for the module itself)."""

    definitions: dict[str, tuple[str, list[str]]] = field(default_factory=dict)
    imports: dict[str, tuple[str, str]] = field(default_factory=dict)


class CodeGraph:
    """The definitions of the package in folder `package`, read on demand. `cache`: a JSON file of what was
    read, by content of the source files, which `save` writes."""

    def __init__(self, package: Path, cache: Path | None = None) -> None:
        self.package, self.cache = package, cache
        self._modules: dict[str, Module | None] = {}
        self._read: dict[str, Any] = {}  # hash of a file → its module as plain data

    def fingerprint(self, entries: Iterable[str]) -> str:
        """The hash of everything that `entries` (definitions `module.name`, or whole modules) reach. Raises
        ValueError for another entry."""
        symbols = sorted(self.closure(entries))
        digests = [(*s, self._module(s[0]).definitions[s[1]][0]) for s in symbols]  # type: ignore[union-attr]
        folders = sorted({self._file(module).parent for module, _ in symbols})
        data = [f for folder in folders for f in sorted(folder.iterdir()) if f.is_file() and f.suffix in DATA]
        files = [(f.relative_to(self.package).as_posix(), content_hash(f)) for f in data]
        return fingerprint([digests, files])

    def closure(self, entries: Iterable[str]) -> set[Symbol]:
        """The definitions that `entries` reach, themselves included."""
        reached: set[Symbol] = set()
        waiting = [symbol for entry in entries for symbol in self._entry(entry)]
        while waiting:
            source, name = symbol = waiting.pop()
            module = self._module(source)
            if symbol in reached or module is None or name not in module.definitions:
                continue
            reached.add(symbol)
            waiting.append((source, ""))
            targets = (s for chain in module.definitions[name][1] for s in self._resolve(source, chain))
            waiting += [s for s in targets if self._followed(source, s[0])]
        return reached

    def has(self, module: str) -> bool:
        """Whether the package has this module."""
        return self._module(module) is not None

    def save(self) -> None:
        """Write the cache, if something new was read; log where it can not be written."""
        if self.cache is None or self._read.keys() <= self._cached.keys():
            return
        try:
            with atomic_write(self.cache) as path:
                files = self._read | (self._cached if len(self._cached) < LARGE else {})
                path.write_text(json.dumps({"version": VERSION, "files": files}), encoding="utf-8")
        except OSError as error:
            logger.warning("The cache %s can not be written: %s.", self.cache, error.strerror)

    @staticmethod
    def _followed(source: str, target: str) -> bool:
        settings = f"{target}.".startswith(SETTINGS) and not f"{source}.".startswith(SETTINGS)
        return target not in PRESENTATION and not settings

    def _entry(self, entry: str) -> list[Symbol]:
        module, _, name = (entry, "", "") if self.has(entry) else entry.rpartition(".")
        symbols = self._resolve(module, name)
        if name and not symbols:
            raise ValueError(f"{entry} is neither a module nor a definition of {self.package}")
        return symbols

    def _resolve(self, name: str, chain: str) -> list[Symbol]:
        """The package's definitions that `chain`, as used in the module `name`, means; "": all of it."""
        module = self._module(name)
        head, _, rest = chain.partition(".")
        if module is None:
            return []
        if not head:
            return [(name, definition) for definition in module.definitions]
        if head in module.definitions:
            return [(name, head)]
        target, attribute = module.imports.get(head, (name, head))
        if (target, attribute) == (name, head):  # a module of this package
            return self._resolve(f"{name}.{head}".removeprefix("."), rest)
        return self._resolve(target, f"{attribute}.{rest}".strip("."))

    def _module(self, name: str) -> Module | None:
        if name not in self._modules:
            file = self._file(name)
            self._modules[name] = self._analyse(file, name) if file.is_file() else None
        return self._modules[name]

    def _file(self, name: str) -> Path:
        base = self.package.joinpath(*name.split("."))
        package = base / "__init__.py"  # a folder without it may be left of an older version
        return package if package.is_file() else base.with_suffix(".py")

    def _analyse(self, file: Path, name: str) -> Module:
        content = file.read_bytes()
        key = hashlib.blake2b(name.encode() + b"\0" + content, digest_size=8).hexdigest()
        if (known := _READ.get(key) or self._cached.get(key)) is None:
            known = vars(_read_module(_parse(file, content), name, file.name == "__init__.py"))
        self._read[key] = _READ[key] = known
        return Module(**known)

    @cached_property
    def _cached(self) -> dict[str, Any]:
        try:
            content = json.loads(self.cache.read_bytes()) if self.cache is not None else {}
            return dict(content["files"]) if content.get("version") == VERSION else {}
        except (OSError, ValueError, LookupError, AttributeError, TypeError):
            return {}  # absent or torn


def external_fingerprint(name: str, group: str) -> str:
    """The hash of the file of an external plug-in: an entry point of `group`, or the dotted path of a module
    or class; of an unknown one its name. Only the module's parents are imported."""
    module = next((e.module for e in metadata.entry_points(group=group) if e.name == name), name)
    try:
        spec = util.find_spec(module) or util.find_spec(module.rpartition(".")[0])
    except (ModuleNotFoundError, ValueError):
        spec = None
    if spec is None or not spec.origin:
        return name
    file = Path(spec.origin)
    return fingerprint(_text(_parse(file, file.read_bytes())))


def _parse(file: Path, content: bytes) -> ast.Module:
    try:
        return ast.parse(content)
    except SyntaxError as error:
        raise ConfigError(f"{file}, line {error.lineno}: {error.msg}") from error


# ----------------------------------------------------------------------------------------- reading one module
def _read_module(tree: ast.Module, name: str, is_package: bool) -> Module:
    module, statements = Module(), dict[str, list[ast.stmt]]()
    for statement in tree.body:
        if isinstance(statement, ast.If) and ast.unparse(statement.test).endswith("TYPE_CHECKING"):
            continue
        if _is_docstring(statement):
            continue
        nested = [node for node in ast.walk(statement) if isinstance(node, ast.Import | ast.ImportFrom)]
        for node in nested:  # also those inside functions
            module.imports |= _imports(node, name, is_package)
        if statement not in nested:
            for target in _bound(statement) or [""]:
                statements.setdefault(target, []).append(statement)
    names = statements.keys() | module.imports.keys()
    for target, body in statements.items():
        uses = _Uses()
        for statement in body:
            uses.visit(statement)
        used = sorted(c for c in uses.chains if c.partition(".")[0] in names and c != target)
        module.definitions[target] = fingerprint([_text(statement) for statement in body]), used
    return module


def _imports(node: ast.Import | ast.ImportFrom, module: str, is_package: bool) -> dict[str, tuple[str, str]]:
    """Local name → (module, name in it) of what is imported from the package."""
    if isinstance(node, ast.Import):
        aliased = [a for a in node.names if a.asname and a.name.startswith(f"{PACKAGE_NAME}.")]
        return {str(a.asname): (a.name.removeprefix(f"{PACKAGE_NAME}."), "") for a in aliased}
    if node.level:
        parts = module.split(".")
        above = parts[: len(parts) - node.level + is_package]
        source = ".".join([*above, *filter(None, [node.module])])
    elif node.module == PACKAGE_NAME:
        source = ""
    elif node.module and node.module.startswith(f"{PACKAGE_NAME}."):
        source = node.module.removeprefix(f"{PACKAGE_NAME}.")
    else:
        return {}
    return {a.asname or a.name: (source, a.name) for a in node.names}


def _bound(statement: ast.stmt) -> list[str]:
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [statement.name]
    names = (node for node in ast.walk(statement) if isinstance(node, ast.Name))
    return sorted({name.id for name in names if isinstance(name.ctx, ast.Store)})


def _is_docstring(statement: ast.stmt) -> bool:
    value = statement.value if isinstance(statement, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


def _text(tree: ast.AST) -> str:
    """The code of a syntax tree in one canonical form, without docstrings."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and _is_docstring(body[0]):
            node.body = body[1:] or [ast.Pass()]  # type: ignore[attr-defined]
    return ast.unparse(tree)


class _Uses(ast.NodeVisitor):
    """Collects the names that code uses, as chains of attributes; annotations are not followed."""

    def __init__(self) -> None:
        self.chains: set[str] = set()

    def visit_Name(self, node: ast.Name) -> None:
        self.chains.add(node.id)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        inner: ast.expr = node
        while isinstance(inner, ast.Attribute):
            inner = inner.value
        if isinstance(inner, ast.Name):
            self.chains.add(ast.unparse(node))
        else:
            self.visit(inner)

    def visit_arg(self, node: ast.arg) -> None:
        """Its annotation is left out."""

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        for part in (*node.decorator_list, node.args, *node.body):
            self.visit(part)
