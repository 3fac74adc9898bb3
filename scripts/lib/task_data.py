"""The data behind scripts/bench/tasks.py: made of texts that come by package name, or generated, always the same."""
import contextlib
import json
import math
import random
import shutil
import struct
import subprocess
import wave

import texts

SEED = 0
HELD_OUT = 320


def articles(folder=None):
    """The sentences of each editorial, in their order."""
    import pathlib
    known = {text for _, text in texts.rated("nytEditorialSnippets", folder)}
    path = (pathlib.Path(folder) if folder else texts.CACHE) / "nytEditorialSnippets_GroundTruth.txt"
    found = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        number, _, text = line.split("\t", 2)
        if len(text) > 30 and (text in known or text.strip() in known):
            found.setdefault(number.split("_")[0], []).append(text.strip())
    return list(found.values())


def neighbours(folder=None):
    """`{"anchor", "positive"}`: a sentence and the one behind it; held-out ones are of other articles."""
    parted = articles(folder)
    random.Random(SEED).shuffle(parted)
    pairs = [[{"anchor": one, "positive": other} for one, other in zip(article[::2], article[1::2])] for article in parted]
    held_out = []
    while len(held_out) < HELD_OUT:
        held_out += pairs.pop()
    training = [pair for article in pairs for pair in article]
    random.Random(SEED).shuffle(training)
    return training, held_out[:HELD_OUT]


def follows(folder=None):
    """`{"query", "passage", "label"}`: whether a sentence follows another; half of them do."""
    chance = random.Random(SEED)
    both = []
    for rows in neighbours(folder):
        others = [row["positive"] for row in rows]
        made = [{"query": row["anchor"], "passage": row["positive"], "label": 1} for row in rows]
        made += [{"query": row["anchor"], "passage": chance.choice(others), "label": 0} for row in rows]
        chance.shuffle(made)
        both.append(made)
    return both[0], both[1]


NAMES = "Anna Boris Carla David Emma Felix Greta Hugo Irene Jonas Karla Lukas Maria Nils Olga Paul Rosa Simon Tilda Viktor".split()
FAMILIES = "Abel Brandt Cohen Dietz Ekman Fuchs Grande Holm Ibsen Jansen Keller Lorenz Moreau Novak Okafor Petrov Quist Rossi Silva Tanaka".split()
PLACES = "Aarhus Basel Cork Delft Espoo Faro Ghent Hagen Ibiza Jena Kiel Lyon Malmo Nantes Oslo Porto Quito Riga Turin Utrecht".split()
COMPANIES = "Acme Borealis Cobalt Dynamo Equinox Fjord Granite Helix Indigo Juniper Krypton Lumen Meridian Nimbus Onyx Pinnacle Quartz Radian Summit Tundra".split()
SUFFIXES = ["Ltd", "Group", "Systems", "Foods"]
TAGS = ["O", "B-PER", "I-PER", "B-LOC", "B-ORG", "I-ORG"]
SENTENCES = ["{PER} works for {ORG} in {LOC} .", "{ORG} of {LOC} hired {PER} last year .", "In {LOC} , {PER} met the owners of {ORG} .", "{PER} moved from {LOC} to {LOC} .",
             "The board of {ORG} thanked {PER} .", "Nobody in {LOC} had heard of {ORG} ."]


