//! Einstein summation.

use crate::grad::Forward;
use crate::ir::{Attr, Expr};

/// `dxᵢ` is the sum over the letters that are not its own of `dY` and all other operands: an `Einsum` with `Y` and `xᵢ` exchanged. Along
/// letters that stand nowhere else it is the same everywhere.
pub(super) fn einsum<'g>(f: &Forward<'g>, input: usize) -> Expr<'g> {
    let Some(equation) = Equation::read(f.str("equation", "")) else {
        return f.refuse("its equation repeats a letter within an operand");
    };
    let Some(Exchanged { equation, lone, is_identity }) = equation.exchanged(input) else {
        return f.refuse("it has more operands than its equation");
    };
    let operands: Vec<Expr> = f.x.all().into_iter().enumerate().map(|(i, x)| if i == input { f.dy } else { x }).collect();
    let dx = if is_identity { f.dy } else { f.b().op("Einsum", &operands, &[("equation", Attr::from(&*equation))]) };
    if lone.is_empty() { dx } else { f.b().op("Expand", &[dx.unsqueeze(&lone), f.x[input].shape()], &[]) }
}

/// An equation: the letters of each operand, and of the output. An ellipsis counts as a letter.
struct Equation {
    operands: Vec<String>,
    output: String,
}

/// An equation with the output and one operand exchanged.
struct Exchanged {
    equation: String,
    /// Axes of the operand that the equation leaves out, because their letters stand nowhere else.
    lone: Vec<i64>,
    /// Whether the equation says nothing.
    is_identity: bool,
}

/// What stands for `...` while letters are compared.
const ELLIPSIS: char = '.';

impl Equation {
    fn read(equation: &str) -> Option<Self> {
        let equation: String = equation.replace("...", ".").split_whitespace().collect();
        let (operands, output) = match equation.split_once("->") {
            Some((operands, output)) => (operands, output.to_owned()),
            None => (equation.as_str(), Self::implied(&equation)),
        };
        let operands: Vec<String> = operands.split(',').map(str::to_owned).collect();
        let distinct =
            |letters: &String| letters.chars().enumerate().all(|(i, letter)| letters.chars().position(|l| l == letter) == Some(i));
        (operands.iter().all(distinct) && distinct(&output)).then_some(Self { operands, output })
    }

    /// The output of an equation that names none: the ellipsis, and the letters that stand once, in their order.
    fn implied(operands: &str) -> String {
        let mut letters: Vec<char> = operands.chars().filter(|&letter| letter != ',' && letter != ELLIPSIS).collect();
        letters.sort_unstable();
        let once = letters.iter().filter(|&letter| letters.iter().filter(|&other| other == letter).count() == 1);
        operands.chars().filter(|&letter| letter == ELLIPSIS).take(1).chain(once.copied()).collect()
    }

    /// The equation with the output and operand `input` exchanged. Axes of an ellipsis that the operand has not come first, to be summed
    /// as broadcast ones.
    fn exchanged(mut self, input: usize) -> Option<Exchanged> {
        std::mem::swap(self.operands.get_mut(input)?, &mut self.output);
        let ellipsis = self.output.chars().position(|letter| letter == ELLIPSIS);
        let is_lone = |letter: char| letter != ELLIPSIS && !self.operands.iter().any(|operand| operand.contains(letter));
        let length = i64::try_from(self.output.chars().count()).ok()?;
        let from_its_end = |(at, _): (i64, char)| {
            let before_ellipsis = ellipsis.and_then(|ellipsis| i64::try_from(ellipsis).ok()).is_some_and(|ellipsis| at < ellipsis);
            if before_ellipsis { at } else { at - length }
        };
        let lone = (0..).zip(self.output.chars()).filter(|(_, letter)| is_lone(*letter)).map(from_its_end).collect();
        let mut output: String = self.output.chars().filter(|&letter| !is_lone(letter)).collect();
        if ellipsis.is_none() && self.operands.iter().any(|letters| letters.contains(ELLIPSIS)) {
            output.insert(0, ELLIPSIS);
        }
        let spelled = |letters: &String| letters.replace(ELLIPSIS, "...");
        let operands: Vec<String> = self.operands.iter().map(spelled).collect();
        let is_identity = matches!(&self.operands[..], [only] if *only == output);
        Some(Exchanged { equation: format!("{}->{}", operands.join(","), spelled(&output)), lone, is_identity })
    }
}

#[cfg(test)]
mod tests {
    use super::{Equation, Exchanged};

    #[test]
    fn output_and_operand_change_places() {
        let exchanged = |equation, input| {
            let Exchanged { equation, lone, .. } = Equation::read(equation)?.exchanged(input)?;
            Some(format!("{equation} {lone:?}"))
        };
        assert_eq!(exchanged("bhqd,bhkd->bhqk", 0).as_deref(), Some("bhqk,bhkd->bhqd []"));
        assert_eq!(exchanged("bhqd,bhkd->bhqk", 1).as_deref(), Some("bhqd,bhqk->bhkd []"));
        assert_eq!(exchanged("...ij, jk -> ...ik", 1).as_deref(), Some("...ij,...ik->...jk []"));
        assert_eq!(exchanged("ij->i", 0).as_deref(), Some("i->i [-1]"));
        assert_eq!(exchanged("j...i->...", 0).as_deref(), Some("...->... [0, -1]"));
        assert_eq!(exchanged("ij,jk", 0).as_deref(), Some("ik,jk->ij []"));
        assert_eq!(exchanged("ii->i", 0), None);
        assert_eq!(exchanged("ij->i", 1), None);
    }
}
