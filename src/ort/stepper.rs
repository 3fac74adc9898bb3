//! A graph that turns a state into the next one, run step after step, with the state staying on the device.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;

use ort::memory::Allocator;
use ort::session::IoBinding;
use ort::value::DynTensor;

use super::value::{DeviceTensor, Feed, their_type};
use super::{Port, Session, refused};
use crate::error::{Context, Error, Result};
use crate::ort::HostTensor;

/// A part of the state: the input that reads it and the output that writes the next one, of the same fixed shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State<'a> {
    /// The input; also the name of this part in every call.
    pub input: &'a str,
    /// The output.
    pub output: &'a str,
}

/// A session with a state of its own that every step replaces.
///
/// Each part of the state has two buffers on the device, and there are two bindings of the graph's inputs and outputs: the even steps read
/// the first buffers and write the second, the odd steps the reverse. Nothing is copied or allocated for the state in a step, and no
/// buffer is read and written in the same run. Results such as a loss stay on the device, those of several steps if need be, until they are
/// asked for: each time, the device has to finish what it is doing.
///
/// ```text
///            even step                          odd step
///   A ──trainable──▶ graph ──trainable_next──▶ B ──trainable──▶ graph ──trainable_next──▶ A
/// ```
pub struct Stepper {
    session: Session,
    bindings: [IoBinding; 2],
    turn: usize,
    parts: Vec<Part>,
    results: Results,
    bound: BTreeSet<String>,
    fed: BTreeSet<String>,
}

/// The results of the last steps, on the device: a row a step, which the steps take in turn.
struct Results {
    names: Vec<String>,
    /// Made when they are first needed: somebody may ask for more steps than ever come.
    rows: Vec<Vec<DeviceTensor>>,
    /// Rows, at most.
    most: usize,
    /// Rows that hold results which were not asked for yet.
    filled: usize,
}

struct Part {
    name: String,
    buffers: [DeviceTensor; 2],
    zeros: Option<DeviceTensor>,
    is_reset: bool,
}

impl Stepper {
    /// A stepper over `session` with all parts of the state zero, which keeps the outputs named in `results` of up to `steps` steps for
    /// [`collect`](Self::collect). The graph's other outputs are not kept.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) if the graph lacks a name, [`Mismatch`](crate::ErrorKind::Mismatch) if a part of the state or a
    /// result does not have a fixed shape, or a part's input and output differ.
    pub fn new(session: Session, states: &[State<'_>], results: &[&str], steps: NonZeroUsize) -> Result<Self> {
        let allocator = session.allocator()?;
        let mut bindings = [session.binding()?, session.binding()?];
        let mut parts = vec![];
        for state in states {
            parts.push(Part::new(&session, *state, &allocator)?.bound_to(state.output, &mut bindings)?);
        }
        let results = Results::new(&session, results, steps, &allocator)?;
        let bound = states.iter().map(|state| state.input.to_owned()).collect();
        Ok(Self { session, bindings, turn: 0, parts, results, bound, fed: BTreeSet::new() })
    }

    /// The session that is stepped.
    #[must_use]
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Gives an input the same value in every step to come.
    ///
    /// # Errors
    /// As [`Session::run`], for a name, element type or shape that the graph does not take.
    pub fn set(&mut self, feed: Feed<'_>) -> Result<()> {
        let rest: Vec<&str> = self.session.inputs().iter().map(|port| port.name.as_str()).collect();
        self.session.check(&[feed], &rest)?;
        for binding in &mut self.bindings {
            feed.bind(binding).in_file(self.session.path())?;
        }
        self.bound.insert(feed.name().to_owned());
        Ok(())
    }

    /// Runs one step: reads the state, writes the next, which is the state from then on.
    ///
    /// # Errors
    /// As [`Session::run`], and if as many results wait as are kept; after an error the state is what it was before the step.
    pub fn step(&mut self, feeds: &[Feed<'_>]) -> Result<()> {
        let bound: Vec<&str> = self.bound.iter().map(String::as_str).collect();
        self.session.check(feeds, &bound)?;
        self.check_constancy(feeds)?;
        let binding = &mut self.bindings[self.turn];
        self.results.bind(&self.session, binding)?;
        for feed in feeds {
            feed.bind(binding).in_file(self.session.path())?;
        }
        for part in self.parts.iter().filter(|part| part.is_reset) {
            binding.bind_input(&*part.name, &part.current(self.turn).0).map_err(refused)?;
        }
        let run = self.session.run_bound(&*binding, feeds).map(|_| ());
        for part in self.parts.iter_mut().filter(|part| part.is_reset) {
            binding.bind_input(&*part.name, &part.buffers[self.turn].0).map_err(refused)?;
            part.is_reset = run.is_err();
        }
        run.in_file(self.session.path())?;
        self.results.filled += 1;
        self.turn = 1 - self.turn;
        Ok(())
    }

    /// Makes the state what it was before the last step. Only one step can be taken back: the buffers hold no more.
    pub fn take_back(&mut self) {
        self.turn = 1 - self.turn;
    }

    /// Steps whose results wait to be collected.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.results.filled
    }

    /// Whether the results have to be collected before the next step.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.results.filled == self.results.most
    }

