//! What records say, in words.

use maud::{Markup, html};
use nfdrop_db::{Cost, Event, Permanence, Probe, ProofResult, Reason};

/// A sentence on each reason: what it means.
pub(super) fn meaning(reason: Reason) -> &'static str {
    match reason {
        Reason::NoSymbol => "The module, or the kernel image, has no function nft_do_chain.",
        Reason::NoNfTables => "The packages hold no nf_tables, neither as a module nor built in.",
        Reason::UnsupportedArch => "The kernel is not for x86-64.",
        Reason::UnsupportedInstruction => {
            "The function has an instruction that the interpreter does not know, so its runs could not \
             be made to the end."
        }
        Reason::UnknownLayout => {
            "The kernel has no BTF that tells where its structures have what, and no layout known here \
             fits."
        }
        Reason::Diverged => {
            "Running the function did not end as its rulesets say, so something about it is not \
             understood."
        }
        Reason::NoSite => {
            "No set of instructions sees every drop exactly once and nothing else, with rule and packet \
             in reach."
        }
        Reason::AmbiguousSite => {
            "There are instructions that only drops come by, but what is found there cannot be told \
             apart for sure."
        }
        Reason::MalformedImage => "The kernel image or the module is broken, or not one.",
        Reason::MalformedPackage => "A package is broken, or holds files of two kernels.",
        Reason::IncompletePackageSet => {
            "The index lists a part of the kernel's packages only: often the modules are gone while the \
             image is still there."
        }
        Reason::FetchFailed => "A package could not be downloaded.",
        Reason::VerificationFailed => "A signature or a hash of a package is wrong, or missing.",
    }
}

/// What somebody who wants a plan can do.
pub(super) fn remedy(reason: Reason) -> &'static str {
    match reason {
        Reason::IncompletePackageSet => {
            "Crawl again later, or from an archive that still has the modules; with the files at hand, \
             `nfdrop-indexer add` does."
        }
        Reason::FetchFailed | Reason::VerificationFailed => {
            "The next crawl tries again; where it stays so, crawl from another mirror (--mirror)."
        }
        Reason::MalformedPackage | Reason::MalformedImage => {
            "Check the package against its distribution's; `nfdrop-indexer add` takes a good copy."
        }
        Reason::UnsupportedArch => "Use a kernel for x86-64.",
        Reason::NoSymbol | Reason::NoNfTables => {
            "Where nf_tables is in another package, give it to `nfdrop-indexer add`; where it is not \
             built at all, nothing is dropped by it."
        }
        Reason::UnknownLayout => {
            "A kernel built with BTF (CONFIG_DEBUG_INFO_BTF) resolves; else a newer nfdrop-indexer may."
        }
        Reason::UnsupportedInstruction
        | Reason::Diverged
        | Reason::NoSite
        | Reason::AmbiguousSite => {
            "Only a newer nfdrop-indexer can change that. Its output of `explain` for this kernel makes a \
             good report."
        }
    }
}

/// How a status is shown, with its sign and colour.
pub(super) fn status(reason: Option<Reason>) -> Markup {
    let (class, text) = match reason {
        None => ("yes", "resolved"),
        Some(reason) => match reason.permanence() {
            Permanence::Permanent => ("no", reason.name()),
            Permanence::Passing => ("later", reason.name()),
        },
    };
    html! { span.{ "status " (class) } { (text) } }
}

/// What the boot of a kernel showed of its plan.
pub(super) fn booted(result: ProofResult) -> &'static str {
    match result {
        ProofResult::Proven => {
            "The kernel was booted: the probes saw every drop once, and nothing else."
        }
        ProofResult::Contradicted => {
            "The kernel was booted, and shows something else than the plan says. Do not use this plan."
        }
        ProofResult::NotBootable => {
            "The kernel did not get through the scenario. That says nothing about the plan."
        }
    }
}

/// What a hit means.
pub(super) fn event(event: Event) -> &'static str {
    match event {
        Event::RuleDrop => "a rule drops the packet",
        Event::PolicyDrop => "a base chain's policy drops the packet",
    }
}

/// What a probe costs.
pub(super) fn cost(cost: Cost) -> &'static str {
    match cost {
        Cost::Optimized => "The kernel turns the probe into a jump",
        Cost::Boosted => "It is a breakpoint at each hit",
        Cost::Trap => "It is a breakpoint and a single step at each hit",
    }
}

/// Who comes by a probe.
pub(super) fn visitors(probe: &Probe) -> String {
    if probe.when.is_empty() {
        return "only such packets come by, so others pay nothing".to_owned();
    }
    let when: Vec<String> = probe.when.iter().map(ToString::to_string).collect();
    format!("others come by too, and are told apart: it is a drop if {}", when.join(" and "))
}

/// Seconds since 1970 as a date (Howard Hinnant's `civil_from_days`).
pub(super) fn date(seconds: u64) -> String {
    let days = (seconds / 86_400).min(3_000_000) + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

/// `1 kernel`, `2 kernels`.
pub(super) fn count(number: u64, one: &str) -> String {
    format!("{} {one}{}", thousands(number), if number == 1 { "" } else { "s" })
}

/// `12,345`.
pub(super) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
