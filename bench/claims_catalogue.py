"""The headline claims of the four papers, each in one reading, with what tests it."""

from __future__ import annotations

from .claims import Claim, Finding
from .claims_costs import CostLevel, CostRatio
from .claims_papers import first_findings, table_3_findings
from .claims_tests import BoardGain, Gain, LargestArea, Level

FOCUS = "FOCUS"
FOCUSVIT = "FocusViT"
SELECTIVEVIT = "SelectiveViT"
AGCAM = "Report on attention-guided CAM"

SINK_ON = "focus,isolate=false,sink!=false,sink_weight!=0"
"""FOCUS with sink and loss, in the sequence of the backbone's own tokens (Table 4, Figure 7)."""
SINK_OFF, LOSS_OFF = "focus,isolate=false,sink=false", "focus,isolate=false,sink_weight=0"
SINK_KEYS = ("sink", "sink_weight")

SELECTIVE, PLAIN = "selectivevit,threshold!=0,epochs=10", "selectivevit,threshold=0,epochs=10"

AUR_AXES = ("faithfulness_correlation", "max_sensitivity", "sparseness", "mprt_independent")
AUR_METHODS = ("focusvit", "lime", "kernel_shap", "chefer_lrp", "grad_cam", "rollout")

NO_TRUTH = Finding(
    "",
    "not testable",
    note="neither data set has lesion masks or numeric band truth, so its IoU, AUPRC and BIO@5 cannot be computed; "
    "HyperLeaf2024 as published is VNIR, 397 to 1004 nm in 48 x 352 pixels (the paper: VNIR-SWIR, 256 x 256). "
    "The suite tests the claims where the truth is known",
)