    /// The results of every step since the last call, oldest first, each in the order in which they were named.
    ///
    /// # Errors
    /// [`Runtime`](crate::ErrorKind::Runtime) if the device refuses.
    pub fn collect(&mut self) -> Result<Vec<Vec<HostTensor>>> {
        let rows = &self.results.rows[..self.results.filled];
        let collected = rows.iter().map(|row| row.iter().map(DeviceTensor::to_host).collect()).collect::<Result<_>>()?;
        self.results.filled = 0;
        Ok(collected)
    }

    /// A part of the state, where it is: to feed another session of the same device. It is overwritten by the step after the next one.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) if there is no such part.
    pub fn state(&self, name: &str) -> Result<&DeviceTensor> {
        let part = self.parts.iter().find(|part| part.name == name);
        part.map(|part| part.current(self.turn)).ok_or_else(|| Error::not_found("state", name))
    }

    /// A copy of a part of the state in ordinary memory.
    ///
    /// # Errors
    /// As [`state`](Self::state), and [`Runtime`](crate::ErrorKind::Runtime) if the device refuses.
    pub fn read(&self, name: &str) -> Result<HostTensor> {
        self.state(name)?.to_host()
    }

    /// Overwrites a part of the state.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) if there is no such part, [`Mismatch`](crate::ErrorKind::Mismatch) if the value is of another
    /// element type or shape.
    pub fn write(&mut self, name: &str, value: &HostTensor) -> Result<()> {
        let rest: Vec<&str> = self.session.inputs().iter().map(|port| port.name.as_str()).collect();
        let turn = self.turn;
        let part = self.parts.iter_mut().find(|part| part.name == name).ok_or_else(|| Error::not_found("state", name))?;
        self.session.check(&[Feed::host(name, value)], &rest)?;
        part.is_reset = false;
        part.buffers[turn].overwrite(value)
    }

    /// Changes the numbers of a part of the state, of type float32, where they are; from another memory they come to ordinary memory and go back.
    ///
    /// # Errors
    /// As [`read`](Self::read), and what the change refuses.
    pub fn change(&mut self, name: &str, change: &mut dyn FnMut(&mut [f32]) -> Result<()>) -> Result<()> {
        let turn = self.turn;
        let part = self.parts.iter_mut().find(|part| part.name == name).ok_or_else(|| Error::not_found("state", name))?;
        if part.is_reset {
            // Who reads zeros from a buffer of their own gets one to write to.
            let zeros = part.current(turn).to_host()?;
            part.buffers[turn].overwrite(&zeros)?;
            part.is_reset = false;
        }
        part.buffers[turn].change(change)
    }

    /// Makes a part of the state zero without touching its buffers: the next step reads zeros.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) if there is no such part; [`Runtime`](crate::ErrorKind::Runtime) if there is no memory for zeros.
    pub fn reset(&mut self, name: &str) -> Result<()> {
        let part = self.parts.iter_mut().find(|part| part.name == name).ok_or_else(|| Error::not_found("state", name))?;
        if part.zeros.is_none() {
            let input = self.session.named_input(name)?;
            part.zeros = Some(buffer(&self.session, input, &self.session.allocator()?)?);
        }
        part.is_reset = true;
        Ok(())
    }

