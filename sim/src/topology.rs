//! Who knows whom.

use crate::keyed::{Domain, Rng};

/// Neighbours of each of `nodes` nodes: every node has `degree` of them (rounded down to even, and to
/// what the size allows). Node i is joined with i ± d for the same keyed distances d, of which one is
/// 1, so the graph is connected.
pub fn regular(seed: u64, nodes: u32, degree: u32) -> Vec<Vec<u32>> {
    let most = nodes.saturating_sub(1) / 2;
    let wanted = (degree / 2).min(most) as usize;
    let mut rng = Rng::new(seed, Domain::Plan, u64::from(nodes));
    let mut distances = Vec::new();
    if wanted > 0 {
        distances.push(1);
    }
    while distances.len() < wanted {
        let d = 1 + rng.below(u64::from(most)) as u32;
        if !distances.contains(&d) {
            distances.push(d);
        }
    }
    (0..nodes)
        .map(|i| {
            let mut all: Vec<u32> =
                distances.iter().flat_map(|d| [(i + d) % nodes, (i + nodes - d) % nodes]).collect();
            all.sort_unstable();
            all.dedup();
            all
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_has_as_many_neighbours_and_they_agree() {
        for (nodes, degree) in [(1, 8), (2, 2), (3, 8), (9, 8), (50, 8), (1_000, 8)] {
            let graph = regular(5, nodes, degree);
            let want = if nodes < 3 { 0 } else { degree.min((nodes - 1) / 2 * 2) as usize };
            for (i, others) in graph.iter().enumerate() {
                assert_eq!(others.len(), want, "{nodes} nodes");
                assert!(others.iter().all(|o| *o != i as u32 && graph[*o as usize].contains(&(i as u32))));
            }
        }
    }
}
