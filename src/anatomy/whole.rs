//! Names of a model's part as the whole model has them.
//!
//! An encoder that was exported alone calls its modules `block.0.layer.0`, or `layers.0.fc1`; in the whole model they are
//! `encoder.block.0.layer.0` and `model.encoder.layers.0.fc1`. What stands in front follows from the decoder's own names.

use std::collections::BTreeMap;

use super::Anatomy;
use super::lists::{quoted, strung};
use super::names::owned;

/// What comes off the front of a part's names, and what is put there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Front {
    /// What wraps the part in its file, with its dot; empty for nothing.
    wrapper: String,
    /// What scopes lack in the part itself, by their first word, with its dot.
    skipped: BTreeMap<String, String>,
    /// What the whole model has in front, with its dot; empty for nothing.
    outer: String,
}

/// The words for the two halves of a model in module paths.
const DECODER: &str = "decoder";
const ENCODER: &str = "encoder";

impl Front {
    /// The names of the file that the others are parts of: only wrappers come off.
    #[must_use]
    pub fn of_model(model: &Anatomy) -> Self {
        Self { wrapper: model.wrapper.clone(), skipped: model.skipped.clone(), outer: String::new() }
    }

    /// The names of an encoder, in the model whose decoder is `decoder`.
    #[must_use]
    pub fn of_encoder(encoder: &Anatomy, decoder: &Anatomy) -> Self {
        let front = stack(decoder).and_then(|stack| before_encoder(encoder, &stack.split('.').collect::<Vec<_>>()));
        Self { wrapper: encoder.wrapper.clone(), skipped: encoder.skipped.clone(), outer: front.unwrap_or_default() }
    }

    /// What the whole model has in front, with its dot.
    #[must_use]
    pub fn front(&self) -> &str {
        &self.outer
    }

    /// The name of a constant: `block.0.wi.weight` becomes `encoder.block.0.wi.weight`. Names that are no module's stay.
    #[must_use]
    pub fn constant(&self, name: &str) -> String {
        if owned(name).is_some() { self.path(name) } else { name.to_owned() }
    }

    /// The name of a node, or of what it gives: `/block.0/wi/MatMul` becomes `/encoder/block.0/wi/MatMul`.
    #[must_use]
    pub fn node(&self, name: &str) -> String {
        let (slash, rest) = name.strip_prefix('/').map_or(("", name), |rest| ("/", rest));
        if !rest.contains('/') {
            return self.constant(name);
        }
        let rest = rest.strip_prefix(&self.wrapper.replace('.', "/")).unwrap_or(rest);
        let skipped = rest.split('/').next().map_or("", |scope| self.skipped(scope));
        format!("{slash}{}{}{rest}", self.outer.replace('.', "/"), skipped.replace('.', "/"))
    }

    /// An annotation of a node, in which torch's exporter keeps the paths of modules.
    #[must_use]
    pub fn annotation(&self, key: &str, value: &str) -> String {
        match key {
            "pkg.torch.onnx.name_scopes" => strung(&quoted(value).iter().map(|path| self.scope(path)).collect::<Vec<_>>()),
            "namespace" => {
                let part = |part: &str| match part.split_once(": ") {
                    Some((module, class)) => format!("{}: {class}", self.scope(module.trim())),
                    None => part.to_owned(),
                };
                value.split('/').map(part).collect::<Vec<_>>().join("/")
            }
            _ => value.to_owned(),
        }
    }

    /// A module's path; the outermost module has none.
    fn scope(&self, path: &str) -> String {
        let is_outermost = path.is_empty() || self.wrapper.strip_suffix('.') == Some(path);
        let inner = path.strip_prefix(&self.wrapper).unwrap_or(path);
        if is_outermost { String::new() } else { format!("{}{}{inner}", self.outer, self.skipped(inner)) }
    }

    /// What is missing in front of a scope.
    fn skipped(&self, scope: &str) -> &str {
        scope.split('.').next().and_then(|word| self.skipped.get(word)).map_or("", String::as_str)
    }

    fn path(&self, path: &str) -> String {
        format!("{}{}", self.outer, path.strip_prefix(&self.wrapper).unwrap_or(path))
    }
}

/// The path of most numbered layers, up to their number: `model.decoder.layers`.
fn stack(anatomy: &Anatomy) -> Option<String> {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for projection in &anatomy.projections {
        let is_number = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
        let words: Vec<&str> = projection.module.split('.').collect();
        if let Some(place) = words.iter().position(|word| is_number(word)) {
            *counts.entry(words[..place].join(".")).or_default() += 1;
        }
    }
    counts.into_iter().max_by_key(|(_, count)| *count).map(|(path, _)| path)
}

