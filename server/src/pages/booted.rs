//! What booting the kernel showed of its plan, on the page of a build.

use super::{descriptions, unresolved::code_spans};
use maud::{Markup, html};
use nfdrop_db::{Drops, Part, Proof, ProofResult, SetProbe};

/// The proof, or why there is none.
#[derive(Debug)]
pub(super) enum Booted {
    Proof(Box<Proof>),
    NotYet,
    Broken,
}

/// The section of a build that has a plan.
pub(super) fn section(booted: &Booted) -> Markup {
    let todo = match booted {
        Booted::Proof(proof) => return html! { h2 #booted { "Booted" } (shown(proof)) },
        Booted::NotYet => {
            "Nobody has booted this kernel yet. `nfdrop-ci prove` boots it in QEMU, drops packets, and compares \
             what the probes report with what the rules count."
        }
        Booted::Broken => "Its proof is damaged. `nfdrop-ci prove` makes a new one.",
    };
    html! { h2 #booted { "Booted" } p { (code_spans(todo)) } }
}

fn shown(proof: &Proof) -> Markup {
    let Proof { parts, expected, seen, missed, probes, machine, result, detail, .. } = proof;
    let left_out: Vec<Part> =
        Part::ALL.iter().copied().filter(|part| !parts.contains(part)).collect();
    html! {
        @match result {
            ProofResult::Proven => p { span.status.yes { "proven" } " " (descriptions::booted(*result)) },
            ProofResult::Contradicted => div.reason role="alert" {
                p { span.status.no { "contradicted" } " " (descriptions::booted(*result)) }
                (lines(detail.as_deref()))
            },
            ProofResult::NotBootable => div.reason.later {
                p { span.status.later { "not bootable" } " " (descriptions::booted(*result)) }
                (lines(detail.as_deref()))
            },
        }
        dl.facts {
            @if *result != ProofResult::NotBootable {
                dt { "expected" } dd { (drops(*expected)) }
                dt { "seen" } dd { (drops(*seen)) }
                dt { "missed" } dd { (descriptions::thousands(*missed)) }
                dt { "parts that ran" } dd { (names(parts)) }
                dt { "parts that did not" } dd { (names(&left_out)) }
            }
            @if !machine.qemu.is_empty() {
                dt { "machine" }
                dd { "QEMU " (machine.qemu) ", " (machine.cpu) ", " (machine.accel) }
            }
            dt { "scenario" } dd { (proof.scenario) }
        }
        @if !probes.is_empty() { (table(probes)) }
    }
}

/// Details quote consoles, whose lines stay lines.
fn lines(detail: Option<&str>) -> Markup {
    html! { @if let Some(detail) = detail { pre.console { (detail) } } }
}

fn drops(Drops { rule_drop, policy_drop }: Drops) -> String {
    let [rules, policies] = [rule_drop, policy_drop].map(descriptions::thousands);
    format!("{rules} drops by rules, {policies} by policies")
}

fn names(parts: &[Part]) -> String {
    let names: Vec<&str> = parts.iter().map(|part| part.name()).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

fn table(probes: &[SetProbe]) -> Markup {
    html! {
        div.scroll tabindex="0" role="region" aria-label="Probes in the booted kernel" {
            table.list {
                caption.hidden { "Probes in the booted kernel" }
                thead { tr {
                    th scope="col" { "offset" } th scope="col" { "cost by the plan" }
                    th scope="col" { "the kernel says" }
                } }
                tbody {
                    @for SetProbe { offset, cost, kernel_says } in probes {
                        tr {
                            th scope="row" { (offset) }
                            td { (cost) }
                            td { @if kernel_says.is_empty() { "nothing" } @else { code { (kernel_says) } } }
                        }
                    }
                }
            }
        }
    }
}
