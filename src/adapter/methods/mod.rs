//! The methods: one file each.

pub(crate) mod ia3;
pub(crate) mod loha;
pub(crate) mod lokr;
pub mod lora;
pub mod prefix;
pub(crate) mod prompt;
pub(crate) mod trainable_tokens;
pub(crate) mod trained;
pub(crate) mod update;
pub(crate) mod vera;
