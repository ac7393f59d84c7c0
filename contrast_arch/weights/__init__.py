"""Trained networks: load any checkpoint, export one of an experiment, and those that come with the package."""

from contrast_arch.weights.exporting import export
from contrast_arch.weights.load import describe_pretrained, load_pretrained
from contrast_arch.weights.sources import pretrained_names

__all__ = ["describe_pretrained", "export", "load_pretrained", "pretrained_names"]
