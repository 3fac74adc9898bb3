//! The thread that computes: which adapter of which host a request is for, texts in turns, rows in batches.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Instant;

use super::adapters;
use super::bands::Bands;
use super::catalog::Catalog;
use super::hosts::{Kind, Mind, Offer, Running, first};
use super::job::{Answer, Answered, AnsweredRows, Job, Wanted, tokens};
use super::refusal::Refusal;
use crate::data::{Asked, Tokenizer};
use crate::error::{Error, Result};
use crate::predict::{Given, Predictor};

/// Rows that are answered together, at most, unless one request has more: the session takes as many runs as it needs.
const TOGETHER: usize = 256;

/// Texts in one run, where nothing else is said.
const TEXTS: usize = 16;

/// Models that are open, and what is known of adapters.
pub struct Engine {
    catalog: Catalog,
    tokenizer: Arc<Tokenizer>,
    /// Texts in one run, at most.
    texts: usize,
}

impl Engine {
    /// Opens what is served under a name, and adapters of a folder beside it.
    ///
    /// # Errors
    /// A model that cannot be opened, has no tokenizer, or is for a task that is not served; an adapter of the folder with the model's own name.
    pub fn open(offer: Offer, name: String, folder: Option<PathBuf>, running: Running) -> Result<Self> {
        let texts = running.batch_size.map_or(TEXTS, std::num::NonZeroUsize::get);
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
        Ok(Self { catalog: Catalog::new(offer, common, host, name, folder), tokenizer, texts })
    }

