//! Versions of the kernel's rules for kprobes, as far as they matter here.

use nfdrop_db::{KernelRelease, Series};

/// Between two of these the rules are the same; a later one optimizes, boosts or accepts more.
///
/// Stable series take such changes in the middle, and distributions number their releases as they
/// like: `6.1.0-56-amd64` is 6.1.192. What cannot be told from the release counts as the earlier era,
/// but for probes that would be refused only there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Era {
    /// The release is not known, or is no version.
    Unknown,
    /// Before 4.15: `OPTPROBES` depends on `!PREEMPT` (arch/Kconfig, until commit a30b85df7d59).
    Oldest,
    /// `can_probe` and `can_optimize` stop at the first `int3`, until commits 1993bf97992d and
    /// 63dc6325ff41: 6.2, and 5.10.163, 5.15.87, 6.0.18 and 6.1.4. Since return thunks came, there
    /// may be one after each `ret`.
    OptimizesPreemptible,
    /// Functions with indirect jumps, or jumps to thunks for them, are not optimized, until commit
    /// 833fd800bf56: 6.5. 6.1.192 and 5.10.262 still have that rule; return thunks are in its range.
    WalksOverInt3,
    /// `can_boost` refuses opcode groups 2 to 5 but for indirect jumps, until commit 290eb13f1a65:
    /// 6.9.
    TrustsRetpolines,
    /// As 6.12.117, 6.18.15 and 7.3.4.
    BoostsGroups,
}

impl Era {
    /// Every era.
    pub const ALL: [Self; 6] = [
        Self::Unknown,
        Self::Oldest,
        Self::OptimizesPreemptible,
        Self::WalksOverInt3,
        Self::TrustsRetpolines,
        Self::BoostsGroups,
    ];

    /// Of what `uname -r` prints.
    pub fn of(release: Option<&str>) -> Self {
        let release = KernelRelease(release.unwrap_or_default());
        let Some(series) = release.series() else { return Self::Unknown };
        match series {
            Series(..=3, _) | Series(4, ..=14) => Self::Oldest,
            Series(..=5, _) | Series(6, ..=1) if stops_at_int3(series, release) => {
                Self::OptimizesPreemptible
            }
            Series(..=5, _) | Series(6, ..=4) => Self::WalksOverInt3,
            Series(6, ..=8) => Self::TrustsRetpolines,
            _ => Self::BoostsGroups,
        }
    }

    /// A release of this era: the same function with this release has the same plan.
    pub fn representative(self) -> Option<&'static str> {
        match self {
            Self::Unknown => None,
            Self::Oldest => Some("4.14.1"),
            Self::OptimizesPreemptible => Some("6.1.3"),
            Self::WalksOverInt3 => Some("6.1.4"),
            Self::TrustsRetpolines => Some("6.5.1"),
            Self::BoostsGroups => Some("6.9.1"),
        }
    }

    /// Whether no probe can be put behind an `int3`.
    pub(super) fn stops_at_int3(self) -> bool {
        matches!(self, Self::Oldest | Self::OptimizesPreemptible)
    }
}

/// Up to 6.1. Debian's 5.10.0-21 is 5.10.162, 5.10.0-22 is 5.10.178; its 6.0 ended with 6.0.12 and its 6.1 began
/// with 6.1.4. Other releases without a stable version may have the fix; where they have not, attaching fails,
/// which is seen.
fn stops_at_int3(series: Series, release: KernelRelease<'_>) -> bool {
    match (series, release.stable(), release.abi()) {
        (Series(6, 1), Some(patch), _) => patch < 4,
        (Series(6, 0), Some(patch), _) => patch < 18,
        (Series(6, 0), None, Some(_)) => true,
        (Series(5, 15), Some(patch), _) => patch < 87,
        (Series(5, 10), Some(patch), _) => patch < 163,
        (Series(5, 10), None, Some(abi)) => abi < 22,
        (_, patch, _) => patch.is_some(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_release_tells_the_era() {
        use Era::{
            BoostsGroups, Oldest, OptimizesPreemptible, TrustsRetpolines, Unknown, WalksOverInt3,
        };
        for (release, era) in [
            ("", Unknown),
            ("linux", Unknown),
            ("6", Unknown),
            ("6.x", Unknown),
            ("99999999999.1", Unknown),
            ("3.16.0-4-amd64", Oldest),
            ("4.14.336", Oldest),
            ("4.15.0", OptimizesPreemptible),
            // Ubuntu's and Red Hat's own numbers.
            ("5.4.0-84-generic", WalksOverInt3),
            ("5.14.0-503.el9.x86_64", WalksOverInt3),
            ("5.10.13", OptimizesPreemptible),
            ("5.10.162", OptimizesPreemptible),
            ("5.10.163", WalksOverInt3),
            ("5.10.0-21-cloud-amd64", OptimizesPreemptible),
            ("5.10.0-0.deb10.21-amd64", OptimizesPreemptible),
            ("5.10.0-22-amd64", WalksOverInt3),
            ("5.10.0-46-rt-amd64", WalksOverInt3),
            ("5.15.86", OptimizesPreemptible),
            ("5.15.87", WalksOverInt3),
            ("5.18.0", OptimizesPreemptible),
            ("6.0.0-6-amd64", OptimizesPreemptible),
            ("6.0.17", OptimizesPreemptible),
            ("6.0.18", WalksOverInt3),
            ("6.1.0-rc7", OptimizesPreemptible),
            ("6.1.3", OptimizesPreemptible),
            ("6.1.4", WalksOverInt3),
            ("6.1.0-1-amd64", WalksOverInt3),
            ("6.1.0-0.deb11.52-rt-amd64", WalksOverInt3),
            ("6.2.10-arch1-1", WalksOverInt3),
            ("6.4.12", WalksOverInt3),
            ("6.5.0-1-amd64", TrustsRetpolines),
            ("6.8.0-rc1", TrustsRetpolines),
            ("6.9", BoostsGroups),
            ("6.12.117+deb13-cloud-amd64", BoostsGroups),
            ("7.3-amd64", BoostsGroups),
            ("10.0.1", BoostsGroups),
        ] {
            assert_eq!(Era::of(Some(release)), era, "{release}");
        }
        assert_eq!(Era::of(None), Unknown);
    }

    #[test]
    fn representatives_represent() {
        assert_eq!(Era::ALL.map(|era| Era::of(era.representative())), Era::ALL);
        assert!(Era::ALL.is_sorted());
    }
}
