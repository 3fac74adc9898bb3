//! What was typed, read: HF's spellings are taken, and an option that is not known is answered with where it belongs.

use std::ffi::OsString;

use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Command, FromArgMatches};

use super::train::Training;
use super::{Cli, config, help};

/// Reads the arguments of the program, its own name first.
///
/// # Errors
/// Wrong usage, with tips; `--help` and `--version`, which are printed and end the program.
pub fn read(arguments: impl Iterator<Item = OsString>) -> Result<Cli, clap::Error> {
    let command = help::command();
    let arguments = dashed(&command, arguments);
    let matches = command.clone().try_get_matches_from(&arguments);
    let read = matches.and_then(|matches| Ok((Cli::from_arg_matches(&matches)?, matches)));
    let (mut cli, matches) = read.map_err(|error| with_tips(error, &command, &arguments))?;
    match &mut cli.command {
        super::Command::Train(args) => measured(&args.training, command)?,
        super::Command::Finetune(args) => {
            let own = matches.subcommand().and_then(|(name, matches)| Some((command.find_subcommand(name)?, matches)));
            args.said = own.map(|(command, matches)| config::used(command, matches)).unwrap_or_default();
        }
        _ => {}
    }
    Ok(cli)
}

/// Refuses options that mean nothing without rows to measure on.
fn measured(training: &Training, mut command: Command) -> Result<(), clap::Error> {
    let Some(option) = training.unmeasured() else { return Ok(()) };
    let why = format!("{option} needs rows to measure on: `--eval-data FILE` names them, `--val-size 0.1` holds back a tenth of the data");
    Err(command.error(ErrorKind::MissingRequiredArgument, why))
}

/// Options as Hugging Face's programs spell them: `--learning_rate` is `--learning-rate`.
fn dashed(command: &Command, arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut is_over = false;
    let one = |argument: OsString| {
        is_over |= argument == "--";
        let Some(text) = argument.to_str().filter(|text| !is_over && text.starts_with("--")) else { return argument };
        let (name, value) = text.split_once('=').map_or((text, None), |(name, value)| (name, Some(value)));
        let dashed = name.replace('_', "-");
        if dashed == name || owners(command, dashed.trim_start_matches('-')).is_empty() {
            return argument;
        }
        value.map_or_else(|| dashed.clone(), |value| format!("{dashed}={value}")).into()
    };
    arguments.map(one).collect()
}

/// A command that has an option, and what it calls it.
struct Owner<'a> {
    command: &'a str,
    option: &'a str,
}

/// The commands that have an option of this name or with this name as an alias.
fn owners<'a>(command: &'a Command, name: &str) -> Vec<Owner<'a>> {
    let mut owners = vec![];
    for command in command.get_subcommands() {
        for argument in command.get_arguments() {
            let Some(long) = argument.get_long() else { continue };
            if long == name || argument.get_all_aliases().is_some_and(|aliases| aliases.contains(&name)) {
                owners.push(Owner { command: command.get_name(), option: long });
            }
        }
    }
    owners
}

/// Options of other programs for which there is no option here, and what there is.
const ELSEWHERE: &[(&[&str], &str)] = &[
    (&["model", "model-name-or-path", "base-model"], "the model is named without an option: `peft-onnx inject model.onnx --method lora`"),
    (&["output-dir", "out-dir", "logging-dir"], "training writes into the bundle; `inject -o BUNDLE` decides where that is"),
    (&["overwrite-output-dir", "overwrite", "yes"], "`--force` replaces what is there"),
    (&["warmup-ratio"], "`--warmup-steps` counts the steps; by default they are 3 % of all"),
    (&["do-train", "do-eval"], "`peft-onnx train` trains, with `--eval-data FILE` it measures as well; `peft-onnx eval` only measures"),
    (&["gradient-checkpointing"], "memory is saved by a smaller `--batch-size` with `--gradient-accumulation-steps`"),
    (&["load-in-4bit", "load-in-8bit", "quantization-config"], "a quantised .onnx is trained as it is: only its adapter learns"),
    (&["optim", "optimizer"], "the optimizer is AdamW"),
    (&["gpu", "use-gpu", "cuda"], "`--device cuda` computes on the GPU"),
    (&["bf16", "fp16", "tf32", "half", "mixed-precision"], "`--precision bf16` (or fp16, tf32) trains in it"),
    (&["use-pissa", "use-olora"], "`--init-lora-weights pissa` and `--init-lora-weights olora` start the factors so"),
    (&["peft-type", "lora"], "`--method lora` names the method"),
    (&["lora-path", "peft-model", "adapter-path"], "`inject MODEL.onnx --adapter FOLDER` puts an adapter into its model"),
    (&["debug", "log-level"], "`-v` says what is being done, `-vv` more"),
];