    /// A binding keeps what it was given, and the two take turns: an input left out would have the value of two steps ago.
    fn check_constancy(&mut self, feeds: &[Feed<'_>]) -> Result<()> {
        let forgotten = self.fed.iter().find(|name| !feeds.iter().any(|feed| feed.name() == *name));
        if let Some(name) = forgotten {
            return Err(self.session.at_tensor(name, Error::invalid("was fed in the steps before and is not fed in this one")));
        }
        self.fed.extend(feeds.iter().map(|feed| feed.name().to_owned()));
        Ok(())
    }
}

impl Results {
    fn new(session: &Session, names: &[&str], steps: NonZeroUsize, allocator: &Allocator) -> Result<Self> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut results = Self { names, rows: vec![], most: steps.get(), filled: 0 };
        results.add_row(session, allocator)?;
        Ok(results)
    }

    fn add_row(&mut self, session: &Session, allocator: &Allocator) -> Result<()> {
        let row = self.names.iter().map(|name| buffer(session, session.named_output(name)?, allocator)).collect::<Result<_>>()?;
        self.rows.push(row);
        Ok(())
    }

    /// Has the next run write into the next free row.
    fn bind(&mut self, session: &Session, binding: &mut IoBinding) -> Result<()> {
        if self.filled == self.rows.len() && self.filled < self.most {
            self.add_row(session, &session.allocator()?)?;
        }
        let row = self.rows.get_mut(self.filled).ok_or_else(|| Error::invalid("the results of the steps before were not collected"))?;
        for (name, buffer) in self.names.iter().zip(row) {
            binding.bind_output(name.as_str(), &mut buffer.0).map_err(refused)?;
        }
        Ok(())
    }
}

impl Part {
    fn new(session: &Session, state: State<'_>, allocator: &Allocator) -> Result<Self> {
        let (input, output) = (session.named_input(state.input)?, session.named_output(state.output)?);
        if (input.element_type, &input.shape) != (output.element_type, &output.shape) {
            let describe = |port: &Port| format!("{} {:?} {:?}", port.name, port.element_type, port.shape);
            return Err(Error::mismatch("the next state", describe(input), describe(output)).in_file(session.path()));
        }
        let buffers = [buffer(session, input, allocator)?, buffer(session, input, allocator)?];
        Ok(Self { name: state.input.to_owned(), buffers, zeros: None, is_reset: false })
    }

    fn bound_to(mut self, output: &str, bindings: &mut [IoBinding; 2]) -> Result<Self> {
        for (turn, binding) in bindings.iter_mut().enumerate() {
            binding.bind_input(&*self.name, &self.buffers[turn].0).map_err(refused)?;
            binding.bind_output(output, &mut self.buffers[1 - turn].0).map_err(refused)?;
        }
        Ok(self)
    }

    fn current(&self, turn: usize) -> &DeviceTensor {
        self.zeros.as_ref().filter(|_| self.is_reset).unwrap_or(&self.buffers[turn])
    }
}

impl DeviceTensor {
    /// Zeros for an input of fixed shape, where its session computes.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) if there is no such input, [`Mismatch`](crate::ErrorKind::Mismatch) if its shape is not fixed.
    pub fn for_input(session: &Session, name: &str) -> Result<Self> {
        buffer(session, session.named_input(name)?, &session.allocator()?)
    }
}

/// A zeroed tensor on the session's device for an input or output of fixed shape.
fn buffer(session: &Session, port: &Port, allocator: &Allocator) -> Result<DeviceTensor> {
    let no_buffer =
        |found: String| session.at_tensor(&port.name, Error::mismatch("shape", "fixed lengths and a known element type", found));
    let (element_type, shape) =
        port.element_type.zip(port.known_shape()).ok_or_else(|| no_buffer(format!("{:?} {:?}", port.element_type, port.shape)))?;
    let mut tensor = DeviceTensor(DynTensor::new(allocator, their_type(element_type), shape.clone()).map_err(refused)?);
    if !tensor.0.memory_info().is_cpu_accessible() {
        tensor.overwrite(&HostTensor::zeros(element_type, shape))?;
    }
    Ok(tensor)
}
