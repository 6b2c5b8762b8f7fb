"""The human side of an artifact: one HTML page without a network, and a model card."""

from image_classification.training.report.facts import Facts
from image_classification.training.report.mistakes import Mistake, surest_mistakes
from image_classification.training.report.model_card import model_card
from image_classification.training.report.page import page

__all__ = ["Facts", "Mistake", "model_card", "page", "surest_mistakes"]
