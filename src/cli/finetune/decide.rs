//! What nobody said, decided from the data and the model's folder.

use std::path::Path;

use serde_yaml_ng::{Mapping, Value};

use super::Args;
use crate::adapter::config::Task;
use crate::anatomy::{self, Reads};
use crate::cli::config::OF_THIS_TIME;
use crate::cli::inject::{Adding, MethodName};
use crate::cli::output;
use crate::cli::train::{EPOCHS, Training, default_rate};
use crate::data::{Classes, ColumnMap, Renamed, Survey, ValSize, classes_of};
use crate::error::{Context, Error, Result};
use crate::export::{Injected, Manifest};
use crate::model::parts::Files;
use crate::model::{Model, class_names};
use crate::num;

/// From so many rows on some are held back.
const FEWEST_TO_PART: usize = 20;
/// The share that is held back.
const HELD_BACK: f64 = 0.1;
/// Rows that are read in all, at least: of few rows there are more epochs.
const READ_AT_LEAST: usize = 1200;
const MOST_EPOCHS: f64 = 12.0;

/// All that is decided.
pub(super) struct Decided {
    pub(super) adding: Adding,
    pub(super) training: Training,
    /// Every option by its name.
    pub(super) options: Mapping,
    rows: usize,
    /// Why the task is what it is, in words.
    why: String,
    head: Option<String>,
}

impl Decided {
    /// Decides.
    ///
    /// # Errors
    /// A model or data that cannot be read; data of which no task is told that the model can be trained for.
    pub(super) fn of(args: &Args) -> Result<Self> {
        let mut options = args.said.clone();
        options.retain(|name, _| !OF_THIS_TIME.iter().any(|own| name.as_str() == Some(own)));
        let (adding, training) = (args.adding.clone(), args.training.clone());
        let survey = Survey::read(&training.data, &training.columns.map)?;
        let mut decided = Self { adding, training, options, rows: survey.rows(), why: "as asked".to_owned(), head: None };
        decided.columns(&survey);
        if decided.adding.adapter.is_none() && decided.adding.method.method.is_none() {
            decided.adding.method.method = MethodName::find("lora");
            decided.set("method", "lora");
        }
        let is_told = decided.adding.adapter.is_some() || decided.adding.template.is_some() || decided.adding.head.num_labels.is_some();
        if !is_told && !args.goes_on() {
            decided.task(&args.model, &survey)?;
        }
        decided.run();
        Ok(decided)
    }

    fn set(&mut self, name: &str, value: impl Into<Value>) {
        self.options.insert(name.into(), value.into());
    }

    /// Gives a text and its class their roles where their names do not.
    fn columns(&mut self, survey: &Survey) {
        let Some([text, label]) = survey.text_and_label().filter(|_| self.adding.template.is_none()) else { return };
        for (column, role) in [(text, "text"), (label, "label")] {
            if column != role {
                self.training.columns.map.push(Renamed::new(column, role));
            }
        }
        let map: Vec<Value> = self.training.columns.map.iter().map(|renamed| renamed.to_string().into()).collect();
        self.set("map", map);
        self.why = format!("column {label} has the class of {text}");
    }

    /// The first task of the rows that the model can be trained for: with its own head, or with a new one.
    fn task(&mut self, path: &Path, survey: &Survey) -> Result<()> {
        let survey = &Survey::read(&self.training.data, &self.training.columns.map).unwrap_or_else(|_| survey.clone());
        let files = Files { model: path.to_path_buf(), parts: self.adding.part.clone(), joins: self.adding.join.clone() };
        let model = Served::of(Model::open_files(&files)?)?;
        let taught = match self.adding.task {
            Some(task) => vec![task],
            None => model.first(survey.tasks(), survey),
        };
        let columns: ColumnMap = self.training.columns.renamed();
        let of_model = taught.is_empty().then(|| model.task_of_inputs(survey)).flatten();
        let task = taught.iter().copied().find(|task| model.can(*task)).or(of_model);
        let task = task.ok_or_else(|| model.no_task(survey, &taught)).in_file(&self.training.data)?;
        if self.adding.task.is_none() {
            self.adding.task = Some(task);
            self.set("task", task.name());
            if self.why == "as asked" {
                let columns = survey.columns().join(", ");
                let told = |_| format!("told by the model, whose inputs the columns {columns} are");
                self.why = of_model.map_or_else(|| format!("told by the columns {columns}"), told);
            }
        }
        let is_usual = self.adding.loss.loss.is_none() && self.adding.loss.loss_graph.is_none();
        let loss = survey.loss_of_scores().or_else(|| survey.loss_of_labels());
        if let Some(loss) = loss.filter(|_| task == Task::Embedding && is_usual) {
            self.adding.loss.loss = Some(loss.to_owned());
            self.set("loss", loss);
        }
        let Some(classes) = labels(&self.training.data, task, &columns)? else { return Ok(()) };
        if let Some(why) = model.needs_head(task, &classes)? {
            self.adding.head.num_labels = Some(classes.count);
            self.set("num-labels", classes.count);
            self.head = Some(format!("a new head: {why}"));
        }
        Ok(())
    }

