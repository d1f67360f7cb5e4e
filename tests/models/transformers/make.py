"""Writes the tiny models beside this file: transformers' own weights, settings and answers.

Run it with transformers installed: ``python tests/models/transformers/make.py`` (last made with 5.23.0, torch 2.15).
Each is a safetensors file: what ``save_pretrained`` wrote, ``input`` and ``expected``, and in its header the
two JSON files.
"""

import json
import tempfile
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file

SMALL = {
    "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12, "image_size": 8,
    "patch_size": 4, "layer_norm_eps": 0.05, "num_labels": 3,
}  # fmt: skip
LABELS = {"id2label": {0: "oak", 1: "elm", 2: "ash"}}
# name: configuration, architecture, settings, what of the answer is read
CASES = {
    "vit": ("ViTConfig", "ViTForImageClassification", LABELS, "logits"),
    "vit_no_bias": ("ViTConfig", "ViTForImageClassification", {"qkv_bias": False, "hidden_act": "gelu_new"}, "logits"),
    "vit_backbone": ("ViTConfig", "ViTModel", {}, "last_hidden_state"),
    "vit_msn": ("ViTMSNConfig", "ViTMSNForImageClassification", {}, "logits"),
    "deit": ("DeiTConfig", "DeiTForImageClassification", {}, "logits"),
    "deit_distilled": ("DeiTConfig", "DeiTForImageClassificationWithTeacher", {}, "logits"),
    "dinov2": ("Dinov2Config", "Dinov2Model", {}, "pooler_output"),
    "dinov2_swiglu": ("Dinov2Config", "Dinov2Model", {"use_swiglu_ffn": True}, "pooler_output"),
    "dinov2_head": ("Dinov2Config", "Dinov2ForImageClassification", {}, "logits"),
    "dinov2_registers": ("Dinov2WithRegistersConfig", "Dinov2WithRegistersModel", {}, "pooler_output"),
    "clip": ("CLIPVisionConfig", "CLIPVisionModel", {}, "pooler_output"),
    "clip_projection": ("CLIPVisionConfig", "CLIPVisionModelWithProjection", {"projection_dim": 5}, "image_embeds"),
    "clip_head": ("CLIPConfig", "CLIPForImageClassification", {}, "logits"),
    "siglip": ("SiglipVisionConfig", "SiglipVisionModel", {}, "pooler_output"),
    "siglip_head": ("SiglipConfig", "SiglipForImageClassification", {}, "logits"),
    "beit_relative": ("BeitConfig", "BeitForImageClassification", {"use_relative_position_bias": True}, "logits"),
    "beit_absolute": ("BeitConfig", "BeitForImageClassification", {"use_absolute_position_embeddings": True}, "logits"),
    "beit_token": ("BeitConfig", "BeitForImageClassification", {"use_mean_pooling": False}, "logits"),
    "data2vec": (
        "Data2VecVisionConfig", "Data2VecVisionForImageClassification", {"use_relative_position_bias": True}, "logits",
    ),
    "ijepa": ("IJepaConfig", "IJepaForImageClassification", {}, "logits"),
    "dinov3": ("DINOv3ViTConfig", "DINOv3ViTModel", {}, "pooler_output"),
}  # fmt: skip
PREPROCESSOR = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.25, 0.3], "rescale_factor": 1 / 255}


def make(name: str, folder: Path) -> None:
    configuration, architecture, more, answer = CASES[name]
    settings = {**SMALL, **more}
    if configuration in ("CLIPConfig", "SiglipConfig"):
        settings = {"vision_config": settings, "num_labels": 3}
    module = getattr(transformers, architecture)(getattr(transformers, configuration)(**settings)).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
        inputs = torch.randn(4, 3, 8, 8, generator=generator)
        outputs = module(inputs)[answer]
    expected = outputs[:, 0] if answer == "last_hidden_state" else outputs
    with tempfile.TemporaryDirectory() as saved:
        module.save_pretrained(saved)
        tensors = load_file(Path(saved) / "model.safetensors")
        config = (Path(saved) / "config.json").read_text()
    tensors = {key: tensor for key, tensor in tensors.items() if not key.startswith("text_model.")}
    header = {"config.json": json.dumps(json.loads(config)), "preprocessor_config.json": json.dumps(PREPROCESSOR)}
    save_file({**tensors, "input": inputs, "expected": expected.contiguous()}, folder / f"{name}.safetensors", header)


if __name__ == "__main__":
    for case in CASES:
        make(case, Path(__file__).parent)
