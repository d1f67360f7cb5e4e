"""Suites: TOML files that name boards, explainers, metrics, sizes and seeds."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationError, model_validator

from .contract import BadInputError, Broken, Registry, Spec, TargetPolicy, UnknownNameError, VitxaiError
from .contract import datasets as dataset_registry
from .contract import explainers as explainer_registry
from .contract import metrics as metric_registry

SUITES = Path(__file__).parent / "suites"
EVERYTHING = "*"
"""In a list of explainers or metrics: every other one that works without parameters."""


def _parse_spec(value: Any) -> Spec:
    if not isinstance(value, str | dict | Spec):
        raise ValueError("write a string NAME,key=value or a table {name = ..., key = ...}")
    return Spec.parse(value)


def _parse_one(value: Any) -> Spec:
    spec = _parse_spec(value)
    if spec.draw:
        raise ValueError(f"only an explainer has other draws; write {spec.method}")
    return spec


def _parse_drawn(value: Any) -> Spec:
    spec = _parse_spec(value)
    if spec.draw and spec.name == EVERYTHING:
        raise ValueError("name the explainers that other draws are wanted of")
    return spec


SpecField = Annotated[
    Spec, BeforeValidator(_parse_one), PlainSerializer(str), Field(description="NAME,key=value,key=value")
]
DrawnField = Annotated[
    Spec, BeforeValidator(_parse_drawn), PlainSerializer(str), Field(description="NAME[@DRAW],key=value")
]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


class Board(_Strict):
    """One leaderboard: a data set and one kind of model, in several independently trained copies."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_\-]*$")
    dataset: SpecField
    kind: str = ""
    models: tuple[SpecField, ...] = Field(min_length=1)
    explainers: tuple[DrawnField, ...] | None = None
    metrics: tuple[SpecField, ...] | None = None


