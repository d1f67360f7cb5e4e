"""The contract between the engine and its plug-ins: small, typed, without torch at import. Everything may import it."""

from .batch import Batch, Sample, Split, TargetPolicy
from .errors import BadInputError, UnknownNameError, UnsupportedError, VitxaiError
from .explanation import Explanation, Layout, Reduction
from .geometry import Pooling, TokenGeometry
from .model import Model
from .plugins import (
    Column,
    Context,
    Cost,
    Dataset,
    DatasetInfo,
    Explainer,
    Fitted,
    Metric,
    Monitor,
    Paper,
    Scores,
    Values,
)
from .registry import Broken, Registry, dataset, datasets, explainer, explainers, metric, metrics, needs_of
from .spec import Spec

__all__ = [
    "BadInputError",
    "Batch",
    "Broken",
    "Column",
    "Context",
    "Cost",
    "Dataset",
    "DatasetInfo",
    "Explainer",
    "Explanation",
    "Fitted",
    "Layout",
    "Metric",
    "Model",
    "Monitor",
    "Paper",
    "Pooling",
    "Reduction",
    "Registry",
    "Sample",
    "Scores",
    "Spec",
    "Split",
    "TargetPolicy",
    "TokenGeometry",
    "UnknownNameError",
    "UnsupportedError",
    "Values",
    "VitxaiError",
    "dataset",
    "datasets",
    "explainer",
    "explainers",
    "metric",
    "metrics",
    "needs_of",
]
