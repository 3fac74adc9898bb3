//! Tensors between ordinary memory and a session's device.

use ort::memory::AllocationDevice;
use ort::value::{DynTensor, DynValue, Tensor, TensorElementType};

use super::refused;
use crate::error::{Error, Result};
use crate::ort::{ElementType, Elements, HostTensor};

/// The types that tensors of ours have, and ONNX Runtime's names for them.
const ELEMENT_TYPES: [(TensorElementType, ElementType); 7] = [
    (TensorElementType::Float32, ElementType::Float32),
    (TensorElementType::Float64, ElementType::Float64),
    (TensorElementType::Float16, ElementType::Float16),
    (TensorElementType::Bfloat16, ElementType::BFloat16),
    (TensorElementType::Int64, ElementType::Int64),
    (TensorElementType::Int32, ElementType::Int32),
    (TensorElementType::Bool, ElementType::Bool),
];

pub(super) fn element_type(theirs: TensorElementType) -> Option<ElementType> {
    ELEMENT_TYPES.iter().find(|(known, _)| *known == theirs).map(|(_, ours)| *ours)
}

pub(super) fn their_type(ours: ElementType) -> TensorElementType {
    ELEMENT_TYPES.iter().find(|(_, known)| *known == ours).map(|(theirs, _)| *theirs).expect("the table has a row for every type")
}

/// A tensor in the memory of a session's device. Sessions of the same device share it without a copy.
#[derive(Debug)]
pub struct DeviceTensor(pub(super) DynTensor);

impl DeviceTensor {
    /// The length of every axis.
    #[must_use]
    pub fn shape(&self) -> Vec<usize> {
        self.0.shape().iter().map(|axis| usize::try_from(*axis).unwrap_or_default()).collect()
    }

    /// A tensor in ordinary memory, copied once for many runs. Sessions on another device copy it in every run.
    ///
    /// # Errors
    /// [`Runtime`](crate::ErrorKind::Runtime) if there is no memory for it.
    pub fn of(tensor: &HostTensor) -> Result<Self> {
        upload(tensor).map(Self)
    }

    /// A copy in ordinary memory.
    ///
    /// # Errors
    /// [`Runtime`](crate::ErrorKind::Runtime) if the device refuses; [`Unsupported`](crate::ErrorKind::Unsupported) for element types that
    /// [`HostTensor`] does not have.
    pub fn to_host(&self) -> Result<HostTensor> {
        if self.0.memory_info().is_cpu_accessible() {
            extract(&self.0)
        } else {
            extract(&self.0.to(AllocationDevice::CPU, 0).map_err(refused)?)
        }
    }

    /// Overwrites the tensor.
    pub(super) fn overwrite(&mut self, source: &HostTensor) -> Result<()> {
        if self.0.memory_info().is_cpu_accessible() {
            fill(&mut self.0, source)
        } else {
            upload(source)?.copy_into(&mut self.0).map_err(refused)
        }
    }

    /// Changes numbers of type float32, where they are; from another memory they come to ordinary memory and go back.
    ///
    /// # Errors
    /// What the change refuses, and [`Runtime`](crate::ErrorKind::Runtime) if the device does.
    pub fn change(&mut self, change: &mut dyn FnMut(&mut [f32]) -> Result<()>) -> Result<()> {
        if self.0.memory_info().is_cpu_accessible() {
            return change(self.0.try_extract_tensor_mut().map_err(refused)?.1);
        }
        let mut values = self.to_host()?.to_f32()?;
        change(&mut values)?;
        self.overwrite(&HostTensor::new(self.shape(), values)?)
    }

    pub(super) fn from_output(value: DynValue) -> Result<Self> {
        value.downcast().map(Self).map_err(refused)
    }
}

