//! A method and its configuration, applied to a graph that was recognised: which tensors, and where.

use super::config::{Bias, LoraInit, Method, Task};
use super::dropout::Masks;
use super::lora::{self, Branches, Site, Start};
use super::param::{PEFT_PREFIX, Param, Params};
use super::replace;
use super::targets::{self, CandidateKind, Strictness};
use crate::anatomy::{Anatomy, Parameter};
use crate::ir::{Builder, Graph, Tensor};
use crate::{Error, Result};

/// What a method does to one graph.
#[derive(Clone, Debug)]
pub struct Plan {
    lora: Vec<Site>,
    branches: Branches,
    trained: Vec<Trained>,
    /// Names of the modules that are trained as a whole: those that were asked for, and the task's heads.
    saved: Vec<String>,
}

/// A parameter of the base that is trained as a whole.
#[derive(Clone, Debug)]
struct Trained {
    parameter: Parameter,
    key: String,
}

/// Values by PEFT key, for the tensors of an adapter that are not fresh.
pub type Given<'a> = dyn Fn(&str) -> Option<Tensor> + 'a;

impl Plan {
    /// Finds the places where the method attaches.
    ///
    /// # Errors
    /// Targets that match nothing, with candidates; a method that has no place in this graph.
    pub fn new(method: &Method, task: Task, anatomy: &Anatomy, strictness: Strictness, seed: u64) -> Result<Self> {
        method.check()?;
        let mut saved: Vec<String> = method.modules_to_save().to_vec();
        saved.extend(
            task.heads()
                .iter()
                .map(|&head| head.to_owned())
                .filter(|head| anatomy.parameters.iter().any(|p| targets::is_saved(&p.name, head))),
        );
        saved.sort();
        saved.dedup();
        let (lora, branches, bias) = match method {
            Method::Lora(config) => {
                let mut config = config.clone();
                config.scope.modules_to_save.clone_from(&saved);
                let candidates = targets::candidates(anatomy);
                let chosen = targets::resolve(&config, &candidates, strictness)?;
                let is_table = |site: &&Site| candidates.iter().any(|c| c.module == site.module && c.kind == CandidateKind::Embedding);
                if let Some(table) = chosen.iter().find(is_table) {
                    return Err(Error::unsupported(
                        format!("LoRA on the embedding {}", table.module),
                        "only linear projections have branches so far",
                    ));
                }
                if config.use_dora {
                    return Err(Error::unsupported("DoRA", "only plain LoRA branches are written so far"));
                }
                let start = match config.init {
                    LoraInit::Kaiming | LoraInit::FromFile(_) => Start::Default,
                    LoraInit::Gaussian => Start::Gaussian,
                    LoraInit::Random => Start::Random,
                };
                let branches = Branches { start, seed, dropout: config.dropout, bias: config.lora_bias };
                (chosen, branches, config.bias)
            }
            Method::Head(_) if saved.is_empty() => {
                let head = anatomy.head.as_ref().and_then(|head| anatomy.projections.get(head.projection?));
                let module = head.map(|projection| projection.module.clone());
                saved.push(module.ok_or_else(|| {
                    Error::invalid("the model's head was not recognised").with_hint("name the module to train with `--modules-to-save`")
                })?);
                (vec![], Branches { start: Start::Default, seed, dropout: 0.0, bias: false }, Bias::None)
            }
            Method::Head(_) => (vec![], Branches { start: Start::Default, seed, dropout: 0.0, bias: false }, Bias::None),
            other => {
                return Err(Error::unsupported(
                    format!("the method {}", other.name()),
                    "it is read and written as a PEFT file, but not yet put into graphs",
                ));
            }
        };
        let mut plan = Self { lora, branches, trained: vec![], saved };
        plan.train_modules(anatomy, strictness)?;
        plan.train_biases(anatomy, bias);
        Ok(plan)
    }

