"""The training loop, its augmentations and its initial weights, on models small enough to reason about."""

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from vitxai.bench.contract import BadInputError, UnknownNameError
from vitxai.bench.initialise import initialise, sine_positions
from vitxai.models.augmentation import (
    AFFINE_RANGES,
    AUGMENTATIONS,
    MAX_SHIFT,
    PHOTO_RANGES,
    affine,
    dihedral,
    mirror,
    photo,
    shift,
)
from vitxai.models.optimise import (
    EpochRecord,
    LabelledInputs,
    Schedule,
    SquaredError,
    best_epoch,
    class_weights,
    optimise,
    predict,
)
from vitxai.models.spectral import SpectralViT


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def brightness(n: int) -> LabelledInputs:
    """Dark images are class 0, bright ones class 1."""
    labels = torch.arange(n) % 2
    return LabelledInputs(
        torch.randn(n, 1, 4, 4, generator=generator()) + 4.0 * labels[:, None, None, None] - 2, labels
    )


def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 2))


def test_a_separable_task_is_learned_and_the_log_says_so():
    module = linear()
    records = optimise(
        module,
        brightness(64),
        brightness(32),
        Schedule(epochs=15, batch_size=16, learning_rate=0.05),
        classes=2,
        seed=0,
    )
    assert [record.epoch for record in records] == list(range(15))
    assert records[-1].validation_accuracy == 1.0
    assert records[-1].fit_loss < records[0].fit_loss
    assert not module.training


def test_the_weights_of_the_best_epoch_stay():
    module, validation, snapshots = linear(), brightness(16), []
    schedule = Schedule(epochs=8, batch_size=8, learning_rate=3.0, clip=100.0)  # so high that the loss jumps about

    records = optimise(
        module, brightness(32), validation, schedule, classes=2, seed=0,
        progress=lambda record: snapshots.append(module[1].weight.detach().clone()),
    )  # fmt: skip
    torch.testing.assert_close(module[1].weight.detach(), snapshots[best_epoch(records)])
    loss = nn.functional.cross_entropy(predict(module, validation.inputs, 8), validation.labels).item()
    assert loss == pytest.approx(min(record.validation_loss for record in records))


def test_training_stops_when_patience_is_exhausted():
    frozen = Schedule(epochs=50, batch_size=16, learning_rate=1e-12, patience=3)
    module = nn.Sequential(nn.Flatten(), nn.Linear(16, 2, bias=False))
    nn.init.zeros_(module[1].weight)
    records = optimise(module, brightness(16), brightness(16), frozen, classes=2, seed=0)
    assert len(records) - 1 - best_epoch(records) <= 3
    assert len(records) < 50


def test_the_earlier_of_equally_good_epochs_is_best():
    records = [EpochRecord(epoch, 0, 0, loss, 0, 0) for epoch, loss in enumerate([0.5, 0.2, 0.3, 0.2])]
    assert best_epoch(records) == 1


def test_same_seed_same_weights_another_seed_others():
    def weights(seed: int) -> torch.Tensor:
        module = linear()
        schedule = Schedule(epochs=2, batch_size=8, augmentation="dihedral")
        optimise(module, brightness(32), brightness(8), schedule, classes=2, seed=seed)
        return module[1].weight.detach()

    torch.testing.assert_close(weights(1), weights(1), rtol=0, atol=0)
    assert not torch.equal(weights(1), weights(2))


def test_fewer_samples_than_a_batch_make_one_step():
    records = optimise(linear(), brightness(6), brightness(4), Schedule(epochs=1, batch_size=32), classes=2, seed=0)
    assert len(records) == 1


def test_class_weights_give_each_class_that_occurs_the_same_say():
    # 3 samples of class 0 and 1 of class 2: weights 4 / (2 * 3) and 4 / (2 * 1); class 1 does not occur.
    weights = class_weights(torch.tensor([0, 0, 0, 2]), 3)
    torch.testing.assert_close(weights, torch.tensor([2 / 3, 0.0, 2.0]))


def test_an_infinite_loss_is_an_error_that_names_the_learning_rate():
    poisoned = LabelledInputs(torch.full((8, 1, 4, 4), torch.nan), torch.arange(8) % 2)
    with pytest.raises(BadInputError, match="learning rate"):
        optimise(linear(), poisoned, brightness(8), Schedule(epochs=1, batch_size=8), classes=2, seed=0)


