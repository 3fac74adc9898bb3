//! Signals that end a program: Ctrl-C, and what systems send to end what runs (SIGTERM) or whose terminal is gone (SIGHUP).
//!
//! Training saves first: the first signal sets a flag, the second ends the process at once. Everything else ends with the first. What was being
//! written vanishes, and the exit code is what shells give to that signal.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use super::output;
use crate::files::unfinished;

/// What the first signal does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum First {
    /// It ends the process.
    Ends,
    /// It asks the work to end in good order; with what is said then.
    Asks(&'static str),
}

static ASKED: AtomicBool = AtomicBool::new(false);
/// Whether the first signal asks.
static ASKS: AtomicBool = AtomicBool::new(false);
static WORDS: OnceLock<&'static str> = OnceLock::new();
static LISTENS: AtomicBool = AtomicBool::new(false);
/// Whether a signal is ending the process.
static ENDS: AtomicBool = AtomicBool::new(false);
static SIGNAL: AtomicI32 = AtomicI32::new(0);
/// What shells add to a signal's number.
const OF_SIGNALS: i32 = 128;
/// The number of Ctrl-C's signal where the system gives none.
const INTERRUPT: i32 = 2;

/// Listens from now on; the flag is set when a signal asks the work to end. A later call changes what the first signal does.
pub(super) fn listen(first: First) -> &'static AtomicBool {
    if let First::Asks(words) = first {
        WORDS.get_or_init(|| words);
    }
    ASKS.store(matches!(first, First::Asks(_)), Ordering::SeqCst);
    if LISTENS.swap(true, Ordering::SeqCst) {
        return &ASKED;
    }
    if let Err(error) = system::listen(came) {
        tracing::warn!("Ctrl-C will not save: {error}");
    }
    &ASKED
}

/// The exit code of a process that a signal asked to end.
#[must_use]
pub(super) fn exit_code() -> u8 {
    let signal = SIGNAL.load(Ordering::SeqCst);
    u8::try_from(OF_SIGNALS + if signal == 0 { INTERRUPT } else { signal }).unwrap_or(1)
}

/// Does not come back if a signal is ending the process: what was being written is gone, and the work failed of it.
pub(super) fn wait_for_end() {
    while ENDS.load(Ordering::SeqCst) {
        std::thread::park();
    }
}

fn came(signal: i32) {
    if !ASKS.load(Ordering::SeqCst) || ASKED.swap(true, Ordering::SeqCst) {
        ENDS.store(true, Ordering::SeqCst);
        unfinished::remove_all();
        system::end(OF_SIGNALS + signal);
    }
    SIGNAL.store(signal, Ordering::SeqCst);
    output::note(&format!("\nstopping: {} (once more to quit at once)", WORDS.get().copied().unwrap_or_default()));
}

#[cfg(unix)]
mod system {
    use signal_hook::consts::{SIGBUS, SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
    use signal_hook::iterator::Signals;

    /// What is said where a mapped file ends before its bytes.
    const CUT_SHORT: &[u8] = b"error: a file was cut short, or its disk failed, while it was read\n\
        hint: models and adapters must stay as they are while a command reads them; what was saved is whole: `train --resume` goes on from there\n";

    /// Ends the process with an error where a mapped file was cut short.
    fn cut_short() {
        // SAFETY: `write` of bytes that are always there; it may be called by a signal's handler, as `_exit` may.
        #[expect(unsafe_code, reason = "a handler may call next to nothing of the standard library")]
        unsafe {
            libc::write(libc::STDERR_FILENO, CUT_SHORT.as_ptr().cast(), CUT_SHORT.len());
        }
        signal_hook::low_level::exit(1);
    }

    /// Calls `came` for every signal, in a thread of its own.
    pub(super) fn listen(came: impl Fn(i32) + Send + 'static) -> std::io::Result<()> {
        // A file that may not grow any more is an error of the write that wanted to, not the end of the process.
        signal_hook::flag::register(SIGXFSZ, std::sync::Arc::default())?;
        // SAFETY: the handler calls `write` and `_exit` alone.
        #[expect(unsafe_code, reason = "the handler must run where the read failed")]
        unsafe {
            signal_hook::low_level::register(SIGBUS, cut_short)?;
        }
        let mut signals = Signals::new([SIGINT, SIGTERM])?;
        if !is_ignored(SIGHUP) {
            signals.add_signal(SIGHUP)?;
        }
        std::thread::Builder::new().name("signals".to_owned()).spawn(move || signals.forever().for_each(came))?;
        Ok(())
    }

    /// Ends the process as it stands: what ends it in good order unloads libraries whose threads are still computing.
    pub(super) fn end(code: i32) {
        signal_hook::low_level::exit(code);
    }

    /// Whether who started this process wants a signal ignored: `nohup` does, so that the work outlives the terminal.
    fn is_ignored(signal: i32) -> bool {
        // SAFETY: `sigaction` with no new action only writes the present one into `now`, which is plain data for which zeros are valid.
        #[expect(unsafe_code, reason = "the standard library does not tell what is done about a signal")]
        unsafe {
            let mut now: libc::sigaction = std::mem::zeroed();
            libc::sigaction(signal, std::ptr::null(), &raw mut now) == 0 && now.sa_sigaction == libc::SIG_IGN
        }
    }
}

#[cfg(not(unix))]
mod system {
    /// Calls `came` for every Ctrl-C.
    pub(super) fn listen(came: impl Fn(i32) + Send + 'static) -> Result<(), ctrlc::Error> {
        ctrlc::set_handler(move || came(super::INTERRUPT))
    }

    /// Ends the process.
    pub(super) fn end(code: i32) {
        std::process::exit(code);
    }
}
