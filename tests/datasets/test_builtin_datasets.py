"""The built-in data sets as the engine sees them: ids, labels, truths, and hashes that change when samples may."""

import numpy as np
import pytest

from vitxai.bench.contract import BadInputError, UnknownNameError, datasets
from vitxai.datasets._leaf_scene import noise_sigma
from vitxai.datasets._source_digest import source_digest

SPECS = ["leaves", "glyphs"]
TRUTHS = ("mask", "distractors", "leaf", "bands", "healed")


@pytest.fixture(params=SPECS)
def dataset(request):
    return datasets.create(request.param)


def test_supply_has_no_end_and_grows_at_the_end_only(dataset):
    assert list(dataset.ids("test", 2)) == ["test/00000", "test/00001"]
    assert list(dataset.ids("fit", 3000))[:2048] == list(dataset.ids("fit"))
    assert len(dataset.ids("validation")) == 512
    assert len(dataset.ids("test")) == 1024


def test_labels_are_balanced_over_consecutive_ids(dataset):
    classes = len(dataset.info().classes)
    assert [dataset.sample(id).label for id in dataset.ids("test", classes)] == list(range(classes))


def test_samples_carry_the_truths_that_the_facts_promise(dataset):
    info = dataset.info()
    sample = dataset.sample("test/00001")
    height, width = sample.input.shape[1:]
    assert sample.id == "test/00001"
    assert sample.input.shape[0] == info.channels
    assert sample.input.dtype == np.float32
    assert {name for name in TRUTHS if getattr(sample, name) is not None} == info.has - {"labels"}
    assert sample.mask.shape == sample.distractors.shape == (height, width)
    assert sample.mask.any()
    assert not (sample.mask & sample.distractors).any()


def test_healing_touches_all_of_the_evidence_and_next_to_nothing_of_the_distractors(dataset):
    sample = dataset.sample("test/00002")
    change = np.abs(sample.input - sample.healed).max(0)
    assert (change[sample.mask] > 0).all()
    assert change[sample.mask].mean() > 5 * change[sample.distractors].mean()


def test_a_sample_is_a_pure_function_of_its_id(dataset):
    first = dataset.sample("validation/00007")
    dataset.sample("test/00003")
    np.testing.assert_array_equal(first.input, dataset.sample("validation/00007").input)


def test_splits_differ(dataset):
    inputs = [dataset.sample(f"{split}/00001").input for split in ("fit", "validation", "test")]
    assert not np.array_equal(inputs[0], inputs[1])
    assert not np.array_equal(inputs[1], inputs[2])


@pytest.mark.parametrize("id", ["test/1", "train/00001", "00001", "test/00001x"])
def test_an_unknown_id_is_refused_by_name(dataset, id):
    with pytest.raises(BadInputError, match=id):
        dataset.sample(id)


def test_an_unknown_split_is_refused(dataset):
    with pytest.raises(UnknownNameError, match="validation"):
        dataset.ids("train")


def test_a_negative_count_is_refused(dataset):
    with pytest.raises(BadInputError, match="-1"):
        dataset.ids("test", -1)


@pytest.mark.parametrize("name", SPECS)
def test_parameters_change_samples_and_hash(name):
    base, other, large = (datasets.create(spec) for spec in (name, f"{name},seed=5", f"{name},size=96"))
    assert len({base.content_hash(), other.content_hash(), large.content_hash()}) == 3
    assert base.content_hash() == datasets.create(name).content_hash()
    assert not np.array_equal(base.sample("test/00000").input, other.sample("test/00000").input)
    assert large.sample("test/00000").input.shape[1:] == (96, 96)


def test_leaves_of_every_class_but_healthy_have_band_truth():
    leaves = datasets.create("leaves")
    largest = [leaves.sample(id).bands.max() for id in leaves.ids("test", 4)]
    assert largest[0] == 0
    assert min(largest[1:]) > 0.02
    assert len(leaves.info().wavelengths) == leaves.info().channels == 56


def test_source_digest_ignores_comments_docstrings_and_layout_but_not_code(tmp_path, monkeypatch):
    def digest(text: str) -> str:
        package = tmp_path / f"scenes_{abs(hash(text))}"
        package.mkdir()
        (package / "__init__.py").write_text("")
        (package / "scene.py").write_text(text)
        return source_digest(package.name, ["scene.py"])

    monkeypatch.syspath_prepend(tmp_path)
    plain = digest("A = 1\ndef f(x):\n    return x + A\n")
    assert digest('"""Doc."""\nA = 1  # why\n"""Of A."""\ndef f(x):\n    """Doc."""\n    return (x +\n  A)\n') == plain
    assert digest("A = 2\ndef f(x):\n    return x + A\n") != plain
    assert digest("A = 1\ndef f(x):\n    return x - A\n") != plain


def test_further_noise_is_that_of_the_sensor_and_lies_on_the_healed_cube_too():
    plain, noisy = datasets.create("leaves"), datasets.create("leaves,noise=2")
    id = "test/00001"
    before, after = plain.sample(id), noisy.sample(id)
    assert after.input.dtype == np.float32
    further = after.input - before.input
    np.testing.assert_allclose(further, after.healed - before.healed, atol=1e-6)
    expected = 2 * noise_sigma(np.array(plain.info().wavelengths))
    measured = (further / np.sqrt(0.3 + np.clip(before.healed, 0, 1))).std(axis=(1, 2))
    np.testing.assert_allclose(measured, expected, rtol=0.1)
    np.testing.assert_array_equal(noisy.sample(id).input, after.input)
    elsewhere = noisy.sample("test/00002").input - plain.sample("test/00002").input
    assert abs(np.corrcoef(further[5].ravel(), elsewhere[5].ravel())[0, 1]) < 0.1
    assert noisy.content_hash() != plain.content_hash() == datasets.create("leaves,noise=0").content_hash()
    for name in ("mask", "bands", "leaf", "distractors"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name))
    with pytest.raises(BadInputError, match="noise"):
        datasets.create("leaves,noise=-1")
