//! Who knows whom.

use net_proto::time::Duration;

use crate::keyed::{Domain, Rng};
use crate::nat::NatConfig;
use crate::net::LinkConfig;
use crate::world::World;

/// Shapes by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Topology {
    /// 0 - 1 - 2 - ..
    Line(u32),
    /// A line whose ends are joined.
    Ring(u32),
    /// Everybody knows node 0.
    Star(u32),
    /// Everybody knows everybody.
    Full(u32),
    /// Rows of this length, neighbours to the side, above and below: nodes, length.
    Grid(u32, u32),
    /// Everybody knows so many others; the seed picks whom: nodes, degree.
    Random(u32, u32),
    /// Groups in which everybody knows everybody, joined in a ring by their first nodes over links
    /// that are ten times as long: groups, nodes in each.
    Clusters(u32, u32),
    /// Node 0 is public; all others know it, and each is behind an address translation of its own.
    NatedLeaves(u32, NatConfig),
}

impl Topology {
    /// How many nodes.
    pub const fn nodes(&self) -> u32 {
        match self {
            Self::Line(n)
            | Self::Ring(n)
            | Self::Star(n)
            | Self::Full(n)
            | Self::Grid(n, _)
            | Self::Random(n, _)
            | Self::NatedLeaves(n, _) => *n,
            Self::Clusters(groups, each) => *groups * *each,
        }
    }

    /// Neighbours of each node, in rising order. Whoever is somebody's neighbour has him as neighbour.
    pub fn neighbours(&self, seed: u64) -> Vec<Vec<u32>> {
        let n = self.nodes();
        let mut graph = vec![Vec::new(); n as usize];
        let mut join = |a: u32, b: u32| {
            if a != b && a < n && b < n {
                graph[a as usize].push(b);
                graph[b as usize].push(a);
            }
        };
        match self {
            Self::Line(_) => (1..n).for_each(|i| join(i - 1, i)),
            Self::Ring(_) => (0..n).for_each(|i| join(i, (i + 1) % n)),
            Self::Star(_) | Self::NatedLeaves(..) => (1..n).for_each(|i| join(0, i)),
            Self::Full(_) => (0..n).for_each(|i| (i + 1..n).for_each(|j| join(i, j))),
            Self::Grid(_, length) => {
                let length = (*length).max(1);
                for i in 0..n {
                    if (i + 1) % length != 0 {
                        join(i, i + 1);
                    }
                    join(i, i + length);
                }
            }
            Self::Random(_, degree) => return regular(seed, n, *degree),
            Self::Clusters(groups, each) => {
                for group in 0..*groups {
                    let first = group * each;
                    (0..*each).for_each(|i| (i + 1..*each).for_each(|j| join(first + i, first + j)));
                    join(first, (group + 1) % groups * each);
                }
            }
        }
        for list in &mut graph {
            list.sort_unstable();
            list.dedup();
        }
        graph
    }

    /// Gives the links and translations of a shape to a world that has its nodes (and no others).
    pub fn lay(&self, world: &mut World) {
        match self {
            Self::Clusters(groups, each) => {
                // Two groups are joined once, not there and back.
                let joints = if *groups == 2 { 1 } else { *groups };
                for group in 0..joints {
                    let (a, b) = (group * each, (group + 1) % groups * each);
                    if a != b {
                        let far = world.link(a, b).config.delay * 10;
                        let config = LinkConfig {
                            delay: far.max(Duration::from_millis(1)),
                            ..LinkConfig::clone(&world.link(a, b).config)
                        };
                        world.set_links(a, b, &config);
                    }
                }
            }
            Self::NatedLeaves(n, config) => {
                for leaf in 1..*n {
                    let nat = world.nat(*config);
                    world.behind(leaf, nat);
                }
            }
            _ => {}
        }
    }
}

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
    fn shapes_have_the_right_edges() {
        let edges = |t: &Topology| t.neighbours(3).iter().map(Vec::len).sum::<usize>() / 2;
        for (shape, nodes, want) in [
            (Topology::Line(5), 5, 4),
            (Topology::Ring(5), 5, 5),
            (Topology::Ring(2), 2, 1),
            (Topology::Star(5), 5, 4),
            (Topology::Full(5), 5, 10),
            (Topology::Grid(12, 4), 12, 17),
            (Topology::Random(9, 4), 9, 18),
            (Topology::Clusters(3, 4), 12, 21),
            (Topology::NatedLeaves(4, NatConfig::default()), 4, 3),
            (Topology::Line(0), 0, 0),
            (Topology::Full(1), 1, 0),
        ] {
            assert_eq!((shape.nodes(), edges(&shape)), (nodes, want), "{shape:?}");
            for (i, others) in shape.neighbours(3).iter().enumerate() {
                let back = |o: &u32| shape.neighbours(3)[*o as usize].contains(&(i as u32));
                assert!(others.is_sorted() && others.iter().all(back), "{shape:?}");
            }
        }
    }

    #[test]
    fn clusters_are_far_from_each_other() {
        let mut world = crate::Sim::new(1).world();
        let shape = Topology::Clusters(2, 2);
        for _ in 0..shape.nodes() {
            world.spawn_bare();
        }
        shape.lay(&mut world);
        let mut delay = |a, b| world.link(a, b).config.delay.as_millis();
        assert_eq!((delay(0, 1), delay(0, 2), delay(2, 0)), (10, 100, 100));
    }

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
