//! Pictures and sounds against transformers' own processors (`scripts/fixtures/make_media_fixtures.py`).

use std::path::{Path, PathBuf};

use crate::common::{Folder, done};
use peft_onnx::media::{FeatureExtractor, Features, ImageProcessor, Waveform, normalised};
use serde::Deserialize;
use serde_json::json;

#[derive(Deserialize)]
struct Case {
    file: String,
    processor: String,
    config: serde_json::Value,
    features: Expected,
    #[serde(default)]
    sound: bool,
    /// Samples of the batch that the sound is filled up in.
    filled: Option<usize>,
}

#[derive(Deserialize)]
struct Expected {
    shape: Vec<usize>,
    values: Vec<f32>,
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/media")
}

/// The largest difference; the sound's fixtures hold only the first samples.
fn difference(found: &Features, expected: &Expected) -> f32 {
    found.values.iter().zip(&expected.values).map(|(found, expected)| (found - expected).abs()).fold(0.0, f32::max)
}

#[test]
fn files_become_what_transformers_makes_of_them() {
    let cases: Vec<Case> = serde_json::from_str(&std::fs::read_to_string(fixtures().join("expected.json")).unwrap()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("preprocessor_config.json");
    let mut wrong = vec![];
    for case in cases {
        std::fs::write(&config, case.config.to_string()).unwrap();
        let path = fixtures().join(&case.file);
        let (found, tolerance) = if case.sound {
            (case.heard(&FeatureExtractor::read(&config).unwrap(), &path), 1e-4)
        } else {
            (ImageProcessor::read(&config).unwrap().pixels(&path).unwrap(), 2e-6)
        };
        let has_shape = found.shape == case.expected_shape(&found);
        let difference = difference(&found, &case.features);
        if !has_shape || f64::from(difference) > tolerance {
            wrong.push(format!(
                "{} by {}: shape {:?}, differs by {difference} (allowed {tolerance})",
                case.file, case.processor, found.shape
            ));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn pictures_of_every_kind_have_the_pixels_that_pillow_reads() {
    let folder = Folder::empty();
    let config = folder.write("preprocessor_config.json", r#"{"do_resize": false, "do_rescale": false, "do_normalize": false}"#);
    let processor = ImageProcessor::read(Path::new(&config)).expect("a processor");
    let files = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/pictures")).expect("the fixtures are there");
    let files = files.map(|entry| entry.expect("an entry").path()).collect::<Vec<_>>();
    let (expected, given): (Vec<_>, Vec<_>) = files.into_iter().partition(|file| file.to_string_lossy().ends_with(".expected.png"));
    assert!(given.len() > 40 && given.len() == expected.len(), "{} pictures", given.len());
    let wrong = given.iter().filter_map(|file| {
        let found = processor.pixels(file).map_err(|error| error.to_string());
        let expected = processor.pixels(Path::new(&format!("{}.expected.png", file.display()))).map_err(|error| error.to_string());
        (found != expected || found.is_err()).then(|| match (found, expected) {
            (Ok(found), Ok(expected)) if found.shape == expected.shape => {
                let differences = found.values.iter().zip(&expected.values).map(|(found, expected)| (found - expected).abs());
                format!("{}: {} of 255 away", file.display(), differences.fold(0.0, f32::max))
            }
            (found, expected) => format!("{}: {:?}, not {:?}", file.display(), found.map(|found| found.shape), expected.map(|it| it.shape)),
        })
    });
    let wrong = wrong.collect::<Vec<_>>();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

impl Case {
    #[expect(clippy::as_conversions, clippy::cast_possible_truncation, reason = "as where tensors are made")]
    fn heard(&self, extractor: &FeatureExtractor, path: &Path) -> Features {
        let Some(length) = self.filled else { return extractor.features(path).expect("a sound") };
        let (mut features, is_raw) = extractor.features_to_fill(path).expect("a sound");
        assert!(is_raw, "without a mask a sound is normalised with what fills it up");
        features.values.resize(length, 0.0);
        let values = normalised(features.values.iter().copied().map(f64::from)).into_iter().map(|value| value as f32).collect();
        Features { shape: vec![length], values }
    }

    fn expected_shape(&self, found: &Features) -> Vec<usize> {
        if self.sound && self.features.shape.len() == 1 { found.shape.clone() } else { self.features.shape.clone() }
    }
}

#[test]
fn other_formats_and_rates_are_read() {
    for (file, rate, seconds) in [("tone_8k.ogg", 8_000, 0.25_f32), ("tone_44k.mp3", 44_100, 0.25)] {
        let sound = Waveform::read(&fixtures().join(file)).unwrap();
        assert_eq!(sound.rate, rate, "{file}");
        let sound = sound.resampled(16_000).unwrap();
        let length = f32::from(u16::try_from(sound.samples.len()).unwrap()) / 16_000.0;
        assert!((length - seconds).abs() < 0.06, "{file}: {length} s");
        // A tone of 440 Hz crosses zero 880 times a second, whatever its rate was.
        let middle = &sound.samples[800..2400];
        let crossings = middle.windows(2).filter(|pair| (pair[0] < 0.0) != (pair[1] < 0.0)).count();
        assert!((85..=91).contains(&crossings), "{file}: {crossings} crossings in a tenth of a second");
    }
}

#[test]
fn files_that_are_neither_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("photo.png");
    for content in [&b""[..], b"no picture", b"\x89PNG\r\n\x1a\nbroken", b"RIFF\x04\x00\x00\x00WAVE"] {
        std::fs::write(&path, content).unwrap();
        let errors = [ImageProcessor::plain(4, 4).pixels(&path).unwrap_err(), Waveform::read(&path).unwrap_err()];
        assert!(errors.iter().all(|error| error.to_string().contains("photo.png")), "{errors:?}");
    }
    assert!(ImageProcessor::plain(4, 4).pixels(&folder.path().join("none.png")).is_err());
}

#[test]
fn pictures_that_are_changed_by_chance_are_changed_alike_after_a_resume() {
    let folder = Folder::with("vit_classifier/dynamo.onnx");
    for (name, shade) in [("a.png", 20), ("b.png", 200)] {
        let picture =
            image::RgbImage::from_fn(40, 24, |x, y| image::Rgb([shade, u8::try_from(5 * x).unwrap(), u8::try_from(9 * y).unwrap()]));
        picture.save(folder.path(name)).unwrap();
    }
    let side = json!({"size": 12, "do_normalize": false});
    folder.write("preprocessor_config.json", &side.to_string());
    let row = |at: usize| json!({"image": (["a.png", "b.png"][at % 2]), "label": (at % 2)}).to_string();
    let rows = (0..8).map(row).collect::<Vec<_>>().join("\n");
    let (data, bundle) = (folder.write("rows.jsonl", &rows), folder.path("bundle"));
    done(&["inject", &folder.path("model.onnx"), "--method", "lora", "-o", &bundle, "-q"]);
    let train = |more: &[&str]| {
        let args = [
            "train",
            &bundle,
            "--data",
            &data,
            "--batch-size",
            "2",
            "--save-steps",
            "2",
            "--lr-scheduler",
            "constant",
            "--learning-rate",
            "0.01",
            "-q",
        ];
        done(&[&args[..], more].concat());
        std::fs::read(Path::new(&bundle).join("adapter_model.safetensors")).unwrap()
    };
    let augment = ["--augment", "random-resized-crop,horizontal-flip"];
    let whole = train(&[&augment[..], &["--max-steps", "4"]].concat());
    let plain = train(&["--restart", "--max-steps", "4"]);
    assert_ne!(whole, plain);
    train(&[&augment[..], &["--restart", "--max-steps", "2"]].concat());
    let resumed = train(&[&augment[..], &["--resume", "--max-steps", "4"]].concat());
    assert!(whole == resumed, "a run that was resumed sees the same parts of the pictures");
}

#[test]
fn pictures_have_numbers_and_several_labels_as_texts_have() {
    for (task, label, asked) in [("regression", json!([0.5, -1.0, 2.0]), "mse"), ("multi-label", json!([0, 2]), "f1_micro")] {
        let folder = Folder::with("vit_classifier/dynamo.onnx");
        let picture = |x, y| image::Rgb([u8::try_from(5 * x).unwrap(), u8::try_from(9 * y).unwrap(), 40]);
        image::RgbImage::from_fn(40, 24, picture).save(folder.path("a.png")).unwrap();
        folder.write("preprocessor_config.json", &json!({"size": 12, "do_normalize": false}).to_string());
        let name = if task == "regression" { "label" } else { "labels" };
        let row = json!({"image": "a.png", (name): label}).to_string();
        let (data, bundle) = (folder.write("rows.jsonl", &format!("{row}\n{row}\n")), folder.path("bundle"));
        done(&["inject", &folder.path("model.onnx"), "--task", task, "--method", "lora", "-o", &bundle, "-q"]);
        done(&["train", &bundle, "--data", &data, "--max-steps", "1", "-q"]);
        let told = done(&["eval", &bundle, "--data", &data, "--json"]);
        assert!(told.contains(asked), "{task}: {told}");
        assert!(done(&["predict", &bundle, "--data", &data]).contains("prediction"), "{task}");
    }
}

#[test]
fn a_jpeg_that_was_cut_off_is_no_picture() {
    let folder = Folder::empty();
    let config = folder.write("preprocessor_config.json", r#"{"do_resize": false, "do_normalize": false}"#);
    let processor = ImageProcessor::read(Path::new(&config)).expect("a processor");
    let whole = std::fs::read(fixtures().join("turned.jpg")).expect("the fixture is there");
    let path = PathBuf::from(folder.path("cut.jpg"));
    for (bytes, is_whole) in [(whole.len(), true), (whole.len() - 2, false), (whole.len() * 9 / 10, false)] {
        std::fs::write(&path, &whole[..bytes]).expect("the file is written");
        let found = processor.pixels(&path);
        assert_eq!(found.is_ok(), is_whole, "{bytes} bytes: {found:?}");
        assert!(is_whole || found.is_err_and(|error| error.to_string().contains("cut off")), "{bytes} bytes");
    }
}
