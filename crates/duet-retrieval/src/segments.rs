//! Ways to divide users, and items, so that a mean over all of them can't hide for whom it is worse.

use serde::Serialize;

use crate::evaluation::Panel;

/// Some users of a panel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// What they have in common.
    pub label: String,
    /// Their places in the panel, ascending.
    pub users: Vec<u32>,
}

/// What was put together, or left out, for being too small.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Folded {
    /// The groups.
    pub labels: Vec<String>,
    /// Their users, together.
    pub users: usize,
}

/// A way to divide the users of a panel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Division {
    /// By what, e.g. `gender`.
    pub name: String,
    /// The groups.
    pub groups: Vec<Group>,
    /// The groups that became [`OTHERS`].
    pub folded: Option<Folded>,
    /// The groups left out, because even together they are too small.
    pub left_out: Option<Folded>,
}

/// The label of what was folded.
pub const OTHERS: &str = "all others";

/// How small a group may be, and how many there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FoldLimits {
    /// Fewest users of a group.
    pub min_users: usize,
    /// Most groups of a division, [`OTHERS`] not counted; the largest stay.
    pub max_groups: usize,
}

impl Default for FoldLimits {
    fn default() -> Self {
        Self { min_users: 30, max_groups: 30 }
    }
}

impl Division {
    /// Keeps the order of the groups, drops the empty ones, and folds those beyond the limits into one. Where that one is too
    /// small itself, it is left out.
    pub fn fold(name: impl Into<String>, groups: Vec<Group>, limits: FoldLimits) -> Self {
        let groups: Vec<Group> = groups.into_iter().filter(|group| !group.users.is_empty()).collect();
        let mut sizes: Vec<usize> = groups.iter().map(|group| group.users.len()).collect();
        sizes.sort_unstable_by(|a, b| b.cmp(a));
        // Of equally large groups at the border all go or all stay: the order of labels must not decide.
        let least = match sizes.get(limits.max_groups) {
            Some(first_out) => limits.min_users.max(first_out + 1),
            None => limits.min_users,
        };
        let (mut kept, small): (Vec<Group>, Vec<Group>) =
            groups.into_iter().partition(|group| group.users.len() >= least);
        let mut division = Self { name: name.into(), groups: Vec::new(), folded: None, left_out: None };
        if !small.is_empty() {
            let mut users: Vec<u32> = small.iter().flat_map(|group| group.users.iter().copied()).collect();
            users.sort_unstable();
            users.dedup();
            let labels = small.into_iter().map(|group| group.label).collect();
            let folded = Some(Folded { labels, users: users.len() });
            if users.len() >= limits.min_users {
                division.folded = folded;
                kept.push(Group { label: OTHERS.to_owned(), users });
            } else {
                division.left_out = folded;
            }
        }
        division.groups = kept;
        division
    }
}

/// A way to divide the items of a catalogue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ItemDivision {
    /// By what, e.g. `popularity`.
    pub name: String,
    /// Names of the parts.
    pub labels: Vec<String>,
    /// The part of each item; `None` for items that belong to none.
    pub parts: Vec<Option<u8>>,
}

impl ItemDivision {
    /// For each part, the places of the users who have test items in it.
    pub fn groups(&self, panel: &Panel) -> Vec<Group> {
        let mut groups: Vec<Group> =
            self.labels.iter().map(|label| Group { label: label.clone(), users: Vec::new() }).collect();
        for (place, case) in panel.cases().iter().enumerate() {
            let mut parts: Vec<u8> = case.truth.iter().filter_map(|item| self.parts[item.index()]).collect();
            parts.sort_unstable();
            parts.dedup();
            for part in parts {
                groups[usize::from(part)].users.push(place as u32);
            }
        }
        groups
    }