@pytest.mark.parametrize(("fit", "validation", "missing"), [(0, 4, "fit"), (4, 0, "validation")])
def test_an_empty_split_is_refused(fit, validation, missing):
    with pytest.raises(BadInputError, match=f"needs {missing} samples"):
        optimise(linear(), brightness(fit), brightness(validation), Schedule(), classes=2, seed=0)


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"batch_size": 0}, {"patience": 0}])
def test_a_schedule_without_steps_is_refused(wrong):
    with pytest.raises(BadInputError, match="at least 1"):
        Schedule(**wrong)


class Stop(Exception):
    """Ends a training from its progress."""


def stop_after(epoch: int):
    def told(record: EpochRecord) -> None:
        if record.epoch == epoch:
            raise Stop

    return told


def dropping() -> nn.Module:
    """Draws from torch's global generator, and has a frozen part and a buffer that training changes."""
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Flatten(), nn.Dropout(0.3), nn.Linear(32, 8), nn.Linear(8, 2)
    )
    module[5].requires_grad_(False)
    return module


@pytest.mark.parametrize("policy", ["one_cycle", "cosine", "step", "constant"])
@pytest.mark.parametrize("stopped", [0, 2, 4])
def test_a_resumed_run_is_bit_for_bit_the_uninterrupted_one(policy, stopped, tmp_path):
    schedule = Schedule(
        epochs=5, batch_size=8, learning_rate=0.05, augmentation="dihedral", policy=policy, step_epochs=2
    )
    arguments = {"classes": 2, "seed": 4}
    whole = dropping()
    torch.manual_seed(1)
    expected = optimise(whole, brightness(30), brightness(12), schedule, **arguments)

    state, first = tmp_path / "deep" / "state", dropping()
    torch.manual_seed(1)
    with pytest.raises(Stop):
        optimise(first, brightness(30), brightness(12), schedule, **arguments, resume=state,
                 progress=stop_after(stopped))  # fmt: skip
    assert state.is_file()
    again = dropping()
    torch.manual_seed(99)  # whatever the process that goes on has drawn before
    records = optimise(again, brightness(30), brightness(12), schedule, **arguments, resume=state)
    assert not state.exists()
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], tensor, rtol=0, atol=0)
    for one, other in zip(expected, records, strict=True):
        assert (one.fit_loss, one.validation_loss, one.learning_rate) == (
            other.fit_loss, other.validation_loss, other.learning_rate,
        )  # fmt: skip


def test_the_state_of_another_training_is_refused(tmp_path):
    state = tmp_path / "state"
    schedule = Schedule(epochs=3, batch_size=8)
    with pytest.raises(Stop):
        optimise(linear(), brightness(16), brightness(8), schedule, classes=2, seed=0, resume=state,
                 progress=stop_after(0))  # fmt: skip
    with pytest.raises(BadInputError, match="another training"):
        optimise(linear(), brightness(16), brightness(8), schedule, classes=2, seed=1, resume=state)
    assert state.is_file()


def test_the_state_of_another_module_is_refused(tmp_path):
    state = tmp_path / "state"
    schedule = Schedule(epochs=3, batch_size=8)
    with pytest.raises(Stop):
        optimise(linear(), brightness(16), brightness(8), schedule, classes=2, seed=0, resume=state,
                 progress=stop_after(0))  # fmt: skip
    with pytest.raises(BadInputError, match="another training"):
        optimise(dropping(), brightness(16), brightness(8), schedule, classes=2, seed=0, resume=state)


@pytest.mark.parametrize("changed", ["samples", "frozen weights"])
def test_the_state_of_a_training_on_other_samples_or_another_backbone_is_refused(changed, tmp_path):
    state, schedule = tmp_path / "state", Schedule(epochs=3, batch_size=8)
    with pytest.raises(Stop):
        optimise(dropping(), brightness(16), brightness(8), schedule, classes=2, seed=0, resume=state,
                 progress=stop_after(0))  # fmt: skip
    module, samples = dropping(), brightness(16)
    with torch.no_grad():
        (samples.inputs if changed == "samples" else module[5].weight)[0] += 1.0
    with pytest.raises(BadInputError, match="another training"):
        optimise(module, samples, brightness(8), schedule, classes=2, seed=0, resume=state)


