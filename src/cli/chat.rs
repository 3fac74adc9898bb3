//! `peft-onnx chat`

use std::io::{BufRead, IsTerminal, Write};

use serde_json::json;

use super::generate::{Choice, Model};
use super::{Global, ModelArgs, output};
use crate::data::{ChatTemplate, Ending, Message, Specials, Tokenizer};
use crate::error::{Error, Result};
use crate::generate::{Generator, Limits, Sampler, TextStream};

const AFTER_HELP: &str = "\
Each line is a message; the answer is written word by word, and the whole conversation is read again with the next line, in the tokenizer's chat template.
A line /clear forgets the conversation; /exit, or the end of the input, ends it.

Examples:
  peft-onnx chat model.lora
  peft-onnx chat tuned/ --system 'You answer in one sentence.' --temperature 0.7
  printf 'Hello!\\nAnd now?\\n' | peft-onnx chat tuned/ --json      # a line of JSON for each answer";

/// Options of `chat`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// The system message
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    /// Maximum number of new tokens of an answer
    #[arg(long, aliases = ["max-tokens"], value_name = "TOKENS", default_value_t = 512)]
    pub max_new_tokens: usize,
    /// How tokens are chosen.
    #[command(flatten)]
    pub choice: Choice,
}

/// Answers lines until they end.
///
/// # Errors
/// A model without a tokenizer or a chat template; a conversation that is longer than the model takes.
pub fn run(args: &Args, global: &Global) -> Result<()> {
    let sampler = args.choice.sampler()?;
    let model = Model::of(&args.model.path, args.model.base.as_deref(), &args.model.which, args.model.tokenizer.as_deref())?;
    let template = model.tokenizer.chat().ok_or_else(|| {
        let error = Error::invalid("the tokenizer has no chat template").in_file(&args.model.path);
        error.with_hint("`peft-onnx generate` continues a text that is written as the model should read it")
    })?;
    if model.feeding.pictures.is_some() {
        let error = Error::unsupported("a conversation with this model", "it sees a picture, and a line of text names none")
            .in_file(&args.model.path);
        return Err(error.with_hint("`peft-onnx generate MODEL --chat --image FILE --prompt TEXT` asks about one"));
    }
    let generator = Generator::fed(global.runtime(args.model.threads)?, model.graph.clone(), model.feeding.clone(), args.model.device)?;
    model.tokenizer.check_fits(generator.vocabulary())?;
    let stop = model.tokenizer.stops(&model.folders)?.into_iter().chain(model.tokenizer.end_of_turn()).collect();
    let limits = Limits { new_tokens: args.max_new_tokens, stop, positions: model.positions };
    let system: Vec<Message> = args.system.iter().map(|text| Message::says("system", text)).collect();
    let mut talk = Talk { tokenizer: &model.tokenizer, template, generator, limits, sampler, global, messages: system.clone() };
    let is_watched = std::io::stdin().is_terminal();
    let mut lines = std::io::stdin().lock().lines();
    loop {
        if is_watched {
            let _ = write!(std::io::stderr(), "> ").and_then(|()| std::io::stderr().flush());
        }
        let Some(line) = lines.next().transpose()? else { return Ok(()) };
        match line.trim() {
            "" => {}
            "/exit" | "/quit" => return Ok(()),
            "/clear" => talk.messages.clone_from(&system),
            text => talk.answer(text)?,
        }
    }
}

/// A conversation.
struct Talk<'a> {
    tokenizer: &'a Tokenizer,
    template: &'a ChatTemplate,
    generator: Generator,
    limits: Limits,
    sampler: Sampler,
    global: &'a Global,
    messages: Vec<Message>,
}

impl Talk<'_> {
    /// Answers a message, and remembers both.
    fn answer(&mut self, text: &str) -> Result<()> {
        self.messages.push(Message::says("user", text));
        let prompt = self.template.render(&self.messages, Ending::AssistantsTurn)?;
        let prompt = self.tokenizer.encode_beginning(&prompt, Specials::AsWritten, self.limits.positions)?.ids;
        let (mut stream, mut answer, is_json) = (TextStream::after(self.tokenizer, &prompt), String::new(), self.global.json);
        let mut tell = |part: String| {
            answer += &part;
            if is_json {
                return Ok(());
            }
            let mut out = std::io::stdout().lock();
            Ok(out.write_all(part.as_bytes()).and_then(|()| out.flush())?)
        };
        let write = &mut |token| stream.push(token).and_then(&mut tell);
        let tokens = self.generator.generate(&prompt, &self.limits, &mut self.sampler, write)?;
        let rest = stream.finish()?;
        tell(rest)?;
        if is_json {
            let line = json!({"message": text, "answer": answer, "tokens": tokens.len()});
            output::print(&line.to_string())?;
        } else {
            output::print("")?;
        }
        self.messages.push(Message::says("assistant", &answer));
        Ok(())
    }
}
