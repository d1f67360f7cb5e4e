"""Explainers, one file a method; ``docs/explainers.md`` has a row for each.

Mathematics that several methods share stands in modules with a leading underscore, which are no plug-ins:
``_attention`` (heads, rows, products of layers), ``_relevance`` (relevance propagation as a backward pass), ``_cam``
(channel-weighted activations), ``_path`` (gradients along a path) and ``_curves`` (insertion and deletion on validation
data).
"""
