"""Keys: everything that can change a number changes them, nothing else does."""

from __future__ import annotations

import dataclasses
import hashlib
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vitxai.bench.contract import BadInputError, Spec, explainers
from vitxai.bench.keys import SCHEMA, CellKeys, Setting, canonical_json, key_of, plugin_identity
from vitxai.bench.source import _digest, _file_of, _folders, _parsed, source_digest

SETTING = Setting(
    dataset=Spec("tiny_squares"),
    model=Spec("file", {"path": "x.pt"}),
    dataset_hash="data",
    weights_hash="weights",
    target="prediction",
    seed=0,
    validation_n=8,
    environment={"device": "cpu", "dtype": "float32", "batch_size": 4, "threads": 1, "max_rows": 64},
)
METHOD = '''"""Doc."""
from .core import scale
import json

def f(x):
    """Doc."""
    return scale(x)
'''
METHOD_RETOLD = '''"""Another."""

# why
from .core import (
    scale,
)
import json
def f(x):
    "Told anew."
    return scale( x )
'''
IDS = ("test/000", "test/001")
GRADIENT, NOISE, MASS = Spec("tiny_gradient"), Spec("tiny_noise"), Spec("tiny_mass")


@pytest.fixture
def keys(tiny_plugins: object) -> CellKeys:
    return CellKeys(SETTING)


def test_canonical_json_is_the_same_for_the_same_values() -> None:
    assert canonical_json({"b": 1, "a": (1, 2)}) == canonical_json({"a": [1, 2], "b": 1}) == '{"a":[1,2],"b":1}'
    assert canonical_json({"p": Path("a/b"), "s": frozenset({2, 1})}) == '{"p":"a/b","s":[1,2]}'
    assert canonical_json(0.1) == "0.1"
    assert canonical_json(1) != canonical_json(1.0)


@pytest.mark.parametrize("value", [float("nan"), object(), {"x": lambda: 0}])
def test_what_has_no_canonical_form_is_refused(value: Any) -> None:
    with pytest.raises(BadInputError, match="cannot be part of a key"):
        canonical_json(value)


def test_keys_are_stable_and_kinds_do_not_collide() -> None:
    text = f'{{"a":1,"kind":"score","schema":{SCHEMA}}}'
    assert key_of("score", {"a": 1}) == hashlib.sha256(text.encode()).hexdigest()
    assert key_of("score", {"a": 1}) != key_of("probe", {"a": 1})
    assert len(key_of("score", {})) == 64


def test_equal_settings_give_equal_keys_in_another_object(keys: CellKeys) -> None:
    again = CellKeys(dataclasses.replace(SETTING))
    assert keys.explanation(GRADIENT, IDS, None) == again.explanation(GRADIENT, IDS, None)


