//! Texts that are written together: they join on their way, leave when they end, and every run gives each of them a token.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use super::catalog::Catalog;
use super::hosts::{Host, Mind, Values};
use super::job::{Piece, Reason, Write};
use super::refusal::Refusal;
use super::stops::Stops;
use crate::data::Tokenizer;
use crate::error::Result;
use crate::generate::{Generator, Group, Limits, Logits, Next, Sampler, Text, TextStream, Together, Worn};

/// A text that is being written, to its end with the adapter that it began with.
pub(super) struct Going<'t> {
    job: Write,
    values: Arc<Values>,
    text: Text,
    limits: Limits,
    sampler: Sampler,
    stream: TextStream<'t>,
    stops: Stops,
}

/// Texts of one host that are written together.
struct Band<'t> {
    host: usize,
    texts: Vec<Going<'t>>,
    /// What the model remembers of them; nothing of prompts that are to be read.
    group: Option<Group>,
}

/// All texts that are being written.
#[derive(Default)]
pub(super) struct Bands<'t>(VecDeque<Band<'t>>);

impl<'t> Bands<'t> {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Begins a text.
    pub(super) fn begin(&mut self, job: Write, tokenizer: &'t Tokenizer, catalog: &mut Catalog) {
        let reply = job.reply.clone();
        match begun(job, tokenizer, catalog) {
            Ok((host, text)) => self.0.push_back(Band { host, texts: vec![text], group: None }),
            Err(refusal) => drop(reply.send(Err(refusal))),
        }
    }

    /// Gives those whose turn it is a token each, at most `most` texts in one run.
    pub(super) fn step(&mut self, catalog: &mut Catalog, most: usize) {
        let Some(mut band) = self.0.pop_front() else { return };
        // Texts of the model that was given, begun before an adapter opened the session of both.
        let has_moved = |band: &Band<'_>| band.host == 0 && band.group.is_none() && catalog.own().0 != 0;
        for band in std::iter::once(&mut band).chain(&mut self.0).filter(|band| has_moved(band)) {
            band.move_to(catalog.own());
        }
        self.gather(&mut band, &mut catalog.hosts, most);
        let Some(host) = catalog.hosts.get_mut(band.host) else { return };
        let left = if writes_alone(host) { band.step_alone(host) } else { band.step(host) };
        self.0.extend(left);
        catalog.close_unused(|host| self.0.iter().any(|band| band.host == host));
    }

    /// Takes texts of other bands into one, as many as go together.
    fn gather(&mut self, band: &mut Band<'t>, hosts: &mut [Host], most: usize) {
        let Some(host) = hosts.get_mut(band.host) else { return };
        let mut at = 0;
        while let Some(other) = self.0.get(at) {
            let fits = other.host == band.host && band.texts.len() + other.texts.len() <= most && band.goes_with(other, host);
            match fits.then(|| self.0.remove(at)).flatten() {
                Some(other) => band.join(other, host),
                None => at += 1,
            }
        }
    }
}

/// A text that is to be written, and the host that writes it.
fn begun<'t>(job: Write, tokenizer: &'t Tokenizer, catalog: &mut Catalog) -> Result<(usize, Going<'t>), Refusal> {
    let (host, values) = catalog.find(&job.model)?;
    let limits = Limits { new_tokens: job.new_tokens, stop: catalog.common.stop.clone(), positions: catalog.common.positions };
    let Mind::Writer(generator) = &catalog.hosts[host].mind else { return Err(Refusal::request("this model writes no text")) };
    let text = generator.begin(&job.prompt, &limits)?;
    let sampler = Sampler::new(job.sampling)?;
    let (stream, stops) = (TextStream::after(tokenizer, &job.prompt), Stops::new(job.stops.clone()));
    Ok((host, Going { job, values, text, limits, sampler, stream, stops }))
}

fn writes_alone(host: &Host) -> bool {
    matches!(&host.mind, Mind::Writer(generator) if !generator.writes_groups())
}

