//! Texts that are written together: one run of the graph gives each of them its next token.
//!
//! Prompts of several lengths are filled up behind their ends; what fills them up stays in the cache, where the mask hides it. Not every graph can do
//! that (positions that count the cache's length, fused attention that wants rows without gaps, activations that are quantised together), and
//! what it can is not told by names: it is tried, once, with two short texts, whose logits together must be those that each has alone.

use super::{Generator, as_logits, row_of, tensor_of};
use crate::anatomy::{MaskForm, Role};
use crate::error::{Context, Error, Place, Result};
use crate::num;
use crate::ort::{DeviceTensor, ElementType, Feed, HostTensor, Piece, Presence};

/// Which texts one run can go on with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Together {
    /// One at a time.
    Alone,
    /// Texts of one length.
    OfOneLength,
    /// Any.
    Any,
}

/// What a run is given beside tokens.
#[derive(Clone, Copy, Default)]
pub struct Worn<'a> {
    /// Values of inputs, the same for all rows.
    pub tensors: &'a [(String, DeviceTensor)],
    /// An input with a number for each row.
    pub rows: Option<(&'a str, &'a [i64])>,
}

impl<'a> Worn<'a> {
    /// The same for some of the rows.
    #[must_use]
    fn of(self, rows: &'a [i64]) -> Self {
        Self { rows: self.rows.map(|(name, _)| (name, rows)), ..self }
    }

    /// Whether it has a value of an input.
    pub(super) fn gives(self, name: &str) -> bool {
        self.rows.is_some_and(|(rows, _)| rows == name) || self.tensors.iter().any(|(own, _)| own == name)
    }

    /// The numbers of the rows as a tensor.
    #[must_use]
    pub fn numbers(self) -> Option<(&'a str, HostTensor)> {
        self.rows.map(|(name, rows)| (name, HostTensor::vector(rows.to_vec())))
    }

    /// What a session is fed with; the numbers of rows are those of [`numbers`](Self::numbers).
    pub fn feeds(self, numbers: Option<&'a (&'a str, HostTensor)>) -> impl Iterator<Item = Feed<'a>> {
        let tensors = self.tensors.iter().map(|(name, tensor)| Feed::device(name, tensor));
        tensors.chain(numbers.map(|(name, tensor)| Feed::host(name, tensor)))
    }
}

/// What the model remembers of texts that are written together, in their order.
#[derive(Debug, Default)]
pub struct Group {
    past: Vec<DeviceTensor>,
    /// Which of the cache's columns are a row's own, row by row.
    own: Vec<Vec<bool>>,
}

impl Group {
    /// How many texts there are.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.own.len()
    }

    fn width(&self) -> usize {
        self.own.first().map_or(0, Vec::len)
    }

    /// Whether its texts and those of another one can be written together.
    #[must_use]
    pub fn goes_with(&self, other: &Self, together: Together) -> bool {
        match together {
            Together::Alone => false,
            Together::OfOneLength => self.width() == other.width(),
            Together::Any => true,
        }
    }
}

/// What a text gives at its end, `[vocabulary]`.
pub type Logits = Vec<f32>;

/// The axis of positions of each tensor of the cache; none of one whose length does not grow.
type Axes = Vec<Option<usize>>;

/// What was tried: which texts go together, and how their caches are joined.
#[derive(Debug)]
pub(super) struct Tried {
    together: Together,
    axes: Axes,
}

impl Generator {
    /// Whether texts are written by [`read`](Self::read) and [`go_on`](Self::go_on) at all: not where the graph takes but one number of tokens or
    /// rows, or looks at pictures.
    #[must_use]
    pub fn writes_groups(&self) -> bool {
        self.length.is_none() && self.feeding.rows.is_none() && self.later.is_none()
    }

    /// Reads prompts: the logits behind each, and what the model remembers of them.
    ///
    /// # Errors
    /// A run that fails; an input that it is not known what to feed with.
    pub fn read(&mut self, prompts: &[&[i32]], worn: Worn<'_>) -> Result<(Vec<Logits>, Group)> {
        let given = self.whole(prompts, worn)?;
        let places: Vec<usize> = prompts.iter().map(|prompt| prompt.len().saturating_sub(1)).collect();
        let (logits, past) = self.ran(&given, &[], worn, &places)?;
        let width = prompts.iter().map(|prompt| prompt.len()).max().unwrap_or_default();
        let own = prompts.iter().map(|prompt| (0..width).map(|column| column < prompt.len()).collect()).collect();
        Ok((logits, Group { past, own }))
    }