def tagged(count=1200, held_out=240):
    """`{"tokens", "tags"}`; names in the held-out rows are not in the others."""
    chance = random.Random(SEED)

    def filled(half):
        part = lambda words: words[:len(words) // 2] if half == 0 else words[len(words) // 2:]
        tokens, tags = [], []
        for word in chance.choice(SENTENCES).split():
            kind = word.strip("{}")
            if kind == word:
                tokens.append(word), tags.append("O")
                continue
            name = {"PER": lambda: [chance.choice(part(NAMES)), chance.choice(part(FAMILIES))], "LOC": lambda: [chance.choice(part(PLACES))],
                    "ORG": lambda: [chance.choice(part(COMPANIES)), chance.choice(SUFFIXES)]}[kind]()
            tokens += name
            tags += [f"{'B' if at == 0 else 'I'}-{kind}" for at in range(len(name))]
        return {"tokens": tokens, "tags": tags}

    return [filled(0) for _ in range(count)], [filled(1) for _ in range(held_out)]


def spans(tags):
    """Entities of a row of IOB2 tags."""
    found, begin = set(), None
    for at, tag in enumerate([*tags, "O"]):
        if begin is not None and not (tag.startswith("I-") and tag[2:] == tags[begin][2:]):
            found.add((begin, at, tags[begin][2:]))
            begin = None
        if tag.startswith("B-") or (tag.startswith("I-") and begin is None):
            begin = at
    return found


def entity_f1(right, found):
    hits = sum(len(spans(a) & spans(b)) for a, b in zip(right, found))
    all_of = sum(len(spans(row)) for row in right) + sum(len(spans(row)) for row in found)
    return 2 * hits / max(all_of, 1)


def replies(folder):
    """`{"prompt", "chosen", "rejected"}`: the reply that follows, and another row's."""
    both = []
    for name in ("train", "eval"):
        rows = [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]
        rows = [row for row in rows if len(row["prompt"]) + len(row["completion"]) < 500]
        others = [row["completion"] for row in rows[7:] + rows[:7]]
        both.append([{"prompt": row["prompt"], "chosen": row["completion"], "rejected": other} for row, other in zip(rows, others) if row["completion"] != other])
    return both


SHAPES = ["circle", "cross", "square", "triangle"]


def shapes(folder, count, held_out):
    """`{"image", "label"}`: drawn shapes of any colour, place and size before any colour."""
    from PIL import Image, ImageDraw
    chance, rows = random.Random(SEED), []
    colour = lambda: tuple(chance.randrange(256) for _ in range(3))
    for number in range(count + held_out):
        kind = chance.choice(SHAPES)
        image = Image.new("RGB", (32, 32), colour())
        draw, size = ImageDraw.Draw(image), chance.randrange(12, 22)
        x, y, ink = chance.randrange(32 - size), chance.randrange(32 - size), colour()
        third = size // 3
        if kind == "circle":
            draw.ellipse((x, y, x + size, y + size), fill=ink)
        elif kind == "square":
            draw.rectangle((x, y, x + size, y + size), fill=ink)
        elif kind == "triangle":
            draw.polygon([(x, y + size), (x + size, y + size), (x + size // 2, y)], fill=ink)
        else:
            draw.rectangle((x + third, y, x + 2 * third, y + size), fill=ink)
            draw.rectangle((x, y + third, x + size, y + 2 * third), fill=ink)
        image.save(folder / f"{number}.png")
        rows.append({"image": f"{number}.png", "label": kind})
    return rows[:count], rows[count:]


DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
VOICES = ["en", "en-us", "en+f2", "en+f4", "en-us+m3", "en-us+m7", "en+m1", "en-us+f1"]


def digits(folder, count, held_out):
    """`{"audio", "text"}`: digits in several voices, speeds and pitches, and how they were made."""
    chance, rows = random.Random(SEED), []
    speaks = shutil.which("espeak-ng")
    for number in range(count + held_out):
        word, path = DIGITS[number % 10], folder / f"{number}.wav"
        if speaks:
            subprocess.run([speaks, "-v", chance.choice(VOICES), "-s", str(chance.randrange(130, 210)), "-p", str(chance.randrange(25, 80)), "-w", str(path), word], check=True)
        else:
            tones(path, number % 10, chance)
        rows.append({"audio": path.name, "text": word})
    chance.shuffle(rows)
    return rows[:count], rows[count:], "digits of espeak-ng" if speaks else "digits as tones"


def tones(path, digit, chance):
    """Two tones together, as a telephone dials a digit, in noise."""
    low, high, length = [697, 770, 852, 941][digit // 3], [1209, 1336, 1477][digit % 3], chance.randrange(5000, 9000)
    values = [0.3 * math.sin(2 * math.pi * low * at / 16000) + 0.3 * math.sin(2 * math.pi * high * at / 16000) + 0.1 * chance.gauss(0, 1) for at in range(length)]
    with contextlib.closing(wave.open(str(path), "wb")) as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes(b"".join(struct.pack("<h", max(-32768, min(32767, int(20000 * value)))) for value in values))


def samples(path):
    """A sound at 16 kHz."""
    import soundfile
    import torch
    values, rate = soundfile.read(path, dtype="float32")
    if rate != 16000:
        wanted = int(len(values) * 16000 / rate)
        values = torch.nn.functional.interpolate(torch.tensor(values)[None, None], wanted, mode="linear").numpy()[0, 0]
    return values


def distance(one, other):
    """How many letters are put in, taken out or changed."""
    row = list(range(len(other) + 1))
    for at, letter in enumerate(one, 1):
        before, row[0] = row[0], at
        for place, wanted in enumerate(other, 1):
            before, row[place] = row[place], min(row[place] + 1, row[place - 1] + 1, before + (letter != wanted))
    return row[-1]