    /// How long is trained, what is measured, and what is kept.
    fn run(&mut self) {
        let is_measured = self.training.eval_data.is_some() || self.training.val_size.is_some();
        if !is_measured && self.rows >= FEWEST_TO_PART {
            self.training.val_size = Some(ValSize::Share(HELD_BACK));
            self.set("val-size", HELD_BACK.to_string());
        }
        if self.training.eval_data.is_some() || self.training.val_size.is_some() {
            self.training.load_best = true;
            self.set("load-best", true);
        }
        if self.training.epochs.is_none() && self.training.max_steps.is_none() {
            let enough = (float(READ_AT_LEAST) / float(self.rows.max(1))).ceil();
            let epochs = enough.clamp(EPOCHS, MOST_EPOCHS);
            self.training.epochs = Some(epochs);
            self.set("epochs", epochs.to_string());
        }
    }

    /// Adds what the bundle tells.
    pub(super) fn settle(&mut self, manifest: &Manifest, report: Option<&Injected>) {
        if self.training.learning_rate.is_none() {
            self.training.learning_rate = Some(default_rate(&manifest.method));
        }
        let rate = self.training.learning_rate.unwrap_or_default().to_string();
        self.set("learning-rate", rate);
        self.set("task", manifest.task.as_str());
        let targets = report.map(|report| report.targets.len()).filter(|count| *count > 0);
        self.head = [targets.map(|count| format!("on {count} modules")), self.head.take()]
            .into_iter()
            .flatten()
            .reduce(|all, one| all + "; " + &one);
    }

    /// Says what the columns were, as the bundle knows it after training: whoever reads such data later finds it in the folder.
    pub(super) fn keep_columns(&mut self, manifest: &Manifest) {
        if !manifest.columns.is_empty() {
            let map: Vec<Value> = manifest.columns.iter().map(|(column, role)| format!("{column}={role}").into()).collect();
            self.set("map", map);
        }
    }

    /// What was decided, in five lines.
    pub(super) fn lines(&self, manifest: &Manifest, folder: &Path) -> Vec<String> {
        let training = &self.training;
        let held = match (&training.eval_data, training.val_size) {
            (Some(file), _) => format!("measured on {}", file.display()),
            (None, Some(ValSize::Share(share))) => format!("{} % of them held back and measured on", output::short(100.0 * share)),
            (None, Some(ValSize::Rows(rows))) => format!("{rows} of them held back and measured on"),
            (None, None) => "none held back: too few (`--val-size`, `--eval-data`)".to_owned(),
        };
        let length = match (training.max_steps, training.epochs) {
            (Some(steps), _) => format!("{steps} steps"),
            (None, epochs) => format!("{} epochs", epochs.unwrap_or(EPOCHS)),
        };
        let kept = if training.load_best {
            format!("; the step with the best {} is kept", training.metric.as_deref().unwrap_or("loss"))
        } else {
            String::new()
        };
        let trainable = num::wide(manifest.trainable_count);
        let on = self.head.as_ref().map(|head| format!(", {head}")).unwrap_or_default();
        vec![
            format!("task      {} ({})", manifest.task, self.why),
            format!("adapter   {}, {} trainable parameters{on}", manifest.method, output::count(trainable)),
            format!("data      {} rows of {}, {held}", output::count(num::wide(self.rows)), training.data.display()),
            format!("training  {length} at a learning rate of {}{kept}", training.learning_rate.unwrap_or_default()),
            format!("output    {}; these options: {}", folder.display(), folder.join("config.yaml").display()),
        ]
    }
}

/// The classes or numbers of a task whose head has as many; none for other tasks.
fn labels(data: &Path, task: Task, columns: &ColumnMap) -> Result<Option<Classes>> {
    match task {
        Task::SeqCls | Task::MultiLabel | Task::TokenCls | Task::ImageCls | Task::AudioCls => classes_of(data, task, columns).map(Some),
        Task::Regression | Task::Rerank | Task::Reward => Ok(Some(Classes { count: 1, names: vec![] })),
        _ => Ok(None),
    }
}

/// What a model can be trained for.
struct Served {
    model: Model,
    /// What the graph and its folder tell.
    told: Option<Task>,
    /// Tasks that its own outputs serve.
    own: Vec<Task>,
    /// What it looks made for, in words.
    what: String,
}

