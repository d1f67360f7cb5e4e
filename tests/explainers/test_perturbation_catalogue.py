"""occlusion, feature_ablation, lime, kernel_shap, rise, vit_cx against Captum, scikit-learn and their definitions."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from captum.attr import FeatureAblation, Occlusion
from skimage.segmentation import quickshift, slic
from skimage.transform import resize
from timm.models.cait import Cait
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from timm.models.xcit import Xcit
from torch import nn

from vitxai.bench.context import EngineContext
from vitxai.bench.contract import BadInputError, Batch, TokenGeometry, UnsupportedError, explainers
from vitxai.bench.profile import count_passes
from vitxai.explainers._superpixels import features_of
from vitxai.explainers.kernel_shap import coalitions
from vitxai.explainers.vit_cx import scaled
from vitxai.models.handle import wrap

KINDS = [
    "class_token",
    "mean_pooled",
    "mean_pooled_with_class_token",
    "map_pooled",
    "distilled",
    "registers",
    "layer_scale",
    "spectral",
]
FEW_KINDS = ["class_token", "map_pooled", "spectral"]
SPECS = [
    "occlusion,budget=20",
    "occlusion,window=3,stride=2,baseline=blur,output=logit,sigma=0.5",
    "feature_ablation,budget=17",
    "feature_ablation,features=quickshift,baseline=blur,sigma=0.5,output=probability",
    "lime,segments=8,budget=21",
    "lime,features=patch,baseline=mean,output=logit,budget=30",
    "lime,features=slic,segments=6,baseline=blur,sigma=0.5,budget=20",
    "kernel_shap,segments=10,budget=60",
    "kernel_shap,features=patch,budget=53,baseline=blur,sigma=0.5,output=probability",
    "rise,budget=9",
    "rise,budget=9,cells=3,share=0.3,coverage=true",
    "vit_cx,budget=41",
    "vit_cx,threshold=0.3,budget=9,noise=0",
]


def explain(spec, model, batch, rows=64):
    return explainers.create(spec).explain(model, batch, EngineContext(max_rows=rows))


@pytest.fixture
def scenes(batch_for):
    """``batch_for`` with smooth pictures, which have superpixels."""

    def make(model, size=3):
        generator = torch.Generator().manual_seed(4)
        coarse = torch.randn(size, model.channels, 3, 3, generator=generator, dtype=torch.float64)
        smooth = torch.nn.functional.interpolate(coarse, size=model.input_size, mode="bilinear")
        return replace(batch_for(model, size), inputs=smooth)

    return make


def assert_same(found, wanted, tolerance=1e-9):
    scale = max(float(torch.as_tensor(wanted).abs().max()), 1e-12)
    torch.testing.assert_close(found, torch.as_tensor(wanted), rtol=0, atol=tolerance * scale)


def pixels(patches):
    """[h,w] -> [32,32] by copying, for 8 x 8 pixels a patch."""
    return torch.as_tensor(np.kron(patches.numpy(), np.ones((8, 8))))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spec", SPECS)
def test_a_batch_is_its_samples_whatever_the_rows_a_pass(spec, kind, tiny, scenes):
    model = tiny(kind)
    batch = scenes(model, 8)
    found = explain(spec, model, batch).native
    assert found.isfinite().all()
    assert found.dtype == torch.float64
    assert found.abs().sum() > 0
    for row in (0, 5):
        assert_same(explain(spec, model, batch.select([row]), rows=7).native[0], found[row])


@pytest.mark.parametrize("spec", SPECS)
def test_the_budget_of_passes_is_kept(spec, tiny, scenes):
    model = tiny()
    batch = scenes(model, 3)
    method = explainers.create(spec)
    with count_passes(model.module) as count:
        found = method.explain(model, batch, EngineContext(max_rows=16))
    assert 0 < count.forwards <= method.budget * len(batch)
    assert len(found) == 3
    # Full passes: rows of several samples share them.
    assert count.calls <= math.ceil(count.forwards / 16) + 2


@pytest.mark.parametrize("spec", SPECS)
def test_the_target_matters_and_the_seed_only_where_masks_are_drawn(spec, tiny, scenes):
    model = tiny()
    batch = scenes(model, 2)
    method = explainers.create(spec)
    found = method.explain(model, batch, EngineContext(seed=0)).native
    other = replace(batch, targets=(batch.targets + 1) % 5)
    assert not torch.equal(found, method.explain(model, other, EngineContext(seed=0)).native)
    reseeded = method.explain(model, batch, EngineContext(seed=1)).native
    drawn = spec.startswith(("lime", "kernel_shap", "rise", "vit_cx")) and "noise=0" not in spec
    assert torch.equal(found, reseeded) != drawn


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("spec", SPECS)
def test_the_callers_grad_mode_does_not_matter(spec, mode, tiny, scenes):
    model = tiny()
    batch = scenes(model, 1)
    tracked = replace(batch, inputs=batch.inputs.clone().requires_grad_())
    wanted = explain(spec, model, batch).native
    with mode():
        assert torch.equal(explain(spec, model, batch).native.clone(), wanted)
    found = explain(spec, model, tracked).native
    assert torch.equal(found, wanted)
    assert not found.requires_grad


def no_decision_row(family):
    size = {"img_size": 32, "num_classes": 5}
    with torch.random.fork_rng():
        torch.manual_seed(3)
        if family == "swin":
            module = SwinTransformer(**size, patch_size=4, embed_dim=8, depths=(1, 2), num_heads=(1, 2), window_size=2)
        elif family == "cait":
            module = Cait(**size, patch_size=8, embed_dim=16, depth=2, num_heads=2)
        else:
            module = Xcit(**size, patch_size=8, embed_dim=16, depth=2, num_heads=2, eta=1.0)
        for parameter in module.parameters():
            nn.init.normal_(parameter, std=0.3)
    return wrap(module.double(), mean=(0.5,) * 3, std=(0.25,) * 3)


@pytest.mark.parametrize("family", ["swin", "cait", "xcit"])
@pytest.mark.parametrize("spec", SPECS)
def test_models_without_a_decision_row_are_explained(spec, family, scenes):
    model = no_decision_row(family)
    assert model.geometry.pooling == "none"
    batch = scenes(model, 3)
    found = explain(spec, model, batch).native
    assert found.isfinite().all()
    assert found.abs().sum() > 0
    assert_same(explain(spec, model, batch.select([2])).native[0], found[2])


@pytest.mark.parametrize("spec", SPECS)
def test_a_model_without_token_grid_is_refused(spec, tiny, batch_for):
    model = tiny()
    with pytest.raises(UnsupportedError, match="do not lie on one grid"):
        explain(spec, replace(model, geometry=None), batch_for(model))


# occlusion and feature ablation: Captum


@pytest.mark.parametrize("kind", FEW_KINDS)
@pytest.mark.parametrize(("window", "stride"), [(1, 1), (2, 1), (2, 2), (3, 2), (4, 3), (5, 1)])
def test_occlusion_is_captums(kind, window, stride, tiny, batch_for):
    model = tiny(kind)
    batch = batch_for(model, 2)
    found = explain(f"occlusion,window={window},stride={stride},output=logit", model, batch, rows=5)
    assert found.layout == "token"
    side = min(window, 4) * 8
    wanted = Occlusion(model).attribute(
        batch.inputs,
        target=batch.targets,
        sliding_window_shapes=(model.channels, side, side),
        strides=(model.channels, stride * 8, stride * 8),
        baselines=0,
    )
    for row in range(2):
        for channel in range(model.channels):
            # Captum divides in float32.
            assert_same(pixels(found.native[row]), wanted[row, channel].double(), 1e-6)


def test_occlusion_by_hand(tiny, batch_for):
    """Every window of 3 x 3 patches at every second patch, the blurred input behind it, in probabilities."""
    model = tiny()
    batch = batch_for(model, 2)
    found = explain("occlusion,window=3,stride=2,baseline=blur,sigma=0.25", model, batch).native
    for row, target in enumerate(batch.targets.tolist()):
        image = batch.inputs[row]
        blurred = blur(image, 2.0)
        drops, cover = torch.zeros(4, 4, dtype=torch.float64), torch.zeros(4, 4, dtype=torch.float64)
        for top, left in itertools.product((0, 2), (0, 2)):
            hidden = image.clone()
            box = (slice(top * 8, (top + 3) * 8), slice(left * 8, (left + 3) * 8))
            hidden[(slice(None), *box)] = blurred[(slice(None), *box)]
            drop = model(image[None]).softmax(1)[0, target] - model(hidden[None]).softmax(1)[0, target]
            drops[top : top + 3, left : left + 3] += drop
            cover[top : top + 3, left : left + 3] += 1
        assert_same(found[row], drops / cover)


def blur(image, sigma):
    """Gaussian of 6 pixels' reach, one line at a time, reflected."""
    weights = [math.exp(-0.5 * (k / sigma) ** 2) for k in range(-6, 7)]

    def line(values):
        padded = np.pad(values, 6, mode="reflect")
        return sum(w * padded[k : k + len(values)] for k, w in enumerate(weights)) / sum(weights)

    return torch.as_tensor(np.apply_along_axis(line, 2, np.apply_along_axis(line, 1, image.numpy())))


