"""Writes models/finetune/{train,eval}.jsonl: exchanges from Shakespeare's "As You Like It" as prompt and completion.

    python scripts/make_finetune.py [TOKENIZER.json]        with a tokenizer: also prints how many tokens the rows have

A row's prompt is one speech and the name of who answers; its completion is the answer. Whole scenes are held out for eval.jsonl, as neighbouring rows share speeches.
Nothing here is random.
"""
import json
import pathlib
import sys

import texts

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "models/finetune"
LONGEST_PROMPT, LONGEST_COMPLETION, SHORTEST_COMPLETION = 240, 260, 12  # characters
LEFT_OUT = ("slut", "bastard", "cuckold", "whore", "ethiop", "jew ")  # what a demonstration had better not write
HELD_OUT_SCENES = (2, 9, 18)


def exchanges(scene):
    for (asker, question), (answerer, answer) in zip(scene, scene[1:]):
        prompt, completion = f"{asker.title()}: {' '.join(question)}\n{answerer.title()}:", f" {' '.join(answer)}"
        decent = not any(word in (prompt + completion).lower() for word in LEFT_OUT)
        if decent and asker != answerer and len(prompt) <= LONGEST_PROMPT and SHORTEST_COMPLETION <= len(completion) <= LONGEST_COMPLETION:
            yield {"prompt": prompt, "completion": completion}


def main():
    rows = {"train": [], "eval": []}
    for number, scene in enumerate(texts.as_you_like_it()):
        rows["eval" if number in HELD_OUT_SCENES else "train"] += exchanges(scene)
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, chosen in rows.items():
        (FOLDER / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chosen))
        print(f"{name}: {len(chosen)} rows, {sum(len(r['prompt'] + r['completion']) for r in chosen)} characters")
    if len(sys.argv) > 1:
        from tokenizers import Tokenizer
        tokenizer = Tokenizer.from_file(sys.argv[1])
        lengths = sorted(len(tokenizer.encode(r["prompt"] + r["completion"]).ids) for r in rows["train"])
        print(f"tokens of a training row: median {lengths[len(lengths) // 2]}, largest {lengths[-1]}")


if __name__ == "__main__":
    main()