@pytest.mark.parametrize("module", ["load", "preprocess", "tape"])
def test_code_between_weights_and_plug_ins_counts(
    keys: CellKeys, module: str, tiny_plugins: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = f"vitxai.models.{module}"
    monkeypatch.setattr(
        "vitxai.bench.keys.source_digest", lambda name: "changed" if name == changed else source_digest(name)
    )
    assert CellKeys(SETTING).explanation(GRADIENT, IDS, None) != keys.explanation(GRADIENT, IDS, None)


@pytest.mark.parametrize(
    "change",
    [
        {"model": Spec("file", {"path": "y.pt"})},
        {"dataset_hash": "other"},
        {"weights_hash": "other"},
        {"target": "label"},
        {"seed": 1},
        {"environment": {**SETTING.environment, "device": "cuda"}},
        {"environment": {**SETTING.environment, "batch_size": 1}},
        {"dataset": Spec("tiny_squares", {"seed": 3})},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_part_of_the_setting_counts(keys: CellKeys, change: dict[str, Any]) -> None:
    other = CellKeys(dataclasses.replace(SETTING, **change))
    assert keys.explanation(GRADIENT, IDS, None) != other.explanation(GRADIENT, IDS, None)
    assert keys.model_score(MASS, IDS, None, None) != other.model_score(MASS, IDS, None, None)
    assert keys.probe("clean", IDS) != other.probe("clean", IDS)


def test_parameters_count_by_value_not_by_spelling(keys: CellKeys) -> None:
    plain = keys.explanation(GRADIENT, IDS, None)
    assert keys.explanation(Spec("tiny_gradient", {"scale": "1"}), IDS, None) == plain  # the default, spelt out
    assert keys.explanation(Spec("tiny_gradient", {"scale": 2.0}), IDS, None) != plain


def test_samples_fit_and_explainer_count(keys: CellKeys) -> None:
    plain = keys.explanation(GRADIENT, IDS, None)
    assert keys.explanation(GRADIENT, IDS[:1], None) != plain
    assert keys.explanation(GRADIENT, IDS, "fit") != plain
    assert keys.explanation(NOISE, IDS, None) != plain


def test_another_draw_has_keys_of_its_own(keys: CellKeys) -> None:
    first, second = Spec.parse("tiny_noise@1"), Spec.parse("tiny_noise@2")
    assert len({keys.explanation(spec, IDS, None) for spec in (NOISE, first, second)}) == 3
    assert len({keys.fit(spec) for spec in (NOISE, first, second)}) == 3


def test_a_score_hangs_on_its_explanation_and_on_whose_model(keys: CellKeys) -> None:
    plain = keys.score(MASS, "e", own=False)
    assert plain != keys.score(MASS, "f", own=False)
    assert plain != keys.score(MASS, "e", own=True)
    assert plain != keys.score(Spec("tiny_drop"), "e", own=False)


def test_validation_size_counts_for_fits_alone(keys: CellKeys) -> None:
    other = CellKeys(dataclasses.replace(SETTING, validation_n=16))
    assert keys.fit(GRADIENT) != other.fit(GRADIENT)
    assert keys.explanation(GRADIENT, IDS, None) == other.explanation(GRADIENT, IDS, None)


def test_one_fit_serves_all_readouts(keys: CellKeys) -> None:
    literal, kept = Spec("focus"), Spec("focus", {"readout": "kept_mass", "band_share": True})
    assert keys.fit(literal) == keys.fit(kept)
    assert keys.explanation(literal, IDS, "fit") != keys.explanation(kept, IDS, "fit")
    assert keys.fit(literal) != keys.fit(Spec("focus", {"depth": "deep"}))


def test_costs_belong_to_a_machine(keys: CellKeys) -> None:
    assert keys.cost(GRADIENT, None, "here") != keys.cost(GRADIENT, None, "there")


def test_files_that_an_explainer_reads_are_part_of_its_keys(tmp_path: Path) -> None:
    path = tmp_path / "maps.npz"
    np.savez(path, ids=np.array(["a"]), native=np.zeros((1, 4, 4)))
    spec = Spec("precomputed", {"path": str(path)})
    before = plugin_identity(explainers, spec)
    np.savez(path, ids=np.array(["a"]), native=np.ones((1, 4, 4)))
    assert plugin_identity(explainers, spec) != before


class TestSource:
    """Digests of source."""

    @pytest.fixture
    def digest(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
        """Digest of module ``acme.method`` with its two neighbours written as given."""
        monkeypatch.syspath_prepend(tmp_path)
        package = tmp_path / "acme"
        package.mkdir()
        files = {
            "__init__": "",
            "method": METHOD,
            "core": "from . import deep\n\ndef scale(x):\n    return 2 * x\n",
            "deep": "VALUE = 1\n",
            "unused": "OTHER = 1\n",
        }

        def write_and_digest(**changes: str) -> str:
            for name, text in {**files, **changes}.items():
                (package / f"{name}.py").write_text(text)
            for cached in (_digest, _file_of, _folders, _parsed):
                cached.cache_clear()
            return source_digest("acme.method")

        yield write_and_digest
        for name in [name for name in sys.modules if name.partition(".")[0] == "acme"]:
            del sys.modules[name]
        for cached in (_digest, _file_of, _folders, _parsed):
            cached.cache_clear()

    def test_docstrings_comments_and_layout_do_not_count(self, digest: Callable[..., str]) -> None:
        assert digest() == digest(method=METHOD_RETOLD)

    @pytest.mark.parametrize(
        "change",
        [
            {"method": "from .core import scale\n\ndef f(x):\n    return scale(x) + 0.0\n"},
            {"core": "from . import deep\n\ndef scale(x):\n    return 3 * x\n"},
            {"deep": "VALUE = 2\n"},
        ],
        ids=["the module", "what it imports", "what that imports"],
    )
    def test_code_counts_transitively(self, digest: Callable[..., str], change: dict[str, str]) -> None:
        assert digest() != digest(**change)

    def test_neighbours_that_are_not_imported_do_not_count(self, digest: Callable[..., str]) -> None:
        assert digest() == digest(unused="OTHER = 2\n")

    def test_a_string_that_is_no_docstring_counts(self, digest: Callable[..., str]) -> None:
        assert digest(deep="VALUE = 'a'\n") != digest(deep="VALUE = 'b'\n")

    def test_imports_inside_functions_count(self, digest: Callable[..., str]) -> None:
        lazily = {"method": "def f(x):\n    from .core import scale\n    return scale(x)\n"}
        assert digest(**lazily) != digest(**lazily, core="def scale(x):\n    return 5 * x\n")

    def test_threads_may_ask_at_once(self, digest: Callable[..., str]) -> None:
        expected = digest()
        for cached in (_digest, _file_of, _folders, _parsed):
            cached.cache_clear()
        with ThreadPoolExecutor(8) as pool:
            assert set(pool.map(source_digest, ["acme.method"] * 16)) == {expected}

    def test_a_module_without_a_file_has_no_digest(self) -> None:
        with pytest.raises(BadInputError, match="no source file"):
            source_digest("not_a_module_anywhere")

    def test_a_method_depends_on_the_contract_and_on_no_other_method(self) -> None:
        from vitxai.bench.source import _modules

        modules = set(_modules("vitxai.explainers.rollout"))
        assert "vitxai.bench.contract.explanation" in modules
        public = {m for m in modules if m.startswith("vitxai.explainers.") and not m.split(".")[-1].startswith("_")}
        assert public == {"vitxai.explainers.rollout"}
        assert not any(m.startswith("vitxai.bench.") and not m.startswith("vitxai.bench.contract") for m in modules)

    def test_nothing_is_imported_to_find_a_module(self) -> None:
        """A run that reuses everything must not wait for timm, neither for its keys nor for listing plug-ins."""
        code = (
            "import sys\n"
            "from vitxai.bench.contract import explainers, metrics\n"
            "from vitxai.bench.source import source_digest\n"
            "source_digest('vitxai.models.load'), explainers.names(), metrics.names()\n"
            "print([name for name in ('timm', 'captum', 'skimage', 'quantus') if name in sys.modules])"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "[]"