    /// Goes on with texts, of which the group has all tokens but the last: the logits behind each. Without a cache, everything is read again.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn go_on(&mut self, group: &mut Group, texts: &[&[i32]], worn: Worn<'_>) -> Result<Vec<Logits>> {
        if !self.has_cache() {
            let (logits, read) = self.read(texts, worn)?;
            *group = read;
            return Ok(logits);
        }
        let given = self.next_inputs(group, texts, worn)?;
        let (logits, past) = self.ran(&given, &group.past, worn, &vec![0; texts.len()])?;
        group.past = past;
        group.own.iter_mut().for_each(|own| own.push(true));
        Ok(logits)
    }

    /// One group of several, each with those of its texts that stay.
    ///
    /// # Errors
    /// Memory that the device refuses.
    pub fn joined(&self, groups: Vec<(Group, Vec<bool>)>) -> Result<Group> {
        let mut groups: Vec<(Group, Vec<bool>)> = groups.into_iter().filter(|(_, stays)| stays.contains(&true)).collect();
        match groups.as_mut_slice() {
            [] => return Ok(Group::default()),
            [(only, stays)] if !stays.contains(&false) => return Ok(std::mem::take(only)),
            _ => {}
        }
        let rows: Vec<(usize, usize)> = groups
            .iter()
            .enumerate()
            .flat_map(|(at, (_, stays))| stays.iter().enumerate().filter(|(_, stays)| **stays).map(move |(row, _)| (at, row)))
            .collect();
        let columns = |(at, row): &(usize, usize)| -> Vec<usize> {
            groups[*at].0.own[*row].iter().enumerate().filter(|(_, own)| **own).map(|(column, _)| column).collect()
        };
        let own: Vec<Vec<usize>> = rows.iter().map(columns).collect();
        let width = own.iter().map(Vec::len).max().unwrap_or_default();
        let axes = self.tried.as_ref().map(|tried| tried.axes.clone()).unwrap_or_default();
        let mut past = vec![];
        for (slot, axis) in axes.iter().enumerate().take(self.cache.len()) {
            let sources = groups.iter().map(|(group, _)| group.past[slot].to_host()).collect::<Result<Vec<_>>>()?;
            let counts: Vec<usize> = groups.iter().map(|(group, _)| group.rows()).collect();
            past.push(DeviceTensor::of(&joined(&sources, &counts, &rows, &own, width, *axis)?)?);
        }
        let own = own.iter().map(|own| (0..width).map(|column| column < own.len()).collect()).collect();
        Ok(Group { past, own })
    }

    /// Which texts can be written together. `worn` has the numbers of two rows, where rows have numbers: texts are compared that differ in them.
    pub fn together(&mut self, worn: Worn<'_>) -> Together {
        if self.tried.is_none() {
            let tried = self.tried_with(worn).unwrap_or_else(|error| {
                tracing::debug!("texts are written one at a time: {error}");
                Tried { together: Together::Alone, axes: vec![] }
            });
            tracing::info!("texts that can be written in one batch: {:?}", tried.together);
            self.tried = Some(tried);
        }
        self.tried.as_ref().map_or(Together::Alone, |tried| tried.together)
    }

    fn tried_with(&mut self, worn: Worn<'_>) -> Result<Tried> {
        if !self.writes_groups() {
            return Ok(Tried { together: Together::Alone, axes: vec![] });
        }
        let token = |number: usize| i32::try_from(number % self.vocabulary().unwrap_or(8).max(1)).unwrap_or_default();
        let (short, long): (Vec<i32>, Vec<i32>) = ([1, 2, 3].map(token).into(), [5, 4, 3, 2, 6].map(token).into());
        let cut = &long[..short.len()];
        let numbers = worn.rows.map_or([0, 0], |(_, rows)| [rows.first().copied().unwrap_or(0), rows.get(1).copied().unwrap_or(0)]);
        let (first, second) = (worn.of(&numbers[..1]), worn.of(&numbers[1..]));
        let [one, other, equal] = [
            self.two_steps(&[&short], first, Reading::AtOnce)?,
            self.two_steps(&[&long], second, Reading::AtOnce)?,
            self.two_steps(&[cut], second, Reading::AtOnce)?,
        ];
        let axes = one.axes_that_grow(&other);
        self.tried = Some(Tried { together: Together::OfOneLength, axes: axes.clone() });
        let both = worn.of(&numbers);
        let mut are_alone = |prompts: [&[i32]; 2], alone: [&Steps; 2]| {
            let is_coarse = self.is_coarse();
            [Reading::AtOnce, Reading::OneByOne]
                .into_iter()
                .all(|reading| self.two_steps(&prompts, both, reading).is_ok_and(|steps| steps.are(alone, is_coarse)))
        };
        let together = if !are_alone([&short, cut], [&one, &equal]) {
            Together::Alone
        } else if are_alone([&short, &long], [&one, &other]) {
            Together::Any
        } else {
            Together::OfOneLength
        };
        self.tried = None;
        Ok(Tried { together, axes })
    }

    /// Reads prompts, and goes on by a token.
    fn two_steps(&mut self, prompts: &[&[i32]], worn: Worn<'_>, reading: Reading) -> Result<Steps> {
        let (first, mut group) = match reading {
            Reading::AtOnce => self.read(prompts, worn)?,
            Reading::OneByOne => {
                let (mut first, mut groups) = (vec![], vec![]);
                for (at, prompt) in prompts.iter().enumerate() {
                    let own = worn.rows.map_or(&[][..], |(_, rows)| &rows[at..=at]);
                    let (logits, group) = self.read(&[prompt], worn.of(own))?;
                    first.extend(logits);
                    groups.push((group, vec![true]));
                }
                (first, self.joined(groups)?)
            }
        };
        let shapes = group.past.iter().map(DeviceTensor::shape).collect();
        let longer: Vec<Vec<i32>> = prompts.iter().map(|prompt| [prompt, &prompt[..1]].concat()).collect();
        let second = self.go_on(&mut group, &longer.iter().map(Vec::as_slice).collect::<Vec<_>>(), worn)?;
        Ok(Steps { logits: [first, second], shapes })
    }

    /// Whether the model computes in fewer than 32 bits, as far as its outputs tell.
    fn is_coarse(&self) -> bool {
        let is_half = |port: &crate::ort::Port| matches!(port.element_type, Some(ElementType::Float16 | ElementType::BFloat16));
        self.session.outputs().iter().any(is_half)
    }

    fn ran(
        &mut self,
        given: &[(String, HostTensor)],
        past: &[DeviceTensor],
        worn: Worn<'_>,
        places: &[usize],
    ) -> Result<(Vec<Logits>, Vec<DeviceTensor>)> {
        let numbers = worn.numbers();
        let mut feeds: Vec<Feed<'_>> = given.iter().map(|(name, tensor)| Feed::host(name, tensor)).collect();
        feeds.extend(self.cache.iter().zip(past).map(|(slot, tensor)| Feed::device(&slot.past.name, tensor)));
        feeds.extend(worn.feeds(numbers.as_ref()));
        let mut outputs = vec![self.logits.as_str()];
        outputs.extend(self.cache.iter().map(|slot| slot.present.as_str()));
        let mut found = self.session.run_on_device(&feeds, &outputs)?.into_iter();
        let logits = found.next().ok_or_else(|| Error::not_found("output", &*self.logits))?.to_host()?;
        let row = |(row, place): (usize, &usize)| row_of(&logits, row, *place).map(as_logits);
        let logits = places.iter().enumerate().map(row).collect::<Result<_>>().in_file(self.session.path())?;
        Ok((logits, found.collect()))
    }

    /// The inputs beside the cache, for one more token of each text.
    fn next_inputs(&self, group: &Group, texts: &[&[i32]], worn: Worn<'_>) -> Result<Vec<(String, HostTensor)>> {
        let mut given = vec![];
        for port in self.session.inputs().iter().filter(|port| self.cache.iter().all(|slot| slot.past.name != port.name)) {
            let seen = |flag: bool| {
                let row = move |own: &Vec<bool>| own.iter().chain([&true]).map(|own| i64::from(*own == flag)).collect();
                group.own.iter().map(row).collect::<Vec<Vec<i64>>>()
            };
            let rows: Vec<Vec<i64>> = match self.feeding.role(&port.name) {
                Some(Role::InputIds) => texts.iter().map(|text| vec![text.last().copied().unwrap_or_default().into()]).collect(),
                Some(Role::AttentionMask(MaskForm::Seen)) => seen(true),
                Some(Role::AttentionMask(MaskForm::Hidden)) => seen(false),
                Some(Role::PositionIds) => texts.iter().map(|text| vec![num::int(text.len().saturating_sub(1))]).collect(),
                Some(Role::TokenTypeIds) => vec![vec![0]; texts.len()],
                Some(Role::UseCacheBranch) => {
                    given.push((port.name.clone(), HostTensor::vector(vec![true])));
                    continue;
                }
                _ if port.presence == Presence::Optional || worn.gives(&port.name) => continue,
                _ => return Err(self.unknown(port)),
            };
            let tensor = tensor_of(port, &rows).at(Place::Tensor(port.name.clone())).in_file(self.session.path())?;
            given.push((port.name.clone(), tensor));
        }
        Ok(given)
    }
}