def rates(**options) -> list[float]:
    schedule = Schedule(batch_size=8, learning_rate=0.1, **options)
    records = optimise(linear(), brightness(16), brightness(8), schedule, classes=2, seed=0)
    return [record.learning_rate for record in records]


def test_learning_rates_by_hand():
    # Two steps an epoch; a record has the rate with which its epoch began.
    assert rates(epochs=3, policy="constant") == pytest.approx([0.1, 0.1, 0.1])
    steps = rates(epochs=5, policy="step", step_epochs=2, step_factor=0.7)
    assert steps == pytest.approx([0.1, 0.1, 0.07, 0.07, 0.049])
    cosine = [0.05 * (1 + torch.cos(torch.tensor(torch.pi * epoch / 4)).item()) for epoch in range(4)]
    assert rates(epochs=4, policy="cosine") == pytest.approx(cosine)
    rising = rates(epochs=4, policy="one_cycle", warmup=0.5)
    assert rising[0] < rising[1] < rising[2] > rising[3]


def test_an_unknown_policy_is_refused_by_name():
    with pytest.raises(UnknownNameError, match="cosine"):
        Schedule(policy="cosinus")


def test_a_linear_trait_is_regressed_and_the_accuracy_is_r_squared():
    inputs = torch.randn(128, 1, 4, 4, generator=generator())
    traits = torch.stack([3 * inputs.mean((1, 2, 3)) + 1, inputs[:, 0, 0, 0] - 2], dim=1)
    data, held_out = LabelledInputs(inputs[:96], traits[:96]), LabelledInputs(inputs[96:], traits[96:])
    module = linear()
    schedule = Schedule(epochs=60, batch_size=16, learning_rate=0.05, weight_decay=0.0)
    records = optimise(module, data, held_out, schedule, objective=SquaredError(), seed=0)
    assert records[best_epoch(records)].validation_accuracy > 0.99
    outputs = predict(module, held_out.inputs, 8)
    residual = (outputs - held_out.labels).square().sum(0)
    total = (held_out.labels - held_out.labels.mean(0)).square().sum(0)
    expected = (1 - residual / total).mean().item()
    assert records[best_epoch(records)].validation_accuracy == pytest.approx(expected, abs=1e-5)


def test_squared_error_by_hand():
    # One trait: errors 1 and 1 around a truth of variance 4: R2 = 1 - 2 / 8. Its loss is 1.
    loss, r2 = SquaredError().judged(torch.tensor([[1.0], [3.0]]), torch.tensor([[0.0], [4.0]]))
    assert (loss, r2) == (1.0, 0.75)


def test_amp_learns_too_and_its_passes_are_in_bfloat16():
    seen = []
    module = linear()
    module[1].register_forward_hook(lambda _, __, output: seen.append(output.dtype))
    schedule = Schedule(epochs=15, batch_size=16, learning_rate=0.05, amp=True)
    records = optimise(module, brightness(64), brightness(32), schedule, classes=2, seed=0)
    assert records[best_epoch(records)].validation_accuracy == 1.0
    assert set(seen) == {torch.bfloat16, torch.float32}  # in steps, and in the validation that decides
    assert module[1].weight.dtype == torch.float32


def test_an_unknown_augmentation_is_refused_by_name():
    with pytest.raises(UnknownNameError, match="dihedral"):
        Schedule(augmentation="dihedrall")


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_augmentations_keep_shape_and_repeat_with_their_generator(name):
    images = torch.randn(6, 3, 8, 8, generator=generator())
    first, again = (AUGMENTATIONS[name](images, generator(3)) for _ in range(2))
    assert first.shape == images.shape
    torch.testing.assert_close(first, again, rtol=0, atol=0)


def test_mirror_turns_left_and_right_of_some_images():
    images = torch.arange(4.0).expand(64, 1, 4, 4)
    rows = mirror(images, generator())[:, 0, 0].tolist()
    assert {tuple(row) for row in rows} == {(0.0, 1.0, 2.0, 3.0), (3.0, 2.0, 1.0, 0.0)}


def test_dihedral_reaches_the_eight_positions_of_a_square():
    images = torch.arange(4.0).reshape(1, 1, 2, 2).expand(200, 1, 2, 2)
    placed = {tuple(image.flatten().tolist()) for image in dihedral(images, generator())}
    assert placed == {
        (0, 1, 2, 3), (2, 0, 3, 1), (3, 2, 1, 0), (1, 3, 0, 2), (1, 0, 3, 2), (3, 1, 2, 0), (2, 3, 0, 1), (0, 2, 1, 3),
    }  # fmt: skip


