"""The shipped models: they load, they are what their records say, and they decide by the evidence."""

import json
from functools import cache

import pytest
import torch

from vitxai.bench.contract import BadInputError, UnknownNameError, datasets
from vitxai.bench.evidence import evidence
from vitxai.bench.model_card import CARD, DATA_SEED, RECORDS, card
from vitxai.bench.trainable import channel_statistics
from vitxai.models.builtin import BUILTIN_MODELS, load_builtin
from vitxai.models.checkpoint import read_description
from vitxai.models.load import load_model
from vitxai.models.shipped import SEEDS, checkpoint_folder, checkpoint_name

ALL = [(id, seed) for id in BUILTIN_MODELS for seed in SEEDS]
FEW_SCENES = {"leaves": 16, "glyphs": 40}
WITH_EVIDENCE = {"leaves": {"chlorosis", "necrosis", "water_stress"}, "glyphs": {*"0123456789"}}


@cache
def records() -> dict:
    return json.loads((checkpoint_folder() / RECORDS).read_text(encoding="utf-8"))


def record(id: str, seed: int) -> dict:
    (found,) = [model for model in records()["models"] if (model["model"], model["seed"]) == (id, seed)]
    return found


@pytest.mark.parametrize(("id", "seed"), ALL)
def test_a_shipped_model_is_the_one_in_the_records(id, seed):
    model, shown = load_model(f"builtin,id={id},seed={seed}"), record(id, seed)
    path = checkpoint_folder() / checkpoint_name(id, seed)
    assert model.weights_hash == shown["weights_hash"]
    assert path.stat().st_size == shown["bytes"] < 1_000_000
    assert not model.module.training
    assert {tensor.dtype for tensor in model.module.state_dict().values()} == {torch.float32}
    assert sum(parameter.numel() for parameter in model.module.parameters()) == shown["parameters"]


@pytest.mark.parametrize(("id", "seed"), ALL)
def test_it_was_made_by_a_recorded_command_on_the_data_of_today(id, seed):
    training = read_description(checkpoint_folder() / checkpoint_name(id, seed)).training
    today = datasets.create(training["data"]).content_hash()
    assert training["command"] == f"bench train {id} --seed {seed}"
    assert training["data_hash"].split("-")[:-1] == today.split("-")[:-1]  # generator, version, seed and size
    assert all(len(phase["log"]) == phase["schedule"]["epochs"] for phase in training["phases"])
    assert record(id, seed)["training"]["accuracy"] == training["accuracy"]
    assert record(id, seed)["data_today"] == {"content_hash": today, "same_scenes": True}


@pytest.mark.parametrize("id", ["leaves_fused", "glyphs"])
def test_todays_scenes_have_the_channel_statistics_that_the_model_was_trained_with(id):
    description = read_description(checkpoint_folder() / checkpoint_name(id, 0))
    fit_samples = description.training["phases"][0]["fit_samples"]
    mean, std = channel_statistics(datasets.create(description.training["data"]), fit_samples)
    assert mean == pytest.approx(description.mean, rel=1e-6)
    assert std == pytest.approx(description.std, rel=1e-6)


@pytest.mark.parametrize(("id", "seed"), ALL)
def test_measured_accuracy_on_fresh_scenes_is_at_least_nine_in_ten(id, seed):
    accuracy = record(id, seed)["accuracy"]
    assert accuracy["n"] >= 1000
    assert accuracy["correct"] >= 0.9 * accuracy["n"]


@pytest.mark.parametrize(("id", "seed"), ALL)
def test_in_the_records_every_class_of_every_model_falls_with_its_evidence(id, seed):
    rows = record(id, seed)["causal"]
    name = BUILTIN_MODELS[id].dataset
    assert {row["label"] for row in rows} == WITH_EVIDENCE[name]
    for row in rows:
        p = row["probability"]
        assert p["healed"] < 0.5 * p["original"], row
        if name == "leaves":
            assert p["healed_top_quarter"] < 0.5 * p["original"], row
            assert p["healed_other_three_quarters"] > 0.85 * p["original"], row


@pytest.mark.parametrize("id", BUILTIN_MODELS)
def test_the_truth_is_the_truth(id):
    """p(class) collapses with the evidence, and with its truth bands alone; healing elsewhere changes little."""
    name = BUILTIN_MODELS[id].dataset
    scenes = FEW_SCENES[name]
    (found,) = evidence([load_model(f"builtin,id={id}")], datasets.create(f"{name},seed={DATA_SEED}"), scenes, scenes)
    assert found.accuracy.share >= 0.85
    weights = [row.samples for row in found.rows]

    def mean(change: str) -> float:
        return sum(row.probability[change] * row.samples for row in found.rows) / sum(weights)

    assert mean("original") > 0.7
    assert mean("healed") < 0.3
    assert sum(row.halved for row in found.rows) >= 0.8 * sum(row.correct for row in found.rows)
    assert {row.label for row in found.rows} == WITH_EVIDENCE[name]
    if name == "leaves":
        assert mean("healed_top_quarter") < 0.3
        assert mean("healed_other_three_quarters") > 0.6
        assert mean("healed_truth_bands") < 0.5
        assert mean("healed_other_bands") > 0.6


def test_the_model_card_is_written_from_the_records():
    assert (checkpoint_folder() / CARD).read_text(encoding="utf-8") == card(records())


def test_the_spectral_model_has_a_token_a_patch_and_group():
    geometry = load_model("builtin,id=leaves_spectral").geometry
    assert (geometry.grid, geometry.prefix, len(geometry.groups), geometry.tokens) == ((6, 6), 1, 7, 253)
    assert all(len(group) == 8 for group in geometry.groups)


def test_seeds_give_different_weights():
    hashes = {model["weights_hash"] for model in records()["models"]}
    assert len(hashes) == len(ALL)


def test_an_unknown_model_is_refused_by_name():
    with pytest.raises(UnknownNameError, match="leaves_spectral"):
        load_builtin("leaves_spectre")


def test_a_seed_that_does_not_ship_is_refused_with_the_command_that_makes_it():
    with pytest.raises(BadInputError, match="bench train glyphs --seed 9"):
        load_builtin("glyphs", 9)
