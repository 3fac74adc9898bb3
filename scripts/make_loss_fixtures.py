#!/usr/bin/env python3
"""Values and gradients of every loss, from the reference libraries, for tests/it/losses.rs.

    python scripts/make_loss_fixtures.py          writes tests/fixtures/losses.json

Needs torch and sentence-transformers (scripts/reference-requirements.txt names torch). Each case has what the model gives, the labels, the
options, and what comes out: the loss (a mean) and its gradient with respect to each output.
"""
import json
import pathlib

import torch
import torch.nn.functional as F
from sentence_transformers.sentence_transformer import losses as st
from sentence_transformers import util

torch.manual_seed(7)
torch.set_default_dtype(torch.float64)
ROWS, WIDTH, CLASSES, LENGTH = 3, 6, 4, 5


def numbers(*shape, scale=1.0):
    # Numbers that float32 holds exactly, so that both sides start from the same ones.
    return (torch.randn(*shape) * scale).to(torch.float32).to(torch.float64)


class Given(torch.nn.Module):
    """Stands for a model that has given its vectors already: losses of sentence-transformers ask a model for them."""

    similarity_fn_name = "cosine"

    def forward(self, features):
        return features


def of_library(loss, texts, labels):
    return loss([{"sentence_embedding": text} for text in texts], labels)


cases = []


def case(reads, name, outputs, columns, loss, options=None, **more):
    outputs = [output.clone().requires_grad_(True) for output in outputs]
    value = loss(*outputs)
    gradients = torch.autograd.grad(value, outputs)
    flat = lambda t: {"shape": list(t.shape), "values": [round(float(v), 9) for v in t.detach().flatten()]}  # noqa: E731
    whole = lambda t: {"shape": list(t.shape), "integers": [int(v) for v in t.flatten()]}  # noqa: E731
    cases.append({
        "reads": reads, "name": name, "options": options or {}, **more,
        "outputs": [flat(output) for output in outputs],
        "columns": [whole(column) if column.dtype == torch.int64 else flat(column) for column in columns],
        "loss": float(value), "gradients": [flat(gradient) for gradient in gradients],
    })


def classes():
    logits, label = numbers(ROWS, CLASSES), torch.tensor([2, 0, 3])
    case("Logits", "cross-entropy", [logits], [label], lambda x: F.cross_entropy(x, label))
    ignored = torch.tensor([2, -100, 3])
    weights = torch.tensor([1.0, 2.5, 0.5, 3.0])
    for smoothing, weight in ((0.0, weights), (0.1, None), (0.1, weights)):
        case("Logits", "cross-entropy", [logits], [ignored], lambda x: F.cross_entropy(x, ignored, weight=weight, label_smoothing=smoothing),  # noqa: B023
             weights=[] if weight is None else weight.tolist(), smoothing=smoothing)

    def focal(x, gamma=2.0):
        log_p = F.log_softmax(x, -1).gather(1, label[:, None])[:, 0]
        return (-((1 - log_p.exp()) ** gamma) * log_p).mean()

    case("Logits", "focal", [logits], [label], focal)
    truths = torch.tensor([[1.0, 0, 0, 1], [0, 0, 0, 0], [1, 1, 1, 0.5]])
    case("Logits", "bce", [logits * 5], [truths], lambda x: F.binary_cross_entropy_with_logits(x, truths))
    values = numbers(ROWS, CLASSES)
    case("Logits", "mse", [logits], [values], lambda x: F.mse_loss(x, values))
    case("Logits", "mae", [logits], [values], lambda x: F.l1_loss(x, values))
    case("Logits", "huber", [logits * 2], [values], lambda x: F.huber_loss(x, values))
    case("Logits", "huber", [logits * 2], [values], lambda x: F.huber_loss(x, values, delta=0.5), {"delta": 0.5})
    rewards = numbers(2 * ROWS, 1)
    case("Logits", "bradley-terry", [rewards], [torch.arange(ROWS)], lambda x: -F.logsigmoid(x[:ROWS, 0] - x[ROWS:, 0]).mean())
    start, end = torch.tensor([0, 3, 1]), torch.tensor([1, 4, 1])
    case("Spans", "cross-entropy", [numbers(ROWS, LENGTH), numbers(ROWS, LENGTH)], [start, end],
         lambda s, e: (F.cross_entropy(s, start) + F.cross_entropy(e, end)) / 2)


