//! Commands of which a launcher of MPI programs started several: only training is work for them, and only where the program can do it. Others would write over
//! each other.

use super::Command;
use crate::error::{Error, Result};
use crate::parallel::launcher::Launched;

/// Whether this program can train in several processes.
const HAS_MPI: bool = cfg!(feature = "mpi");

/// Refuses a command that writes, where several processes of it were started that cannot work together.
///
/// # Errors
/// [`Unsupported`](crate::ErrorKind::Unsupported), with what to do.
pub(in crate::cli) fn alone(command: &Command) -> Result<()> {
    Launched::here().map_or(Ok(()), |launched| check(command, launched, HAS_MPI))
}

fn check(command: &Command, launched: Launched, has_mpi: bool) -> Result<()> {
    let name = match command {
        Command::Train(_) => "train",
        Command::Finetune(_) => "finetune",
        Command::Inject(_) => "inject",
        Command::Merge(_) => "merge",
        Command::Export(_) => "export",
        Command::Convert(_) => "convert",
        Command::Combine(_) => "combine",
        Command::Inspect(_)
        | Command::Data(_)
        | Command::Plan(_)
        | Command::Runs(_)
        | Command::Eval(_)
        | Command::Predict(_)
        | Command::Generate(_)
        | Command::Chat(_)
        | Command::Check(_)
        | Command::Runtime(_)
        | Command::Completions(_) => return Ok(()),
        #[cfg(feature = "serve")]
        Command::Serve(_) => return Ok(()),
    };
    let (is_train, processes) = (name == "train", launched.processes());
    if processes < 2 || (is_train && has_mpi) {
        return Ok(());
    }
    let (why, hint) = match (is_train, has_mpi) {
        (true, _) => ("this program was built without MPI, and each of them would train and write by itself", WITHOUT_MPI),
        (false, _) => ("each of them would do the same work and write to the same place", ONE),
    };
    Err(Error::unsupported(format!("`peft-onnx {name}` in {processes} processes (started by {})", launched.by), why).with_hint(hint))
}

const WITHOUT_MPI: &str = "build with MPI: `cargo build --release --features mpi` (Debian: `apt-get install libopenmpi-dev openmpi-bin libclang-dev`), or start one process";
const ONE: &str = "run it once, without `mpirun`; `peft-onnx train` is what several processes can do";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::read;

    #[test]
    fn several_processes_are_for_training_alone() {
        let launched = |size| Launched { by: "Open MPI", size: Some(size), rank: Some(0) };
        for (arguments, size, has_mpi, said) in [
            (&["peft-onnx", "train", "b", "--data", "d"][..], 2, false, Some("built without MPI")),
            (&["peft-onnx", "train", "b", "--data", "d"], 2, true, None),
            (&["peft-onnx", "train", "b", "--data", "d"], 1, false, None),
            (&["peft-onnx", "finetune", "m", "--data", "d"], 2, true, Some("the same work")),
            (&["peft-onnx", "inject", "m", "--method", "lora"], 4, false, Some("the same work")),
            (&["peft-onnx", "inspect", "m"], 4, false, None),
        ] {
            let cli = read(arguments.iter().map(Into::into)).expect("a command line");
            let found = check(&cli.command, launched(size), has_mpi).map_err(|error| error.to_string());
            match said {
                None => assert_eq!(found, Ok(()), "{arguments:?}"),
                Some(words) => assert!(found.is_err_and(|error| error.contains(words)), "{arguments:?}"),
            }
        }
    }
}
