"""The cost of band groups: FLOPs by hand, predicted memory against the allocator's, the table, and another variant."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from vitxai.bench.contract import BadInputError
from vitxai.bench.profile import count_flops, peak_bytes
from vitxai.bench.spectral_cost import VARIANTS, Cost, LiveBytes, Setting, cost, main, measured, table

SHAPE = (("patch_size", 8), ("embed_dim", 16), ("depth", 2), ("num_heads", 2))
TINY = Setting("vit_tiny_patch16_224", pixels=32, bands=12, groups=3, classes=5, shape=SHAPE)
FUSED, AGGREGATED, GROUPS, BANDS = VARIANTS


def block_flops(tokens: int, width: int = 16) -> int:
    linear = 2 * tokens * width * (3 * width + width + 8 * width)
    return linear + 2 * 2 * tokens**2 * width


@pytest.mark.parametrize(
    ("name", "tokens", "adapters", "embedded"),
    [(FUSED, 17, 1, 1), (GROUPS, 49, 3, 3), (BANDS, 193, 12, 12)],
)
def test_flops_by_hand(name, tokens, adapters, embedded):
    adapter = 2 * 12 * 3 * 32 * 32  # every band goes into three channels once
    patches = embedded * 2 * 16 * (3 * 8 * 8) * 16
    found = cost(name, TINY)
    assert found.tokens == tokens
    assert found.gflops * 1e9 == pytest.approx(adapter + patches + 2 * block_flops(tokens) + 2 * 16 * 5, rel=1e-12)
    assert found.maps == 2 * 2 * tokens**2 * 4
    # Adapters (weights and biases), group embedding, head.
    assert found.trained == 12 * 3 + 3 * adapters + 16 * adapters + 16 * 5 + 5


@pytest.mark.parametrize("name", VARIANTS)
def test_what_is_told_without_running_is_what_a_run_counts(name):
    module = VARIANTS[name](TINY).requires_grad_(False)
    inputs = torch.zeros(1, 12, 32, 32)
    assert count_flops(lambda: module(inputs)) == cost(name, TINY).gflops * 1e9
    assert sum(parameter.numel() for parameter in module.parameters()) == cost(name, TINY).parameters


@pytest.mark.parametrize("name", [GROUPS, BANDS])
def test_predicted_memory_is_that_of_the_allocator(name):
    setting = replace(TINY, shape=(*SHAPE[:1], ("embed_dim", 64), ("depth", 2), ("num_heads", 2)))
    module, inputs = VARIANTS[name](setting).requires_grad_(False), torch.zeros(1, 12, 32, 32)

    def run():
        with torch.inference_mode():
            module(inputs)

    run()
    found = cost(name, setting)
    assert found.peak == pytest.approx(peak_bytes(run, torch.device("cpu")), rel=0.1)
    for block in module.blocks:
        block.attn.fused_attn = False
    assert found.explicit_peak == pytest.approx(peak_bytes(run, torch.device("cpu")), rel=0.35)
    assert found.explicit_peak >= found.peak


def test_live_bytes_by_hand():
    held = torch.zeros(100)
    with LiveBytes() as counted:
        one = held + 1  # 400 bytes
        two = one.view(10, 10)  # the same storage
        two.add_(1)
        three = torch.cat([one, one])  # 800 more
        del one, two
        four = three[:50] * 2  # 200, after 400 are gone
    assert (counted.live, counted.peak) == (800 + 200, 400 + 800)
    assert four.shape == (50,)


def test_the_table_stands_beside_its_first_line():
    lines = table([
        Cost("one", 10, 2.0, 1_500_000, 10, 1_000_000, 2_000_000, 3_000_000),
        Cost("two", 20, 5.0, 1_500_000, 10, 1_000_000, 2_000_000_000, 3_000_000, (1.5, 2.25)),
    ]).splitlines()  # fmt: skip
    assert lines[2].startswith("| one | 10 | 2.0 | 1.00 | 1.50 M | 10 | 1 MB | 2 MB | 3 MB |")
    assert lines[3].endswith("| 5.0 | 2.50 | 1.50 M | 10 | 1 MB | 2.00 GB | 3 MB | 1.50 × | 2.25 × |")


def test_more_tokens_cost_more_time_and_memory_than_the_reference():
    time, memory = measured(cost(BANDS, TINY), TINY, pairs=3, device="cpu")
    assert time > 1
    assert memory > 1


def test_the_command_measures_what_fits(capsys):
    tiny = ["--backbone", "test_vit", "--pixels", "32", "--bands", "12", "--groups", "3"]
    main([*tiny, "--pairs", "1", "--most-gflops", "0.02"])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")][2:]
    assert [row.split("|")[1].strip() for row in rows] == list(VARIANTS)
    assert [row.count("×") for row in rows] == [2, 2, 2, 0]


def test_another_variant_joins_by_another_entry(monkeypatch):
    class Wrapped(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner, self.geometry, self.blocks = inner, inner.geometry, inner.blocks

        def forward(self, inputs):
            return self.inner(inputs)

    monkeypatch.setitem(VARIANTS, "mine", lambda setting: Wrapped(setting.module(setting.groups)))
    assert cost("mine", TINY).gflops == cost(GROUPS, TINY).gflops


def test_no_bands_are_refused():
    with pytest.raises(BadInputError, match="at least 1"):
        main(["--bands", "0"])
