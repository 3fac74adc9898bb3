//! The thread that computes: which adapter of which host a request is for, texts in turns, rows in batches.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Instant;

use super::adapters::{self, Stamp};
use super::hosts::{Common, Host, Kind, Mind, Offer, Running, Values, first, refused};
use super::job::{Answer, Answered, AnsweredRows, Job, Piece, Reason, Wanted, Write, tokens};
use super::refusal::Refusal;
use super::stops::Stops;
use crate::data::Tokenizer;
use crate::error::{Error, Result};
use crate::export::Manifest;
use crate::generate::{Limits, Next, Sampler, Text, TextStream};
use crate::peft;

/// Rows that are answered together, at most, unless one request has more.
const TOGETHER: usize = 256;

/// Models that are open, and what is known of adapters.
pub struct Engine {
    offer: Offer,
    common: Common,
    tokenizer: Arc<Tokenizer>,
    hosts: Vec<Host>,
    /// The name of the model or bundle that was given.
    name: String,
    folder: Option<PathBuf>,
    /// Adapters of the folder that were asked for.
    loaded: BTreeMap<String, Loaded>,
    /// Which adapter each host that takes one at a time has now.
    worn: BTreeMap<usize, String>,
}

/// An adapter that was read.
struct Loaded {
    stamp: Stamp,
    host: usize,
    values: Arc<Values>,
}

/// A text that is being written, to its end with the adapter that it began with.
struct Going<'t> {
    job: Write,
    host: usize,
    values: Arc<Values>,
    text: Text,
    limits: Limits,
    sampler: Sampler,
    stream: TextStream<'t>,
    stops: Stops,
}

impl Engine {
    /// Opens what is served under a name, and adapters of a folder beside it.
    ///
    /// # Errors
    /// A model that cannot be opened, has no tokenizer, or is for a task that is not served; an adapter of the folder with the model's own name.
    pub fn open(offer: Offer, name: String, folder: Option<PathBuf>, running: Running) -> Result<Self> {
        let (common, host, tokenizer) = first(&offer, running)?;
        if let Mind::Writer(generator) = &host.mind {
            tokenizer.check_fits(generator.vocabulary())?;
        }
        if let Some(folder) = &folder
            && adapters::list(folder).contains_key(&name)
        {
            let error = Error::invalid(format!("the adapter {name:?} has the name of the model itself")).in_file(folder);
            return Err(error.with_hint("give the model another name with `name`"));
        }
        let (loaded, worn) = (BTreeMap::new(), BTreeMap::from([(0, name.clone())]));
        Ok(Self { offer, common, tokenizer, hosts: vec![host], name, folder, loaded, worn })
    }

