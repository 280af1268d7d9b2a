//! SARIF 2.1.0 (OASIS). A rule is a kind of finding, a result's place is the path at which servers hand the
//! build out; what is accepted is there with a suppression.

use crate::{
    allow::Allowed,
    finding::{Finding, Kind, Outcome, Subject},
    verdict::Verdict,
};
use serde_json::{Value, json};
use std::collections::BTreeSet;

pub(super) fn sarif(verdict: &Verdict) -> String {
    let found = verdict.findings.iter().map(|(finding, _)| finding);
    let found = found.chain(verdict.allowed.iter().map(|(finding, _)| finding));
    let kinds: BTreeSet<Kind> = found.map(|finding| finding.kind).collect();
    let result = |finding: &Finding, text: &str, entry: Option<&Allowed>| {
        let rule = kinds.iter().position(|kind| *kind == finding.kind);
        result(finding, rule, text, entry)
    };
    let rules: Vec<Value> = kinds.iter().map(|kind| rule(*kind)).collect();
    let counted = verdict.findings.iter().map(|all| result(&all.0, &super::says(all), None));
    let accepted = verdict.allowed.iter().map(|(finding, entry)| {
        let text = format!("{}: {}", finding.subject, finding.detail);
        result(finding, &text, Some(entry))
    });
    let results: Vec<Value> = counted.chain(accepted).collect();
    let log = json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": {
                "name": "nfdrop-ci",
                "semanticVersion": env!("CARGO_PKG_VERSION"),
                "rules": rules,
            } },
            "invocations": [{
                // A gate that could not judge is one that did not succeed.
                "executionSuccessful": verdict.outcome() != Outcome::Unfinished,
                "exitCode": verdict.outcome().code(),
                "exitCodeDescription": verdict.headline(),
            }],
            "results": results,
        }],
    });
    format!("{log:#}\n")
}

fn rule(kind: Kind) -> Value {
    json!({
        "id": kind.name(),
        "shortDescription": { "text": kind.title() },
        "help": { "text": kind.next() },
        "defaultConfiguration": { "level": level(kind) },
    })
}

fn level(kind: Kind) -> &'static str {
    match kind.outcome() {
        Outcome::Unfinished => "warning",
        _ => "error",
    }
}

fn result(finding: &Finding, rule: Option<usize>, text: &str, entry: Option<&Allowed>) -> Value {
    let key = finding.subject.key();
    let uri = match &finding.subject {
        Subject::Build { id, .. } => match finding.kind {
            Kind::ContradictedPlan | Kind::NotBootable => format!("buildid/{id}/proof"),
            _ => format!("buildid/{id}/plan"),
        },
        Subject::Kernel { .. } => "v1/unresolved".to_owned(),
        Subject::Source { .. } => "v1/coverage".to_owned(),
    };
    let mut result = json!({
        "ruleId": finding.kind.name(),
        "ruleIndex": rule,
        "level": level(finding.kind),
        "message": { "text": text },
        "locations": [{
            "physicalLocation": { "artifactLocation": { "uri": uri } },
            "logicalLocations": [{ "fullyQualifiedName": key }],
        }],
        "partialFingerprints": { "nfdrop/v1": format!("{} {key}", finding.kind) },
    });
    if let Some(entry) = entry {
        let why = format!("{} ({}, until {})", entry.reason, entry.owner, entry.expires);
        result["suppressions"] =
            json!([{ "kind": "external", "status": "accepted", "justification": why }]);
    }
    result
}
