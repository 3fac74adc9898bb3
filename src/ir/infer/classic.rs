//! Operators on strings, and those of `ai.onnx.ml`: classic models that stand before or behind a network.

use super::super::dim::Dim;
use super::super::dtype::DType;
use super::super::fact::{Fact, Shape};
use super::elementwise::{broadcast_inputs, first};
use super::question::length;
use super::{Answer, Question, Rule};
use crate::ir::graph::attr::Attr;

pub(super) static TABLE: &[(&str, Rule)] = &[
    ("RegexFullMatch", matches),
    ("StringConcat", string_concat),
    ("StringNormalizer", string_normalizer),
    ("StringSplit", string_split),
    ("TfIdfVectorizer", tf_idf),
    ("ai.onnx.ml:ArrayFeatureExtractor", array_feature_extractor),
    ("ai.onnx.ml:Binarizer", first),
    ("ai.onnx.ml:CategoryMapper", category_mapper),
    ("ai.onnx.ml:FeatureVectorizer", feature_vectorizer),
    ("ai.onnx.ml:Imputer", first),
    ("ai.onnx.ml:LabelEncoder", label_encoder),
    ("ai.onnx.ml:LinearClassifier", classifier),
    ("ai.onnx.ml:LinearRegressor", regressor),
    ("ai.onnx.ml:Normalizer", floats),
    ("ai.onnx.ml:OneHotEncoder", one_hot_encoder),
    ("ai.onnx.ml:SVMClassifier", classifier),
    ("ai.onnx.ml:SVMRegressor", regressor),
    ("ai.onnx.ml:Scaler", floats),
    ("ai.onnx.ml:TreeEnsemble", tree_ensemble),
    ("ai.onnx.ml:TreeEnsembleClassifier", classifier),
    ("ai.onnx.ml:TreeEnsembleRegressor", regressor),
];

/// The number of elements of a list attribute.
fn count(q: &Question<'_>, name: &str) -> Option<usize> {
    match q.attrs.get(name)? {
        Attr::Strs(all) => Some(all.len()),
        Attr::Ints(all) => Some(all.len()),
        Attr::Floats(all) => Some(all.len()),
        _ => None,
    }
}

/// The number of rows: the first of two axes; a vector is one row.
fn rows(q: &Question<'_>) -> Dim {
    match q.shape(0).map(Vec::as_slice) {
        Some([_]) => Dim::known(1),
        Some([rows, ..]) => rows.clone(),
        _ => q.fresh(0, 0),
    }
}

fn floats(q: &Question<'_>) -> Answer {
    Ok(vec![Fact::partial(Some(DType::F32), q.shape(0).cloned())])
}

/// A label per row and a score per row and class.
fn classifier(q: &Question<'_>) -> Answer {
    let strings = ["classlabels_strings", "classlabels_strings_int64s"].iter().any(|name| count(q, name).is_some_and(|n| n > 0));
    let label = if strings { DType::String } else { DType::I64 };
    let scores: Shape = vec![rows(q), q.fresh(1, 1)];
    Ok(vec![Fact::new(label, vec![rows(q)]), Fact::new(DType::F32, scores)])
}

/// `[rows, targets]`
fn regressor(q: &Question<'_>) -> Answer {
    let targets = match (q.op, q.attr_int("targets").or(q.attr_int("n_targets"))) {
        (_, Some(targets)) => Dim::known(targets),
        ("ai.onnx.ml:TreeEnsembleRegressor", None) => q.fresh(0, 1),
        _ => Dim::known(1),
    };
    Ok(vec![Fact::new(DType::F32, vec![rows(q), targets])])
}

fn tree_ensemble(q: &Question<'_>) -> Answer {
    let targets = q.attr_int("n_targets").map_or_else(|| q.fresh(0, 1), Dim::known);
    Ok(vec![Fact::partial(q.dtype(0), Some(vec![rows(q), targets]))])
}

/// The columns that the second input names.
fn array_feature_extractor(q: &Question<'_>) -> Answer {
    let shape = q.shape(0).and_then(|dims| dims.split_last()).zip(q.shape(1)).map(|((_, rows), columns)| {
        let rows = if rows.is_empty() { vec![Dim::known(1)] } else { rows.to_vec() };
        [rows, vec![Dim::product(columns)]].concat()
    });
    Ok(vec![Fact::partial(q.dtype(0), shape)])
}

