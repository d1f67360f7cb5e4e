"""From samples to a batch in the model's space, and back."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from vitxai.bench.contract import BadInputError, Sample
from vitxai.models.handle import wrap
from vitxai.models.preprocess import collate, denormalise, normalise

MODEL = wrap(
    VisionTransformer(img_size=8, patch_size=4, embed_dim=8, depth=1, num_heads=2, in_chans=2, num_classes=3),
    mean=(0.5, 0.25),
    std=(0.5, 2.0),
)


def sample(id="test/0", size=(8, 8), **facts):
    pixels = np.arange(2 * size[0] * size[1], dtype=np.float32).reshape(2, *size) / 100
    return Sample(**{"id": id, "input": pixels, "label": 1, **facts})


def test_inputs_are_normalised_per_channel():
    batch = collate([sample(input=np.ones((2, 8, 8), np.float32))], MODEL)
    assert batch.inputs.shape == (1, 2, 8, 8)
    assert torch.equal(batch.inputs[0, 0], torch.full((8, 8), 1.0))  # (1 - .5) / .5
    assert torch.equal(batch.inputs[0, 1], torch.full((8, 8), 0.375))  # (1 - .25) / 2


def test_zero_in_normalised_space_is_the_mean_colour():
    raw = denormalise(MODEL, torch.zeros(1, 2, 1, 1))
    assert raw.flatten().tolist() == [0.5, 0.25]


def test_denormalise_inverts_normalise():
    raw = torch.rand(3, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(denormalise(MODEL, normalise(MODEL, raw)), raw)


def test_a_sample_of_the_models_size_is_not_touched_by_the_resize():
    batch = collate([sample()], MODEL)
    torch.testing.assert_close(denormalise(MODEL, batch.inputs)[0], torch.from_numpy(sample().input))


def test_images_shrink_with_antialiasing():
    checkers = np.indices((16, 16)).sum(0) % 2
    image = np.stack([checkers, checkers]).astype(np.float32)
    raw = denormalise(MODEL, collate([sample(input=image)], MODEL).inputs)
    assert (raw[..., 1:-1, 1:-1] - 0.5).abs().max() < 0.02


def test_masks_are_resized_to_the_nearest_pixel():
    mask = np.zeros((16, 16), bool)
    mask[:8, 8:] = True
    batch = collate([sample(size=(16, 16), mask=mask)], MODEL)
    expected = torch.zeros(8, 8, dtype=torch.bool)
    expected[:4, 4:] = True
    assert batch.mask.dtype == torch.bool
    assert torch.equal(batch.mask[0], expected)


def test_a_truth_that_one_sample_lacks_is_none_for_the_batch():
    mask = np.ones((8, 8), bool)
    batch = collate([sample(mask=mask, leaf=mask), sample("test/1", leaf=mask)], MODEL)
    assert batch.mask is None
    assert batch.leaf.shape == (2, 8, 8)
    assert (batch.ignore, batch.distractors, batch.bands, batch.healed) == (None,) * 4


def test_all_truths_arrive():
    mask = np.eye(8, dtype=bool)
    healed, bands = np.zeros((2, 8, 8), np.float32), np.array([0, 2], np.float32)
    batch = collate([sample(mask=mask, ignore=mask, distractors=mask, leaf=mask, healed=healed, bands=bands)], MODEL)
    assert all(
        torch.equal(m[0], torch.eye(8).bool()) for m in (batch.mask, batch.ignore, batch.distractors, batch.leaf)
    )
    assert batch.bands.tolist() == [[0, 2]]
    assert batch.healed[0, :, 0, 0].tolist() == [-1.0, -0.125]


def test_targets_are_the_labels_until_chosen():
    samples = [sample(), sample("test/1", label=None)]
    assert collate(samples, MODEL).labels.tolist() == [1, -1]
    assert collate(samples, MODEL).targets.tolist() == [1, -1]
    chosen = collate(samples, MODEL, targets=[2, 0])
    assert (chosen.targets.tolist(), chosen.labels.tolist()) == ([2, 0], [1, -1])
    assert chosen.targets.dtype == chosen.labels.dtype == torch.int64


def test_inputs_follow_the_models_dtype():
    model = replace(MODEL, module=VisionTransformer(img_size=8, patch_size=4, embed_dim=8, num_heads=2).double())
    assert collate([sample(bands=np.ones(2, np.float32))], model).inputs.dtype == torch.float64
    assert collate([sample(bands=np.ones(2, np.float32))], model).bands.dtype == torch.float32


def test_samples_are_not_changed():
    one = sample(size=(16, 16))
    before = one.input.copy()
    collate([one], MODEL).inputs.add_(1)
    assert np.array_equal(one.input, before)


def test_a_row_does_not_depend_on_its_batch():
    samples = [sample(), sample("test/1", size=(16, 12)), sample("test/2", size=(5, 9))]
    whole = collate(samples, MODEL)
    for row, one in enumerate(samples):
        assert torch.equal(collate([one], MODEL).inputs[0], whole.inputs[row])


NAN = np.full((2, 8, 8), np.nan, np.float32)


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        ({"input": np.zeros((3, 8, 8), np.float32)}, r"input of sample 'bad' has shape \(3, 8, 8\)"),
        ({"input": np.zeros((8, 8), np.float32)}, r"input of sample 'bad' has shape \(8, 8\)"),
        ({"input": np.zeros((2, 0, 8), np.float32)}, "input of sample 'bad' has shape"),
        ({"input": NAN}, "input of sample 'bad' holds NaN"),
        ({"healed": NAN}, "healed of sample 'bad' holds NaN"),
        ({"healed": np.zeros((2, 4, 4), np.float32)}, "healed of sample 'bad' has shape"),
        ({"mask": np.zeros((4, 4), bool)}, r"mask of sample 'bad' has shape \(4, 4\), its input \(8, 8\)"),
        ({"bands": np.ones(3, np.float32)}, "bands of sample 'bad' must be 2 finite values"),
        ({"bands": -np.ones(2, np.float32)}, "bands of sample 'bad' must be 2 finite values"),
    ],
)
def test_bad_samples_are_named(facts, text):
    with pytest.raises(BadInputError, match=text):
        collate([sample("bad", **facts)], MODEL)


def test_empty_batches_and_wrong_counts_of_targets_are_refused():
    with pytest.raises(BadInputError, match="at least one sample"):
        collate([], MODEL)
    with pytest.raises(BadInputError, match="1 samples need as many targets"):
        collate([sample()], MODEL, targets=[0, 1])
