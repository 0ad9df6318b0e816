"""A text encoder in a folder: BERT with one layer, a small vocabulary and weights drawn from a seed."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "red", "blue", "hat", "two", "##s", "item", "number", "toy"]


@pytest.fixture(scope="session")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What Hugging Face's libraries write of a model and its tokenizer."""
    if find_spec("transformers") is None:
        pytest.skip("transformers is not installed: pip install 'twotower[text]'")
    folder = tmp_path_factory.mktemp("encoder")
    write_tokenizer(folder)
    write_bert(folder)
    return folder


def write_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    tokenizer = Tokenizer(models.WordPiece({word: row for row, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    marks = [(word, WORDS.index(word)) for word in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=marks)
    tokenizer.save(str(folder / "tokenizer.json"))


def write_bert(folder: Path, seed: int = 0) -> None:
    import torch
    from safetensors.torch import save_file
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=16,
        initializer_range=1.0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        save_file(BertModel(config).state_dict(), folder / "model.safetensors", {"format": "pt"})
    config.architectures = ["BertModel"]
    config.to_json_file(folder / "config.json")
