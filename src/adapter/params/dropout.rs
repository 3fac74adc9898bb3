//! Dropout whose masks follow from a seed and the step alone.
//!
//! Rows and columns are scrambled each for itself, and a bit follows from both by one product and one sum, modulo 2³²: with `a` odd, `a·b + d` is a universal hash of `b` (Dietzfelbinger et al. 1997),
//! and only two passes over all elements, where the scrambling itself takes thirteen.
//!
//! ONNX's own random operators keep a hidden state in the session, so that a resumed run would draw other masks, and `Dropout` has no
//! CUDA kernel in newer operator sets. Here the masks are a hash of (seed, step, site, element), written with int32 multiplications,
//! additions and divisions, for which every provider has kernels: the same on CPU and CUDA, in one run or in two.

use crate::contract::Input;
use crate::ir::{Builder, DType, Expr, Tensor};

/// The source of all masks of one training step.
#[derive(Clone, Copy)]
pub struct Masks<'g> {
    b: &'g Builder,
    /// Mixed from the seed and the step, int32, rank 0.
    state: Expr<'g>,
}

/// The name of the optional input that seeds the masks, int64, rank 0.
pub const SEED: &str = Input::DropoutSeed.name();

/// Odd multipliers of a 32-bit mixing function; what matters is that they are odd and that their bits look random.
const MIX: [i32; 3] = [0x2C1B_3C6D, 0x297A_2D39, 0x1B56_C4E9];

impl<'g> Masks<'g> {
    /// Adds the input `dropout_seed`, and hashes it with `step` (int64, rank 0).
    pub fn new(b: &'g Builder, step: Expr<'g>) -> Self {
        let seed = b.optional_input(SEED, Tensor::from_i64(&[], &[0]));
        let narrow = |x: Expr<'g>| x.modulo(b.int(1 << 31)).cast(DType::I32);
        let state = b.scoped("dropout", || mix(mix(narrow(seed)) + narrow(step)));
        Self { b, state }
    }

    /// `x` with a share of its elements zero and the others scaled by `1 / (1 - share)`, as PyTorch's `nn.Dropout` in training.
    ///
    /// `site` tells the places apart where masks are drawn: equal sites with equal shapes get equal masks.
    #[must_use]
    pub fn drop(&self, x: Expr<'g>, share: f64, site: u32) -> Expr<'g> {
        if share <= 0.0 {
            return x;
        }
        self.b.scoped("dropout", || {
            let rows = x.rows();
            let site = self.b.number(f64::from(site & 0x7FFF_FFFF), DType::I32);
            let key = quadratic((self.state + site) * self.b.number(f64::from(MIX[0]), DType::I32));
            let of_row = self.hashed(rows.length(0), key).unsqueeze(&[-1]);
            let bits =
                (of_row + of_row + 1.0) * self.hashed(rows.length(1), self.state) + of_row * self.b.number(f64::from(MIX[1]), DType::I32);
            // Uniform over all int32: below the threshold with probability `share`.
            let threshold = f64::from(i32::MIN) + share * 2f64.powi(32);
            let keep = bits.greater_or_equal(self.b.number(threshold.round(), DType::I32));
            keep.where_(rows * (1.0 / (1.0 - share)), x.same_type(0.0)).reshape_like(x)
        })
    }

    /// The numbers from 0 to below `count`, `[1]`, scrambled by a key: `[count]`, int32.
    fn hashed(&self, count: Expr<'g>, key: Expr<'g>) -> Expr<'g> {
        let numbers = count.reshape(&[]).cast(DType::I32).range_from(self.b.number(0.0, DType::I32));
        mix(numbers * self.b.number(f64::from(0x0019_660D), DType::I32) + key)
    }
}

/// `x (2x + 1)`: maps int32s one to one.
fn quadratic(x: Expr<'_>) -> Expr<'_> {
    x * (x + x + 1.0)
}

/// Scrambles int32s in wrapping arithmetic. Multiplications carry low bits up, the sums with a quotient carry high bits down; [`quadratic`]
/// keeps nearby inputs from giving nearby outputs.
fn mix(x: Expr<'_>) -> Expr<'_> {
    let [first, second, third] = MIX.map(|factor| x.same_type(factor.into()));
    let x = quadratic(x * first);
    let x = x + x / x.same_type(f64::from(1 << 15));
    let x = quadratic(x * second);
    let x = x + x / x.same_type(f64::from(1 << 13));
    x * third
}
