//! Who is whose neighbour.
//!
//! Every node stands once on each of several rings, in the order of a hash of its id and the ring's number,
//! and its neighbours are the nodes before and after it. The union of a few such rings is an expander with
//! high probability (Rapid, section 4.1): news crosses 1,000 nodes in four hops, and no small cut parts it.
//! Who knows the same members computes the same rings; nothing is agreed upon.

use crate::member::ShortId;

/// A neighbour and the first ring on which it is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Neighbour {
    pub(crate) id: ShortId,
    pub(crate) ring: usize,
}

/// The neighbours of `me` among `present` on `rings` rings, each once, sorted by id.
pub(crate) fn neighbours(me: ShortId, rings: usize, present: &[ShortId]) -> Vec<Neighbour> {
    let mut found: Vec<Neighbour> = Vec::with_capacity(2 * rings);
    for ring in 0..rings {
        let here = place(me, ring);
        // Distances round the ring: the least is the next node, the greatest the one before.
        let distance = |id: &ShortId| place(*id, ring).wrapping_sub(here);
        let next = present.iter().copied().min_by_key(distance);
        let before = present.iter().copied().max_by_key(distance);
        for id in next.into_iter().chain(before) {
            if !found.iter().any(|known| known.id == id) {
                found.push(Neighbour { id, ring });
            }
        }
    }
    found.sort_unstable();
    found
}

/// Where `id` stands on a ring: the finaliser of splitmix64 (Steele, Lea, Flood 2014), which spreads ids
/// evenly and differently on each ring. It need not resist attack: who may choose ids at will can choose its
/// neighbours under any function that all can compute.
fn place(id: ShortId, ring: usize) -> u64 {
    let mut z = id.0 ^ (ring as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(n: u64) -> Vec<ShortId> {
        (1..=n).map(|k| ShortId(k.wrapping_mul(0x2545_f491_4f6c_dd1d))).collect()
    }

    fn of(me: ShortId, all: &[ShortId]) -> Vec<Neighbour> {
        let others: Vec<_> = all.iter().copied().filter(|id| *id != me).collect();
        neighbours(me, 6, &others)
    }

    #[test]
    fn neighbourhood_is_mutual() {
        let all = ids(100);
        for me in &all {
            for other in of(*me, &all) {
                assert!(of(other.id, &all).iter().any(|back| back.id == *me && back.ring == other.ring));
            }
        }
    }

    #[test]
    fn a_thousand_nodes_are_four_hops_apart() {
        let all = ids(1000);
        let mut reached: Vec<_> = vec![all[0]];
        for _ in 0..4 {
            let next: Vec<_> =
                reached.iter().flat_map(|id| of(*id, &all)).map(|neighbour| neighbour.id).collect();
            reached.extend(next);
            reached.sort_unstable();
            reached.dedup();
        }
        assert!(reached.len() >= 990, "{} of 1,000 within four hops", reached.len());
    }

    #[test]
    fn few_nodes_are_all_neighbours() {
        assert_eq!(of(ids(1)[0], &ids(1)), []);
        assert_eq!(of(ids(3)[0], &ids(3)).len(), 2);
    }
}
