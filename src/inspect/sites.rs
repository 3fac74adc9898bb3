//! What methods would train, as `inject` would have it.

use serde::Serialize;
use tracing::subscriber::{NoSubscriber, with_default};

use crate::adapter::Method;
use crate::adapter::config::{PrefixConfig, PromptConfig, PromptInit, Task};
use crate::adapter::methods::lora::LoraConfig;
use crate::adapter::params::init;
use crate::adapter::targets::Strictness;
use crate::adapter::{Param, Plan, Purpose};
use crate::error::{Error, Result};
use crate::ir::Builder;
use crate::model::base::Base;

/// Where methods could attach, and how many numbers they would train.
#[derive(Debug, Default, Serialize)]
pub struct Sites {
    /// A LoRA of rank 8 at every projection.
    pub lora_all_linear_rank_8: i64,
    /// A prompt of 20 tokens.
    pub prompt_tokens_20: Option<i64>,
    /// A prefix of 20 tokens.
    pub prefix_tokens_20: Option<i64>,
}

impl Sites {
    /// What methods would train: asked of the plans that `inject` makes, written into the graph that it trains.
    pub(super) fn of(base: &Base, task: Option<Task>) -> Self {
        const TOKENS: usize = 20;
        let virtual_tokens = PrefixConfig { num_virtual_tokens: TOKENS, ..PrefixConfig::default() };
        let prompt = PromptConfig { num_virtual_tokens: TOKENS, init: PromptInit::Random, ..PromptConfig::default() };
        let count = |method: Method| trained(base, &method, task.unwrap_or(Task::SeqCls)).ok();
        let lora = count(LoraConfig { rank: 8, ..LoraConfig::default() }.into()).unwrap_or(0);
        // What is to be said of the model was said by the first plan.
        let count = |method: Method| with_default(NoSubscriber::default(), || count(method));
        Self {
            lora_all_linear_rank_8: lora,
            prompt_tokens_20: count(prompt.into()),
            prefix_tokens_20: count(PrefixConfig { prefix_projection: false, ..virtual_tokens }.into()),
        }
    }
}

/// How many numbers a method would train, without the head that goes with the task.
fn trained(base: &Base, method: &Method, task: Task) -> Result<i64> {
    let plan = Plan::new(method, task, &base.anatomy, Strictness::Every, 0, &|_| None)?;
    let b = Builder::on(base.trained());
    let insert = || plan.insert(&b, base.trained(), &base.anatomy, &|_| None, Purpose::Training(None));
    let params = init::of_shapes(insert)?;
    b.finish()?;
    let is_own = |param: &&Param| param.is_trained() && !plan.trained().iter().any(|name| param.key.ends_with(name.as_str()));
    let count: usize = params.iter().filter(is_own).map(|param| param.initial.len()).sum();
    i64::try_from(count).map_err(|_| Error::invalid("more numbers than 63 bits count"))
}
