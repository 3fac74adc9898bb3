//! Names like one that was not found.

use std::collections::BTreeSet;

/// At most eight of the shortest names that tell modules apart, nearest to `wanted` first.
///
/// Of each module as many of its last segments count as `wanted` has.
#[must_use]
pub fn near(wanted: &str, modules: &[&str]) -> Vec<String> {
    let segments = wanted.split('.').count();
    let tails: BTreeSet<&str> = modules.iter().map(|module| last_segments(module, segments)).collect();
    let mut ranked: Vec<(usize, &str)> = tails.into_iter().map(|tail| (strsim::levenshtein(wanted, tail), tail)).collect();
    ranked.sort_unstable();
    ranked.into_iter().take(8).map(|(_, tail)| tail.to_owned()).collect()
}

fn last_segments(path: &str, count: usize) -> &str {
    path.rmatch_indices('.').nth(count - 1).map_or(path, |(dot, _)| &path[dot + 1..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_come_first_each_once() {
        let modules = ["h.0.attn.q_proj", "h.1.attn.q_proj", "h.0.attn.v_proj", "h.0.mlp.down_proj"];
        assert_eq!(near("v_porj", &modules), ["v_proj", "q_proj", "down_proj"]);
        assert_eq!(near("mlp.downproj", &modules)[0], "mlp.down_proj");
        assert_eq!(near("a.b.c.d.e.f", &modules).len(), 4);
        assert!(near("x", &[]).is_empty());
    }
}
