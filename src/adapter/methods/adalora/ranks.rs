//! The ranks that modules keep: an adapter's file has the singular values that were not masked, and `rank_pattern` which of the first `init_r` those are
//! (PEFT `tuners/adalora/model.py`, `resize_state_dict_by_rank_pattern`).

use indexmap::IndexMap;

use super::{A, AdaLoraConfig, B, E, ROW};
use crate::adapter::params::allocation::{Allocation, Triplet};
use crate::adapter::params::key::{Family, Key, KeyPart};
use crate::adapter::params::{Param, places};
use crate::error::{Error, Place, Result};
use crate::ir::Tensor;

/// The axis of a tensor along which ranks lie.
fn axis(part: KeyPart) -> usize {
    usize::from(part == B)
}

/// What is allocated, of tensors in the order of the trainable vector.
pub(super) fn allocation(config: &AdaLoraConfig, params: &[Param]) -> Allocation {
    let places = places(params);
    let triplet = |key: &&str| {
        let module = module_of_values(key)?;
        let of = |part| places.get(Key::module(module.as_str(), part).to_string().as_str()).cloned();
        Some(Triplet { right: of(A)?, left: of(B)?, values: of(E)? })
    };
    let triplets = places.keys().filter_map(triplet).collect();
    Allocation { schedule: config.schedule.clone(), target_r: config.target_r, triplets }
}

/// Leaves out of tensors what is masked, and notes what is left. `names` are those of the trainable vector in its order.
///
/// # Errors
/// As many masks as there are no singular values.
pub(super) fn drop_ranks(config: &mut AdaLoraConfig, names: &[&str], tensors: &mut IndexMap<String, Tensor>, masked: &[f32]) -> Result<()> {
    let mut masked = masked.iter().map(|mask| *mask > 0.0);
    config.rank_pattern.clear();
    for module in names.iter().filter_map(|name| module_of_values(name)) {
        let of = |part| Key::module(module.as_str(), part).to_string();
        let rank = tensors.get(&of(E)).map_or(0, Tensor::len);
        let kept: Vec<bool> = masked.by_ref().take(rank).map(|is_masked| !is_masked).collect();
        for part in [A, B, E] {
            let name = of(part);
            let tensor = tensors.get_mut(&name).ok_or_else(|| Error::not_found("tensor", name.clone()))?;
            *tensor = kept_of(tensor, axis(part), &kept).map_err(|error| error.at(Place::Tensor(name)))?;
        }
        config.rank_pattern.insert(format!("{module}.lora_E"), kept);
    }
    Ok(())
}

/// A tensor with zeros for the ranks that were left out of it, if that gives it a shape.
pub(super) fn whole(config: &AdaLoraConfig, name: &str, tensor: Option<&Tensor>, shape: &[usize]) -> Option<Tensor> {
    let (module, part) = module_of(name)?;
    let kept = config.kept(&module)?;
    let axis = axis(part);
    if shape.len() != 2 || shape.get(axis) != Some(&kept.len()) {
        return None;
    }
    let values = tensor.map_or(Some(vec![]), Tensor::to_f32)?;
    let mut left = values.into_iter();
    let value = |place: usize| {
        let rank = if axis == 0 { place / shape[1] } else { place % shape[1] };
        if kept[rank] { left.next() } else { Some(0.0) }
    };
    let whole: Vec<f32> = (0..shape[0] * shape[1]).map(value).collect::<Option<_>>()?;
    left.next().is_none().then(|| Tensor::from_f32(shape, &whole))
}