    /// What the model answers.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.catalog.common.kind
    }

    /// The names of what is served, adapters of the folder aside.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        vec![self.catalog.name.clone()]
    }

    /// The folder of adapters.
    #[must_use]
    pub fn adapters(&self) -> Option<&Path> {
        self.catalog.folder.as_deref()
    }

    pub(super) fn tokenizer(&self) -> Arc<Tokenizer> {
        Arc::clone(&self.tokenizer)
    }

    /// Tokens of a text, at most, if the model tells.
    pub(super) fn longest(&self) -> Option<usize> {
        self.catalog.common.positions
    }

    /// Works until nobody can ask any more.
    pub(super) fn work(&mut self, jobs: &Receiver<Job>) {
        let tokenizer = Arc::clone(&self.tokenizer);
        let mut bands = Bands::default();
        let mut rows: VecDeque<Answer> = VecDeque::new();
        loop {
            let is_idle = bands.is_empty() && rows.is_empty();
            let wait = self.catalog.common.running.wait;
            let mut take = |job: Job| match job {
                Job::Answer(answer) => rows.push_back(answer),
                Job::Write(write) => bands.begin(write, &tokenizer, &mut self.catalog),
            };
            if is_idle {
                let Ok(job) = jobs.recv() else { return };
                take(job);
                let until = Instant::now() + wait;
                while let Ok(job) = jobs.recv_timeout(until.saturating_duration_since(Instant::now())) {
                    take(job);
                }
            }
            while let Ok(job) = jobs.try_recv() {
                take(job);
            }
            self.answer_next(&mut rows);
            bands.step(&mut self.catalog, self.texts);
        }
    }

    /// Answers rows that wait: those of the first request, and of others that its session computes together with them.
    fn answer_next(&mut self, waiting: &mut VecDeque<Answer>) {
        waiting.retain(|answer| !answer.reply.is_closed());
        let Some(first) = waiting.pop_front() else { return };
        let mut together = vec![first];
        let mut count = together[0].rows.len();
        let mut at = 0;
        while let Some(next) = waiting.get(at) {
            let fits = next.wanted == together[0].wanted && count + next.rows.len() <= TOGETHER;
            let (one, other) = (&together[0].model, &next.model);
            match (fits && (one == other || self.share_a_shelf(one, other))).then(|| waiting.remove(at)).flatten() {
                Some(next) => {
                    count += next.rows.len();
                    together.push(next);
                }
                None => at += 1,
            }
        }
        if together.len() > 1 {
            tracing::info!("{count} rows of {} requests in one batch", together.len());
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
        self.catalog.close_unused(|_| false);
    }

    /// Whether one session computes rows of two models in one batch.
    fn share_a_shelf(&mut self, one: &str, other: &str) -> bool {
        // Both are looked for before they are compared: the first adapter that is asked for may open the session of both.
        if self.catalog.find(one).is_err() || self.catalog.find(other).is_err() {
            return false;
        }
        let hosts = [one, other].map(|name| self.catalog.find(name).ok().map(|(host, _)| host));
        hosts[0] == hosts[1] && hosts[0].is_some_and(|host| self.catalog.hosts[host].shelf.is_some())
    }

    fn answer(&mut self, together: &[Answer]) -> Result<Vec<Answered>, Refusal> {
        let Some(one) = together.first() else { return Ok(vec![]) };
        if together.iter().any(|answer| Instant::now() >= answer.ends) {
            return Err(Refusal::too_long());
        }
        let (host, values) = self.catalog.find(&one.model)?;
        if self.catalog.hosts[host].shelf.is_some() {
            return self.answer_from_shelf(host, together);
        }
        self.catalog.wear(host, &one.model, &values)?;
        let Mind::Answerer(predictor) = &mut self.catalog.hosts[host].mind else {
            return Err(Refusal::request("this model answers no rows"));
        };
        let asked = asked(predictor, together)?;
        let all = asked.concat();
        let class_names = predictor.class_names().to_vec();
        let rows = match one.wanted {
            Wanted::Vectors => AnsweredRows::Vectors(predictor.vectors_of(&all)?),
            Wanted::Answers => AnsweredRows::Answers(predictor.answers(&all)?),
        };
        Ok(parted(rows, &asked)
            .into_iter()
            .zip(&asked)
            .map(|(rows, asked)| Answered { rows, tokens: tokens(asked), class_names: class_names.clone() })
            .collect())
    }

    /// Answers requests for different adapters in one batch.
    fn answer_from_shelf(&mut self, host: usize, together: &[Answer]) -> Result<Vec<Answered>, Refusal> {
        let found = together.iter().map(|answer| self.catalog.find(&answer.model)).collect::<Result<Vec<_>, _>>()?;
        if found.iter().any(|(other, _)| *other != host) {
            return Err(Refusal::request("the models are computed by different sessions"));
        }
        let super::hosts::Host { mind: Mind::Answerer(predictor), shelf: Some(shelf), .. } = &mut self.catalog.hosts[host] else {
            return Err(Refusal::request("this model answers no rows"));
        };
        let asked = asked(predictor, together)?;
        let adapters: Vec<_> = found.iter().zip(&asked).flat_map(|((_, values), rows)| rows.iter().map(|_| values.adapter())).collect();
        let numbers = shelf.numbers(&adapters)?;
        let mut given = predictor.given(&asked.concat(), shelf.worn(&numbers))?.into_iter();
        let mut answered = vec![];
        for ((answer, (_, values)), asked) in together.iter().zip(&found).zip(&asked) {
            let names = shelf.class_names(values.adapter().map(|adapter| &**adapter));
            let given: Vec<Given> = given.by_ref().take(asked.len()).collect();
            let rows = match answer.wanted {
                Wanted::Vectors => AnsweredRows::Vectors(given.into_iter().filter_map(Given::vector).collect()),
                Wanted::Answers => AnsweredRows::Answers(predictor.told(asked, given, names)?),
            };
            answered.push(Answered { rows, tokens: tokens(asked), class_names: names.to_vec() });
        }
        Ok(answered)
    }
}

/// The rows of requests as the model reads them.
fn asked(predictor: &Predictor, together: &[Answer]) -> Result<Vec<Vec<Asked>>> {
    let source = predictor.source();
    let ask = |answer: &Answer| answer.rows.iter().map(|row| source.ask_row(row.clone())).collect();
    together.iter().map(ask).collect()
}

/// Answers to the rows of all requests, request by request.
fn parted(all: AnsweredRows, asked: &[Vec<Asked>]) -> Vec<AnsweredRows> {
    match all {
        AnsweredRows::Vectors(all) => {
            let mut all = all.into_iter();
            asked.iter().map(|asked| AnsweredRows::Vectors(all.by_ref().take(asked.len()).collect())).collect()
        }
        AnsweredRows::Answers(all) => {
            let mut all = all.into_iter();
            asked.iter().map(|asked| AnsweredRows::Answers(all.by_ref().take(asked.len()).collect())).collect()
        }
    }
}
