"""One generic registry: plug-ins from the project's folders, from entry points and from files."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import logging
import pkgutil
import sys
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from .errors import BadInputError, UnknownNameError, VitxaiError
from .plugins import Column, Cost, Dataset, Explainer, Metric, Paper, Status
from .spec import Spec

if TYPE_CHECKING:
    from pydantic import TypeAdapter

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True)
class Broken:
    """A plug-in that could not be loaded; it becomes a warning and a row, never a crash."""

    name: str
    origin: str
    error: str
    traceback: str


class Registry(Generic[T]):
    """Plug-ins of one kind by name, loaded when first asked for.

    A name is looked up as the file of that name in the project's folder first, so that one plug-in costs one import;
    otherwise everything is loaded.
    """

    def __init__(self, kind: str, package: str, base: type[T]) -> None:
        self.kind, self.package, self.base = kind, package, base
        self._classes: dict[str, type[T]] = {}
        self._origins: dict[str, str] = {}
        self.broken: dict[str, Broken] = {}
        self._loaded: set[str] = set()
        self._complete = False

    def add(self, name: str, cls: type[T]) -> None:
        """Registers a class; called by the decorators.

        Raises:
            VitxaiError: the name is taken by another module, or the class does not derive from the base.
        """
        if not (isinstance(cls, type) and issubclass(cls, cast(type, self.base))):
            raise VitxaiError(f"{cls!r} must derive from {self.base.__name__} to be {self.kind} {name!r}.")
        if name != name.lower() or not name.replace("_", "a").isalnum():
            raise VitxaiError(f"{name!r} is no plug-in name; use snake_case letters, digits and underscores.")
        origin = cls.__module__
        if self._origins.get(name, origin) != origin:
            raise VitxaiError(
                f"{self.kind} {name!r} is defined twice: in {self._origins[name]} and in {origin}. Rename one of them."
            )
        self._classes[name], self._origins[name] = cls, origin

    def get(self, name: str) -> type[T]:
        """The class of a name.

        Raises:
            UnknownNameError: no plug-in bears it.
            VitxaiError: its module is broken; the text holds the cause.
        """
        if name not in self._classes and name.isidentifier():
            module = f"{self.package}.{name}"
            if importlib.util.find_spec(self.package) and importlib.util.find_spec(module):
                self._load(name, module)
        if name not in self._classes and name not in self.broken:
            self._load_all()
        if name in self._classes:
            return self._classes[name]
        if name in self.broken:
            b = self.broken[name]
            raise VitxaiError(f"{self.kind} {name!r} could not be loaded from {b.origin}: {b.error}")
        raise UnknownNameError(self.kind, name, self._classes)

    def names(self) -> list[str]:
        """All names, sorted; loads everything."""
        self._load_all()
        return sorted(self._classes)

    def names_from(self, module: str) -> list[str]:
        """Names that a module has registered, sorted; loads nothing."""
        return sorted(name for name, origin in self._origins.items() if origin == module)

    def create(self, spec: Spec | str) -> T:
        """An instance with typed parameters.

        Raises:
            BadInputError: a parameter is unknown or has a wrong value; the text names it and what is allowed.
        """
        spec = Spec.parse(spec)
        return instantiate(self.get(spec.name), spec, self.kind)

    def load_file(self, path: str | Path) -> list[str]:
        """Loads plug-ins from a Python file (``--plugin my.py``); returns the names it added to this registry.

        Raises:
            BadInputError: no such file. Errors inside the file propagate.
        """
        path = Path(path).resolve()
        if not path.is_file():
            raise BadInputError(f"no plug-in file at {path}.")
        before = set(self._classes)
        import_file(path)
        return sorted(set(self._classes) - before)

    def _load(self, name: str, module: str) -> None:
        if module in self._loaded:
            return
        self._loaded.add(module)
        try:
            importlib.import_module(module)
        except Exception as error:
            self._break(name, module, error)

    def _load_all(self) -> None:
        if self._complete:
            return
        self._complete = True
        package = importlib.import_module(self.package)
        for info in sorted(pkgutil.iter_modules(package.__path__), key=lambda i: i.name):
            if not info.name.startswith("_"):
                self._load(info.name, f"{self.package}.{info.name}")
        for point in entry_points(group=self.package):
            try:
                point.load()
            except Exception as error:
                self._break(point.name, point.value, error)

    def _break(self, name: str, origin: str, error: Exception) -> None:
        log.warning("%s %r could not be loaded from %s: %s", self.kind, name, origin, error)
        text = f"{type(error).__name__}: {error}"
        self.broken[name] = Broken(name, origin, text, "".join(traceback.format_exception(error)))


def import_file(path: Path) -> Any:
    """Imports a Python file under a name made of its path, once."""
    name = f"vitxai_plugin_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def instantiate(cls: type[T], spec: Spec, kind: str) -> T:
    """``cls(**params)`` with the strings of a spec converted to the fields' types by pydantic."""
    from pydantic import ValidationError

    if spec.draw:
        raise BadInputError(
            f"{kind} '{spec}': other draws are for explainers in a suite's list. Leave them out here, or "
            "choose a seed where one is taken."
        )
    known = [f.name for f in fields(cast(Any, cls)) if f.init]
    unknown = sorted(set(spec.params) - set(known))
    if unknown:
        raise BadInputError(
            f"{kind} {spec.name!r} has no parameter {', '.join(map(repr, unknown))}. "
            f"It takes: {', '.join(known) or 'none'}."
        )
    try:
        return cast(T, _adapter(cast(Any, cls)).validate_python(dict(spec.params)))
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}={e['input']!r}: {e['msg']}" for e in error.errors())
        raise BadInputError(f"{kind} {spec.name!r}: {problems}.") from None


