//! The names of an adapter's files.

/// The file with the configuration.
pub const CONFIG_FILE: &str = "adapter_config.json";
/// The file with the tensors.
pub const WEIGHTS_FILE: &str = "adapter_model.safetensors";
/// The file with the parameters of the network that computes a prompt. PEFT keeps only what the network gives, so this is our own.
pub const ENCODER_FILE: &str = "prompt_encoder.safetensors";
/// The file with the factors that are trained where the adapter's file has them beside those that they started from (PiSSA, OLoRA).
pub const FACTORS_FILE: &str = "lora_factors.safetensors";
