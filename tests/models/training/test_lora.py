"""Low-rank terms change nothing at first, are all that is trained of the layers, and fold away."""

import torch

from speechgpt_gen.models.semantic.llama import SemanticConfig, SemanticModel
from speechgpt_gen.models.training.lora import add_lora_, merge_


def test_low_rank_terms_learn_and_merge() -> None:
    torch.manual_seed(0)
    model = SemanticModel(SemanticConfig(50, 32, 48, 2, 4, 2))
    plain = {name: value.clone() for name, value in model.state_dict().items()}
    tokens = torch.arange(12)[None]
    before = model(tokens).detach()
    add_lora_(model, rank=4, alpha=8.0)
    torch.testing.assert_close(model(tokens), before)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert all("original" not in name for name in trained)
    assert "model.embed_tokens.weight" in trained
    assert any(name.endswith("weight.0.b") for name in trained)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    for _ in range(3):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(tokens)[0, :-1], tokens[0, 1:]).backward()
        optimizer.step()
    after = model(tokens).detach()
    assert (after - before).abs().max() > 1e-2
    merge_(model)
    assert set(model.state_dict()) == set(plain)
    torch.testing.assert_close(model(tokens), after, rtol=1e-5, atol=1e-5)
    assert not torch.equal(
        model.state_dict()["model.layers.0.mlp.up_proj.weight"], plain["model.layers.0.mlp.up_proj.weight"]
    )