/// What is missing in front of an encoder's names, where the decoder's layers have this path; none where the decoder is not called so.
fn before_encoder(encoder: &Anatomy, decoder: &[&str]) -> Option<String> {
    let place = decoder.iter().position(|word| *word == DECODER)?;
    let (outer, tail) = (&decoder[..place], decoder[place + 1..].join("."));
    // `model.encoder`, as the decoder is `model.decoder`.
    let whole: Vec<&str> = outer.iter().copied().chain([ENCODER]).collect();
    let own = stack(encoder).unwrap_or_default();
    let with_dot = |words: &[&str]| words.iter().flat_map(|word| [*word, "."]).collect::<String>();
    // Where both halves are built alike, the encoder's own path tells how much of the whole one it has.
    for missing in 0..=whole.len() {
        let there = with_dot(&whole[missing..]);
        if own == format!("{there}{tail}") {
            return Some(with_dot(&whole[..missing]));
        }
    }
    // Else it has all of it, or nothing: a name that is outside tells.
    let front = with_dot(&whole);
    let table = encoder.token_embedding.and_then(|at| encoder.embeddings.get(at));
    let is_table = |parameter: &super::Parameter| table.is_some_and(|table| table.weight == parameter.value);
    let parameters = encoder.parameters.iter().filter(|parameter| !is_table(parameter)).map(|parameter| parameter.name.as_str());
    let modules = encoder.projections.iter().map(|projection| projection.module.as_str());
    let has_all = modules.chain(parameters).all(|name| name.starts_with(&front));
    Some(if has_all { String::new() } else { front })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::anatomy;
    use crate::ir::{Builder, DType, Dim, ModelInfo, Tensor};

    /// A graph with a projection of each of these names, one behind the other.
    fn of(names: &[&str]) -> Anatomy {
        let b = Builder::new(ModelInfo::dialect());
        let mut x = b.input("x", DType::F32, &[Dim::symbol("batch"), Dim::symbol("seq"), Dim::known(4)]);
        for name in names {
            let weight = b.initializer(&format!("{name}.weight"), Tensor::from_f32(&[4, 4], &[0.5; 16]));
            x = b.scoped(name, || x.matmul(weight)).tanh();
        }
        b.output("y", x);
        anatomy::read(&b.finish().expect("a valid graph"))
    }

    #[test]
    fn an_encoder_has_the_front_that_its_decoder_has() {
        let rows: &[(&[&str], &[&str], &str)] = &[
            (&["block.0.wi", "block.1.wi"], &["decoder.block.0.wi", "decoder.block.1.wi", "lm_head"], "encoder."),
            (&["encoder.block.0.wi", "encoder.block.1.wi"], &["decoder.block.0.wi", "decoder.block.1.wi", "lm_head"], ""),
            (&["layers.0.fc1", "layers.1.fc1"], &["model.decoder.layers.0.fc1", "model.decoder.layers.1.fc1", "lm_head"], "model.encoder."),
            (
                &["encoder.layers.0.fc1", "encoder.layers.1.fc1"],
                &["model.decoder.layers.0.fc1", "model.decoder.layers.1.fc1", "proj"],
                "model.",
            ),
            (
                &["model.encoder.layers.0.fc1", "model.encoder.layers.1.fc1"],
                &["model.decoder.layers.0.fc1", "model.decoder.layers.1.fc1"],
                "",
            ),
            (
                &["embeddings.patches", "encoder.layer.0.q", "encoder.layer.1.q"],
                &["decoder.model.decoder.layers.0.q", "decoder.model.decoder.layers.1.q", "decoder.output_projection"],
                "encoder.",
            ),
            (
                &["encoder.embeddings.patches", "encoder.encoder.layer.0.q", "encoder.encoder.layer.1.q"],
                &["decoder.model.decoder.layers.0.q", "decoder.model.decoder.layers.1.q", "decoder.output_projection"],
                "",
            ),
            (&["h.0.q", "h.1.q"], &["transformer.h.0.q", "transformer.h.1.q"], ""),
        ];
        for (encoder, decoder, expected) in rows {
            let front = Front::of_encoder(&of(encoder), &of(decoder));
            assert_eq!(front.front(), *expected, "{encoder:?}");
        }
    }

    #[test]
    fn names_of_every_kind_get_the_front() {
        let front = Front { wrapper: "m.".into(), outer: "model.encoder.".into(), ..Front::default() };
        let rows = [
            (front.constant("m.layers.0.fc1.bias"), "model.encoder.layers.0.fc1.bias"),
            (front.constant("onnx::MatMul_12"), "onnx::MatMul_12"),
            (front.constant("val_3"), "val_3"),
            (front.node("/m/layers.0/fc1/MatMul"), "/model/encoder/layers.0/fc1/MatMul"),
            (front.node("node_linear_3"), "node_linear_3"),
            (
                front.annotation("pkg.torch.onnx.name_scopes", "['', 'm', 'm.layers.0', 'linear']"),
                "['', '', 'model.encoder.layers.0', 'model.encoder.linear']",
            ),
            (front.annotation("namespace", ": W/m.layers.0: torch.Linear"), ": W/model.encoder.layers.0: torch.Linear"),
        ];
        for (found, expected) in rows {
            assert_eq!(found, expected);
        }
    }
}