def embeddings():
    own = torch.arange(ROWS)
    two, three, four = numbers(2 * ROWS, WIDTH), numbers(3 * ROWS, WIDTH), numbers(4 * ROWS, WIDTH)
    parts = lambda x: list(x.split(ROWS))  # noqa: E731
    mnrl = st.MultipleNegativesRankingLoss(Given())
    for texts in (two, three, four):
        case("Embeddings", "mnrl", [texts], [own], lambda x: of_library(mnrl, parts(x), None))
    case("Embeddings", "mnrl", [two], [own], lambda x: of_library(st.MultipleNegativesRankingLoss(Given(), scale=5.0), parts(x), None), {"scale": 5.0})
    symmetric = st.MultipleNegativesSymmetricRankingLoss(Given())
    for texts in (two, three):
        case("Embeddings", "mnrl-symmetric", [texts], [own], lambda x: of_library(symmetric, parts(x), None))
    case("Embeddings", "triplet", [three], [own], lambda x: of_library(st.TripletLoss(Given()), parts(x), None))
    case("Embeddings", "triplet", [three], [own], lambda x: of_library(st.TripletLoss(Given(), triplet_margin=0.5), parts(x), None), {"margin": 0.5})
    score = numbers(ROWS)
    case("Embeddings", "margin-mse", [three], [score], lambda x: of_library(st.MarginMSELoss(Given()), parts(x), score))
    alike = torch.tensor([0.25, 1.0, 0.5])
    case("Embeddings", "cosent", [two], [alike], lambda x: of_library(st.CoSENTLoss(Given()), parts(x), alike))
    case("Embeddings", "angle", [two], [alike], lambda x: of_library(st.AnglELoss(Given()), parts(x), alike))
    case("Embeddings", "cosine", [two], [alike], lambda x: of_library(st.CosineSimilarityLoss(Given()), parts(x), alike))
    same = torch.tensor([0.0, 1.0, 0.0])
    case("Embeddings", "contrastive", [two], [same], lambda x: ((same * (1 - F.cosine_similarity(*parts(x))) ** 2 + (1 - same) * F.relu(0.5 - (1 - F.cosine_similarity(*parts(x)))) ** 2) / 2).mean())
    near = torch.cat([two[:ROWS], two[:ROWS] + 0.3 * two[ROWS:]])
    case("Embeddings", "contrastive", [near], [same], lambda x: of_library(st.ContrastiveLoss(Given()), parts(x), same))
    assert util.cos_sim is not None


def preferences():
    log_p = -numbers(2 * ROWS, LENGTH).abs() - 0.05
    labelled = torch.tensor([[0.0, 1, 1, 1, 1], [0, 1, 1, 1, 0], [0, 1, 1, 1, 1]]).repeat(2, 1)
    completion = torch.tensor([[0.0, 0, 1, 1, 1], [0, 0, 1, 1, 0], [0, 0, 0, 1, 1], [0, 0, 0, 0, 1], [0, 0, 1, 1, 0], [0, 0, 1, 1, 1]])
    log_p = log_p * labelled
    reference = numbers(2 * ROWS) - 3
    sums, lengths = lambda x: (x * completion).sum(1), completion.sum(1)  # noqa: E731
    halves = lambda v: (v[:ROWS], v[ROWS:])  # noqa: E731
    margin = lambda v: halves(v)[0] - halves(v)[1]  # noqa: E731
    case("TokenLogProbs", "dpo", [log_p], [completion, reference], lambda x: -F.logsigmoid(0.1 * margin(sums(x) - reference)).mean())
    case("TokenLogProbs", "dpo", [log_p], [completion, reference], lambda x: -F.logsigmoid(0.5 * margin(sums(x) - reference)).mean(), {"beta": 0.5})
    case("TokenLogProbs", "ipo", [log_p], [completion, reference], lambda x: ((margin((sums(x) - reference) / lengths) - 1 / 0.2) ** 2).mean())
    case("TokenLogProbs", "simpo", [log_p], [completion], lambda x: -F.logsigmoid(0.1 * margin(sums(x) / lengths) - 0.5).mean())

    def orpo(x):
        means = sums(x) / lengths
        odds = margin(means - torch.log1p(-means.exp()))
        likelihood = -x[:ROWS].sum() / labelled[:ROWS].sum()
        return likelihood - 0.1 * F.logsigmoid(odds).mean()

    case("TokenLogProbs", "orpo", [log_p], [completion], orpo)
    desirable = torch.tensor([1.0, 0.0, 1.0])

    def kto(x):
        ratios, mismatched = halves(sums(x) - reference)
        kl = mismatched.mean().clamp(min=0).detach()
        sign = desirable * 2 - 1
        return (1 - torch.sigmoid(0.1 * (ratios - kl) * sign)).mean()

    case("TokenLogProbs", "kto", [log_p], [completion, reference, desirable], kto)
    low = reference - 6
    case("TokenLogProbs", "kto", [log_p], [completion, low, desirable],
         lambda x: (1 - torch.sigmoid(0.1 * (halves(sums(x) - low)[0] - halves(sums(x) - low)[1].mean().clamp(min=0).detach()) * (desirable * 2 - 1))).mean())


def distillation():
    student, teacher, label = numbers(ROWS, CLASSES), numbers(ROWS, CLASSES), torch.tensor([2, 0, -100])
    kept = label != -100

    def loss(x, weight=0.4, temperature=2.0):
        kl = F.kl_div(F.log_softmax(x[kept] / temperature, -1), F.log_softmax(teacher[kept] / temperature, -1), reduction="batchmean", log_target=True)
        return (1 - weight) * F.cross_entropy(x, label) + weight * temperature**2 * kl

    case("Logits", "cross-entropy", [student], [label], loss, distillation={"weight": 0.4, "temperature": 2.0, "teacher": {"shape": [ROWS, CLASSES], "values": [float(v) for v in teacher.flatten()]}})


classes(), embeddings(), preferences(), distillation()
path = pathlib.Path(__file__).resolve().parent.parent / "tests/fixtures/losses.json"
path.write_text(json.dumps(cases, indent=None, separators=(",", ":")).replace('{"reads"', '\n{"reads"') + "\n")
print(f"{len(cases)} cases in {path.name}")