@cache
def _adapter(cls: type[Any]) -> TypeAdapter[Any]:
    """Made once a class: it takes a millisecond, and a run asks hundreds of times."""
    from pydantic import TypeAdapter

    return TypeAdapter(cls)


explainers: Registry[Explainer] = Registry("explainer", "vitxai.explainers", Explainer)
metrics: Registry[Metric] = Registry("metric", "vitxai.metrics", Metric)
datasets: Registry[Dataset] = Registry("dataset", "vitxai.datasets", Dataset)


def explainer(
    name: str,
    *,
    paper: Paper | None = None,
    needs: Iterable[str] = (),
    status: Status = "exact",
    cost: Cost = "gradient",
) -> Callable[[type[T]], type[T]]:
    """Registers an :class:`Explainer` and makes it a frozen dataclass of its typed parameters.

    Args:
        name: snake_case; in the project's folder the file bears it too.
        paper: the source of the formula.
        needs: see ``Need``; what is missing becomes a refusal with a reason before ``explain`` is called.
        status: ``reconstruction`` where the exact formula is not public, ``external`` for maps made elsewhere,
            ``floor`` and ``oracle`` for the bounds.
        cost: class of its cost, see ``Cost``; ``*`` in a suite leaves out what is ``slow``.
    """

    def register(cls: type[T]) -> type[T]:
        return _declare(explainers, name, cls, paper=paper, needs=frozenset(needs), status=status, cost=cost)

    return register


def needs_of(explainer: Explainer) -> frozenset[str]:
    """What an explainer needs, and what those that it wraps need."""
    return explainer.needs.union(*(needs_of(explainers.create(spec)) for spec in explainer.wraps()))


def metric(
    name: str,
    *,
    columns: Iterable[Column],
    version: int,
    needs: Iterable[str] = (),
    paper: Paper | None = None,
    of: str = "explanation",
    queries_model: bool = False,
) -> Callable[[type[T]], type[T]]:
    """Registers a :class:`Metric` and makes it a frozen dataclass of its typed parameters.

    Args:
        columns: declared figures; ``score`` returns exactly these.
        version: raised whenever the definition changes.
        of: ``model`` for figures that no explanation influences.
        queries_model: runs the model; for a method with its own model it is then scored on both.
    """

    def register(cls: type[T]) -> type[T]:
        return _declare(
            metrics, name, cls, columns=tuple(columns), version=version, needs=frozenset(needs), paper=paper, of=of,
            queries_model=queries_model,
        )  # fmt: skip

    return register


def dataset(name: str) -> Callable[[type[T]], type[T]]:
    """Registers a :class:`Dataset` and makes it a frozen dataclass of its typed parameters."""

    def register(cls: type[T]) -> type[T]:
        return _declare(datasets, name, cls)

    return register


def _declare(registry: Registry, name: str, cls: type[T], **facts: Any) -> type[T]:
    cls = dataclass(frozen=True)(cls)
    for key, value in {"name": name, **facts}.items():
        setattr(cls, key, value)
    registry.add(name, cls)
    return cls
