//! Which state of a bundle's adapter a command takes: the bundle's own, or that of a checkpoint.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::export::{Bundle, INITIAL};
use crate::files::inside;
use crate::peft;
use crate::training::checkpoint::Record;
use crate::training::runs::{Run, Runs};

/// Options that name a checkpoint.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Which {
    /// Take the adapter of a checkpoint: of a step of the newest run, or of --run; `best` (lowest loss on the evaluation data); `initial` (before training); or a folder
    #[arg(long, value_name = "STEP|best|initial|FOLDER")]
    pub checkpoint: Option<String>,
    /// The run with the checkpoint; alone: its newest checkpoint
    #[arg(long, value_name = "NAME")]
    pub run: Option<String>,
}

/// Checks the folder of an adapter that may be a checkpoint.
///
/// # Errors
/// Files that are not those which were written.
pub(super) fn is_whole(folder: &Path) -> Result<()> {
    // The adapter that training began with, and one of another program, have no record of a checkpoint.
    if !folder.join(peft::CONFIG_FILE).is_file() || Record::is_in(folder) {
        Record::read(folder)?.verify(folder)?;
    }
    Ok(())
}

impl Which {
    /// Opens a bundle with the adapter that is meant.
    ///
    /// # Errors
    /// As [`Bundle::open`]; if there is no such run or checkpoint, or it is damaged.
    pub(super) fn open(&self, bundle: &Path, base: Option<&Path>) -> Result<Bundle> {
        let opened = Bundle::open(bundle, base)?;
        match self.folder(bundle)? {
            None => Ok(opened),
            Some(folder) => Ok(opened.with_adapter(folder)),
        }
    }

    /// The folder of the checkpoint that is named, if one is.
    ///
    /// # Errors
    /// If there is no such run or checkpoint, or it is damaged.
    pub(super) fn folder(&self, bundle: &Path) -> Result<Option<PathBuf>> {
        let folder = self.named(bundle)?;
        folder.as_deref().map_or(Ok(()), is_whole)?;
        Ok(folder)
    }

    fn named(&self, bundle: &Path) -> Result<Option<PathBuf>> {
        if self.checkpoint.is_none() && self.run.is_none() {
            return Ok(None);
        }
        let runs = Runs::of(bundle);
        if let Some(folder) = self.checkpoint.as_deref().map(Path::new).filter(|path| path.is_dir()) {
            return match runs.in_folder(folder)? {
                Some(run) => Self::default().of_run(&run).map(Some),
                None => Ok(Some(folder.to_path_buf())),
            };
        }
        if self.checkpoint.as_deref() == Some(INITIAL) && self.run.is_none() {
            return inside::path(bundle, &[INITIAL]).map(Some);
        }
        let run = match &self.run {
            Some(name) => runs.named(name)?,
            None => runs.newest()?.ok_or_else(|| Error::invalid("no run, so no checkpoint").in_file(bundle))?,
        };
        self.of_run(&run).map(Some)
    }

    fn of_run(&self, run: &Run) -> Result<PathBuf> {
        let steps = run.checkpoints()?.steps()?;
        let wanted = match self.checkpoint.as_deref() {
            None => steps.last().map(|(step, _)| *step),
            Some("best") => run.best_saved()?,
            Some(text) => text.parse().ok(),
        };
        let found = wanted.and_then(|wanted| steps.iter().find(|(step, _)| *step == wanted));
        found.map(|(_, folder)| folder.clone()).ok_or_else(|| {
            let there: Vec<String> = steps.iter().map(|(step, _)| step.to_string()).collect();
            let hint =
                if there.is_empty() { "it saved none".to_owned() } else { format!("it has those of the steps {}", there.join(", ")) };
            let name = self.checkpoint.clone().unwrap_or_else(|| "the newest".to_owned());
            Error::not_found("checkpoint", name).in_file(&run.folder).with_hint(hint)
        })
    }
}

/// Where a folder with an adapter inside a bundle stands for the bundle, takes the bundle around it, with that adapter: a checkpoint's, the newest
/// one's of a run, or the one that training began with.
pub(super) fn around(path: &mut PathBuf, which: &mut Which) {
    if let Some(Around { bundle, .. }) = Around::of(path) {
        which.checkpoint = Some(path.display().to_string());
        *path = bundle;
    }
}

/// The bundle around a folder with an adapter in it.
pub(super) struct Around {
    pub(super) bundle: PathBuf,
    /// The run, where the folder is a run's.
    pub(super) run: Option<Run>,
}

impl Around {
    /// What is around a folder; nothing where it is a bundle itself, or in none.
    pub(super) fn of(path: &Path) -> Option<Self> {
        let is_bundle = |folder: &Path| folder.join(crate::export::manifest::FILE).is_file();
        if is_bundle(path) {
            return None;
        }
        let whole = path.canonicalize().ok()?;
        // BUNDLE/initial, BUNDLE/runs/NAME, BUNDLE/runs/NAME/checkpoints/step-N
        let run = |bundle: &Path, folder: &Path| Runs::of(bundle).in_folder(folder).ok().flatten();
        let found = whole.ancestors().enumerate().skip(1).filter(|(_, folder)| is_bundle(folder)).find_map(|(above, bundle)| match above {
            1 => whole.ends_with(INITIAL).then_some((bundle, None)),
            2 => run(bundle, &whole).map(|run| (bundle, Some(run))),
            4 if Record::is_in(&whole) => Some((bundle, whole.ancestors().nth(2).and_then(|folder| run(bundle, folder)))),
            _ => None,
        });
        found.map(|(bundle, run)| Self { bundle: bundle.to_path_buf(), run })
    }
}