    /// What the model answers.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.common.kind
    }

    /// The names of what is served, adapters of the folder aside.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        vec![self.name.clone()]
    }

    /// The folder of adapters.
    #[must_use]
    pub fn adapters(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    pub(super) fn tokenizer(&self) -> Arc<Tokenizer> {
        Arc::clone(&self.tokenizer)
    }

    /// Works until nobody can ask any more.
    pub(super) fn work(&mut self, jobs: &Receiver<Job>) {
        let tokenizer = Arc::clone(&self.tokenizer);
        let mut going: VecDeque<Going<'_>> = VecDeque::new();
        let mut rows: VecDeque<Answer> = VecDeque::new();
        loop {
            if going.is_empty() && rows.is_empty() {
                let Ok(job) = jobs.recv() else { return };
                self.take(job, &tokenizer, &mut going, &mut rows);
            }
            while let Ok(job) = jobs.try_recv() {
                self.take(job, &tokenizer, &mut going, &mut rows);
            }
            self.answer_next(&mut rows);
            if let Some(text) = going.pop_front() {
                let reply = text.job.reply.clone();
                match self.step(text) {
                    Ok(more) => going.extend(more),
                    Err(refusal) => drop(reply.send(Err(refusal))),
                }
            }
        }
    }

    fn take<'t>(&mut self, job: Job, tokenizer: &'t Tokenizer, going: &mut VecDeque<Going<'t>>, rows: &mut VecDeque<Answer>) {
        match job {
            Job::Answer(answer) => rows.push_back(answer),
            Job::Write(write) => {
                let reply = write.reply.clone();
                match self.begin(write, tokenizer) {
                    Ok(text) => going.push_back(text),
                    Err(refusal) => drop(reply.send(Err(refusal))),
                }
            }
        }
    }

    fn begin<'t>(&mut self, job: Write, tokenizer: &'t Tokenizer) -> Result<Going<'t>, Refusal> {
        let (host, values) = self.host_of(&job.model)?;
        let limits = Limits { new_tokens: job.new_tokens, stop: self.common.stop.clone(), positions: self.common.positions };
        let Mind::Writer(generator) = &self.hosts[host].mind else { return Err(Refusal::request("this model writes no text")) };
        let text = generator.begin(&job.prompt, &limits)?;
        let sampler = Sampler::new(job.sampling)?;
        let (stream, stops) = (TextStream::after(tokenizer, &job.prompt), Stops::new(job.stops.clone()));
        Ok(Going { job, host, values, text, limits, sampler, stream, stops })
    }

    /// Writes a token of a text; the text, if more may come.
    fn step<'t>(&mut self, mut going: Going<'t>) -> Result<Option<Going<'t>>, Refusal> {
        if going.job.reply.is_closed() {
            return Ok(None);
        }
        if Instant::now() >= going.job.ends {
            return Err(Refusal::too_long());
        }
        let adapter = if let Values::Inputs(inputs) = &*going.values { inputs.as_slice() } else { &[] };
        let Mind::Writer(generator) = &mut self.hosts[going.host].mind else { return Ok(None) };
        let reason = match generator.next(&mut going.text, &going.limits, &mut going.sampler, adapter)? {
            Next::Token(token) => {
                let (told, is_over) = going.stops.push(&going.stream.push(token)?);
                if is_over {
                    let _ = going.job.reply.send(Ok(Piece::End { rest: told, tokens: going.text.written().len(), reason: Reason::Stop }));
                    return Ok(None);
                }
                let is_heard = told.is_empty() || going.job.reply.send(Ok(Piece::Text(told))).is_ok();
                return Ok(is_heard.then_some(going));
            }
            Next::Stop => Reason::Stop,
            Next::Full => Reason::Length,
        };
        let (mut rest, is_over) = going.stops.push(&going.stream.finish()?);
        if !is_over {
            rest += &going.stops.finish();
        }
        let reason = if is_over { Reason::Stop } else { reason };
        let _ = going.job.reply.send(Ok(Piece::End { rest, tokens: going.text.written().len(), reason }));
        Ok(None)
    }

    /// Answers rows that wait: those of the first request, and of others for the same adapter that fit into its batch.
    fn answer_next(&mut self, waiting: &mut VecDeque<Answer>) {
        waiting.retain(|answer| !answer.reply.is_closed());
        let Some(first) = waiting.pop_front() else { return };
        let mut together = vec![first];
        let mut count = together[0].rows.len();
        let mut at = 0;
        while let Some(next) = waiting.get(at) {
            let is_alike = next.model == together[0].model && next.wanted == together[0].wanted && count + next.rows.len() <= TOGETHER;
            match is_alike.then(|| waiting.remove(at)).flatten() {
                Some(next) => {
                    count += next.rows.len();
                    together.push(next);
                }
                None => at += 1,
            }
        }
        // One request's fault is not the others'.
        let outcome = self.answer(&together);
        match outcome {
            Ok(answered) => together.iter().zip(answered).for_each(|(answer, answered)| drop(answer.reply.send(Ok(answered)))),
            Err(refusal) if together.len() == 1 => drop(together[0].reply.send(Err(refusal))),
            Err(_) => {
                for answer in together {
                    let outcome = self.answer(std::slice::from_ref(&answer)).map(|mut answered| answered.pop());
                    match outcome {
                        Ok(Some(answered)) => drop(answer.reply.send(Ok(answered))),
                        Ok(None) => {}
                        Err(refusal) => drop(answer.reply.send(Err(refusal))),
                    }
                }
            }
        }
    }

    fn answer(&mut self, together: &[Answer]) -> Result<Vec<Answered>, Refusal> {
        let Some(one) = together.first() else { return Ok(vec![]) };
        if together.iter().any(|answer| Instant::now() >= answer.ends) {
            return Err(Refusal::too_long());
        }
        let (model, wanted) = (one.model.clone(), one.wanted);
        let (host, values) = self.host_of(&model)?;
        self.wear(host, &model, &values)?;
        let Mind::Answerer(predictor) = &mut self.hosts[host].mind else { return Err(Refusal::request("this model answers no rows")) };
        let source = predictor.source();
        let ask = |answer: &Answer| answer.rows.iter().map(|row| source.ask_row(row.clone())).collect::<Result<Vec<_>>>();
        let asked = together.iter().map(ask).collect::<Result<Vec<_>>>()?;
        let all = asked.concat();
        let class_names = predictor.class_names().to_vec();
        let (mut vectors, mut answers) = match wanted {
            Wanted::Vectors => (predictor.vectors_of(&all)?.into_iter(), vec![].into_iter()),
            Wanted::Answers => (vec![].into_iter(), predictor.answers(&all)?.into_iter()),
        };
        let part = |asked: &Vec<crate::data::Asked>| Answered {
            rows: match wanted {
                Wanted::Vectors => AnsweredRows::Vectors(vectors.by_ref().take(asked.len()).collect()),
                Wanted::Answers => AnsweredRows::Answers(answers.by_ref().take(asked.len()).collect()),
            },
            tokens: tokens(asked),
            class_names: class_names.clone(),
        };
        Ok(asked.iter().map(part).collect())
    }

    /// Gives a host that takes one adapter at a time the one that is asked for.
    fn wear(&mut self, host: usize, model: &str, values: &Values) -> Result<()> {
        if self.worn.get(&host).is_some_and(|worn| worn == model) {
            return Ok(());
        }
        let (vector, names) = match values {
            Values::Vector(vector, names) => (vector.clone(), names.clone()),
            Values::Own if matches!(&self.hosts[host].mind, Mind::Answerer(predictor) if predictor.can_change()) => {
                (self.hosts[host].own_vector()?, self.hosts[host].class_names())
            }
            _ => return Ok(()),
        };
        if let Mind::Answerer(predictor) = &mut self.hosts[host].mind {
            predictor.wear(vector, names)?;
        }
        self.worn.insert(host, model.to_owned());
        Ok(())
    }

    /// The host and the numbers of a model's name, read again where its files have changed.
    fn host_of(&mut self, name: &str) -> Result<(usize, Arc<Values>), Refusal> {
        if name == self.name {
            return Ok((0, Arc::new(Values::Own)));
        }
        let there = self.folder.as_deref().map(adapters::list).unwrap_or_default();
        let Some(folder) = there.get(name) else {
            self.loaded.remove(name);
            let names: Vec<String> = std::iter::once(self.name.clone()).chain(there.into_keys()).collect();
            return Err(Refusal::no_model(name, &names));
        };
        let stamp = Stamp::of(folder);
        if let Some(loaded) = self.loaded.get(name).filter(|loaded| loaded.stamp == stamp) {
            return Ok((loaded.host, Arc::clone(&loaded.values)));
        }
        let (host, values) = self.load(folder).map_err(|error| refused(&error, name))?;
        let values = Arc::new(values);
        self.worn.retain(|_, worn| worn != name);
        self.loaded.insert(name.to_owned(), Loaded { stamp, host, values: Arc::clone(&values) });
        Ok((host, values))
    }

    /// Reads an adapter, for the first host that takes it, else for one of its own.
    fn load(&mut self, folder: &Path) -> Result<(usize, Values)> {
        let files = peft::read(folder)?;
        let class_names = Manifest::read(folder).ok().map(|manifest| manifest.class_names).filter(|names| !names.is_empty());
        for (at, host) in self.hosts.iter().enumerate() {
            match host.values(files.clone(), class_names.clone()) {
                Ok(values) => return Ok((at, values)),
                Err(why) => tracing::debug!("{} has no place in graph {at}: {why}", folder.display()),
            }
        }
        let host = self.common.own(&self.offer, files.clone())?;
        let values = host.values(files, class_names).unwrap_or(Values::Own);
        self.hosts.push(host);
        Ok((self.hosts.len() - 1, values))
    }
}