/// Commands of other programs, and what there is here.
const COMMANDS: &[(&[&str], &str)] = &[
    (&["evaluate", "test", "validate"], "`peft-onnx eval BUNDLE --data FILE` measures"),
    (
        &["fine-tune", "fit", "sft"],
        "`peft-onnx finetune MODEL --data FILE` does the whole way; `peft-onnx inject` adds an adapter, `peft-onnx train` trains it, `peft-onnx merge` makes one model of both",
    ),
    (&["infer", "predict", "run"], "`peft-onnx generate MODEL --prompt TEXT` writes text; with `--chat` it answers"),
    (&["info", "show", "list"], "`peft-onnx inspect MODEL` shows what is in a model"),
    (&["download", "pull"], "nothing is downloaded; `peft-onnx inspect FOLDER` looks into what is there"),
    (&["quantize", "quantise"], "a base that is quantised already stays so: `peft-onnx merge --requantize`"),
];

fn with_tips(mut error: clap::Error, command: &Command, arguments: &[OsString]) -> clap::Error {
    let used = arguments.iter().skip(1).find_map(|argument| command.find_subcommand(argument));
    let text = |kind| if let Some(ContextValue::String(text)) = error.get(kind) { Some(text.clone()) } else { None };
    let tips = match error.kind() {
        ErrorKind::UnknownArgument => text(ContextKind::InvalidArg).map(|given| tips(&given, command, used, arguments)),
        ErrorKind::InvalidSubcommand => text(ContextKind::InvalidSubcommand).map(|given| tips_on_command(&given)),
        ErrorKind::MissingRequiredArgument if used.is_some_and(|used| used.get_name() == "inject") => {
            Some(vec!["`--method lora` is what most people start with".to_owned()])
        }
        _ => None,
    };
    match tips {
        None => {}
        // clap would have an unknown option passed as a value.
        Some(tips) if tips.is_empty() => drop(error.remove(ContextKind::Suggested)),
        Some(tips) => {
            error.remove(ContextKind::SuggestedArg);
            error.remove(ContextKind::SuggestedSubcommand);
            error.insert(ContextKind::Suggested, ContextValue::StyledStrs(tips.into_iter().map(StyledStr::from).collect()));
        }
    }
    error
}

/// The command that has the options of others.
const ALL_IN_ONE: &str = "finetune";

/// What to say of a command that is none.
fn tips_on_command(given: &str) -> Vec<String> {
    if std::path::Path::new(given).exists() {
        return vec![format!("the command comes first: `peft-onnx inspect {given}`")];
    }
    COMMANDS.iter().filter(|(names, _)| names.contains(&given)).map(|(_, tip)| (*tip).to_owned()).collect()
}

/// What to say of an argument that a command does not know.
fn tips(given: &str, command: &Command, used: Option<&Command>, arguments: &[OsString]) -> Vec<String> {
    let Some(name) = given.strip_prefix("--") else { return words_behind_a_list(given, used, arguments).into_iter().collect() };
    let name = name.split('=').next().unwrap_or(name).replace('_', "-");
    let mut owners = owners(command, &name);
    // It has every option of three others, whose own commands tell more.
    if owners.iter().any(|owner| owner.command != ALL_IN_ONE) {
        owners.retain(|owner| owner.command != ALL_IN_ONE);
    }
    if !owners.is_empty() {
        let one = |owner: &Owner<'_>| {
            let renamed = if owner.option == name { String::new() } else { format!(", where it is '--{}'", owner.option) };
            format!("'--{name}' is an option of `peft-onnx {}`{renamed}", owner.command)
        };
        return owners.iter().map(one).collect();
    }
    ELSEWHERE.iter().filter(|(names, _)| names.contains(&name.as_str())).map(|(_, tip)| (*tip).to_owned()).collect()
}

