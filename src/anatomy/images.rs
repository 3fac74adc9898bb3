//! The size of the images that a graph takes, where its input leaves it open: the graph's own constants tell, a table of positions
//! for the patches of one size only.

use crate::ir::{Builder, Dim, Graph, ValueId};

use super::walk::NodeRef;

/// What most models were trained with.
const USUAL: i64 = 224;
/// Images of up to so many patches to a side are tried.
const PATCHES: i64 = 64;

/// `[channels, height, width]` of the images that the graph can compute with; none where it takes none. Of several sizes it is the usual
/// one, 224 x 224, else the smallest.
///
/// Lengths that the input declares stay; the others are tried until no node contradicts them.
#[must_use]
pub fn image_size(graph: &Graph, pixels: ValueId) -> Option<[i64; 3]> {
    let shape = graph.fact(pixels).shape.as_deref()?;
    // The pictures of a row may have an axis of their own.
    let own @ [channels, height, width] = shape.last_chunk::<3>().filter(|_| shape.len() > 3)?;
    let (in_channels, stride) = first_convolution(graph).unwrap_or((3, 16));
    let channels = channels.as_known().unwrap_or(in_channels);
    let sizes = std::iter::once(USUAL).chain((2..=PATCHES).map(|patches| stride.saturating_mul(patches))).map(|side| {
        let [height, width] = [height, width].map(|declared| declared.as_known().unwrap_or(side));
        [channels, height, width]
    });
    let mut sizes = sizes;
    if [height, width].iter().all(|declared| declared.as_known().is_some()) {
        return sizes.next();
    }
    sizes.find(|size| fits(graph, own, size))
}

/// The channels that the first convolution reads, and its stride.
fn first_convolution(graph: &Graph) -> Option<(i64, i64)> {
    let convolution = graph.node_ids().map(|(id, _)| NodeRef::new(graph, id)).find(|node| node.is(&["Conv"]))?;
    let weight = convolution.input(1).ok()?.fact().known_shape()?;
    let stride = convolution.node().ints("strides").and_then(<[i64]>::first).copied().unwrap_or(1);
    Some((weight.get(1)?.saturating_mul(convolution.node().int("group", 1)), stride.max(1)))
}

/// Whether no node contradicts these lengths of the input.
fn fits(graph: &Graph, declared: &[Dim], size: &[i64]) -> bool {
    let b = Builder::on(graph);
    for (dim, &length) in declared.iter().zip(size) {
        b.substitute(dim, &Dim::known(length));
    }
    b.infer_again();
    b.finish().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{Attr, DType, ModelInfo, Tensor};

    /// Patches of 4 x 4 in a row behind a class token, with positions for `positions` of them, if there is a table.
    fn patches(positions: Option<usize>) -> Graph {
        let b = Builder::new(ModelInfo::dialect());
        let shape = ["batch", "channels", "height", "width"].map(Dim::symbol);
        let pixels = b.input("pixel_values", DType::F32, &shape);
        let constant = |name: &str, shape: &[usize]| b.initializer(name, Tensor::from_f32(shape, &vec![0.5; shape.iter().product()]));
        let kernel = constant("patch.weight", &[8, 3, 4, 4]);
        let attrs = [("strides", Attr::Ints(vec![4, 4])), ("kernel_shape", Attr::Ints(vec![4, 4]))];
        let grid = b.op("Conv", &[pixels, kernel], &attrs);
        let rows = b.op("Reshape", &[grid, b.ints(&[0, 8, -1])], &[]).transpose(&[0, 2, 1]);
        let rows = match positions {
            Some(positions) => rows + constant("positions", &[1, positions, 8]),
            None => rows,
        };
        b.output("out", rows);
        b.finish().expect("a valid graph")
    }

    #[test]
    fn a_table_of_positions_tells_the_size() {
        let size = |positions| {
            let graph = patches(positions);
            image_size(&graph, graph.find("pixel_values").expect("an input"))
        };
        assert_eq!(size(Some(16)), Some([3, 16, 16]));
        assert_eq!(size(Some(56 * 56)), Some([3, 224, 224]));
        assert_eq!(size(Some(17)), None, "no square has 17 patches");
        assert_eq!(size(None), Some([3, 224, 224]), "any size will do");
    }
}