    fn train_modules(&mut self, anatomy: &Anatomy, strictness: Strictness) -> Result<()> {
        let names: Vec<&str> = anatomy.parameters.iter().map(|p| p.name.as_str()).collect();
        for place in targets::saved_parameters(&self.saved, &names, strictness)? {
            let parameter = anatomy.parameters[place].clone();
            let key = format!("{PEFT_PREFIX}{}", parameter.name);
            self.trained.push(Trained { parameter, key });
        }
        Ok(())
    }

    /// Biases keep their own names, but inside a module with a branch PEFT calls the original module `base_layer`.
    fn train_biases(&mut self, anatomy: &Anatomy, bias: Bias) {
        for parameter in &anatomy.parameters {
            let Some(module) = parameter.name.strip_suffix(".bias") else { continue };
            let target = self.lora.iter().any(|t| t.module == module);
            let wanted = bias == Bias::All || (bias == Bias::TargetsOnly && target);
            if !wanted || self.trained.iter().any(|t| t.parameter.name == parameter.name) {
                continue;
            }
            let key = if target { format!("{PEFT_PREFIX}{module}.base_layer.bias") } else { format!("{PEFT_PREFIX}{}", parameter.name) };
            self.trained.push(Trained { parameter: parameter.clone(), key });
        }
    }

    /// The method with what was found written down, so that PEFT comes to the same: targets, heads, the order of axes.
    #[must_use]
    pub fn settled(&self, method: &Method, anatomy: &Anatomy) -> Method {
        let mut method = method.clone();
        let targets: Vec<&str> = self.lora.iter().map(|site| site.module.as_str()).collect();
        match &mut method {
            Method::Lora(config) => {
                config.scope.settle(&targets, &self.saved);
                config.fan_in_fan_out |= anatomy.projections.iter().any(|p| p.conv1d && targets.contains(&p.module.as_str()));
            }
            Method::Head(config) => config.modules_to_save.clone_from(&self.saved),
            _ => {}
        }
        method
    }

    /// The modules with a branch.
    #[must_use]
    pub fn targets(&self) -> &[Site] {
        &self.lora
    }

    /// The names of the base's parameters that are trained as a whole.
    pub fn trained(&self) -> impl Iterator<Item = &str> {
        self.trained.iter().map(|t| t.parameter.name.as_str())
    }

    /// Share of activations that are dropped while training.
    #[must_use]
    pub fn dropout(&self) -> f64 {
        self.branches.dropout
    }

    /// Writes the method's part into a graph that starts from `graph`, with `masks` for training.
    ///
    /// # Errors
    /// Parameters that cannot be trained because of how they are stored; given tensors of the wrong shape are found by the builder.
    pub fn insert(&self, b: &Builder, graph: &Graph, anatomy: &Anatomy, given: &Given<'_>, masks: Option<Masks<'_>>) -> Result<Vec<Param>> {
        let params = Params::new(b, given);
        lora::insert(&params, anatomy, &self.lora, &self.branches, masks);
        for trained in &self.trained {
            replace::parameter(&params, b, graph, anatomy, &trained.parameter, &trained.key)?;
        }
        Ok(params.finish())
    }

    /// Folds the adapter into the weights of a graph whose values have the ids that `anatomy` was read with.
    ///
    /// # Errors
    /// A tensor of the adapter that is missing; a weight that is not stored as plain floats.
    pub fn fold(&self, b: &Builder, graph: &Graph, anatomy: &Anatomy, given: &Given<'_>) -> Result<()> {
        let tensor = |key: String| given(&key).ok_or_else(|| Error::not_found("tensor", key));
        for target in &self.lora {
            let part = |name: &str| tensor(format!("{PEFT_PREFIX}{}.{name}", target.module));
            let delta = lora::delta(&part("lora_A.weight")?, &part("lora_B.weight")?, target.scaling)?;
            super::fold::add_to_weight(b, graph, anatomy, &target.module, &delta)?;
            if self.branches.bias {
                super::fold::add_to_bias(b, graph, anatomy, &target.module, &part("lora_B.bias")?, target.scaling)?;
            }
        }
        for trained in &self.trained {
            super::fold::replace_parameter(b, graph, anatomy, &trained.parameter, &tensor(trained.key.clone())?)?;
        }
        Ok(())
    }
}
