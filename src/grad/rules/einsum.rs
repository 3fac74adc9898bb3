//! Einstein summation.

use crate::grad::Forward;
use crate::ir::{Attr, Expr};

/// `dxᵢ` is the sum over the letters that are not its own of `dY` and all other operands: an `Einsum` with `Y` and `xᵢ` exchanged.
pub(super) fn einsum<'g>(f: &Forward<'g>, input: usize) -> Expr<'g> {
    let Some(equation) = Equation::read(f.str("equation", "")) else {
        return f.refuse("its equation repeats a letter within an operand, or names no output");
    };
    let Some(exchanged) = equation.exchanged(input) else {
        return f.refuse(format!("a letter of operand {input} stands nowhere else in {:?}", f.str("equation", "")));
    };
    let operands: Vec<Expr> = f.x.all().into_iter().enumerate().map(|(i, x)| if i == input { f.dy } else { x }).collect();
    f.b().op("Einsum", &operands, &[("equation", Attr::from(&*exchanged))])
}

/// An equation: the letters of each operand, and of the output. An ellipsis counts as a letter.
struct Equation {
    operands: Vec<String>,
    output: String,
}

/// What stands for `...` while letters are compared.
const ELLIPSIS: char = '.';

impl Equation {
    fn read(equation: &str) -> Option<Self> {
        let equation: String = equation.replace("...", ".").split_whitespace().collect();
        let (operands, output) = equation.split_once("->")?;
        let operands: Vec<String> = operands.split(',').map(str::to_owned).collect();
        let distinct =
            |letters: &String| letters.chars().enumerate().all(|(i, letter)| letters.chars().position(|l| l == letter) == Some(i));
        (operands.iter().all(distinct) && distinct(&output.to_owned())).then(|| Self { operands, output: output.to_owned() })
    }

    /// The equation with the output and operand `input` exchanged, if the others have all letters of that operand between them.
    /// Axes of an ellipsis that the operand has not come first, to be summed as broadcast ones.
    fn exchanged(mut self, input: usize) -> Option<String> {
        std::mem::swap(self.operands.get_mut(input)?, &mut self.output);
        if self.operands.iter().any(|letters| letters.contains(ELLIPSIS)) && !self.output.contains(ELLIPSIS) {
            self.output.insert(0, ELLIPSIS);
        }
        let spelled = |letters: &str| letters.replace(ELLIPSIS, "...");
        let has = |letter| letter == ELLIPSIS || self.operands.iter().any(|operand| operand.contains(letter));
        let operands: Vec<String> = self.operands.iter().map(|letters| spelled(letters)).collect();
        self.output.chars().all(has).then(|| format!("{}->{}", operands.join(","), spelled(&self.output)))
    }
}

#[cfg(test)]
mod tests {
    use super::Equation;

    #[test]
    fn output_and_operand_change_places() {
        let exchanged = |equation, input| Equation::read(equation)?.exchanged(input);
        assert_eq!(exchanged("bhqd,bhkd->bhqk", 0).as_deref(), Some("bhqk,bhkd->bhqd"));
        assert_eq!(exchanged("bhqd,bhkd->bhqk", 1).as_deref(), Some("bhqd,bhqk->bhkd"));
        assert_eq!(exchanged("...ij, jk -> ...ik", 1).as_deref(), Some("...ij,...ik->...jk"));
        assert_eq!(exchanged("ij->i", 0), None);
        assert_eq!(exchanged("ii->i", 0), None);
        assert_eq!(exchanged("ij,jk", 0), None);
    }
}