CLAIMS: tuple[Claim, ...] = (
    # FOCUS, Table 1
    Claim(
        "focus-bio",
        "FOCUS has the best band overlap BIO@5 of all methods",
        f"{FOCUS}, Table 1",
        "focus-table1",
        Gain("bio_at_5", "focus"),
    ),
    Claim(
        "focus-bio-15-percent",
        "FOCUS improves BIO@5 by over 15 % of the best baseline's (section 4.2; Table 1: .41 to .56, +37 %)",
        f"{FOCUS}, abstract, 1, 4.2, Table 1",
        "focus-table1",
        Gain("bio_at_5", "focus", at_least=0.15, relative=True),
        unit="share",
    ),
    Claim(
        "focus-bio-15-points",
        "FOCUS improves BIO@5 by 15 points over the best baseline (Table 1: .41 to .56; the other reading of '15 %')",
        f"{FOCUS}, abstract, Table 1",
        "focus-table1",
        Gain("bio_at_5", "focus", at_least=0.15),
    ),
    Claim(
        "focus-iou-15-percent",
        "FOCUS improves the spatial IoU by over 15 % of the best baseline's (Table 1: .49 to .58, +18 %)",
        f"{FOCUS}, 4.2, Table 1",
        "focus-table1",
        Gain("spatial_iou", "focus", at_least=0.15, relative=True),
        unit="share",
    ),
    Claim(
        "focus-auprc",
        "FOCUS has the best AUPRC of all methods",
        f"{FOCUS}, Table 1",
        "focus-table1",
        Gain("auprc", "focus"),
    ),
    Claim(
        "focus-accuracy-kept",
        "The accuracy of the frozen backbone is kept (here: not more than one point is lost)",
        f"{FOCUS}, 4.5, Table 4",
        "focus-table1",
        Gain("accuracy", "focus", rivals=("",), at_least=-0.01),
    ),
    Claim(
        "focus-accuracy-best",
        "FOCUS is more accurate than every baseline with a model of its own (Table 1: 87.0 against 85.3 at most)",
        f"{FOCUS}, Table 1",
        "focus-table1",
        Gain("accuracy", "focus", rivals=("", "prompt_cam", "sanet")),
    ),
    Claim(
        "focus-hyperleaf-tomato",
        "Table 1's figures on HyperLeaf2024 and Tomato BLS",
        f"{FOCUS}, Table 1",
        told=(NO_TRUTH,),
    ),
    # FOCUS, efficiency
    Claim(
        "focus-parameters",
        "FOCUS adds less than 1 % parameters",
        f"{FOCUS}, abstract, 3.5, Table 2 (0.9 %)",
        "focus-table2",
        CostLevel("parameters_ratio", "focus", 0.01),
        unit="share",
    ),
    Claim(
        "focus-flops",
        "FOCUS adds about 2.1 % FLOPs",
        f"{FOCUS}, 3.5, Table 2",
        "focus-table2",
        CostLevel("flops_ratio", "focus", 0.021, minus=1.0),
        unit="share",
    ),
    Claim(
        "focus-no-gradients",
        "FOCUS needs no backward pass to explain",
        f"{FOCUS}, 3.5, Table 2",
        "focus-table2",
        CostLevel("backwards", "focus", 0.0),
    ),
    Claim(
        "focus-one-pass",
        "FOCUS explains in a single forward pass",
        f"{FOCUS}, abstract, 3.5",
        "focus-table2",
        CostLevel("forwards", "focus", 1.0),
    ),
    Claim(
        "focus-least-flops",
        "FOCUS has the lowest FLOPs of all methods of Table 2",
        f"{FOCUS}, 4.2, Table 2",
        "focus-table2",
        CostRatio("gflops", "focus", ("grad_cam", "sanet", "prompt_cam", "diff_cam")),
    ),
    Claim(
        "focus-fastest",
        "FOCUS has the lowest latency of all methods of Table 2",
        f"{FOCUS}, 4.2, Table 2 (6.8 ms)",
        "focus-table2",
        CostRatio("latency_ms", "focus", ("grad_cam", "sanet", "prompt_cam", "diff_cam")),
    ),
    Claim(
        "focus-memory-85",
        "FOCUS takes 85 % less memory than a ViT on full-spectrum tokens (1.9 of 14 GB)",
        f"{FOCUS}, 4.7, Figure 5",
        "focus-figure5",
        CostRatio("peak_mb", "focus", ("",), 0.15, "group_tokens", "band_tokens"),
    ),
    Claim(
        "focus-runtime-95",
        "FOCUS takes 95 % less time than a ViT on full-spectrum tokens",
        f"{FOCUS}, Figure 5",
        "focus-figure5",
        CostRatio("latency_ms", "focus", ("",), 0.05, "group_tokens", "band_tokens"),
    ),
    # FOCUS, ablations
    Claim(
        "focus-groups-10",
        "G = 10 groups give the best BIO@5 (Table 3: .48 .52 .56 .54 at G = 2, 5, 10, 20)",
        f"{FOCUS}, 4.3, Table 3",
        "focus-table3",
        BoardGain("bio_at_5", "focus", "g10", ("g2", "g5", "g20")),
    ),
    Claim(
        "focus-groups-10-accuracy",
        "G = 10 groups give the best accuracy (Table 3: 91.1 92.6 93.7 92.9; Table 1 has 87.0 for the same model)",
        f"{FOCUS}, 4.3, Table 3",
        "focus-table3",
        BoardGain("accuracy", "focus", "g10", ("g2", "g5", "g20")),
    ),
    Claim(
        "focus-sink-first-token",
        "Without a sink over 30 % of the attention lies on the first token",
        f"{FOCUS}, 4.5",
        "focus-table4",
        Level("first_token_mass", "", above=0.30),
        unit="share",
    ),
    Claim(
        "focus-sink-left",
        "Sink and loss reduce the attention left on the unwanted first token by over 40 % (Table 4: .38 to .22, -42 %)",
        f"{FOCUS}, abstract, 4.5, Table 4 (Sink Rate, lower is better)",
        "focus-table4",
        Gain("first_token_mass", SINK_ON, (SINK_OFF,), 0.40, True, SINK_KEYS, "lower"),
        unit="share",
    ),
    Claim(
        "focus-sink-absorbed",
        "The loss makes [SINK] absorb more attention than it does without the loss",
        f"{FOCUS}, 2.3 (Sink-Rate as the mass absorbed by [SINK]), 3.3, Figure 7",
        "focus-table4",
        Gain("sink_mass", SINK_ON, (LOSS_OFF,), 0.0, False, SINK_KEYS, "higher"),
        unit="share",
    ),
    Claim(
        "focus-sink-consistency",
        "Sink and loss make the maps of neighbouring layers agree more (Table 4: .64 to .75)",
        f"{FOCUS}, Table 4 (Sink Consistency)",
        "focus-table4",
        Gain("sink_consistency", SINK_ON, (SINK_OFF,), 0.0, False, SINK_KEYS),
    ),
    Claim(
        "focus-sink-bio",
        "Sink and loss improve BIO@5 (Table 4: .51 to .56)",
        f"{FOCUS}, Table 4",
        "focus-table4",
        Gain("bio_at_5", SINK_ON, (SINK_OFF,), 0.0, False, SINK_KEYS),
    ),
    Claim(
        "focus-sink-accuracy",
        "Sink and loss leave the accuracy unchanged (here: not more than one point is lost)",
        f"{FOCUS}, 4.5, Table 4 (93.5 to 93.7)",
        "focus-table4",
        Gain("accuracy", SINK_ON, (SINK_OFF,), -0.01, False, SINK_KEYS),
    ),
    Claim(
        "focus-sink-layers",
        "The loss drains more attention into [SINK] over depth: in the last layer, too, it absorbs more",
        f"{FOCUS}, Figure 7",
        "focus-figure7",
        Gain("sink_mass_last", SINK_ON, (LOSS_OFF,), 0.0, False, SINK_KEYS, "higher"),
        unit="share",
    ),
    Claim(
        "focus-swir-noise",
        "Under noise beyond 2200 nm the curves of FOCUS are more stable than those of Grad-CAM and Prompt-CAM",
        f"{FOCUS}, 4.6 (no figures given)",
        "focus-swir-noise",
        Gain("spectral_stability", "focus", ("grad_cam", "spectral_lift,of=grad_cam", "prompt_cam")),
    ),
    Claim(
        "focus-swir-uptake",
        "Under noise beyond 2200 nm FOCUS moves less relevance into the noisy bands than Grad-CAM and Prompt-CAM",
        f"{FOCUS}, 4.6 (no figures given)",
        "focus-swir-noise",
        Gain("noise_uptake", "focus", ("grad_cam", "spectral_lift,of=grad_cam", "prompt_cam")),
    ),
    # FocusViT
    Claim(
        "focusvit-faithfulness",
        "FocusViT has the best faithfulness correlation among its baselines on every data set",
        f"{FOCUSVIT}, 4.1, Table 2",
        "focusvit-table2",
        Gain("faithfulness_correlation", "focusvit", AUR_METHODS[1:]),
    ),
    Claim(
        "focusvit-sparseness-lower",
        "FocusViT has the best sparseness among its baselines, read as the paper does: lower is better",
        f"{FOCUSVIT}, 4.1, Table 2",
        "focusvit-table2",
        Gain("sparseness", "focusvit", AUR_METHODS[1:], better="lower"),
    ),
    Claim(
        "focusvit-sparseness-higher",
        "FocusViT has the best sparseness among its baselines, read as the metric's authors do: higher is better",
        f"{FOCUSVIT}, 4.1; Chalasani et al. 2020, Quantus",
        "focusvit-table2",
        Gain("sparseness", "focusvit", AUR_METHODS[1:], better="higher"),
    ),
    Claim(
        "focusvit-sensitivity",
        "FocusViT's max-sensitivity is below that of the perturbation methods LIME and SHAP",
        f"{FOCUSVIT}, 4.1, Table 2",
        "focusvit-table2",
        Gain("max_sensitivity", "focusvit", ("lime", "kernel_shap", "gradient_shap")),
    ),
    Claim(
        "focusvit-randomisation",
        "FocusViT has the lowest model randomisation score of the methods that do not perturb",
        f"{FOCUSVIT}, 4.1 (the text; not so by Table 2 on Pet: Attention .0010, FocusViT .0514)",
        "focusvit-table2",
        Gain("mprt_independent", "focusvit", ("chefer_lrp", "grad_cam", "rollout")),
    ),
    Claim(
        "focusvit-12-percent",
        "FocusViT takes about 12 % longer than attention rollout",
        f"{FOCUSVIT}, 4",
        "focusvit-table2",
        CostRatio("latency_ms", "focusvit", ("rollout",), 1.12),
    ),
    Claim(
        "focusvit-aur",
        "FocusViT has the largest area under the radar (axes and directions as in the paper)",
        f"{FOCUSVIT}, 4.1, Table 3",
        "focusvit-table3",
        LargestArea(tuple(zip(AUR_AXES, ("higher", "lower", "lower", "lower"), strict=True)), AUR_METHODS),
    ),
    Claim(
        "focusvit-aur-sparse",
        "FocusViT has the largest area under the radar (with higher sparseness as the better one)",
        f"{FOCUSVIT}, 4.1, Table 3",
        "focusvit-table3",
        LargestArea(tuple(zip(AUR_AXES, ("higher", "lower", "higher", "lower"), strict=True)), AUR_METHODS),
    ),
    Claim(
        "focusvit-aur-own-first",
        "By the paper's own Table 2 FocusViT has the largest area under the radar on every data set",
        f"{FOCUSVIT}, Tables 2 and 3",
        told=first_findings(),
        rule="area recomputed from Table 2 (its order of axes, min-max over methods) minus the next largest: above 0",
    ),
    Claim(
        "focusvit-table3",
        "The areas of Table 3 follow from the scores of Table 2",
        f"{FOCUSVIT}, Tables 2 and 3",
        told=table_3_findings(),
        unit="share",
        rule="all six areas recomputed from Table 2 equal those of Table 3 to 1e-4",
    ),
    # SelectiveViT
    Claim(
        "selectivevit-accuracy",
        "Selective attention at 0.005 makes the fine-tuned ViT more accurate",
        f"{SELECTIVEVIT}, 9 (85.2 against 80.6 %)",
        "selectivevit-cifar10",
        Gain("accuracy", SELECTIVE, (PLAIN,)),
    ),
    Claim(
        "selectivevit-accuracy-4.6",
        "Selective attention at 0.005 gains 4.6 points of accuracy",
        f"{SELECTIVEVIT}, 9 (85.2 against 80.6 %)",
        "selectivevit-cifar10",
        Gain("accuracy", SELECTIVE, (PLAIN,), at_least=0.046),
    ),
    Claim(
        "selectivevit-sharper",
        "Its maps are sharper: sparser Grad-CAM maps than the plain ViT's by the same recipe",
        f"{SELECTIVEVIT}, 8, 9 (no figures given)",
        "selectivevit-cifar10",
        Gain("sparseness", SELECTIVE, (PLAIN,)),
    ),
    Claim(
        "selectivevit-object",
        "Its maps are object-centric: higher AUPRC against the object's mask than the plain ViT's by the same recipe",
        f"{SELECTIVEVIT}, 8 (no figures given; CIFAR-10 has no masks, the built-in scenes have)",
        "selectivevit-cifar10",
        Gain("auprc", SELECTIVE, (PLAIN,)),
    ),
    Claim(
        "selectivevit-sparser-attention",
        "Fewer tokens are active in its heads",
        f"{SELECTIVEVIT}, 7, 8 (no figures given)",
        "selectivevit-cifar10",
        Gain("attention_active_absolute", SELECTIVE, (PLAIN,), better="lower"),
        unit="share",
    ),
    # Attention-guided CAM
    *(
        Claim(
            f"agcam-{name}",
            f"Attention-guided CAM has the best Otsu {words} of the methods that the report describes",
            f"{AGCAM}, Table 1 (which has no other method; that it leads is a question, not its claim)",
            "agcam-voc",
            Gain(f"otsu_{name}", "ag_cam", every=True),
        )
        for name, words in (("jaccard", "Jaccard index"), ("f1", "F1"), ("pixel_accuracy", "pixel accuracy"))
    ),
    *(
        Claim(
            f"agcam-voc-{name}",
            f"Attention-guided CAM reaches an Otsu {words} of {100 * value:.2f} % on Pascal VOC 2012",
            f"{AGCAM}, Table 1",
            "agcam-voc",
            Level(f"otsu_{name}", "ag_cam", equal=value, dataset="voc2012", every=True),
            unit="share",
        )
        for name, words, value in (
            ("jaccard", "Jaccard index", 0.1243),
            ("f1", "F1", 0.1913),
            ("pixel_accuracy", "pixel accuracy", 0.6594),
        )
    ),
)