/// Runs a host's generator with the adapters of some rows.
fn with_adapters<T>(host: &mut Host, rows: &[Arc<Values>], run: impl FnOnce(&mut Generator, Worn<'_>) -> Result<T>) -> Result<T, Refusal> {
    let Host { mind: Mind::Writer(generator), shelf, .. } = host else { return Err(Refusal::request("this model writes no text")) };
    if let Some(shelf) = shelf {
        let adapters: Vec<_> = rows.iter().map(|values| values.adapter()).collect();
        let numbers = shelf.numbers(&adapters)?;
        return Ok(run(generator, shelf.worn(&numbers))?);
    }
    let tensors = rows.first().and_then(|values| if let Values::Inputs(inputs) = &**values { Some(inputs.as_slice()) } else { None });
    Ok(run(generator, Worn { tensors: tensors.unwrap_or_default(), rows: None })?)
}

impl Band<'_> {
    fn values(&self) -> Vec<Arc<Values>> {
        self.texts.iter().map(|text| Arc::clone(&text.values)).collect()
    }

    /// Whether another band's texts and these can be computed in one run.
    fn goes_with(&self, other: &Self, host: &mut Host) -> bool {
        let (Some(one), Some(two)) = (self.texts.first(), other.texts.first()) else { return false };
        let are_alike = host.shelf.is_some() || Arc::ptr_eq(&one.values, &two.values);
        if !are_alike || self.group.is_some() != other.group.is_some() || writes_alone(host) {
            return false;
        }
        let two_rows = [Arc::clone(&one.values), Arc::clone(&two.values)];
        let together = with_adapters(host, &two_rows, |generator, worn| Ok(generator.together(worn))).unwrap_or(Together::Alone);
        match (&self.group, &other.group) {
            (Some(group), Some(others)) => group.goes_with(others, together),
            _ => match together {
                Together::Alone => false,
                Together::OfOneLength => one.text.tokens().len() == two.text.tokens().len(),
                Together::Any => true,
            },
        }
    }

    fn join(&mut self, other: Self, host: &Host) {
        let all = |count: usize| vec![true; count];
        if let (Some(group), Some(others)) = (self.group.take(), other.group)
            && let Mind::Writer(generator) = &host.mind
        {
            let counts = (all(self.texts.len()), all(other.texts.len()));
            // Without it, everything is read again.
            self.group = generator.joined(vec![(group, counts.0), (others, counts.1)]).ok();
        }
        self.texts.extend(other.texts);
    }

    /// Has another host write texts that are to be read first; only those that ask for what it computes.
    fn move_to(&mut self, (host, values): (usize, Arc<Values>)) {
        if self.texts.iter().all(|text| matches!(&*text.values, Values::Own)) {
            self.host = host;
            self.texts.iter_mut().for_each(|text| text.values = Arc::clone(&values));
        }
    }

    /// Gives each text a token; those that go on.
    fn step(mut self, host: &mut Host) -> Vec<Self> {
        let is_alive: Vec<bool> = self.texts.iter().map(Going::is_alive).collect();
        if !self.keep(&is_alive, host) {
            return vec![];
        }
        match self.computed(host) {
            Ok(logits) => {
                let stays: Vec<bool> = self.texts.iter_mut().zip(logits).map(|(text, logits)| text.take(logits)).collect();
                if self.keep(&stays, host) { vec![self] } else { vec![] }
            }
            // One text's fault is not the others': each goes on alone.
            Err(_) if self.texts.len() > 1 => {
                let Self { host, texts, .. } = self;
                texts.into_iter().map(|text| Self { host, texts: vec![text], group: None }).collect()
            }
            Err(refusal) => {
                self.texts.into_iter().for_each(|text| drop(text.job.reply.send(Err(refusal.clone()))));
                vec![]
            }
        }
    }

    /// The logits at the end of each text.
    fn computed(&mut self, host: &mut Host) -> Result<Vec<Logits>, Refusal> {
        let rows = self.values();
        let texts: Vec<&[i32]> = self.texts.iter().map(|text| text.text.tokens()).collect();
        if texts.len() > 1 {
            tracing::info!("{} texts in one run", texts.len());
        }
        let group = &mut self.group;
        with_adapters(host, &rows, |generator, worn| {
            if let Some(group) = group {
                return generator.go_on(group, &texts, worn);
            }
            let (logits, read) = generator.read(&texts, worn)?;
            *group = Some(read);
            Ok(logits)
        })
    }

    /// Lets go of the texts that do not stay; whether any are left.
    fn keep(&mut self, stays: &[bool], host: &Host) -> bool {
        if stays.contains(&false) {
            if let (Some(group), Mind::Writer(generator)) = (self.group.take(), &host.mind) {
                self.group = generator.joined(vec![(group, stays.to_vec())]).ok();
            }
            let mut stays = stays.iter();
            self.texts.retain(|_| stays.next().copied().unwrap_or_default());
        }
        !self.texts.is_empty()
    }

    /// The same for a graph that takes one text at a time.
    fn step_alone(mut self, host: &mut Host) -> Vec<Self> {
        let rows = self.values();
        let Some(going) = self.texts.first_mut().filter(|going| going.is_alive()) else { return vec![] };
        let Going { text, limits, sampler, .. } = going;
        let goes_on = match with_adapters(host, &rows, |generator, worn| generator.next(text, limits, sampler, worn)) {
            Ok(next) => going.told(next),
            Err(refusal) => {
                let _ = going.job.reply.send(Err(refusal));
                false
            }
        };
        if goes_on { vec![self] } else { vec![] }
    }
}

impl Going<'_> {
    /// Whether somebody still waits for it, and its time is not over.
    fn is_alive(&self) -> bool {
        if Instant::now() >= self.job.ends {
            let _ = self.job.reply.send(Err(Refusal::too_long()));
            return false;
        }
        !self.job.reply.is_closed()
    }

    /// Goes on by a token; whether more may come.
    fn take(&mut self, logits: Logits) -> bool {
        match self.text.take(logits, &self.limits, &mut self.sampler) {
            Ok(next) => self.told(next) && (!self.text.is_full() || self.told(Next::Full)),
            Err(error) => {
                let _ = self.job.reply.send(Err(error.into()));
                false
            }
        }
    }

    /// Tells what came next; whether more may come.
    fn told(&mut self, next: Next) -> bool {
        self.tell(next).unwrap_or_else(|error| {
            let _ = self.job.reply.send(Err(error.into()));
            false
        })
    }

    fn tell(&mut self, next: Next) -> Result<bool> {
        let reply = &self.job.reply;
        let reason = match next {
            Next::Token(token) => {
                let (told, is_over) = self.stops.push(&self.stream.push(token)?);
                if is_over {
                    let _ = reply.send(Ok(Piece::End { rest: told, tokens: self.text.written().len(), reason: Reason::Stop }));
                    return Ok(false);
                }
                return Ok(told.is_empty() || reply.send(Ok(Piece::Text(told))).is_ok());
            }
            Next::Stop => Reason::Stop,
            Next::Full => Reason::Length,
        };
        let (mut rest, is_over) = self.stops.push(&self.stream.finish()?);
        if !is_over {
            rest += &self.stops.finish();
        }
        let reason = if is_over { Reason::Stop } else { reason };
        let _ = reply.send(Ok(Piece::End { rest, tokens: self.text.written().len(), reason }));
        Ok(false)
    }
}
