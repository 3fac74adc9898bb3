"""A few steps of PyTorch's AdamW, for fixtures that are followed step by step."""


def losses(model, batches, training):
    """The loss of each step before its update; `batches` are what the model is called with, a step each."""
    import torch
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=training["learning_rate"], weight_decay=training["weight_decay"])
    seen = []
    for batch in batches:
        loss = model(**batch).loss
        seen.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return seen
