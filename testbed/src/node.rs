//! Where a director is in the lab, and what it has there.

use std::path::PathBuf;

use crate::run::Run;

/// A director as a host of the lab.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) name: String,
    /// Last number of its addresses.
    pub(crate) number: u8,
    is_paired: bool,
}

impl Node {
    /// The director of a lab with one.
    pub(crate) fn single() -> Node {
        Node {
            name: "director".to_owned(),
            number: 1,
            is_paired: false,
        }
    }

    /// A director in namespaces of a drill's own.
    pub(crate) fn apart(name: String, number: u8) -> Node {
        Node {
            name,
            number,
            is_paired: true,
        }
    }

    /// The directors of a lab with two.
    pub(crate) fn pair() -> Vec<Node> {
        let numbered = |number| Node {
            name: format!("director{number}"),
            number,
            is_paired: true,
        };
        vec![numbered(1), numbered(2)]
    }

    /// Interfaces with the bridges they are on.
    pub(crate) fn links(&self) -> &'static [(&'static str, &'static str)] {
        let all = &[("eth0", "out"), ("eth1", "in"), ("eth2", "sync")];
        if self.is_paired { all } else { &all[..2] }
    }

    /// Its port on a bridge.
    pub(crate) fn port(&self, bridge: &str) -> String {
        format!("{}-{bridge}", self.name)
    }

    /// Its ports on all bridges, where captures listen.
    pub(crate) fn ports(&self) -> Vec<String> {
        let bridges = self.links().iter().map(|(_, bridge)| self.port(bridge));
        bridges.collect()
    }

    /// Its files in the directory of a run.
    pub(crate) fn dir(&self, run: &Run) -> PathBuf {
        run.dir().join(&self.name)
    }

    /// Where its maps and links are pinned, mounted in its own mount namespace only.
    pub(crate) fn bpffs_dir(&self, run: &Run) -> PathBuf {
        self.dir(run).join("bpf")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_director_of_a_pair_has_one_link_more() {
        assert_eq!(Node::single().ports(), ["director-out", "director-in"]);
        let second = &Node::pair()[1];
        let ports = ["director2-out", "director2-in", "director2-sync"];
        assert_eq!(second.ports(), ports);
        assert_eq!(second.number, 2);
    }
}
