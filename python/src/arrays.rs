//! numpy's arrays as tensors.

use numpy::{Element, PyArrayDyn, PyArrayMethods as _, PyUntypedArray, PyUntypedArrayMethods as _};
use peft_onnx::ort::{ElementType, Elements, HostTensor};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;

use crate::raised;

/// An array as a tensor of the type that an input asks for: whole numbers and floats of any width are brought to it.
pub(crate) fn tensor(array: &Bound<'_, PyAny>, wanted: ElementType) -> PyResult<HostTensor> {
    let array = array.py().import("numpy")?.call_method1("ascontiguousarray", (array,))?;
    // An array without axes gets one from numpy.
    let untyped = array.cast::<PyUntypedArray>()?;
    let kind: String = array.getattr("dtype")?.getattr("kind")?.extract()?;
    let allowed = match wanted {
        ElementType::Int64 | ElementType::Int32 => "iub",
        ElementType::Bool => "b",
        _ => "iubf",
    };
    if !allowed.contains(kind.as_str()) {
        let found = untyped.dtype();
        return Err(PyTypeError::new_err(format!("expected an array of {wanted}, found {found}")));
    }
    let shape = untyped.shape().to_vec();
    let elements = match wanted {
        ElementType::Int64 => Elements::Int64(cast(&array, "int64")?),
        ElementType::Int32 => Elements::Int32(cast(&array, "int32")?),
        ElementType::Bool => Elements::Bool(cast(&array, "bool")?),
        ElementType::Float32 => Elements::Float32(cast(&array, "float32")?),
        ElementType::Float64 => Elements::Float64(cast(&array, "float64")?),
        ElementType::Float16 | ElementType::BFloat16 => {
            return Err(PyTypeError::new_err(format!("inputs of {wanted} are not fed from arrays")));
        }
    };
    HostTensor::new(shape, elements).map_err(raised)
}

fn cast<T: Element + Copy>(array: &Bound<'_, PyAny>, name: &str) -> PyResult<Vec<T>> {
    let array = array.call_method1("astype", (name,))?;
    Ok(array.cast::<PyArrayDyn<T>>()?.readonly().as_slice()?.to_vec())
}
