"""The gate sees fifteen seeded mistakes, and is silent when nothing changed but threads, order and processes."""

from __future__ import annotations

import runpy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

MODULE = runpy.run_path(str(Path(__file__).with_name("run_mutants.py")))
MUTANTS = MODULE["mutants"]()


def test_every_mutant_still_applies() -> None:
    for mutant in MUTANTS:
        source = (MODULE["ROOT"] / mutant.file).read_text(encoding="utf-8")
        assert source.count(mutant.old) == 1, mutant.name


def test_mutants_of_a_batch_are_looked_for_in_different_places() -> None:
    places = [(m.batch, m.explainer, m.figure) for m in MUTANTS]
    assert len(set(places)) == len(MUTANTS) == 15


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    return {mutant.name: verdict for mutant, verdict in MODULE["hunt"](tmp_path_factory.mktemp("mutants"))}


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", [mutant.name for mutant in MUTANTS])
def test_the_gate_sees(name: str, found: Mapping[str, Any]) -> None:
    assert found[name].status == "regression"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_only_what_a_mutant_touches_is_computed_again(found: Mapping[str, Any]) -> None:
    """The first batch touches six of the explainers, one of which stands in the suite twice."""
    computed = found["sign flipped"].computed
    assert computed["explanation"] == 7
    assert "probe" not in computed


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_pair_of_equal_runs_raises_no_alarm(tmp_path: Path) -> None:
    pairs: Callable[..., Any] = MODULE["pairs"]
    verdicts = dict(pairs(tmp_path, seeds=1))
    assert {what: verdict.status for what, verdict in verdicts.items()} == {
        "seed 0, two processes, work shuffled": "ok",
        "seed 0, two threads": "ok",
    }