/// The ranks of a matrix that are kept.
fn kept_of(tensor: &Tensor, axis: usize, kept: &[bool]) -> Result<Tensor> {
    let (values, shape) = (tensor.to_f32(), tensor.shape());
    let (Some(values), &[rows, columns]) = (values, shape) else {
        return Err(Error::mismatch("shape", "a float matrix", format!("{shape:?}")));
    };
    let is_kept = |place: usize| kept.get(if axis == 0 { place / columns } else { place % columns }).copied();
    let marks: Option<Vec<bool>> = (0..rows * columns).map(is_kept).collect();
    let marks = marks.ok_or_else(|| Error::mismatch("masks of singular values", shape[axis], kept.len()))?;
    let count = kept.iter().filter(|kept| **kept).count();
    let left: Vec<f32> = values.into_iter().zip(marks).filter(|(_, kept)| *kept).map(|(value, _)| value).collect();
    let shape = if axis == 0 { [count, columns] } else { [rows, count] };
    Ok(Tensor::from_f32(&shape, &left))
}

/// The module that a tensor belongs to, and which of its tensors it is.
fn module_of(name: &str) -> Option<(String, KeyPart)> {
    match Key::parse(name, Family::Tuner, &[ROW.tensors])? {
        Key::Module { module, part } => Some((module, part)),
        _ => None,
    }
}

/// The module of which a tensor has the singular values.
fn module_of_values(name: &str) -> Option<String> {
    module_of(name).filter(|(_, part)| *part == E).map(|(module, _)| module)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: [&str; 3] = ["base_model.model.l.0.q.lora_A", "base_model.model.l.0.q.lora_B", "base_model.model.l.0.q.lora_E"];

    fn tensors() -> IndexMap<String, Tensor> {
        let numbers = |count: u8| (1..=count).map(f32::from).collect::<Vec<f32>>();
        let shapes = [[3, 2], [2, 3], [3, 1]];
        KEYS.iter()
            .zip(shapes)
            .map(|(key, shape)| ((*key).to_owned(), Tensor::from_f32(&shape, &numbers(6)[..shape[0] * shape[1]])))
            .collect()
    }

    #[test]
    fn masked_ranks_are_left_out_and_come_back_as_zeros() -> Result<()> {
        for (masked, expected) in [
            ([0.0, 1.0, 0.0], [vec![1.0, 2.0, 5.0, 6.0], vec![1.0, 3.0, 4.0, 6.0], vec![1.0, 3.0]]),
            ([1.0, 1.0, 1.0], [vec![], vec![], vec![]]),
            ([0.0, 0.0, 0.0], [vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0], vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0], vec![1.0, 2.0, 3.0]]),
        ] {
            let (mut config, mut left) = (AdaLoraConfig { init_r: 3, ..AdaLoraConfig::default() }, tensors());
            drop_ranks(&mut config, &KEYS, &mut left, &masked)?;
            for (key, expected) in KEYS.iter().zip(expected) {
                assert_eq!(left[*key].to_f32(), Some(expected), "{key} {masked:?}");
            }
            for (key, before) in &tensors() {
                let whole = whole(&config, key, Some(&left[key]), before.shape()).and_then(|whole| whole.to_f32()).expect("it comes back");
                let axis = usize::from(key.ends_with('B'));
                let columns = before.shape()[1];
                for (place, (found, before)) in whole.iter().zip(before.to_f32().expect("floats")).enumerate() {
                    let rank = if axis == 0 { place / columns } else { place % columns };
                    assert!((found - if masked[rank] > 0.0 { 0.0 } else { before }).abs() < f32::EPSILON, "{key} {masked:?}");
                }
            }
        }
        Ok(())
    }

    #[test]
    fn what_is_of_another_shape_does_not_come_back() -> Result<()> {
        let (mut config, mut left) = (AdaLoraConfig { init_r: 3, ..AdaLoraConfig::default() }, tensors());
        drop_ranks(&mut config, &KEYS, &mut left, &[0.0, 1.0, 0.0])?;
        assert!(whole(&config, KEYS[0], Some(&left[KEYS[0]]), &[4, 2]).is_none());
        assert!(whole(&config, KEYS[0], Some(&left[KEYS[0]]), &[3, 3]).is_none());
        assert!(whole(&config, "base_model.model.l.0.v.lora_A", Some(&left[KEYS[0]]), &[3, 2]).is_none());
        assert!(drop_ranks(&mut config, &KEYS, &mut tensors(), &[0.0]).is_err());
        Ok(())
    }
}