def test_windows_that_leave_patches_out_or_cost_too_much_are_refused(tiny, batch_for):
    model = tiny()
    with pytest.raises(BadInputError, match="stride=2 leaves patches out between windows of 1"):
        explain("occlusion,window=1,stride=2", model, batch_for(model))
    with pytest.raises(UnsupportedError, match=r"9 windows and the input itself need 10 forward passes .* budget is 9"):
        explain("occlusion,budget=9", model, batch_for(model))
    with pytest.raises(UnsupportedError, match=r"16 features and the input itself need 17"):
        explain("feature_ablation,budget=16", model, batch_for(model))


@pytest.mark.parametrize("kind", FEW_KINDS)
@pytest.mark.parametrize("features", ["patch", "patch_group", "band", "slic"])
def test_feature_ablation_is_captums(kind, features, tiny, scenes):
    model = tiny(kind)
    batch = scenes(model, 2)
    spec = f"feature_ablation,features={features},segments=10"
    if features in ("patch_group", "band") and kind != "spectral":
        with pytest.raises(UnsupportedError, match=r"use features=patch"):
            explain(spec, model, batch)
        return
    found = explain(spec, model, batch, rows=6)
    layouts = {"patch": "token", "patch_group": "group_token", "band": "cube", "slic": "pixel"}
    assert found.layout == layouts[features]
    for row in range(2):
        mask = feature_mask(features, model, batch.inputs[row])
        wanted = FeatureAblation(model).attribute(
            batch.inputs[row : row + 1], target=int(batch.targets[row]), feature_mask=mask[None], baselines=0
        )[0]
        if features == "patch":
            wanted, native = wanted[0], pixels(found.native[row])
        elif features == "patch_group":
            wanted, native = wanted[[0, 3]], torch.stack([pixels(group) for group in found.native[row]])
        else:
            native = found.native[row].expand_as(wanted)
        assert_same(native, wanted)


