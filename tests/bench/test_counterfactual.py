"""Counterfactual scenes: what changes in which band, and what label it leaves."""

import numpy as np
import pytest

from vitxai.bench.contract import BadInputError, Dataset, DatasetInfo, Sample
from vitxai.bench.counterfactual import counterfactual_samples


class Lesions(Dataset):
    """Three bands of one pixel: class 1 changes band 0 by 1, class 2 band 1, both band 2 by 3/8; class 0 nothing."""

    truth = True
    classes = ("healthy", "first", "second")

    def info(self) -> DatasetInfo:
        return DatasetInfo(self.classes, 3, frozenset({"labels", "bands", "healed"}), "none", "none")

    def ids(self, split, count=None):
        return [f"{split}/{index}" for index in range(count)]

    def sample(self, id: str) -> Sample:
        label = self.label(int(id.split("/")[1]))
        bands = np.zeros(3, np.float32)
        if label:
            bands[label - 1], bands[2] = 1.0, 0.375
        healed = np.full((3, 1, 1), 5.0, np.float32)
        picture = healed + bands[:, None, None]
        return Sample(id, picture, label=label, bands=bands if self.truth else None, healed=healed)

    def label(self, index: int) -> int:
        return index % 3


class AllIll(Lesions):
    def label(self, index: int) -> int:
        return 1 + index % 2


class WithoutBandTruth(Lesions):
    truth = False


def spectra(samples) -> list[tuple[int, list[float]]]:
    return [(sample.label, np.round(sample.input[:, 0, 0], 3).tolist()) for sample in samples]


def test_each_class_takes_turns_as_it_is_without_its_truth_bands_and_with_these_alone():
    found = spectra(counterfactual_samples(Lesions(), "fit", 12))
    assert found[0::3] == [(0, [5.0, 5.0, 5.0])] * 4
    assert found[1::3] == [
        (1, [6.0, 5.0, 5.375]),
        (0, [5.0, 5.0, 5.375]),
        (1, [6.0, 5.0, 5.0]),
        (1, [6.0, 5.0, 5.375]),
    ]
    assert found[2::3] == [
        (2, [5.0, 6.0, 5.375]),
        (0, [5.0, 5.0, 5.375]),
        (2, [5.0, 6.0, 5.0]),
        (2, [5.0, 6.0, 5.375]),
    ]


def test_more_samples_leave_the_first_ones_as_they_were():
    few, many = (spectra(counterfactual_samples(Lesions(), "fit", count)) for count in (7, 12))
    assert many[:7] == few


@pytest.mark.parametrize(("dataset", "text"), [(AllIll(), "class without"), (WithoutBandTruth(), "band truth")])
def test_data_that_cannot_say_what_healing_means_are_refused(dataset, text):
    dataset.name = "lesions"
    with pytest.raises(BadInputError, match=text):
        list(counterfactual_samples(dataset, "fit", 6))
