"""What a step of the semantic model minimises."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from speechgpt_gen.models.semantic import sequences
from speechgpt_gen.models.semantic.llama import SemanticModel
from speechgpt_gen.models.semantic.sequences import TimedWord
from speechgpt_gen.models.semantic.vocabulary import N_UNITS, SpeechVocabulary
from speechgpt_gen.models.training.documents import Packed
from speechgpt_gen.models.training.semantic_model import weighted_loss
from speechgpt_gen.models.training.semantic_recipe import SemanticRecipe, model_config

DETAIL = [1 + 2 + 4 * 3, 1 + 0 + 4 * 1, 0]
"""Of two digits: levels 2 and 3, then 0 and 1; none is told of the last unit."""


@pytest.mark.parametrize("digits", [2, 0])
def test_the_digits_of_what_is_said_are_learnt_by_a_model_that_knows_them(digits: int) -> None:
    vocabulary = SpeechVocabulary.train_bpe(["you are"], 110)
    recipe = SemanticRecipe(hidden_size=16, intermediate_size=24, layers=1, heads=2, kv_heads=1, detail_weight=3.0)
    torch.manual_seed(0)
    model = SemanticModel(model_config(recipe, vocabulary, digits))
    units = [unit + N_UNITS * detail for unit, detail in zip([7, 8, 9], DETAIL, strict=True)]
    made = sequences.answer(vocabulary, units, [TimedWord("you", 2), TimedWord("are", 3)], "text")
    tokens, targets = torch.tensor([made.tokens]), torch.tensor([made.targets])
    batch = Packed(tokens, targets, torch.zeros_like(tokens))
    told, plain = (
        weighted_loss(model, vocabulary, each, recipe)
        for each in (batch, batch._replace(targets=torch.where(targets >= 0, targets % vocabulary.size, targets)))
    )
    assert "detail" not in plain
    for name, value in plain.items():
        if name != "loss":
            assert torch.equal(told[name], value), name
    if not digits:
        assert torch.equal(told["loss"], plain["loss"])
        return
    at = np.flatnonzero(targets[0] > vocabulary.size)
    assert len(at) == 2
    logits = model.detail_logits(model.hidden(tokens)[0, at], targets[0, at] % vocabulary.size)
    wanted = F.cross_entropy(logits.flatten(0, 1), torch.tensor([2, 3, 0, 1]))
    torch.testing.assert_close(told["detail"], wanted)
    torch.testing.assert_close(told["loss"], plain["loss"] + 3.0 * wanted)
    told["loss"].backward()
    assert model.detail_head is not None
    assert model.detail_head.weight.grad is not None