    /// The sum of a count over the items of each part, as shares of the sum over all items that belong to one.
    pub fn shares(&self, counts: &[u32]) -> Vec<f64> {
        let mut sums = vec![0.0; self.labels.len()];
        for (part, &count) in self.parts.iter().zip(counts) {
            if let Some(part) = part {
                sums[usize::from(*part)] += f64::from(count);
            }
        }
        let total: f64 = sums.iter().sum();
        sums.iter().map(|sum| if total > 0.0 { sum / total } else { 0.0 }).collect()
    }
}

/// Head, middle and tail by popularity (Abdollahpouri et al. 2021): the most listened items that have a fifth of all listens, the least
/// listened ones that have a fifth, and those between; items without any listen apart. An item at a border belongs to the part
/// that most of its listens fall into, and items of equal popularity stand in their order.
pub fn popularity_parts(popularity: &[u32]) -> ItemDivision {
    const HEAD: f64 = 0.2;
    const TAIL: f64 = 0.8;
    let total: f64 = popularity.iter().map(|&count| f64::from(count)).sum();
    let mut order: Vec<usize> = (0..popularity.len()).collect();
    order.sort_by_key(|&item| std::cmp::Reverse(popularity[item]));
    let mut parts = vec![Some(3_u8); popularity.len()];
    let mut before = 0.0;
    for item in order {
        let count = f64::from(popularity[item]);
        if count > 0.0 {
            let middle = (before + count / 2.0) / total;
            parts[item] = Some(if middle < HEAD {
                0
            } else if middle < TAIL {
                1
            } else {
                2
            });
            before += count;
        }
    }
    let labels = ["head (a fifth of the listens)", "middle", "tail (a fifth)", "never heard in training"];
    ItemDivision { name: "item popularity".to_owned(), labels: labels.map(str::to_owned).to_vec(), parts }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(label: &str, users: std::ops::Range<u32>) -> Group {
        Group { label: label.to_owned(), users: users.collect() }
    }

    #[test]
    fn small_groups_are_folded_and_said_so() {
        let groups =
            || vec![group("a", 0..50), group("b", 50..58), group("none", 0..0), group("c", 58..65), group("d", 65..99)];
        let limits = |min_users, max_groups| FoldLimits { min_users, max_groups };
        let labels = |division: &Division| -> Vec<(String, usize)> {
            division.groups.iter().map(|group| (group.label.clone(), group.users.len())).collect()
        };
        let all = Division::fold("x", groups(), limits(5, 9));
        assert_eq!((labels(&all).len(), &all.folded, &all.left_out), (4, &None, &None));
        let folded = Division::fold("x", groups(), limits(10, 9));
        assert_eq!(labels(&folded), [("a".to_owned(), 50), ("d".to_owned(), 34), (OTHERS.to_owned(), 15)]);
        let expected = Folded { labels: vec!["b".to_owned(), "c".to_owned()], users: 15 };
        assert_eq!((folded.folded, folded.left_out), (Some(expected.clone()), None));
        let left = Division::fold("x", groups(), limits(20, 9));
        assert_eq!((labels(&left).len(), left.folded, left.left_out), (2, None, Some(expected)));
        let one = Division::fold("x", groups(), limits(5, 1));
        assert_eq!(labels(&one), [("a".to_owned(), 50), (OTHERS.to_owned(), 49)]);
    }

    #[test]
    fn a_fifth_of_the_listens_is_the_head() {
        // 100 listens: 20 | 20 + 15 + 10 + 10 + 5 | 5 * 4 | none.
        let counts = [15, 20, 20, 10, 10, 5, 5, 5, 5, 5, 0];
        let division = popularity_parts(&counts);
        let parts: Vec<u8> = division.parts.iter().map(|part| part.unwrap_or(9)).collect();
        assert_eq!(parts, [1, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3]);
        assert_eq!(division.shares(&counts), [0.2, 0.6, 0.2, 0.0]);
        assert_eq!(popularity_parts(&[0, 0]).parts, [Some(3); 2]);
    }
}