/// The tip for `--target-modules q_proj v_proj`, as other programs take lists.
fn words_behind_a_list(given: &str, used: Option<&Command>, arguments: &[OsString]) -> Option<String> {
    let at = arguments.iter().position(|argument| argument == given)?;
    let before = arguments[..at].iter().rev().take_while(|argument| !argument.to_string_lossy().starts_with('-')).count();
    let option = arguments.get(at.checked_sub(before + 1)?)?.to_str()?;
    let mut known =
        used?.get_arguments().filter_map(|argument| Some((argument.get_long()?, argument.get_all_aliases().unwrap_or_default())));
    let is_known = known.any(|(long, aliases)| {
        Some(long) == option.strip_prefix("--") || aliases.iter().any(|alias| Some(*alias) == option.strip_prefix("--"))
    });
    let words: Vec<_> = arguments[at - before..=at].iter().map(|word| word.to_string_lossy()).collect();
    (is_known && before > 0).then(|| format!("several values are joined by commas: {option} {}", words.join(",")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(arguments: &[&str]) -> String {
        let arguments = std::iter::once("peft-onnx").chain(arguments.iter().copied());
        read(arguments.map(OsString::from)).map_or_else(|error| error.to_string(), |_| String::new())
    }

    #[test]
    fn options_of_habit_are_taken() {
        let train = |option: &[&str]| said(&[&["train", "b", "--data", "d.jsonl"], option].concat());
        let inject = |option: &[&str]| said(&[&["inject", "m.onnx"], option].concat());
        for option in [
            &["--lr", "1e-3"][..],
            &["--learning_rate=1e-3"],
            &["--num-train-epochs", "2"],
            &["--num_train_epochs", "2"],
            &["--per-device-train-batch-size", "2"],
            &["--per_device_train_batch_size=2"],
            &["--lr-scheduler-type", "cosine"],
            &["--logging-steps", "2"],
            &["--resume-from-checkpoint"],
            &["--max-seq-length", "64"],
            &["--clip", "1.0"],
        ] {
            assert_eq!(train(option), "", "{option:?}");
        }
        for option in [
            &["--method", "lora", "--lora-r", "4"][..],
            &["--method", "lora", "--lora_r", "4", "--lora_alpha", "8", "--lora_dropout", "0.1"],
            &["--method", "lora", "--r", "4"],
            &["--method", "dora"],
            &["--method", "rslora"],
            &["--method", "pissa"],
            &["--method", "olora"],
            &["--method", "LORA"],
            &["--method", "prompt-tuning"],
            &["--method", "PROMPT_TUNING"],
            &["--method", "P_TUNING"],
            &["--method", "lora", "--task", "SEQ_CLS"],
            &["--method", "lora", "--task_type", "CAUSAL_LM"],
            &["--method", "lora", "--lora_target_modules", "q_proj"],
        ] {
            assert_eq!(inject(option), "", "{option:?}");
        }
    }

    #[test]
    fn unknown_options_are_answered_with_where_they_belong() {
        let rows: &[(&[&str], &str)] = &[
            (&["inject", "m.onnx", "--method", "lora", "--epochs", "3"], "tip: '--epochs' is an option of `peft-onnx train`"),
            (&["inject", "m.onnx", "--method", "lora", "--lr", "3"], "`peft-onnx train`, where it is '--learning-rate'"),
            (&["train", "b", "--data", "d", "--rank", "3"], "tip: '--rank' is an option of `peft-onnx inject`"),
            (&["train", "b", "--data", "d", "--lora_alpha", "3"], "`peft-onnx inject`, where it is '--alpha'"),
            (&["train", "b", "--data", "d", "--output_dir", "x"], "training writes into the bundle"),
            (&["train", "b", "--data", "d", "--warmup-ratio=0.1"], "`--warmup-steps` counts the steps"),
            (&["train", "b", "--data", "d", "--lerning-rate", "1"], "a similar argument exists: '--learning-rate'"),
            (&["inject", "--method", "lora", "m.onnx", "--target-modules", "q_proj", "v_proj"], "--target-modules q_proj,v_proj"),
            (&["inject", "m.onnx", "--method", "lroa"], "a similar value exists: 'lora'"),
            (&["inject", "m.onnx", "--method", "lora", "--task", "seq-clss"], "seq-cls"),
            (&["trian", "b"], "a similar subcommand exists: 'train'"),
            (&["evaluate", "b"], "`peft-onnx eval BUNDLE"),
            (&["Cargo.toml"], "the command comes first: `peft-onnx inspect Cargo.toml`"),
            (&["inject", "m.onnx"], "`--method lora`"),
        ];
        for (arguments, expected) in rows {
            let said = said(arguments);
            assert!(said.contains(expected), "{arguments:?}: {said}");
            assert!(!said.contains("as a value"), "{arguments:?}: {said}");
        }
    }
}
