//! What a method is: its row in the table of methods, and how it is configured.

use std::any::Any;
use std::fmt::Debug;
use std::ops::Deref;

use indexmap::IndexMap;
use serde_json::{Map, Value};

use super::config::fields::{self, Fields};
use super::config::options::Options;
use super::config::settings::Settings;
use super::config::{Scope, Task};
use super::params::key::{Family, Key, Tensors};
use super::params::{Allocation, Constraint, Given, Param};
use super::part::Part;
use super::targets::Strictness;
use super::virtual_tokens::encoder::Encoder;
use crate::anatomy::Anatomy;
use crate::error::{Context, Error, Result};
use crate::ir::Tensor;

/// What is the same for all adapters of a method.
#[derive(Debug)]
pub struct Row {
    /// The name on the command line and in manifests: `lora`.
    pub name: &'static str,
    /// Other names for it.
    pub aliases: &'static [&'static str],
    /// Names of the method with one of its settings: `dora`. They are not shown.
    pub variants: &'static [&'static str],
    /// What is trained, in one line.
    pub about: &'static str,
    /// PEFT's `peft_type`; of several rows with one, the first one reads the file.
    pub peft_type: &'static str,
    /// The learning rate with which it learns well.
    pub learning_rate: f64,
    /// How the names of its tensors begin.
    pub family: Family,
    /// The names of its tensors.
    pub tensors: Tensors,
    /// Adapters of rows with the same name here fit one another's graphs as ONNX Runtime's adapter files.
    pub adapter_file: &'static str,
    /// The options that it takes, by their names in [`TABLE`](super::config::options::TABLE); others are refused.
    pub takes: &'static [&'static [&'static str]],
    /// Its page in `docs/methods`.
    pub page: &'static str,
    /// Reads the settings of an `adapter_config.json`.
    pub read: fn(&Fields<'_>) -> Result<Method>,
    /// Makes a configuration of what a user asks for.
    pub configure: fn(&Options) -> Result<Method>,
}

impl Row {
    /// Whether the method takes an option.
    #[must_use]
    pub fn takes(&self, option: &str) -> bool {
        self.takes.concat().contains(&option)
    }

    /// Whether a name is the row's.
    #[must_use]
    pub fn is_called(&self, name: &str) -> bool {
        let mut names = std::iter::once(&self.name).chain(self.aliases).chain(self.variants);
        names.any(|own| own.eq_ignore_ascii_case(name))
    }
}

/// How a method is configured, and what it makes of a graph.
pub trait Configuration: Object + Debug + Send + Sync {
    /// The method's row.
    fn row(&self) -> &'static Row;

    /// Checks that the settings make sense.
    ///
    /// # Errors
    /// If a rank is 0, a dropout is not in `[0, 1)`, or two settings contradict each other.
    fn check(&self) -> Result<()>;

    /// Writes the settings of an `adapter_config.json` that are the method's own.
    fn write(&self, settings: &mut Settings);

    /// Finds the places where the method attaches.
    ///
    /// # Errors
    /// Targets that match nothing, with candidates; a method that has no place in this graph.
    fn place(&self, at: &Places<'_>) -> Result<Placed>;

    /// Where the method attaches, if it attaches to modules.
    fn scope(&self) -> Option<&Scope> {
        None
    }

    /// The same, to be changed.
    fn scope_mut(&mut self) -> Option<&mut Scope> {
        None
    }

    /// Whether the base's weights are stored `[in, out]`, to be settled with the places; none for methods that do not tell.
    fn fan_in_fan_out_mut(&mut self) -> Option<&mut bool> {
        None
    }

    /// Modules of the base that are trained and saved as a whole beside the method, as the user named them.
    fn modules_to_save(&self) -> &[String] {
        self.scope().map_or(&[], |scope| &scope.modules_to_save)
    }

    /// Whether it can attach to a module that the graph has in parts.
    fn takes_parts(&self) -> bool {
        false
    }

    /// Whether tensors without elements are ones of modules that it has left as they were.
    fn has_empty_tensors(&self) -> bool {
        false
    }

    /// How ranks are allocated while these tensors are trained, in the order of the trainable vector; none of a method that has none to allocate.
    ///
    /// # Errors
    /// Settings by which nothing can be allocated.
    fn allocation(&self, params: &[Param]) -> Result<Option<Allocation>> {
        let _ = params;
        Ok(None)
    }

    /// Which tensors stay within a norm while these are trained, in the order of the trainable vector.
    fn constraints(&self, params: &[Param]) -> Vec<Constraint> {
        let _ = params;
        vec![]
    }

    /// Leaves out of an adapter's tensors the ranks that are masked, and notes what is left. `names` are those of the trainable vector in its order.
    ///
    /// # Errors
    /// Masks that are not those of the tensors.
    fn drop_ranks(&mut self, names: &[&str], tensors: &mut IndexMap<String, Tensor>, masked: &[f32]) -> Result<()> {
        let _ = (names, tensors, masked);
        Ok(())
    }

    /// A tensor in the shape that it had before ranks were left out, with zeros for those; none if nothing was left out to give it that shape.
    fn whole(&self, name: &str, tensor: Option<&Tensor>, shape: &[usize]) -> Option<Tensor> {
        let _ = (name, tensor, shape);
        None
    }

    /// Whether it is trained alone, the base's own head and nothing else.
    fn is_head_alone(&self) -> bool {
        false
    }

    /// The network that computes the virtual tokens, if there is one; sizes must be settled.
    ///
    /// # Errors
    /// Sizes that are missing; a network that is not known.
    fn encoder(&self) -> Result<Option<Encoder>> {
        Ok(None)
    }

    /// PEFT's `task_type` such that its class of that name takes the method.
    fn task_type(&self, task: Task) -> Option<&'static str> {
        task.task_type()
    }

    /// What a graph has as constants: an adapter of the same method fits another one's graph if it is the same.
    fn constants(&self) -> Vec<(&'static str, String)> {
        vec![]
    }

    /// A tensor of an adapter of this configuration for the graph of another one, whose scales are constants.
    ///
    /// # Errors
    /// Patterns that are no regular expressions.
    fn fitted(&self, graph: &Method, key: &Key, tensor: Tensor) -> Result<Tensor> {
        let _ = (graph, key);
        Ok(tensor)
    }
}

/// What every configuration can do because it is a plain value.
pub trait Object: Any {
    /// A copy.
    fn copy(&self) -> Box<dyn Configuration>;
    /// Whether another one is of the same type and says the same.
    fn equals(&self, other: &dyn Configuration) -> bool;
    /// Itself as any value.
    fn as_any(&self) -> &dyn Any;
    /// Itself as any value, to be changed.
    fn as_any_mut(&mut self) -> &mut dyn Any;
}

impl<C: Configuration + Clone + PartialEq> Object for C {
    fn copy(&self) -> Box<dyn Configuration> {
        Box::new(self.clone())
    }

    fn equals(&self, other: &dyn Configuration) -> bool {
        other.as_any().downcast_ref::<C>() == Some(self)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}

/// A method and how it is configured.
#[derive(Debug)]
pub struct Method(Box<dyn Configuration>);

/// Settings of PEFT's that it takes from the model.
const OF_MODEL: &[&str] = &["token_dim", "num_layers", "num_attention_heads", "num_transformer_submodules"];

/// What settings are.
const NAMES: &str = "settings have the names and the values that they have in PEFT's configuration of the method";

impl Method {
    /// The name on the command line and in manifests: `lora`, `p_tuning_v2`, ...
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.0.row().name
    }

    /// Whether the method puts virtual tokens in front, rather than changing modules.
    #[must_use]
    pub fn is_prompt(&self) -> bool {
        self.family() == Family::Prompt
    }

    /// How the names of its tensors begin.
    #[must_use]
    pub fn family(&self) -> Family {
        self.0.row().family
    }

    /// Its configuration, if it is of a type.
    #[must_use]
    pub fn get<C: Configuration>(&self) -> Option<&C> {
        self.0.as_any().downcast_ref()
    }

    /// The same, to be changed.
    #[must_use]
    pub fn get_mut<C: Configuration>(&mut self) -> Option<&mut C> {
        self.0.as_any_mut().downcast_mut()
    }

    /// Leaves out the ranks that are masked, as [`Configuration::drop_ranks`] does.
    ///
    /// # Errors
    /// Masks that are not those of the tensors.
    pub fn drop_ranks(&mut self, names: &[&str], tensors: &mut IndexMap<String, Tensor>, masked: &[f32]) -> Result<()> {
        self.0.drop_ranks(names, tensors, masked)
    }

    /// Where the method attaches, if it attaches to modules, to be changed.
    #[must_use]
    pub fn scope_mut(&mut self) -> Option<&mut Scope> {
        self.0.scope_mut()
    }

    /// The method with settings of a user's by PEFT's names in place of its own.
    ///
    /// # Errors
    /// Settings that the method does not have; values that they cannot have.
    pub fn with_settings(self, wanted: &Map<String, Value>) -> Result<Self> {
        if wanted.is_empty() {
            return Ok(self);
        }
        let mut settings = Settings::default();
        self.write(&mut settings);
        settings.0.extend(wanted.iter().map(|(field, value)| (field.clone(), value.clone())));
        let fields = Fields::new(&settings.0);
        let method = (self.row().read)(&fields).hint(NAMES)?;
        if let [_, ..] = fields.unread().as_slice() {
            return Err(Error::invalid(format!("{} has no setting {}", self.name(), fields.unread().join(", "))).with_hint(NAMES));
        }
        let idle = wanted.iter().find(|(field, value)| method.is_idle(field, value, &settings));
        if let Some((field, value)) = idle {
            let error = Error::invalid(format!("{field} = {value} would change nothing of a fresh adapter of {}", self.name()));
            return Err(error.with_hint("leave it out"));
        }
        Ok(method)
    }

    /// Whether one of the settings that the method was read of changed nothing: it is the model's to say, or the method is the same without it.
    fn is_idle(&self, field: &str, value: &Value, settings: &Settings) -> bool {
        if OF_MODEL.contains(&field) {
            return true;
        }
        let (mut own, mut others) = (Settings::default(), settings.clone());
        self.write(&mut own);
        others.0.remove(field);
        let is_as_ever = match own.0.get(field) {
            Some(written) => written == value || written.as_f64().is_some_and(|number| value.as_f64() == Some(number)),
            // PEFT's switches are off by default, but for those that say whether values are initialised.
            None => *value == Value::Bool(field.starts_with("init")),
        };
        let is_empty = !value.is_boolean() && fields::says_nothing(value);
        !is_as_ever && !is_empty && (self.row().read)(&Fields::new(&others.0)).is_ok_and(|method| method == *self)
    }
}

impl<C: Configuration> From<C> for Method {
    fn from(configuration: C) -> Self {
        Self(Box::new(configuration))
    }
}

impl Clone for Method {
    fn clone(&self) -> Self {
        Self(self.0.copy())
    }
}

impl PartialEq for Method {
    fn eq(&self, other: &Self) -> bool {
        self.0.equals(&*other.0)
    }
}

impl Deref for Method {
    type Target = dyn Configuration;

    fn deref(&self) -> &Self::Target {
        &*self.0
    }
}

/// What is known when a method looks for its places.
pub struct Places<'a> {
    /// What was recognised in the graph.
    pub anatomy: &'a Anatomy,
    /// What to do about names that match nothing.
    pub strictness: Strictness,
    /// The seed of fresh values.
    pub seed: u64,
    /// Names of modules that are trained as a whole: those that were asked for, and the task's heads.
    pub saved: &'a [String],
    /// Values by key, for an adapter that is not fresh.
    pub given: &'a Given<'a>,
}

impl Places<'_> {
    /// Whether one of some modules stores its weight `[in, out]`, as GPT-2's do.
    #[must_use]
    pub fn has_conv1d(&self, modules: &[&str]) -> bool {
        self.anatomy.projections.iter().any(|projection| projection.conv1d && modules.contains(&projection.module.as_str()))
    }
}

/// A method that found its places.
pub struct Placed {
    /// What it is made of.
    pub parts: Vec<Box<dyn Part>>,
    /// The method with what was found written down, so that PEFT comes to the same.
    pub settled: Method,
}