def test_shift_moves_by_at_most_its_range_and_continues_the_border():
    images = torch.arange(20.0)[:, None].expand(100, 1, 20, 20)  # the value of a pixel is its row
    top = shift(images, generator())[:, 0, 0, 0]
    bottom = shift(images, generator())[:, 0, -1, 0]
    assert set(top.tolist()) == set(range(MAX_SHIFT + 1))
    assert set(bottom.tolist()) == set(range(19 - MAX_SHIFT, 20))


def test_affine_changes_stay_within_their_ranges():
    # A bright bar of 8 x 2 pixels in the middle: its mass and its centre of mass tell size, shear and shift.
    image = torch.zeros(1, 1, 32, 32)
    image[..., 12:20, 15:17] = 1.0
    moved = affine(image.expand(200, 1, 32, 32), generator())[:, 0]
    assert (moved - image[0, 0]).abs().amax((1, 2)).min() > 0
    mass = moved.sum((1, 2)) / 16
    assert mass.min() > 0.7
    assert mass.max() < 1.4
    rows = torch.arange(32.0) - 15.5
    centre = (moved.sum(2) * rows).sum(1) / moved.sum((1, 2))
    assert centre.abs().max() < AFFINE_RANGES[4] * 1.2
    assert centre.std() > 1.5


def test_photo_mirrors_half_of_the_images_and_enlarges_a_crop():
    # Columns count from -1 to 1, so that a straight crop would keep 7/8 of their range; turns mix in some of the rows.
    columns = torch.linspace(-1, 1, 32).expand(200, 3, 32, 32)
    changed = photo(columns, generator())
    slope = changed[..., -4:].mean((1, 2, 3)) - changed[..., :4].mean((1, 2, 3))
    assert 60 < (slope < 0).sum() < 140
    size = slope.abs() / (columns[0, 0, 0, -4:].mean() - columns[0, 0, 0, :4].mean())
    assert size.min() > 0.875 * (1 - PHOTO_RANGES[2]) * 0.9
    assert size.max() < 0.875 * (1 + PHOTO_RANGES[2]) * 1.05


def test_photo_keeps_grey_images_grey_and_changes_brightness_by_its_range():
    grey = torch.zeros(300, 3, 8, 8)
    changed = photo(grey, generator())
    assert (changed - changed.mean(1, keepdim=True)).abs().max() < 1e-6
    assert changed.abs().max() <= PHOTO_RANGES[1]
    assert changed.abs().max() > 0.9 * PHOTO_RANGES[1]


def test_queries_and_keys_begin_near_a_multiple_of_identity():
    model = VisionTransformer(img_size=16, patch_size=4, embed_dim=32, depth=1, num_heads=1, num_classes=2)
    initialise(model, generator())
    query, key, value = model.blocks[0].attn.qkv.weight.detach().view(3, 32, 32)
    expected = 0.7 * torch.eye(32)
    noise = query.T @ key - expected
    assert noise.std().item() == pytest.approx(0.7 / 32**0.5, rel=0.15)
    assert (query.T @ key).diagonal().mean().item() == pytest.approx(0.7, abs=0.1)
    assert (model.blocks[0].attn.proj.weight @ value).diagonal().mean().item() == pytest.approx(-0.4, abs=0.1)


def test_positions_and_groups_begin_apart():
    model = SpectralViT(groups=((0,), (1,), (2,)), img_size=16, patch_size=4, embed_dim=32, num_heads=2, num_classes=2)
    initialise(model, generator())
    for embedding, n in ((model.pos_embed[0, 0], 16), (model.group_embed[0, :, 0], 3)):
        assert embedding.shape == (n, 32)
        assert (torch.cdist(embedding, embedding) + torch.eye(n)).min() > 0.1


def test_sine_positions_by_hand():
    # D = 4: one frequency of 1; the row (y, x) = (1, 2) of a 2 x 3 grid.
    expected = torch.tensor([2.0, 2.0, 1.0, 1.0])
    expected = torch.stack([expected[0].sin(), expected[1].cos(), expected[2].sin(), expected[3].cos()])
    torch.testing.assert_close(sine_positions((2, 3), 4)[5], expected)