def feature_mask(features, model, image):
    channels = image.shape[0]
    patches = pixels(torch.arange(16).view(4, 4)).long()
    if features == "patch":
        return patches.expand(channels, -1, -1)
    if features == "patch_group":
        return torch.stack([patches if band < 3 else patches + 16 for band in range(channels)])
    if features == "band":
        return torch.arange(channels).view(-1, 1, 1).expand(-1, 32, 32)
    labels = slic(false_colours(image), n_segments=10, start_label=0)
    return torch.as_tensor(labels).long().expand(channels, -1, -1)


def false_colours(image):
    """[H,W,3] in [0,1] by mean 0.5 and deviation 0.25; five bands in runs of 1, 2 and 2."""
    raw = (image * 0.25 + 0.5).clamp(0, 1)
    if len(raw) == 5:
        # Without known wavelengths the bands stand in order.
        raw = torch.stack([raw[0], raw[1:3].mean(0), raw[3:5].mean(0)])
    return raw.permute(1, 2, 0).numpy()


def test_signs_a_patch_that_carries_the_class_is_positive():
    model, batch = toy(lambda patches: patches[:, 3] - 2 * patches[:, 5])
    for spec in (
        "occlusion,window=1,output=logit",
        "feature_ablation",
        "lime,features=patch,baseline=mean,alpha=0.001",
    ):
        native = explain(spec, model, batch).native.flatten(1)
        assert (native[:, 3] > 0).all()
        assert (native[:, 5] < 0).all()


