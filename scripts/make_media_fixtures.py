#!/usr/bin/env python3
"""Small pictures and sounds, and what transformers' processors make of them, for tests/it/media.rs.

    python scripts/make_media_fixtures.py          writes tests/fixtures/media

Needs transformers, pillow, soundfile and numpy.
"""
import json
import pathlib

import numpy as np
import soundfile
from PIL import Image, ImageOps
from transformers import CLIPImageProcessor, ConvNextImageProcessor, ViTImageProcessor, Wav2Vec2FeatureExtractor, WhisperFeatureExtractor

folder = pathlib.Path(__file__).resolve().parent.parent / "tests/fixtures/media"
folder.mkdir(exist_ok=True)
random = np.random.default_rng(5)

# A smooth picture with an edge: both what filters blur and what they overshoot at.
y, x = np.mgrid[0:23, 0:31]
picture = np.stack([127 + 100 * np.sin(x / 5), 127 + 100 * np.cos(y / 4), 40 * (x > 15) + 4.0 * y + 10], -1)
picture = Image.fromarray(np.clip(picture + random.normal(0, 4, picture.shape), 0, 255).astype(np.uint8))
picture.save(folder / "photo.png")
picture.save(folder / "photo.bmp")
picture.save(folder / "photo.webp", lossless=True)
picture.convert("P", palette=Image.Palette.ADAPTIVE).save(folder / "photo.gif")
picture.convert("L").save(folder / "grey.png")
picture.convert("RGBA").save(folder / "alpha.png")
smooth = Image.fromarray(np.stack([np.full((24, 32), 200), 5 * np.mgrid[0:24, 0:32][0] + 60, np.full((24, 32), 90)], -1).astype(np.uint8))
exif = Image.Exif()
exif[0x0112] = 6
smooth.save(folder / "turned.jpg", quality=95, exif=exif)

PROCESSORS = {
    "vit": ViTImageProcessor(size={"height": 16, "width": 12}),
    "vit_larger": ViTImageProcessor(size={"height": 40, "width": 50}, resample=3),
    "wider_and_lower": ViTImageProcessor(size={"height": 17, "width": 40}),
    "lanczos": ViTImageProcessor(size={"height": 9, "width": 10}, resample=1, image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6]),
    "clip": CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 14, "width": 14}),
    "clip_padded": CLIPImageProcessor(size={"shortest_edge": 10}, crop_size={"height": 15, "width": 12}),
    "convnext": ConvNextImageProcessor(size={"shortest_edge": 14}, crop_pct=0.875),
    "unscaled": ViTImageProcessor(do_resize=False, do_normalize=False),
}
values = lambda array: {"shape": list(array.shape), "values": [round(float(v), 6) for v in array.flatten()]}  # noqa: E731
cases = []
for name, processor in PROCESSORS.items():
    config = json.loads(processor.to_json_string())
    files = ["photo.png"] + (["photo.bmp", "photo.webp", "photo.gif", "grey.png", "alpha.png", "turned.jpg"] if name == "vit" else [])
    for file in files:
        image = ImageOps.exif_transpose(Image.open(folder / file)).convert("RGB")
        pixels = processor(image, return_tensors="np", input_data_format="channels_last")["pixel_values"][0]
        cases.append({"file": file, "processor": name, "config": config, "features": values(pixels)})

rate = 16000
seconds = np.arange(rate // 5) / rate
tone = (0.3 * np.sin(2 * np.pi * 440 * seconds) + 0.1 * np.sin(2 * np.pi * 2500 * seconds) + random.normal(0, 0.02, seconds.shape)).astype(np.float32)
soundfile.write(folder / "tone.wav", tone, rate, subtype="PCM_16")
soundfile.write(folder / "tone.flac", tone, rate)
soundfile.write(folder / "float.wav", tone, rate, subtype="FLOAT")
soundfile.write(folder / "stereo.wav", np.stack([tone, tone * 0.5], 1), rate, subtype="PCM_16")
slow = np.arange(8000 // 4) / 8000
soundfile.write(folder / "tone_8k.ogg", 0.4 * np.sin(2 * np.pi * 440 * slow), 8000, format="OGG", subtype="VORBIS")
soundfile.write(folder / "tone_44k.mp3", 0.4 * np.sin(2 * np.pi * 440 * np.arange(44100 // 4) / 44100), 44100, format="MP3")
EXTRACTORS = {
    "wav2vec2": Wav2Vec2FeatureExtractor(do_normalize=True),
    "plain": Wav2Vec2FeatureExtractor(do_normalize=False),
    "whisper": WhisperFeatureExtractor(feature_size=20, chunk_length=1),
}
for name, extractor in EXTRACTORS.items():
    config = json.loads(extractor.to_json_string())
    config.pop("mel_filters", None)
    for file in ["tone.wav", "tone.flac", "float.wav", "stereo.wav"] if name != "whisper" else ["tone.wav"]:
        sound, _ = soundfile.read(folder / file, dtype="float32")
        sound = sound if sound.ndim == 1 else sound.mean(1)
        found = extractor(sound, sampling_rate=rate, return_tensors="np")
        features = found["input_features"][0] if name == "whisper" else found["input_values"][0]
        cases.append({"file": file, "processor": name, "config": config, "features": values(features[..., :400] if name != "whisper" else features), "sound": True})

(folder / "expected.json").write_text("[" + ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases) + "]\n")
print(f"{len(cases)} cases; " + ", ".join(f"{p.name} {p.stat().st_size}" for p in sorted(folder.iterdir())))
