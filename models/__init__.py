"""The model under explanation: handle, loading, tape, perturbation executor, preprocessing."""

from .handle import borrowed, geometry_of, weights_hash, wrap
from .load import load_model
from .perturb import target_responses
from .preprocess import collate, denormalise
from .tape import EditedAttention, Tape, record

__all__ = [
    "EditedAttention",
    "Tape",
    "borrowed",
    "collate",
    "denormalise",
    "geometry_of",
    "load_model",
    "record",
    "target_responses",
    "weights_hash",
    "wrap",
]