/// One input of a run, by name.
#[derive(Clone, Copy, Debug)]
pub struct Feed<'a> {
    pub(super) name: &'a str,
    pub(super) value: Fed<'a>,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Fed<'a> {
    Host(&'a HostTensor),
    Device(&'a DeviceTensor),
}

impl<'a> Feed<'a> {
    /// An input whose value is in ordinary memory; it is copied.
    #[must_use]
    pub fn host(name: &'a str, value: &'a HostTensor) -> Self {
        Self { name, value: Fed::Host(value) }
    }

    /// An input whose value is on the device already; it is not copied, and must not be written to while it is in use.
    #[must_use]
    pub fn device(name: &'a str, value: &'a DeviceTensor) -> Self {
        Self { name, value: Fed::Device(value) }
    }

    /// The input's name.
    #[must_use]
    pub fn name(&self) -> &'a str {
        self.name
    }

    pub(super) fn element_type(&self) -> Option<ElementType> {
        match self.value {
            Fed::Host(tensor) => Some(tensor.element_type()),
            Fed::Device(tensor) => element_type(*tensor.0.data_type()),
        }
    }

    pub(super) fn shape(&self) -> Vec<usize> {
        match self.value {
            Fed::Host(tensor) => tensor.shape().to_vec(),
            Fed::Device(tensor) => tensor.shape(),
        }
    }

    pub(super) fn bind(&self, binding: &mut ort::session::IoBinding) -> Result<()> {
        match self.value {
            Fed::Host(tensor) => binding.bind_input(self.name, &upload(tensor)?).map_err(refused),
            Fed::Device(tensor) => binding.bind_input(self.name, &tensor.0).map_err(refused),
        }
    }
}

/// An owned value with a copy of the elements: a borrowed one would be copied by ONNX Runtime through a session of its own.
fn upload(tensor: &HostTensor) -> Result<DynTensor> {
    let shape = tensor.shape().to_vec();
    match tensor.elements() {
        Elements::Float32(values) => Tensor::from_array((shape, values.clone())).map(Tensor::upcast),
        Elements::Float64(values) => Tensor::from_array((shape, values.clone())).map(Tensor::upcast),
        Elements::Float16(values) => Tensor::from_array((shape, values.clone())).map(Tensor::upcast),
        Elements::BFloat16(values) => Tensor::from_array((shape, values.clone())).map(Tensor::upcast),
        Elements::Int64(values) => Tensor::from_array((shape, values.clone())).map(Tensor::upcast),
        Elements::Int32(values) => Tensor::from_array((shape, values.clone())).map(Tensor::upcast),
        Elements::Bool(values) => Tensor::from_array((shape, values.clone())).map(Tensor::upcast),
    }
    .map_err(refused)
}

fn extract(tensor: &DynTensor) -> Result<HostTensor> {
    let shape: Vec<usize> = tensor.shape().iter().map(|axis| usize::try_from(*axis).unwrap_or_default()).collect();
    let theirs = *tensor.data_type();
    let elements = match element_type(theirs) {
        Some(ElementType::Float32) => tensor.try_extract_tensor().map(|(_, values)| Elements::Float32(values.to_vec())),
        Some(ElementType::Float64) => tensor.try_extract_tensor().map(|(_, values)| Elements::Float64(values.to_vec())),
        Some(ElementType::Float16) => tensor.try_extract_tensor().map(|(_, values)| Elements::Float16(values.to_vec())),
        Some(ElementType::BFloat16) => tensor.try_extract_tensor().map(|(_, values)| Elements::BFloat16(values.to_vec())),
        Some(ElementType::Int64) => tensor.try_extract_tensor().map(|(_, values)| Elements::Int64(values.to_vec())),
        Some(ElementType::Int32) => tensor.try_extract_tensor().map(|(_, values)| Elements::Int32(values.to_vec())),
        Some(ElementType::Bool) => tensor.try_extract_tensor().map(|(_, values)| Elements::Bool(values.to_vec())),
        None => {
            return Err(Error::unsupported(format!("a tensor of element type {theirs}"), "only float, integer and truth values are read"));
        }
    };
    HostTensor::new(shape, elements.map_err(refused)?)
}

fn fill(target: &mut DynTensor, source: &HostTensor) -> Result<()> {
    match source.elements() {
        Elements::Float32(values) => target.try_extract_tensor_mut().map(|(_, into)| into.copy_from_slice(values)),
        Elements::Float64(values) => target.try_extract_tensor_mut().map(|(_, into)| into.copy_from_slice(values)),
        Elements::Float16(values) => target.try_extract_tensor_mut().map(|(_, into)| into.copy_from_slice(values)),
        Elements::BFloat16(values) => target.try_extract_tensor_mut().map(|(_, into)| into.copy_from_slice(values)),
        Elements::Int64(values) => target.try_extract_tensor_mut().map(|(_, into)| into.copy_from_slice(values)),
        Elements::Int32(values) => target.try_extract_tensor_mut().map(|(_, into)| into.copy_from_slice(values)),
        Elements::Bool(values) => target.try_extract_tensor_mut().map(|(_, into)| into.copy_from_slice(values)),
    }
    .map_err(refused)
}