/// How prompts are read that are to be written together.
#[derive(Clone, Copy)]
enum Reading {
    AtOnce,
    OneByOne,
}

/// What two steps with texts gave.
struct Steps {
    /// The logits behind the prompts, and behind a token more, text by text.
    logits: [Vec<Logits>; 2],
    /// The shapes of the cache behind the prompts.
    shapes: Vec<Vec<usize>>,
}

impl Steps {
    /// The axes of the cache that are longer for a longer text.
    fn axes_that_grow(&self, longer: &Self) -> Axes {
        let axis = |(one, other): (&Vec<usize>, &Vec<usize>)| (1..one.len()).find(|&axis| one.get(axis) != other.get(axis));
        self.shapes.iter().zip(&longer.shapes).map(axis).collect()
    }

    /// Whether two texts gave what each gives alone, and their caches lie below each other.
    fn are(&self, alone: [&Self; 2], is_coarse: bool) -> bool {
        let first = |shape: &Vec<usize>| shape.first().copied();
        let is_doubled = self.shapes.iter().zip(&alone[0].shapes).all(|(both, one)| first(both) == first(one).map(|rows| rows * 2));
        let is_same = |(row, alone): (usize, &&Self)| {
            self.logits
                .iter()
                .zip(&alone.logits)
                .all(|(both, alone)| both.get(row).zip(alone.first()).is_some_and(|(both, alone)| near(both, alone, is_coarse)))
        };
        is_doubled && alone.iter().enumerate().all(is_same)
    }
}