/// Strings to whole numbers, or the other way.
fn category_mapper(q: &Question<'_>) -> Answer {
    let dtype = q.dtype(0).map(|dtype| if dtype == DType::String { DType::I64 } else { DType::String });
    Ok(vec![Fact::partial(dtype, q.shape(0).cloned())])
}

fn label_encoder(q: &Question<'_>) -> Answer {
    let dtype = [("values_strings", DType::String), ("values_int64s", DType::I64), ("values_floats", DType::F32)]
        .into_iter()
        .find(|(name, _)| q.attrs.contains_key(*name))
        .map(|(_, dtype)| dtype);
    let tensor = match q.attrs.get("values_tensor") {
        Some(Attr::Tensor(values)) => Some(values.dtype()),
        _ => None,
    };
    Ok(vec![Fact::partial(dtype.or(tensor), q.shape(0).cloned())])
}

fn feature_vectorizer(q: &Question<'_>) -> Answer {
    Ok(vec![Fact::new(DType::F32, vec![rows(q), q.fresh(0, 1)])])
}

/// One more axis, as long as there are categories.
fn one_hot_encoder(q: &Question<'_>) -> Answer {
    let categories = count(q, "cats_int64s").or_else(|| count(q, "cats_strings")).map_or_else(|| q.fresh(0, 9), length);
    let shape = q.shape(0).map(|dims| [dims.as_slice(), &[categories]].concat());
    Ok(vec![Fact::partial(Some(DType::F32), shape)])
}

fn matches(q: &Question<'_>) -> Answer {
    Ok(vec![Fact::partial(Some(DType::Bool), q.shape(0).cloned())])
}

fn string_concat(q: &Question<'_>) -> Answer {
    Ok(vec![Fact::partial(Some(DType::String), broadcast_inputs(q)?)])
}

/// Stop words go, so that the last axis may become shorter.
fn string_normalizer(q: &Question<'_>) -> Answer {
    let shape = q.shape(0).cloned().map(|mut dims| {
        if let Some(last) = dims.last_mut() {
            *last = q.fresh(0, 0);
        }
        dims
    });
    Ok(vec![Fact::partial(Some(DType::String), shape)])
}

/// The parts along a new last axis, and the number of parts of each string.
fn string_split(q: &Question<'_>) -> Answer {
    let parts = q.shape(0).map(|dims| [dims.as_slice(), &[q.fresh(0, dims.len())]].concat());
    Ok(vec![Fact::partial(Some(DType::String), parts), Fact::partial(Some(DType::I64), q.shape(0).cloned())])
}

/// The last axis becomes one number per n-gram.
fn tf_idf(q: &Question<'_>) -> Answer {
    let shape = q.shape(0).and_then(|dims| dims.split_last()).map(|(_, rows)| [rows, &[q.fresh(0, rows.len())]].concat());
    Ok(vec![Fact::partial(Some(DType::F32), shape)])
}

#[cfg(test)]
mod tests {
    use super::super::testing::row;
    use crate::ir::Attr;

    #[test]
    fn classic_models() {
        row("ai.onnx.ml:Scaler", &["int64[n, 4]"], &[], "float[n, 4]");
        row("ai.onnx.ml:LinearRegressor", &["float[n, 4]"], &[("targets", Attr::Int(2))], "float[n, 2]");
        row("ai.onnx.ml:LinearClassifier", &["float[n, 4]"], &[], "int64[n] float[n, ?y.1.1]");
        row("ai.onnx.ml:ArrayFeatureExtractor", &["float[n, 4]", "int64[2]"], &[], "float[n, 2]");
    }

    #[test]
    fn strings() {
        row("StringSplit", &["string[n]"], &[], "string[n, ?y.0.1] int64[n]");
        row("StringConcat", &["string[n, 1]", "string[m]"], &[], "string[n, m]");
        row("RegexFullMatch", &["string[n]"], &[], "bool[n]");
    }
}
