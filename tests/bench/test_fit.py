"""`bench fit`: an artefact that is the fit of a suite, goes on after a stop, and is used by name."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from typer.testing import CliRunner, Result

from vitxai.bench import fitting
from vitxai.bench.cell import load_cell
from vitxai.bench.cell_plan import setting_of
from vitxai.bench.cli import app
from vitxai.bench.contract import BadInputError, Spec, explainers
from vitxai.bench.fitting import FitConfig, fit_explainer
from vitxai.bench.keys import CellKeys
from vitxai.bench.tasks import Cell
from vitxai.models import fit_files
from vitxai.models.fit_files import HEADER_KEY

LEARNER = Path(__file__).parent / "plugins" / "tiny_learner.py"


@pytest.fixture
def config(tiny_plugins: tuple[Path, ...], tiny_models: tuple[str, str], tmp_path: Path) -> FitConfig:
    model, data = Spec.parse(tiny_models[0]), Spec("tiny_squares")
    plugins = (*(path.resolve() for path in tiny_plugins), LEARNER)
    return FitConfig(
        Spec("tiny_learner"), model, data, tmp_path / "learned.safetensors", 8, device="cpu", plugins=plugins
    )


def bench(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)


def words(config: FitConfig) -> list[object]:
    plugins = [word for path in config.plugins for word in ("--plugin", path)]
    return ["--model", config.model, "--dataset", config.dataset, "--out", config.out, "--device", "cpu", *plugins]


def header(path: Path) -> dict:
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()[HEADER_KEY])


def test_the_command_tells_each_epoch_and_writes_what_it_learned(config: FitConfig) -> None:
    result = bench("fit", "tiny_learner", *words(config), "--validation", 6)
    assert result.exit_code == 0
    lines = [line for line in result.stdout.splitlines() if line.startswith("epoch ")]
    assert len(lines) == 3
    assert all(word in lines[0] for word in ("fit loss", "validation loss", "accuracy", "sink mass 1.0125"))
    assert f"tiny_learner,artefact={config.out}" in result.stdout.replace("\n", "")
    told = header(config.out)
    assert told["facts"]["validation_samples"] == 6
    assert told["facts"]["log"][2]["epoch"] == 2
    assert (
        told["command"] == f"bench fit tiny_learner --model {config.model} --dataset tiny_squares "
        "--validation 6 --seed 0"
    )
    assert not config.state.exists()


def test_a_suite_that_names_the_artefact_explains_as_if_it_had_fitted_itself(
    config: FitConfig, run_tiny: object, make_suite: object, tmp_path: Path
) -> None:
    fit_explainer(config)
    named = f"tiny_learner,artefact={config.out}"
    suite = make_suite(explainers=["tiny_learner", named], metrics=["tiny_mass", "tiny_accuracy"])  # type: ignore[operator]
    run = run_tiny(suite, tmp_path / "run", plugins=(LEARNER,))  # type: ignore[operator]
    assert not run.failures
    values = {
        name: run.scores.loc[run.scores["explainer"] == name, "value"].reset_index(drop=True)
        for name in ("tiny_learner", named)
    }
    assert len(values[named]) >= 16
    assert values[named].equals(values["tiny_learner"])
    facts = {fit["explainer"]: fit["facts"] for fit in run.facts["fits"]}
    assert facts[named]["artefact"] == config.out.name
    assert facts[named]["log"] == facts["tiny_learner"]["log"]


def test_a_fit_that_was_stopped_goes_on_to_the_same_weights(config: FitConfig, tmp_path: Path) -> None:
    whole = fit_explainer(config)

    def stop(record: object) -> None:
        if record.epoch == 1:  # type: ignore[attr-defined]
            raise KeyboardInterrupt

    resumed = FitConfig(**{**vars(config), "out": tmp_path / "again.safetensors"})
    with pytest.raises(KeyboardInterrupt):
        fit_explainer(resumed, stop)
    assert resumed.state.is_file()
    assert not resumed.out.exists()
    epochs: list[int] = []
    fit_explainer(resumed, lambda record: epochs.append(record.epoch))
    assert epochs == [2]
    assert not resumed.state.exists()
    again = load_file(resumed.out)
    assert again.keys() == whole.tensors.keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in whole.tensors.items())


def test_an_interrupted_command_says_how_to_go_on(config: FitConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(config: FitConfig, progress: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(fitting, "fit_explainer", interrupted)
    result = bench("fit", "tiny_learner", *words(config))
    assert result.exit_code == 130
    assert f"the same command goes on from {config.state}" in result.output


def test_an_artefact_that_ships_never_takes_the_place_of_a_new_fit(
    config: FitConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit_explainer(config)
    monkeypatch.setattr(fit_files, "shipped_files", lambda explainer: [config.out])
    assert "artefact" not in fit_explainer(FitConfig(**{**vars(config), "out": config.out.with_name("new")})).facts


@pytest.mark.parametrize(
    ("explainer", "told"),
    [
        ("tiny_gradient", "learns nothing"),
        ("tiny_fitted", "no parameter 'artefact'"),
        ("tiny_learner,artefact=there.safetensors", "leave artefact out to fit anew"),
    ],
)
def test_what_cannot_be_fitted_says_why(config: FitConfig, explainer: str, told: str) -> None:
    with pytest.raises(BadInputError, match=told):
        fit_explainer(FitConfig(**{**vars(config), "explainer": Spec.parse(explainer)}))


def cell_of(config: FitConfig, model: Spec) -> Cell:
    return Cell(
        "b", "", config.dataset, model, 1, 1, 4, "prediction", 0, 2.0, 1, 8, "cpu",
        config.out.parent / "store", config.plugins,
    )  # fmt: skip


def test_what_was_fitted_for_another_seed_of_the_data_or_model_is_refused(
    config: FitConfig, tiny_models: tuple[str, str]
) -> None:
    fit_explainer(config)
    named = Spec("tiny_learner", {"artefact": str(config.out)})
    work, facts = load_cell(cell_of(config, Spec.parse(tiny_models[1])))
    with pytest.raises(BadInputError, match="fitted with another weights"):
        fit_files.obtain_fit(explainers.create(named), work.frozen.model, work.context(), facts.dataset_hash)


def test_a_changed_artefact_meets_no_stored_scores(config: FitConfig) -> None:
    """All keys after a fit hold the fit's."""
    cell = cell_of(config, config.model)
    keys = CellKeys(setting_of(cell, load_cell(cell)[1]))
    named = Spec("tiny_learner", {"artefact": str(config.out)})
    with pytest.raises(BadInputError, match="no artefact at"):
        keys.fit(named)
    fit_explainer(config)
    before = keys.fit(named)
    assert keys.fit(named) == before != keys.fit(Spec("tiny_learner"))
    fit_explainer(replace(config, seed=1))
    assert keys.fit(named) != before


def test_one_that_ships_is_part_of_the_fits_key_where_it_is_taken(
    config: FitConfig, tiny_models: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fit_explainer(config)
    keys = [CellKeys(setting_of(cell, load_cell(cell)[1]))
            for cell in (cell_of(config, Spec.parse(model)) for model in tiny_models)]  # fmt: skip
    learner, other = Spec("tiny_learner"), Spec("tiny_learner", {"epochs": 2})
    before = [(of.fit(learner), of.fit(other), of.fit(Spec("tiny_fitted"))) for of in keys]
    monkeypatch.setattr(fit_files, "shipped_files", lambda explainer: [config.out])
    after = [(of.fit(learner), of.fit(other), of.fit(Spec("tiny_fitted"))) for of in keys]
    assert after[0][0] != before[0][0]
    assert after[0][1:] == before[0][1:], "of other parameters, and of another explainer"
    assert after[1] == before[1], "of another model"