class Suite(_Strict):
    """What ``bench run`` runs.

    Attributes:
        n: samples of each board.
        split: which samples are explained: ``test``, or ``validation`` to choose between configurations (charter 5).
        chunk: samples of one stored artefact; growing ``n`` by whole chunks recomputes nothing.
        batch_size: samples that one call of a plug-in gets.
        target: which class is explained (charter 1).
        timeout_s: of one task (a fit, or one plug-in on one chunk).
        memory_gb: that a worker may take beyond its start.
        threads: of a worker.
        exclude: names of explainers and metrics that ``*`` does not stand for.
        validation_n: samples of the validation split that a method may see (charter 5: the same for all).
        costs: whether latency, memory, FLOPs and passes are measured.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_\-]*$")
    seed: int = Field(0, ge=0)
    n: int = Field(gt=0)
    split: Literal["test", "validation"] = "test"
    chunk: int = Field(16, gt=0)
    batch_size: int = Field(16, gt=0)
    target: TargetPolicy = "prediction"
    timeout_s: float = Field(300.0, gt=0)
    memory_gb: float = Field(8.0, gt=0)
    threads: int = Field(1, gt=0)
    validation_n: int = Field(64, gt=0)
    explainers: tuple[DrawnField, ...] = Field(min_length=1)
    metrics: tuple[SpecField, ...] = Field(min_length=1)
    exclude: tuple[str, ...] = ()
    costs: bool = True
    boards: tuple[Board, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_are_unique(self) -> Suite:
        _refuse_repeats("boards", [board.name for board in self.boards])
        for where, specs in self._lists():
            _refuse_repeats(where, [str(spec) for spec in specs])
            _refuse_lone_draws(where, specs)
        for board in self.boards:
            _refuse_repeats(f"models of board {board.name}", [str(spec) for spec in board.models])
        return self

    def _lists(self) -> Iterable[tuple[str, Sequence[Spec]]]:
        yield "explainers", self.explainers
        yield "metrics", self.metrics
        for board in self.boards:
            yield f"explainers of board {board.name}", board.explainers or ()
            yield f"metrics of board {board.name}", board.metrics or ()

    def explainers_of(self, board: Board) -> tuple[Spec, ...]:
        """The board's explainers: its own list, or the suite's."""
        return self.explainers if board.explainers is None else board.explainers

    def metrics_of(self, board: Board) -> tuple[Spec, ...]:
        """The board's metrics: its own list, or the suite's."""
        return self.metrics if board.metrics is None else board.metrics

    def on(self, datasets: Sequence[Spec | str], models: Sequence[Spec | str] = (), n: int | None = None) -> Suite:
        """The same explainers and metrics on other data: one board a data set, each with these models.

        Args:
            datasets: none leaves the boards, and with them the models, as they are.
            models: of every board; the same model with other weights counts as one more.
            n: samples of each board; the suite's when None.

        Raises:
            BadInputError: data sets without models or the reverse, or the suite's boards have lists of their own, so
                that it is open which of them to take.
        """
        suite = self if n is None else self.model_copy(update={"n": n})
        if not datasets and not models:
            return suite
        if not datasets or not models:
            raise BadInputError("give both --dataset and --model: a suite's models fit the suite's own data sets only.")
        own = [board.name for board in self.boards if board.explainers is not None or board.metrics is not None]
        if own:
            raise BadInputError(
                f"suite {self.name} has boards with lists of their own ({', '.join(own)}), which may differ; write a "
                f"suite file for other data: copy {SUITES / self.name}.toml and change its boards."
            )
        specs = [Spec.parse(text) for text in datasets]
        names = [spec.name for spec in specs]
        boards = [
            {
                "name": name if names.count(name) == 1 else f"{name}_{names[: place + 1].count(name)}",
                "dataset": spec,
                "models": list(models),
            }
            for place, (name, spec) in enumerate(zip(names, specs, strict=True))
        ]
        return parse_suite({**suite.model_dump(), "boards": boards}, f"suite {self.name} on other data")

    def modules(self) -> list[str]:
        """Modules that the suite's plug-ins probably live in: those in the project's folders that bear their names."""
        lists: list[tuple[Registry, tuple[Spec, ...]]] = []
        lists += [(explainer_registry, self.explainers_of(board)) for board in self.boards]
        lists += [(metric_registry, self.metrics_of(board)) for board in self.boards]
        lists += [(dataset_registry, (board.dataset,)) for board in self.boards]
        found: dict[str, None] = {}
        for registry, specs in lists:
            present = {info.name for info in pkgutil.iter_modules(importlib.import_module(registry.package).__path__)}
            named = {spec.name for spec in specs}
            wanted = {n for n in present if not n.startswith("_")} if EVERYTHING in named else named & present
            found |= dict.fromkeys(f"{registry.package}.{name}" for name in sorted(wanted))
        return list(found)

    def resolved(self, extra_explainers: Sequence[str] = (), extra_metrics: Sequence[str] = ()) -> Suite:
        """With ``*`` expanded and plug-ins of the command line added to every list; all names and parameters checked.

        Raises:
            UnknownNameError: no plug-in bears a name.
            BadInputError: a parameter is unknown or has a wrong value.
        """

        for name in self.exclude:
            if not any(
                name in {*registry.names(), *registry.broken} for registry in (explainer_registry, metric_registry)
            ):
                raise UnknownNameError(
                    "explainer or metric", name, explainer_registry.names() + metric_registry.names()
                )

        def expand(specs: tuple[Spec, ...], registry: Registry, extra: Sequence[str]) -> tuple[Spec, ...]:
            return _expand(specs, registry, extra, self.exclude)

        boards = tuple(
            board.model_copy(
                update={
                    "explainers": expand(self.explainers_of(board), explainer_registry, extra_explainers),
                    "metrics": expand(self.metrics_of(board), metric_registry, extra_metrics),
                }
            )
            for board in self.boards
        )
        return self.model_copy(update={"boards": boards})


def suite_names() -> list[str]:
    """The suites that come with the project."""
    return sorted(path.stem for path in SUITES.glob("*.toml"))


def load_suite(name_or_path: str | Path) -> Suite:
    """Reads a suite by name (``smoke``) or from a TOML file.

    Raises:
        UnknownNameError: neither a suite's name nor a file.
        BadInputError: the file is no TOML or a value is wrong; the text names file, key, value and what is allowed.
    """
    path = Path(name_or_path)
    if path.suffix != ".toml":
        path = SUITES / f"{name_or_path}.toml"
        if not path.is_file():
            raise UnknownNameError("suite", str(name_or_path), suite_names())
    if not path.is_file():
        raise BadInputError(
            f"no suite file at {path}; give a file ending in .toml or one of {', '.join(suite_names())}."
        )
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInputError(f"{path} is not valid TOML: {error}.") from None
    return parse_suite(table, str(path))


def parse_suite(table: dict[str, Any], origin: str = "suite") -> Suite:
    """A suite from a TOML table; ``origin`` names it in errors.

    Raises:
        BadInputError: every problem found, one a line.
    """
    try:
        return Suite.model_validate(table)
    except ValidationError as error:
        lines = [_problem(dict(e)) for e in error.errors()]
        raise BadInputError(f"{origin}: " + "\n".join(lines)) from None


def _problem(error: dict[str, Any]) -> str:
    where = ".".join(map(str, error["loc"]))
    if error["type"] == "extra_forbidden":
        key = str(error["loc"][-1])
        known = list((Board if "boards" in error["loc"] else Suite).model_fields)
        close = difflib.get_close_matches(key, known, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        return f"unknown key {where!r} (= {error['input']!r}).{hint} Allowed: {', '.join(known)}."
    if error["type"] == "missing":
        return f"key {where!r} is missing."
    message = str(error["msg"]).removeprefix("Value error, ")
    if not error["loc"]:
        return f"{message}."
    shown = "" if isinstance(error["input"], dict) else f" = {error['input']!r}"
    return f"key {where!r}{shown}: {message}."


def _refuse_repeats(where: str, names: Sequence[str]) -> None:
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"{', '.join(repeated)} stands twice in {where}; name each once")


def _refuse_lone_draws(where: str, specs: Sequence[Spec]) -> None:
    for spec in specs:
        if spec.draw and spec.method not in specs:
            raise ValueError(f"{spec} in {where} is another draw of {spec.method}, which must be named there too")


def _expand(
    specs: tuple[Spec, ...], registry: Registry, extra: Sequence[str], exclude: Sequence[str]
) -> tuple[Spec, ...]:
    named = [spec for spec in specs if spec.name != EVERYTHING]
    names = {spec.name for spec in named}
    added = [name for name in extra if name not in names]
    if len(named) < len(specs):
        everything = [*registry.names(), *registry.broken]
        known = {*names, *added, *exclude}
        added += [name for name in everything if name not in known and _runs_bare(registry, name)]
    result = (*named, *(Spec(name) for name in added))
    for spec in result:
        if not isinstance(broken(registry, spec), Broken):
            registry.create(spec.method)
    return result


def _runs_bare(registry: Registry, name: str) -> bool:
    if name in registry.broken:
        return True
    plugin = registry.get(name)
    if getattr(plugin, "status", "") == "test" or getattr(plugin, "cost", "") == "slow":
        return False
    try:
        registry.create(name)
    except BadInputError:
        return False
    return True


def broken(registry: Registry, spec: Spec) -> Broken | None:
    """Why the plug-in of a spec could not be loaded; None when it could.

    Raises:
        UnknownNameError: no plug-in bears the name.
    """
    try:
        registry.get(spec.name)
    except UnknownNameError:
        raise
    except VitxaiError:
        return registry.broken[spec.name]
    return None
