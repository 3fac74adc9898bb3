"""The PEFT side of scripts/bench/reviews.py: the same rows, steps and learning rates, with Hugging Face PEFT's own starts, on PyTorch."""
import random
import time

import peft
import torch
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer, get_linear_schedule_with_warmup
from transformers.modeling_outputs import SequenceClassifierOutput

from families import padded
from review_task import LABELS, SEED

TASK = dict(task_type="SEQ_CLS")
VIRTUAL = dict(num_virtual_tokens=20, **TASK)
INNER = r".*layer\.\d+\.output\.dense"
CONFIGS = {
    "lora": lambda: peft.LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", **TASK),
    # PEFT's own list of BERT's modules ends in output.dense, which is the attention's output, too; the paper has keys, values and inner activations.
    "ia3": lambda: peft.IA3Config(target_modules=rf".*\.(key|value)|{INNER}", feedforward_modules=INNER, **TASK),
    "prompt_tuning": lambda: peft.PromptTuningConfig(**VIRTUAL),
    "prefix_tuning": lambda: peft.PrefixTuningConfig(prefix_projection=True, **VIRTUAL),
    "p_tuning_v2": lambda: peft.PrefixTuningConfig(**VIRTUAL),
    "p_tuning": lambda: peft.PromptEncoderConfig(**VIRTUAL),
}


def adapted(folder, method):
    """The classifier with a fresh adapter; for heads, which PEFT has no method for, with everything else frozen. The exported graph has no dropout,
    so there is none here either."""
    torch.manual_seed(SEED)
    random.seed(SEED)
    if method == "mean_head":
        return MeanHead(folder)
    still = dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, classifier_dropout=0.0)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32, **still)
    if method == "head":
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.startswith("classifier."))
        return model.train()
    return peft.get_peft_model(model, CONFIGS[method]()).train()


class MeanHead(torch.nn.Module):
    """The body, frozen, and a linear layer on the mean of its tokens: `--method head --num-labels 2 --pooling mean`."""

    def __init__(self, folder):
        super().__init__()
        self.body = AutoModel.from_pretrained(folder, dtype=torch.float32).eval().requires_grad_(False)
        self.classifier = torch.nn.Linear(self.body.config.hidden_size, len(LABELS))

    def forward(self, input_ids, attention_mask, labels):
        hidden, mask = self.body(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state, attention_mask[..., None]
        logits = self.classifier((hidden * mask).sum(1) / mask.sum(1))
        return SequenceClassifierOutput(loss=torch.nn.functional.cross_entropy(logits, labels), logits=logits)


def encoded(rows, tokenizer):
    ids = tokenizer([row["text"] for row in rows], truncation=True)["input_ids"]
    return [{"input_ids": one, "attention_mask": [1] * len(one), "labels": LABELS.index(row["label"])} for one, row in zip(ids, rows)]


def batches(rows, size):
    for start in range(0, len(rows), size):
        batch = padded(rows[start:start + size], {"input_ids": 0, "attention_mask": 0})
        yield {key: torch.tensor([row[key] for row in batch]) for key in batch[0]}


def trained(folder, method, training, held_out, budget, rate):
    """Held-out accuracy, trainable parameters, and the processor's seconds for training and measuring."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model, rows = adapted(folder, method), encoded(training[:budget.steps * budget.batch_size], tokenizer)
    parameters = [p for p in model.parameters() if p.requires_grad]
    # The optimizer and the schedule that peft-onnx has by default.
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0)
    schedule = get_linear_schedule_with_warmup(optimizer, int(0.03 * budget.steps), budget.steps)
    start = time.process_time()
    for batch in batches(rows, budget.batch_size):
        model(**batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    model.eval()
    with torch.no_grad():
        right = sum((model(**batch).logits.argmax(-1) == batch["labels"]).sum().item() for batch in batches(encoded(held_out, tokenizer), budget.batch_size))
    return dict(accuracy=right / len(held_out), trainable=sum(p.numel() for p in parameters), seconds=time.process_time() - start)