# features


def test_superpixels_are_skimages_on_the_raw_image(tiny, scenes):
    model = tiny()
    batch = scenes(model, 2)
    found = features_of(model, batch, "quickshift", 50)
    for row in range(2):
        wanted = quickshift(false_colours(batch.inputs[row]), kernel_size=4, max_dist=200, ratio=0.2)
        assert np.array_equal(found.labels[row, 0].numpy(), wanted)
        assert found.counts[row] == wanted.max() + 1


def test_false_colours_start_at_the_longest_wavelengths(tiny, scenes):
    model = replace(tiny("spectral"), wavelengths=(900.0, 500.0, 800.0, 600.0, 700.0))
    batch = scenes(model, 1)
    raw = (batch.inputs[0] * 0.25 + 0.5).clamp(0, 1)
    picture = torch.stack([raw[0], (raw[2] + raw[4]) / 2, (raw[3] + raw[1]) / 2]).permute(1, 2, 0).numpy()
    wanted = slic(picture, n_segments=12, start_label=0)
    assert np.array_equal(features_of(model, batch, "slic", 12).labels[0, 0].numpy(), wanted)


@pytest.mark.parametrize("channels", [1, 2])
def test_one_or_two_channels_have_superpixels_too(channels):
    model, batch = toy(lambda patches: patches[:, 0], channels=channels)
    found = features_of(model, batch, "slic", 5)
    assert min(found.counts) >= 2
    assert explain("lime,budget=9", model, batch).native.isfinite().all()


# LIME


def inputs_seen(spec, model, batch):
    """The map, and every input that went through the model, in order."""
    seen = []
    hook = model.module.register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
    try:
        found = explain(spec, model, batch, rows=64).native
    finally:
        hook.remove()
    return found, torch.cat(seen)


@pytest.mark.parametrize("kind", FEW_KINDS)
@pytest.mark.parametrize("features", ["patch", "slic"])
def test_lime_is_the_weighted_ridge_of_scikit_learn(kind, features, tiny, scenes):
    linear = pytest.importorskip("sklearn.linear_model")
    distances = pytest.importorskip("sklearn.metrics.pairwise")
    model = tiny(kind)
    batch = scenes(model, 2)
    found, seen = inputs_seen(f"lime,features={features},segments=10,budget=40", model, batch)
    seen = seen.view(2, 40, *batch.inputs.shape[1:])
    for row, target in enumerate(batch.targets.tolist()):
        image = batch.inputs[row]
        labels = feature_mask(features, model, image)[0]
        count = int(labels.max()) + 1
        assert count >= 8
        kept = np.zeros((40, count))
        for feature in range(count):
            where = labels == feature
            hidden = torch.stack([channel[where].mean() for channel in image])[:, None].expand(-1, int(where.sum()))
            for sample in range(40):
                shown = seen[row, sample][:, where]
                kept[sample, feature] = torch.equal(shown, image[:, where])
                assert kept[sample, feature] or torch.allclose(shown, hidden, rtol=0, atol=1e-12)
        assert kept[0].all()
        assert 0.35 < kept[1:].mean() < 0.65
        distance = distances.pairwise_distances(kept, kept[:1], metric="cosine").ravel()
        weights = np.sqrt(np.exp(-(distance**2) / 0.25**2))
        probabilities = model(seen[row]).softmax(1)[:, target].numpy()
        ridge = linear.Ridge(alpha=1.0, fit_intercept=True).fit(kept, probabilities, sample_weight=weights)
        wanted = torch.as_tensor(ridge.coef_)[labels]
        assert_same(pixels(found[row]) if features == "patch" else found[row], wanted)