impl Served {
    fn of(model: Model) -> Result<Self> {
        let guess = anatomy::guess(model.graph(), model.anatomy(), &model.declared()?);
        let others = guess.instead.iter().flat_map(|instead| instead.tasks).copied();
        let mut own: Vec<Task> = guess.task.into_iter().chain(guess.candidates.iter().copied()).chain(others).collect();
        if own.contains(&Task::CausalLm) {
            own.push(Task::Preference);
        }
        let what = match (guess.task, &guess.instead) {
            (Some(task), _) => task.name().to_owned(),
            (None, Some(instead)) => instead.what.to_owned(),
            (None, None) => guess.why.clone(),
        };
        Ok(Self { model, told: guess.task, own, what })
    }

    /// What the model is for, where columns are its inputs as they are: tokens, or numbers by the names that the graph has for them.
    fn task_of_inputs(&self, survey: &Survey) -> Option<Task> {
        let graph = self.model.graph();
        let has_input = survey.has("input_ids") || graph.data_inputs().any(|id| survey.has(graph.value_name(id)));
        self.told.filter(|_| has_input)
    }

    /// Tasks of rows, that first which the model is made for: two texts and a number are alike, or have a number, or a class.
    fn first(&self, mut taught: Vec<Task>, survey: &Survey) -> Vec<Task> {
        let is_made_for = |task: &Task| self.own.contains(task);
        if survey.loss_of_scores() == Some("cosent") && is_made_for(&Task::Regression) && !is_made_for(&Task::Embedding) {
            taught.retain(|task| *task != Task::Regression);
            taught.insert(0, Task::Regression);
        }
        if self.told == Some(Task::Embedding) && survey.loss_of_labels().is_some() {
            taught.insert(0, Task::Embedding);
        }
        taught
    }

    /// Whether it can be trained for a task, with its own outputs or with a new head.
    fn can(&self, task: Task) -> bool {
        let feeds = anatomy::Feeds::of(self.model.graph(), self.model.anatomy()).classified();
        let is_of_input = match task {
            Task::ImageCls | Task::AudioCls => feeds == task,
            // Texts are written of texts, pictures and sounds.
            Task::Ctc | Task::SpeechSeq2Seq | Task::Seq2SeqLm => true,
            _ => feeds == Task::SeqCls,
        };
        let has_decoder = self.model.anatomy().inputs.decoder_input_ids.is_some();
        let gets_head = matches!(task.row().reads, Reads::Logits | Reads::TokenLogits) && !has_decoder;
        is_of_input && (self.own.contains(&task) || gets_head || task == Task::Embedding)
    }

    /// Why its own head will not do for classes, if it will not.
    fn needs_head(&self, task: Task, classes: &Classes) -> Result<Option<String>> {
        let own = self.model.anatomy().head.as_ref().and_then(|head| head.classes).and_then(|own| usize::try_from(own).ok());
        let serves = |other: &Task| *other == task || (other.scores_rows() && task.scores_rows());
        let Some(own) = own.filter(|_| self.own.iter().any(serves)) else {
            return Ok(Some(format!("the model is made for {}", self.what)));
        };
        let names = class_names::of_model(&self.model, task, i64::try_from(own).ok())?;
        let unknown = classes.names.iter().find(|name| !names.is_empty() && !names.contains(name));
        let is_short = own < classes.count || (names.is_empty() && !classes.names.is_empty() && own != classes.count);
        Ok(match unknown {
            Some(name) => Some(format!("the model's classes are {}, and the data has {name}", names.join(", "))),
            None if is_short => Some(format!("the model has {own} classes, the data {}", classes.count)),
            None => None,
        })
    }

    fn no_task(&self, survey: &Survey, taught: &[Task]) -> Error {
        let columns = survey.columns().join(", ");
        let names: Vec<&str> = taught.iter().map(|task| task.name()).collect();
        let what = if names.is_empty() {
            format!("the columns {columns} tell no task")
        } else {
            format!("the columns {columns} are those of {}, and the model is made for {}", names.join(" or "), self.what)
        };
        let guess = survey.likely_text_and_label().filter(|_| names.is_empty());
        let guess = guess.map(|[text, label]| {
            format!("if it is the class {label} of the text {text}: `--map \"{text}=text\" --map \"{label}=label\"`; else ")
        });
        Error::unsupported("finding out the task", what).with_hint(format!(
            "{}name the task with `--task`, and the roles of columns with `--map COLUMN=ROLE`; `peft-onnx train --help` shows what a row may be",
            guess.unwrap_or_default()
        ))
    }
}

#[expect(clippy::as_conversions, clippy::cast_precision_loss, reason = "counts of rows are far below 2^53")]
fn float(count: usize) -> f64 {
    count as f64
}
