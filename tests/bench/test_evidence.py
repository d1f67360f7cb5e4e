"""Evidence of what a model rests on, with models whose answer is known, and the card written from it."""

import numpy as np
import pytest
import torch
from torch import nn

from vitxai.bench.contract import BadInputError, Dataset, DatasetInfo, Sample
from vitxai.bench.evidence import Accuracy, band_share, evidence, top_bands
from vitxai.bench.model_card import card
from vitxai.models.handle import wrap


class Spots(Dataset):
    """Four bands, 2x2 pixels: class 1 has a bright spot in band 2 (fully) and band 3 (a little), class 0 has none."""

    def info(self) -> DatasetInfo:
        return DatasetInfo(("plain", "spot"), 4, frozenset({"labels", "bands", "healed"}), "none", "none")

    def ids(self, split, count=None):
        return [f"{split}/{index}" for index in range(count or 0)]

    def sample(self, id: str) -> Sample:
        healed = np.zeros((4, 2, 2), np.float32)
        label, bands = int(id.split("/")[1]) % 2, np.zeros(4, np.float32)
        if label:
            bands = np.array([0, 0, 1.0, 0.25], np.float32)
        picture = healed.copy()
        picture[:, 0, 0] += bands
        return Sample(id, picture, label=label, bands=bands, healed=healed)


class ReadsBand(nn.Module):
    """Logit of class 1: 20 times the spot in one band, less 10."""

    def __init__(self, band: int) -> None:
        super().__init__()
        self.band, self.anchor = band, nn.Parameter(torch.zeros(1))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        spot = 20 * inputs[:, self.band, 0, 0] - 10 + self.anchor
        return torch.stack([torch.zeros_like(spot), spot], dim=1)


def reader(band: int):
    return wrap(ReadsBand(band), mean=[0.0] * 4, std=[1.0] * 4, input_size=(2, 2))


def test_wilson_interval_by_hand():
    # 8 of 10: centre (0.8 + 0.19207) / 1.38415, half width 0.22653.
    low, high = Accuracy(8, 10).interval()
    assert (low, high) == (pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))


@pytest.mark.parametrize(("correct", "bounds"), [(0, (0.0, 0.0370)), (100, (0.9630, 1.0))])
def test_wilson_interval_at_the_ends_stays_within_0_and_1(correct, bounds):
    assert Accuracy(correct, 100).interval() == pytest.approx(bounds, abs=1e-4)


def test_bands_by_share_of_the_largest_change_and_by_rank():
    sample = Sample("x", np.zeros((4, 2, 2), np.float32), bands=np.array([0.1, 0.5, 1.0, 0.5], np.float32))
    assert band_share(sample, 0.5).tolist() == [False, True, True, True]
    assert top_bands(sample, 0.5).tolist() == [False, True, True, False]


def test_a_model_that_reads_the_truth_band_falls_when_and_only_when_that_band_is_healed():
    found = evidence([reader(2)], Spots(), 20, 20)[0]
    (row,) = found.rows
    high, low = pytest.approx(1.0, abs=1e-3), pytest.approx(0.0, abs=1e-3)
    assert found.accuracy == Accuracy(20, 20)
    assert (row.label, row.samples, row.correct, row.halved) == ("spot", 10, 10, 10)
    assert row.probability == {
        "original": high,
        "healed": low,
        "healed_truth_bands": low,
        "healed_other_bands": high,
        "healed_top_quarter": low,
        "healed_other_three_quarters": high,
    }


def test_a_model_that_reads_nothing_of_the_spot_is_not_moved_by_healing():
    (row,) = evidence([reader(0)], Spots(), 8, 8)[0].rows
    assert len(set(row.probability.values())) == 1
    assert (row.correct, row.halved) == (0, 0)


def test_causal_rows_use_their_own_number_of_samples():
    found = evidence([reader(2)], Spots(), 12, 4)[0]
    assert found.accuracy.n == 12
    assert found.rows[0].samples == 2


def test_models_measured_together_are_measured_as_alone():
    together = evidence([reader(2), reader(3)], Spots(), 70, 10)
    assert together == [evidence([model], Spots(), 70, 10)[0] for model in (reader(2), reader(3))]


@pytest.mark.parametrize(("count", "causal"), [(4, 5), (0, 0), (4, -1)])
def test_impossible_numbers_of_samples_are_refused(count, causal):
    with pytest.raises(BadInputError, match="at least one sample"):
        evidence([reader(2)], Spots(), count, causal)


def test_the_card_shows_the_figures_of_its_records():
    row = {"label": "spot", "samples": 10, "probability": {"original": 0.91, "healed": 0.04}, "correct": 9, "halved": 8}
    split = {"correct": 19, "n": 20}
    training = {
        "command": "bench train spots --seed 4",
        "phases": [
            {"scenes": "plain", "fit_samples": 64, "best_epoch": 2, "schedule": {"epochs": 3, "augmentation": "none"}}
        ],
        "data_hash": "spots-1",
        "accuracy": {"validation": split, "test": split},
    }
    model = {
        "model": "spots", "seed": 4, "bytes": 1500, "parameters": 12345, "tokens": 17, "weights_hash": "abcdef0123456",
        "accuracy": {"n": 1000, "share": 0.971, "low": 0.9587, "high": 0.9797}, "causal": [row], "training": training,
    }  # fmt: skip
    text = card({"command": "make card", "models": [model]})
    assert "| spots | 4 | 0.971 | 0.959 to 0.980 | 1000 | 12,345 | 17 | 2 | `abcdef012345` |" in text
    assert "| seed | class | scenes | original | healed | halved |" in text
    assert "| 4 | spot | 10 | 0.910 | 0.040 | 8/9 |" in text
    assert (
        "`bench train spots --seed 4`: 3 epochs on 64 plain scenes (none augmentation; best epoch 2). Validation"
        in text
    )