/// Whether logits are the same but for rounding. What is not finite is like nothing.
fn near(found: &[f32], expected: &[f32], is_coarse: bool) -> bool {
    let finite = expected.iter().map(|value| value.abs()).filter(|value| value.is_finite());
    let Some(largest) = finite.reduce(f32::max) else { return false };
    let allowed = largest * if is_coarse { 1e-2 } else { 1e-4 };
    let is_near = |(one, other): (&f32, &f32)| one.to_bits() == other.to_bits() || (one - other).abs() <= allowed;
    found.len() == expected.len() && found.iter().zip(expected).all(is_near)
}

/// A tensor of the cache for rows of several: of each its own columns, filled up with zeros. Rows lie along the first axis.
fn joined(
    sources: &[HostTensor],
    counts: &[usize],
    rows: &[(usize, usize)],
    own: &[Vec<usize>],
    width: usize,
    axis: Option<usize>,
) -> Result<HostTensor> {
    let first = sources.first().ok_or_else(|| Error::not_found("cache", "of the texts"))?;
    let block = first.shape().first().copied().unwrap_or_default() / counts.first().copied().unwrap_or(1).max(1);
    let mut shape = first.shape().to_vec();
    if let Some(length) = shape.first_mut() {
        *length = block * rows.len();
    }
    if let Some(length) = axis.and_then(|axis| shape.get_mut(axis)) {
        *length = width;
    }
    let behind = |axis: usize| shape.get(axis + 1..).unwrap_or_default().iter().product::<usize>();
    let mut pieces = vec![];
    for (to, ((source, row), own)) in rows.iter().zip(own).enumerate() {
        let Some(axis) = axis else {
            let count = block * behind(0);
            pieces.push(Piece { source: *source, from: row * count, to: to * count, count });
            continue;
        };
        let (outer, inner) = (block * shape[1..axis].iter().product::<usize>(), behind(axis));
        let there = sources[*source].shape()[axis];
        for line in 0..outer {
            let (from, to) = ((row * outer + line) * there * inner, (to * outer + line) * width * inner);
            // Columns that lie behind one another are one piece.
            let mut column = 0;
            while column < own.len() {
                let run = (1..own.len() - column).find(|step| own[column + step] != own[column] + step).unwrap_or(own.len() - column);
                pieces.push(Piece { source: *source, from: from + own[column] * inner, to: to + column * inner, count: run * inner });
                column += run;
            }
        }
    }
    HostTensor::of_pieces(shape, sources, &pieces)
}