def test_lime_is_the_authors_package(tiny, scenes):
    """The package's own surrogate on the package's own way from an image to superpixel weights."""
    lime_image = pytest.importorskip("lime.lime_image")
    model = tiny()
    batch = scenes(model, 1)
    target = int(batch.targets[0])
    picture = false_colours(batch.inputs[0])
    batch = replace(batch, inputs=((torch.as_tensor(picture).permute(2, 0, 1)[None] - 0.5) / 0.25))
    labels = slic(picture, n_segments=12, start_label=0)
    count = labels.max() + 1
    generator = EngineContext().generator(batch.ids[0], "lime")
    kept = torch.randint(2, (60, int(count)), generator=generator)

    class Draws:
        def randint(self, low, high, size=None):
            if size is None:
                return 0  # the package seeds its own segmenter with it
            assert (low, high, size) == (0, 2, 60 * count)
            return kept.numpy().ravel()

    def classifier(images):
        normalised = (torch.as_tensor(np.stack(images)).permute(0, 3, 1, 2) - 0.5) / 0.25
        return model(normalised).softmax(1).numpy()

    explainer = lime_image.LimeImageExplainer(random_state=np.random.RandomState(0))
    explainer.random_state = Draws()
    told = explainer.explain_instance(
        picture, classifier, labels=(target,), top_labels=None, num_samples=60, segmentation_fn=lambda _: labels,
    )  # fmt: skip
    wanted = torch.zeros(32, 32, dtype=torch.float64)
    for segment, weight in told.local_exp[target]:
        wanted[torch.as_tensor(labels == segment)] = weight
    assert_same(explain("lime,segments=12,budget=60", model, batch).native[0], wanted, 1e-7)


# KernelSHAP


def small_vit():
    """2 x 3 patches: 64 coalitions."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        module = VisionTransformer(img_size=(16, 24), patch_size=8, embed_dim=16, depth=2, num_heads=2, num_classes=5)
        for parameter in module.parameters():
            nn.init.normal_(parameter, std=0.3)
    return wrap(module.double(), mean=(0.5,) * 3, std=(0.25,) * 3)


@pytest.mark.parametrize("output", ["logit", "probability"])
def test_kernel_shap_of_few_features_is_the_shapley_value(output, batch_for):
    model = small_vit()
    inputs = torch.randn(2, 3, 16, 24, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    batch = Batch(ids=("a", "b"), inputs=inputs, targets=torch.tensor([1, 4]), labels=torch.tensor([1, 4]))
    with count_passes(model.module) as count:
        found = explain(f"kernel_shap,features=patch,output={output},budget=64", model, batch).native
    assert count.forwards == 2 * 64
    for row, target in enumerate((1, 4)):
        value = {}
        for size in range(7):
            for kept in itertools.combinations(range(6), size):
                image = torch.zeros(3, 16, 24, dtype=torch.float64)
                for patch in kept:
                    y, x = 8 * (patch // 3), 8 * (patch % 3)
                    image[:, y : y + 8, x : x + 8] = inputs[row, :, y : y + 8, x : x + 8]
                logits = model(image[None])[0]
                value[frozenset(kept)] = (logits.softmax(0) if output == "probability" else logits)[target].item()
        wanted = torch.tensor([shapley(value, player, 6) for player in range(6)], dtype=torch.float64).view(2, 3)
        assert_same(found[row], wanted)


def shapley(value, player, count):
    total = 0.0
    for size in range(count):
        for others in itertools.combinations([p for p in range(count) if p != player], size):
            share = math.factorial(size) * math.factorial(count - size - 1) / math.factorial(count)
            total += share * (value[frozenset({*others, player})] - value[frozenset(others)])
    return total


class Toy(nn.Module):
    """Logit 0 is a function of the patches' sums, the others are 0."""

    def __init__(self, function, channels):
        super().__init__()
        self.function, self.unused, self.channels = function, nn.Parameter(torch.zeros(1)), channels

    def forward(self, x):
        patches = x.unfold(2, 2, 2).unfold(3, 2, 2).sum((1, 4, 5)).flatten(1)
        return torch.stack([self.function(patches), *[x.new_zeros(len(x))] * 2], 1)


