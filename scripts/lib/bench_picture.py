"""Seconds of a step as a picture: a pair of bars a row of the benchmark, ours over PyTorch's."""
import html
import statistics

WIDTH, LEFT, STEP, BAR = 760, 300, 44, 14
COLOURS = {"ours": "#2a6f97", "eager": "#c9b79c", "compiled": "#a98467"}
NAMES = {"ours": "peft-onnx", "eager": "PEFT + PyTorch", "compiled": "PEFT + torch.compile"}


def picture(found, per_step, file):
    """Writes it; whether there was anything to draw. A bar is as long as its part of the row's slowest side."""
    rows = [(one["row"].name, {side: statistics.median(map(per_step, runs)) for side, runs in one["seen"].items()}) for one in found if "ours" in one.get("seen", {})]
    if not rows:
        return False
    parts = [f'<text x="{LEFT + 150 * at}" y="22" fill="{COLOURS[side]}">{NAMES[side]}</text>' for at, side in enumerate(COLOURS) if any(side in sides for _, sides in rows)]
    for number, (name, sides) in enumerate(rows):
        top, most = 40 + number * STEP, max(sides.values())
        parts.append(f'<text x="{LEFT - 10}" y="{top + 17}" text-anchor="end">{html.escape(name)}</text>')
        for at, (side, seconds) in enumerate(sides.items()):
            width, y = (WIDTH - LEFT - 90) * seconds / most, top + at * BAR
            parts.append(f'<rect x="{LEFT}" y="{y}" width="{width:.0f}" height="{BAR - 2}" fill="{COLOURS[side]}"/>')
            parts.append(f'<text x="{LEFT + width + 6:.0f}" y="{y + 11}" font-size="11">{seconds:.2f} s</text>')
    height = 40 + len(rows) * STEP
    file.write_text(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="13" role="img" '
                    f'aria-label="Seconds of a training step"><rect width="{WIDTH}" height="{height}" fill="#fff"/>{"".join(parts)}</svg>\n')
    return True
