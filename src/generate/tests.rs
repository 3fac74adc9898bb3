use std::path::PathBuf;

use super::{Generator, Limits, Sampler, Sampling, TextStream};
use crate::data::{Specials, Tokenizer};
use crate::error::Result;
use crate::ort::{Device, Options, Runtime};

fn model(path: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "models", path].iter().collect()
}

fn runtime() -> &'static Runtime {
    Runtime::start(&Options::default()).unwrap_or_else(|error| panic!("tests need ONNX Runtime: {error}"))
}

fn greedy(path: &str, prompt: &[i32], limits: &Limits) -> Result<Vec<i32>> {
    let mut generator = Generator::open(runtime(), &model(path), Device::Cpu)?;
    let mut written = vec![];
    let tokens = generator.generate(prompt, limits, &mut Sampler::new(Sampling::default())?, &mut |token| {
        written.push(token);
        Ok(())
    })?;
    assert_eq!(tokens, written);
    Ok(tokens)
}

#[test]
fn with_and_without_a_cache_the_text_is_the_same() -> Result<()> {
    let limits = Limits { new_tokens: 12, ..Limits::default() };
    let prompt = [5, 17, 40, 2];
    assert!(Generator::open(runtime(), &model("fixtures/llama/optimum_cache.onnx"), Device::Cpu)?.has_cache());
    let with = greedy("fixtures/llama/optimum_cache.onnx", &prompt, &limits)?;
    let without = greedy("fixtures/llama/torchscript.onnx", &prompt, &limits)?;
    assert_eq!(with, without);
    assert_eq!(with.len(), 12);
    let stopped = Limits { stop: vec![with[4]], ..limits.clone() };
    let end = with.iter().position(|token| *token == with[4]).expect("it is there");
    assert_eq!(greedy("fixtures/llama/optimum_cache.onnx", &prompt, &stopped)?, with[..end]);
    let short = Limits { positions: Some(7), ..limits };
    assert_eq!(greedy("fixtures/llama/optimum_cache.onnx", &prompt, &short)?, with[..3]);
    Ok(())
}

#[test]
fn what_cannot_be_continued_is_refused() {
    let limits = Limits { new_tokens: 1, positions: Some(3), ..Limits::default() };
    let error = greedy("fixtures/llama/torchscript.onnx", &[], &limits).unwrap_err();
    assert_eq!(error.to_string(), "the prompt has no tokens");
    let error = greedy("fixtures/llama/torchscript.onnx", &[1, 2, 3], &limits).unwrap_err();
    assert_eq!(error.to_string(), "tokens in the prompt: expected fewer than 3, found 3");
    let error = greedy("fixtures/bert_classifier/torchscript.onnx", &[1], &limits).unwrap_err();
    assert!(error.to_string().contains("no output [batch, seq, vocabulary]"), "{error}");
}

#[test]
fn a_text_streams_as_it_is() -> Result<()> {
    let tokenizer = Tokenizer::open(&model("tiny-lm"))?;
    for text in ["It is a truth universally acknowledged, that a single man", "naïve — “quite”, said she\n\nChapter 2"] {
        let tokens = tokenizer.encode(text, Specials::AsWritten)?.ids;
        for prompt in [1, tokens.len() / 2] {
            let mut stream = TextStream::after(&tokenizer, &tokens[..prompt]);
            let mut written = tokenizer.decode(&tokens[..prompt])?;
            for token in &tokens[prompt..] {
                written += &stream.push(*token)?;
            }
            written += &stream.finish()?;
            assert_eq!(written, tokenizer.decode(&tokens)?);
        }
    }
    Ok(())
}

#[test]
fn probabilities_are_sampled_as_their_logits_would_be() {
    let probabilities = super::as_logits(vec![0.5, 0.25, 0.25, 0.0]);
    assert!((probabilities[0] - probabilities[1] - 2.0_f32.ln()).abs() < 1e-6 && probabilities[3] < -1e30, "{probabilities:?}");
    // Logits and logarithms of probabilities are what they are.
    for logits in [vec![1.5, -2.0, 0.25], vec![-0.7, -1.4, -1.4], vec![0.5, 0.5, 0.5]] {
        assert_eq!(super::as_logits(logits.clone()), logits);
    }
}