def toy(function, channels=3, rows=2):
    """4 x 4 patches of 2 x 2 pixels; each patch of sample b sums to 1 + 0.01 * patch + b."""
    geometry = TokenGeometry((4, 4), 0, "none", (8, 8), channels)
    model = wrap(Toy(function, channels).double(), geometry=geometry, mean=(0.5,) * channels, std=(1.0,) * channels)
    sums = 1 + 0.01 * torch.arange(16.0, dtype=torch.float64).view(4, 4) + torch.arange(rows).view(-1, 1, 1)
    inputs = (
        (sums / (4 * channels)).repeat_interleave(2, 1).repeat_interleave(2, 2)[:, None].expand(-1, channels, -1, -1)
    )
    targets = torch.zeros(rows, dtype=torch.long)
    return model, Batch(tuple(map(str, range(rows))), inputs.contiguous(), targets, targets)


@pytest.mark.parametrize("budget", [36, 51, 200, 1000])
def test_kernel_shap_of_a_sum_and_of_products_of_two_is_exact_with_any_budget(budget):
    """Coalitions with their complements determine everything up to pairwise interactions."""

    def function(p):
        return 3 * p[:, 2] - p[:, 7] + 2 * p[:, 1] * p[:, 9]

    model, batch = toy(function)
    found = explain(f"kernel_shap,features=patch,budget={budget}", model, batch).native.flatten(1)
    for row in range(2):
        size = 1 + 0.01 * torch.arange(16, dtype=torch.float64) + row
        wanted = torch.zeros(16, dtype=torch.float64)
        wanted[2], wanted[7] = 3 * size[2], -size[7]
        wanted[1] = wanted[9] = size[1] * size[9]
        assert_same(found[row], wanted)


