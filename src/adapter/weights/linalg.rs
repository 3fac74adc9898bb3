//! Matrices taken apart: singular values and orthogonal factors, in double precision.

use nalgebra::DMatrix;
use ndarray::{Array2, ArrayView2};

use crate::adapter::params::init::narrow;
use crate::error::{Error, Result};

/// The factors `A` `[k, in]` and `B` `[out, k]` of the product of rank `rank` at most that is nearest to a matrix `[out, in]`: `B` has the
/// singular values, `A` has orthonormal rows.
///
/// # Errors
/// Numbers that are not finite.
pub(crate) fn nearest(matrix: &Array2<f32>, rank: usize) -> Result<(Array2<f32>, Array2<f32>)> {
    let Decomposed { u, values, v_t } = decompose(&double(&matrix.view()), rank)?;
    Ok((single(&v_t), single(&(u * DMatrix::from_diagonal(&values.into())))))
}

/// The same for a matrix that is a product `B·A` already: through the small matrix between two orthogonal ones.
///
/// # Errors
/// Numbers that are not finite.
pub(crate) fn nearest_product(a: &Array2<f32>, b: &Array2<f32>, rank: usize) -> Result<(Array2<f32>, Array2<f32>)> {
    let (left, right) = (double(&b.view()).qr(), double(&a.t()).qr());
    let Decomposed { u, values, v_t } = decompose(&(left.r() * right.r().transpose()), rank)?;
    let b = left.q() * u * DMatrix::from_diagonal(&values.into());
    Ok((single(&(v_t * right.q().transpose())), single(&b)))
}

/// The first singular vectors and values: `matrix ≈ U · diag(values) · Vᵀ`.
pub(crate) struct Decomposed {
    /// `[rows, k]`
    pub(crate) u: DMatrix<f64>,
    /// The largest first.
    pub(crate) values: Vec<f64>,
    /// `[k, columns]`
    pub(crate) v_t: DMatrix<f64>,
}

/// The `rank` largest singular values of a matrix and their vectors, or as many as there are: from the eigenvectors of `M·Mᵀ`, or of `Mᵀ·M` where
/// that is smaller. Squaring costs half of the digits: of float64's sixteen, more are left than float32 has. A vector that goes with a value
/// of zero is zero.
///
/// # Errors
/// Numbers that are not finite.
pub(crate) fn decompose(matrix: &DMatrix<f64>, rank: usize) -> Result<Decomposed> {
    if matrix.iter().any(|number| !number.is_finite()) {
        return Err(Error::invalid("a matrix with numbers that are not finite has no singular values"));
    }
    if matrix.nrows() > matrix.ncols() {
        let Decomposed { u, values, v_t } = decompose(&matrix.transpose(), rank)?;
        return Ok(Decomposed { u: v_t.transpose(), values, v_t: u.transpose() });
    }
    let eigen = (matrix * matrix.transpose()).symmetric_eigen();
    let mut order: Vec<usize> = (0..matrix.nrows()).collect();
    order.sort_by(|&a, &b| eigen.eigenvalues[b].total_cmp(&eigen.eigenvalues[a]));
    order.truncate(rank);
    let u = eigen.eigenvectors.select_columns(&order);
    let mut v_t = u.transpose() * matrix;
    let values: Vec<f64> = v_t.row_iter().map(|row| row.norm()).collect();
    for (mut row, value) in v_t.row_iter_mut().zip(&values).filter(|(_, value)| **value > 0.0) {
        row /= *value;
    }
    Ok(Decomposed { u, values, v_t })
}

/// Nearly the same, from the space that `random` `[columns, rank]` spans after some rounds through the matrix and back (Halko et al., Finding
/// Structure with Randomness, algorithms 4.4 and 5.1; PyTorch `svd_lowrank`).
///
/// # Errors
/// Numbers that are not finite.
pub(crate) fn decompose_nearly(matrix: &DMatrix<f64>, random: &DMatrix<f64>, iterations: usize) -> Result<Decomposed> {
    let mut space = (matrix * random).qr().q();
    for _ in 0..iterations {
        space = (matrix * (matrix.transpose() * space).qr().q()).qr().q();
    }
    let small = decompose(&(space.transpose() * matrix), random.ncols())?;
    Ok(Decomposed { u: space * small.u, ..small })
}

/// `Q` with orthonormal columns and `R`, upper triangular: `matrix = Q·R`.
pub(crate) fn orthogonal(matrix: DMatrix<f64>) -> (DMatrix<f64>, DMatrix<f64>) {
    matrix.qr().unpack()
}

/// The smallest `X` `[columns, n]` with which `matrix · X` is nearest to `wanted` `[rows, n]`.
///
/// # Errors
/// Numbers that are not finite.
pub(crate) fn solution(matrix: &Array2<f32>, wanted: &Array2<f32>) -> Result<Array2<f32>> {
    let (matrix, wanted) = (double(&matrix.view()), double(&wanted.view()));
    if matrix.iter().chain(wanted.iter()).any(|number| !number.is_finite()) {
        return Err(Error::invalid("numbers that are not finite have no solution"));
    }
    let found = matrix.svd(true, true).solve(&wanted, 1e-9).map_err(Error::invalid)?;
    Ok(single(&found))
}

/// A matrix in double precision.
pub(crate) fn double(matrix: &ArrayView2<'_, f32>) -> DMatrix<f64> {
    DMatrix::from_fn(matrix.nrows(), matrix.ncols(), |row, column| f64::from(matrix[[row, column]]))
}

/// A matrix in single precision.
pub(crate) fn single(matrix: &DMatrix<f64>) -> Array2<f32> {
    Array2::from_shape_fn(matrix.shape(), |(row, column)| narrow(matrix[(row, column)]))
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    #[test]
    fn the_nearest_product_keeps_the_largest_singular_values() -> Result<()> {
        // diag(3, 2, 1) with its columns turned: the nearest of rank 2 leaves out the 1.
        let matrix = array![[0.0, 3.0, 0.0, 0.0], [2.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]];
        let (a, b) = nearest(&matrix, 2)?;
        assert_eq!((a.dim(), b.dim()), ((2, 4), (3, 2)));
        let mut expected = matrix.clone();
        expected[[2, 3]] = 0.0;
        let (c, d) = nearest_product(
            &array![[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]],
            &array![[0.0, 3.0, 0.0], [2.0, 0.0, 0.0], [0.0, 0.0, 1.0]],
            2,
        )?;
        for product in [b.dot(&a), d.dot(&c)] {
            assert!((&product - &expected).iter().all(|number| number.abs() < 1e-6), "{product}");
        }
        assert!(nearest(&array![[f32::NAN]], 1).is_err());
        Ok(())
    }
}
