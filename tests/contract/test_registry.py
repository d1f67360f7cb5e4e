"""Names, parameters and broken plug-ins."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from vitxai.bench.contract import (
    BadInputError,
    Explainer,
    Registry,
    Spec,
    UnknownNameError,
    Values,
    VitxaiError,
)
from vitxai.bench.contract.registry import _declare


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry[Explainer]:
    package = tmp_path / "plugins_under_test"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "broken.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    registry: Registry[Explainer] = Registry("explainer", "plugins_under_test", Explainer)

    class Tuned(Explainer):
        steps: int = 50
        fusion: Literal["mean", "max"] = "mean"

    _declare(registry, "tuned", Tuned)
    return registry


def test_parameters_get_their_types(registry: Registry[Explainer]) -> None:
    tuned = registry.create("tuned,steps=20,fusion=max")
    assert (tuned.steps, tuned.fusion) == (20, "max")  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ("tuned,step=3", "no parameter 'step'. It takes: steps, fusion"),
        ("tuned,steps=many", "steps='many'"),
        ("tuned,fusion=min", "'mean' or 'max'"),
        ("tuned,steps", "not key=value"),
        ("tuned,steps=1,steps=2", "given twice"),
        ("", "does not begin with a name"),
    ],
)
def test_wrong_parameters_are_named(registry: Registry[Explainer], spec: str, text: str) -> None:
    with pytest.raises(BadInputError, match=text):
        registry.create(spec)


def test_unknown_names_get_a_suggestion(registry: Registry[Explainer]) -> None:
    with pytest.raises(UnknownNameError, match=r"unknown explainer 'tuend'\. Did you mean tuned"):
        registry.get("tuend")


def test_a_broken_file_is_a_row_and_names_its_cause(registry: Registry[Explainer]) -> None:
    assert registry.names() == ["tuned"]
    assert "ZeroDivisionError" in registry.broken["broken"].error
    with pytest.raises(VitxaiError, match="could not be loaded"):
        registry.get("broken")


def test_a_second_owner_of_a_name_is_refused(registry: Registry[Explainer]) -> None:
    class Other(Explainer):
        pass

    Other.__module__ = "elsewhere"
    with pytest.raises(VitxaiError, match="defined twice"):
        registry.add("tuned", Other)


def test_names_and_bases_are_checked(registry: Registry[Explainer]) -> None:
    with pytest.raises(VitxaiError, match="snake_case"):
        registry.add("Tuned-2", Explainer)
    with pytest.raises(VitxaiError, match="must derive from Explainer"):
        registry.add("other", int)  # type: ignore[arg-type]


def test_a_spec_prints_as_it_is_typed_and_travels() -> None:
    spec = Spec.parse("focus,tokens=fused, depth=deep")
    assert str(spec) == "focus,tokens=fused,depth=deep"
    assert Spec.parse({"name": "focus", "tokens": "fused", "depth": "deep"}) == spec
    assert pickle.loads(pickle.dumps(spec)) == spec
    drawn = Spec.parse("focus@2,tokens=fused,depth=deep")
    assert str(drawn) == "focus@2,tokens=fused,depth=deep"
    assert Spec.parse({"name": "focus@2", "tokens": "fused", "depth": "deep"}) == drawn
    assert pickle.loads(pickle.dumps(drawn)) == drawn
    assert drawn != spec
    assert drawn.method == spec


@pytest.mark.parametrize("text", ["focus@", "focus@0", "focus@-1", "focus@one", "@1", "focus@1@2"])
def test_draws_are_counted_from_one(text: str) -> None:
    with pytest.raises(BadInputError, match="NAME@1"):
        Spec.parse(text)


def test_draws_are_for_suites(registry: Registry[Explainer]) -> None:
    name = registry.names()[0]
    with pytest.raises(BadInputError, match=f"{name}@1.*suite"):
        registry.create(f"{name}@1")


def test_every_nan_needs_a_reason() -> None:
    good = Values.of([1.0, 2.0], undefined={"empty mask": [False, True], "constant map": [True, True]})
    assert np.isnan(good.values).all()
    assert good.reasons == ("constant map", "empty mask")
    with pytest.raises(BadInputError, match=r"rows \[1\] are not finite"):
        Values.of([1.0, float("inf")])
