"""Explainers, one file a method; ``docs/explainers.md`` has a row for each.

Mathematics that several methods share stands in modules with a leading underscore, which are no plug-ins:
``_attention`` (heads, rows, products of layers), ``_tokens`` (token vectors of blocks), ``_relevance`` (relevance
propagation as a backward pass), ``_cam`` (channel-weighted activations), ``_gradients`` and ``_path`` (gradients at one
point, at many, along a path), ``_masks`` and ``_superpixels`` (perturbed inputs and their features), ``_stored_maps``
(files of maps), ``_curves`` (insertion and deletion on validation data), ``_fitting`` (fits),
``_prompts`` (prompts, heads and sinks), ``_own_head`` (own models over a frozen ViT), ``_prototypes`` (prototypes over
tokens) and ``_bandwise`` (bands within a group).
"""
