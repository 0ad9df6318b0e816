"""The page for users of TensorFlow Recommenders names all that version 0.7.7 has."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "how-to" / "compat-tfrs.md"

NAMES = set(
    """
Model models.Model tasks.Task tasks.Retrieval tasks.Ranking metrics.Factorized metrics.FactorizedTopK
layers.factorized_top_k.TopK layers.factorized_top_k.Streaming layers.factorized_top_k.BruteForce
layers.factorized_top_k.ScaNN layers.dcn.Cross layers.feature_interaction.Cross
layers.feature_interaction.DotInteraction layers.feature_interaction.MultiLayerDCN layers.loss.HardNegativeMining
layers.loss.RemoveAccidentalHits layers.loss.SamplingProbablityCorrection layers.blocks.MLP
layers.embedding.TPUEmbedding translate_keras_optimizer layers.feature_multiplexing.unified_embedding.UnifiedEmbedding
UnifiedEmbeddingConfig experimental.models.Ranking experimental.optimizers.ClippyAdagrad shrink_by_references
experimental.optimizers.CompositeOptimizer experimental.layers.embedding.PartialTPUEmbedding
examples.movielens.evaluate examples.movielens.sample_listwise
""".split()  # noqa: SIM905 (shorter than a list)
)
"""What walking over the modules of the installed package gives, each at its shortest path."""


def test_every_name_has_a_heading_with_a_snippet() -> None:
    sections = re.split(r"^### ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    named = [name for section in sections for name in re.findall(r"`([\w.]+)`", section.splitlines()[0])]
    assert len(named) == len(NAMES)
    assert set(named) == NAMES
    assert all("```python" in section for section in sections)