def test_sampled_kernel_shap_goes_to_the_shapley_value():
    """A product of four: a quarter to each; sizes drawn by another law than the kernel would not give that."""
    model, batch = toy(lambda p: p[:, 0] * p[:, 5] * p[:, 6] * p[:, 11], rows=1)
    found = explain("kernel_shap,features=patch,budget=12000", model, batch, rows=4000).native.flatten()
    product = 1.00 * 1.05 * 1.06 * 1.11
    wanted = torch.zeros(16, dtype=torch.float64)
    wanted[[0, 5, 6, 11]] = product / 4
    torch.testing.assert_close(found, wanted, rtol=0, atol=0.01)
    assert found.sum().item() == pytest.approx(product, abs=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_kernel_shap_sums_to_the_change_of_the_logit(kind, tiny, batch_for):
    model = tiny(kind)
    batch = batch_for(model, 3)
    found = explain("kernel_shap,features=patch,budget=41", model, batch).native
    change = (model(batch.inputs) - model(torch.zeros_like(batch.inputs)))[range(3), batch.targets]
    assert_same(found.sum((1, 2)), change)


@pytest.mark.parametrize(
    ("features", "budget"),
    [(1, 2), (2, 4), (4, 16), (5, 14), (6, 63), (9, 512), (16, 100), (49, 1000), (196, 1000)],
)
def test_coalitions_stand_for_the_whole_kernel_within_the_budget(features, budget):
    kept, weights = coalitions(features, budget, torch.Generator().manual_seed(0))
    assert len(kept) == len(weights) <= budget - 2
    sizes = kept.sum(1)
    assert ((sizes > 0) & (sizes < features)).all()
    for size in range(1, features):
        alike = kept[sizes == size]
        mass = weights[sizes == size].sum().item()
        if len(alike.unique(dim=0)) == math.comb(features, size) == len(alike):
            assert mass == pytest.approx((features - 1) / (size * (features - size)))
    kernel = sum((features - 1) / (size * (features - size)) for size in range(1, features))
    assert weights.sum().item() == pytest.approx(kernel)
    ones = {tuple(row) for row in kept[sizes == 1].tolist()}
    assert features == 1 or len(ones) == features, "single features are complete"
    pairs = {tuple(row) for row in kept.tolist()}
    assert all(tuple(not member for member in row) in pairs for row in pairs)


def test_too_small_a_budget_for_the_features_is_refused(tiny, batch_for):
    model = tiny()
    with pytest.raises(
        UnsupportedError, match=r"16 features need 36 forward passes an image at least, .* budget is 35"
    ):
        explain("kernel_shap,features=patch,budget=35", model, batch_for(model))


def test_a_single_superpixel_has_all_of_the_change(tiny, batch_for):
    model = tiny()
    batch = replace(batch_for(model, 1), inputs=torch.full((1, 3, 32, 32), 0.7, dtype=torch.float64))
    change = (model(batch.inputs) - model(torch.zeros_like(batch.inputs)))[0, 0]
    found = explain("kernel_shap,segments=1", model, batch).native
    assert_same(found, change.expand(1, 32, 32))


# RISE


@pytest.mark.parametrize("kind", FEW_KINDS)
@pytest.mark.parametrize(("cells", "share", "coverage"), [(8, 0.5, False), (3, 0.25, True), (5, 0.5, False)])
def test_rise_by_the_authors_recipe(kind, cells, share, coverage, tiny, batch_for, ctx):
    """Masks by skimage, one at a time: resize to (cells + 1) cells, crop at a random place."""
    model = tiny(kind)
    batch = batch_for(model, 2)
    spec = f"rise,cells={cells},share={share},coverage={coverage},budget=12"
    found = explain(spec, model, batch, rows=7)
    assert found.layout == "pixel"
    step = math.ceil(32 / cells)
    for row, target in enumerate(batch.targets.tolist()):
        generator = ctx.generator(batch.ids[row], "rise")
        grids = (torch.rand(12, cells, cells, generator=generator, dtype=torch.float64) < share).double().numpy()
        tops, lefts = (torch.randint(step, (12,), generator=generator).tolist() for _ in "yx")
        total, cover = np.zeros((32, 32)), np.zeros((32, 32))
        for grid, top, left in zip(grids, tops, lefts, strict=True):
            large = resize(grid, ((cells + 1) * step,) * 2, order=1, mode="edge", anti_aliasing=False)
            mask = large[top : top + 32, left : left + 32]
            probability = model((batch.inputs[row] * torch.as_tensor(mask))[None]).softmax(1)[0, target].item()
            total += probability * mask
            cover += mask
        wanted = (
            np.divide(total, cover, where=cover > 0, out=np.zeros_like(total)) if coverage else total / (12 * share)
        )
        assert_same(found.native[row], torch.as_tensor(wanted))


def test_rise_masks_are_the_inputs_share_everywhere(tiny, batch_for):
    """With ones for an input the model sees the masks themselves."""
    model = tiny()
    batch = replace(batch_for(model, 1), inputs=torch.ones(1, 3, 32, 32, dtype=torch.float64))
    _, seen = inputs_seen("rise,budget=400,share=0.3", model, batch)
    masks = seen[:, 0]
    assert len(masks) == 400
    assert masks.min() >= 0
    assert masks.max() <= 1
    torch.testing.assert_close(masks.mean(0), torch.full((32, 32), 0.3, dtype=torch.float64), rtol=0, atol=0.1)
    assert abs(masks.mean().item() - 0.3) < 0.01
    assert len({tuple(mask.flatten().tolist()) for mask in masks}) == 400


def test_rise_with_everything_shown_is_the_probability(tiny, batch_for):
    model = tiny()
    batch = batch_for(model, 2)
    found = explain("rise,share=1,budget=3", model, batch).native
    wanted = model(batch.inputs).softmax(1)[range(2), batch.targets]
    assert_same(found, wanted.view(-1, 1, 1).expand(-1, 32, 32))


# ViT-CX


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "map_pooled"])
@pytest.mark.parametrize(("threshold", "noise"), [(0.1, 0.1), (0.25, 0.1), (0.3, 0.0)])
def test_vit_cx_by_its_formula(kind, threshold, noise, tiny, batch_for, explicit, ctx):
    """Features from the written-out forward, clusters by scikit-learn, one mask at a time."""
    cluster = pytest.importorskip("sklearn.cluster")
    model = tiny(kind)
    batch = batch_for(model, 2)
    with count_passes(model.module) as count:
        found = explain(f"vit_cx,threshold={threshold},noise={noise}", model, batch, rows=7)
    assert found.layout == "pixel"
    rows = 0
    for row, target in enumerate(batch.targets.tolist()):
        image = batch.inputs[row]
        tokens = explicit(model, image).norm1[-1].detach()[model.geometry.prefix :]
        maps = []
        for channel in range(tokens.shape[1]):
            for group in tokens[:, channel].split(16):
                large = resize(group.view(4, 4).numpy(), (32, 32), order=1, mode="edge", anti_aliasing=False)
                maps.append((large - large.min()) / (large.max() - large.min()))
        flat = np.stack(maps).reshape(len(maps), -1)
        cosine = flat @ flat.T / np.outer(np.linalg.norm(flat, axis=1), np.linalg.norm(flat, axis=1))
        agglomerative = cluster.AgglomerativeClustering(
            n_clusters=None, metric="precomputed", linkage="complete", distance_threshold=threshold
        )
        labels = agglomerative.fit_predict(np.clip(1 - cosine, 0, None))
        assert 1 < labels.max() + 1 < len(maps) or threshold == 0.1
        z = noise * torch.randn(image.shape, generator=ctx.generator(batch.ids[row], "vit_cx"), dtype=torch.float64)
        clean = model(image[None]).softmax(1)[0, target]
        total, cover = torch.zeros(32, 32, dtype=torch.float64), torch.zeros(32, 32, dtype=torch.float64)
        for label in range(labels.max() + 1):
            mask = torch.as_tensor(sum(m for m, owner in zip(maps, labels, strict=True) if owner == label))
            mask = (mask - mask.min()) / (mask.max() - mask.min())
            masked = model((image * mask + z * (1 - mask))[None]).softmax(1)[0, target]
            noisy = model((image + z * (1 - mask))[None]).softmax(1)[0, target]
            total += (masked - noisy + clean) * mask
            cover += mask
        wanted = torch.where(cover > 0, total / cover.clamp(min=1e-300), 0.0) / (labels.max() + 1)
        assert_same(found.native[row], wanted)
        rows += 2 * int(labels.max() + 1) + 1
    assert count.forwards == rows


def test_vit_cx_merges_clusters_that_the_budget_has_no_passes_for(tiny, batch_for):
    model = tiny()
    batch = batch_for(model, 2)
    with count_passes(model.module) as count:
        explain("vit_cx,threshold=0,budget=8", model, batch)
    assert count.forwards == 2 * (2 * 3 + 1)


def test_constant_feature_maps_scale_to_zero():
    found = scaled(torch.tensor([[3.0, 3.0, 3.0], [-1.0, 1.0, 0.0]]))
    assert torch.equal(found, torch.tensor([[0.0, 0.0, 0.0], [0.0, 1.0, 0.5]]))


@pytest.mark.parametrize(
    "spec",
    [
        "occlusion,window=0",
        "occlusion,baseline=black",
        "feature_ablation,features=pixel",
        "feature_ablation,sigma=0",
        "lime,width=0",
        "lime,budget=1",
        "kernel_shap,budget=1",
        "rise,share=0",
        "rise,share=1.1",
        "rise,cells=0",
        "vit_cx,budget=2",
        "vit_cx,noise=-1",
    ],
)
def test_parameters_out_of_range_are_refused(spec):
    with pytest.raises(BadInputError, match=spec.split(",")[0]):
        explainers.create(spec)
