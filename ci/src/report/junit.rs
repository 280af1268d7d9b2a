//! JUnit's XML in the form that Jenkins' schema (junit-10.xsd) describes. A test case is a suite, a kernel or
//! a build: what is worse or unresolved has failed, what could not be read is an error, what is accepted is
//! skipped.

use crate::{
    allow::Allowed,
    finding::{Finding, Outcome, Subject},
    verdict::Verdict,
};
use quick_xml::{
    Writer,
    events::{BytesDecl, BytesText, Event},
};
use std::io;

pub(super) fn junit(verdict: &Verdict) -> String {
    let mut writer = Writer::new_with_indent(Vec::new(), b' ', 2);
    // Writing to memory does not fail.
    let _ = write(&mut writer, verdict);
    let mut text = String::from_utf8_lossy(&writer.into_inner()).into_owned();
    text.push('\n');
    text
}

fn write(writer: &mut Writer<Vec<u8>>, verdict: &Verdict) -> io::Result<()> {
    let passed = passed(verdict);
    let is_error = |(finding, _): &&(Finding, _)| finding.kind.outcome() == Outcome::Unfinished;
    let errors = verdict.findings.iter().filter(is_error).count();
    let failures = verdict.findings.len() - errors;
    let tests = verdict.findings.len() + verdict.allowed.len() + passed.len();
    let [tests, failures, errors] = [tests, failures, errors].map(|number| number.to_string());
    let skipped = verdict.allowed.len().to_string();
    let totals = [
        ("name", "nfdrop gate"),
        ("tests", tests.as_str()),
        ("failures", failures.as_str()),
        ("errors", errors.as_str()),
    ];
    writer.write_event(Event::Decl(BytesDecl::new("1.0", Some("UTF-8"), None)))?;
    let suites = writer.create_element("testsuites").with_attributes(totals);
    suites.write_inner_content(|writer| {
        let suite = writer.create_element("testsuite").with_attributes(totals);
        let suite = suite.with_attribute(("skipped", skipped.as_str()));
        suite.write_inner_content(|writer| {
            for (class, name) in &passed {
                case(writer, class, name).write_empty()?;
            }
            for (finding, entry) in &verdict.allowed {
                skip(writer, finding, entry)?;
            }
            for all in &verdict.findings {
                fail(writer, all)?;
            }
            Ok(())
        })?;
        Ok(())
    })?;
    Ok(())
}

fn case<'a>(
    writer: &'a mut Writer<Vec<u8>>,
    class: &str,
    name: &str,
) -> quick_xml::writer::ElementWriter<'a, Vec<u8>> {
    let class = format!("nfdrop.{class}");
    let attributes = [("classname", class.as_str()), ("name", name)];
    writer.create_element("testcase").with_attributes(attributes)
}

/// What is as it should be; at least the database itself, so that no run is without a test.
fn passed(verdict: &Verdict) -> Vec<(&'static str, String)> {
    let all = &verdict.comparison;
    let mut passed = vec![("database", verdict.numbers())];
    let of = |class: &'static str, subjects: &[Subject]| {
        subjects.iter().map(|subject| (class, subject.to_string())).collect::<Vec<_>>()
    };
    passed.extend(of("source", &all.sound_sources));
    passed.extend(of("new_resolved", &all.new_resolved));
    passed.extend(of("now_resolved", &all.now_resolved));
    passed
}

fn fail(
    writer: &mut Writer<Vec<u8>>,
    all @ (finding, _): &(Finding, Option<Allowed>),
) -> io::Result<()> {
    let kind = finding.kind;
    let element = if kind.outcome() == Outcome::Unfinished { "error" } else { "failure" };
    let text = format!("{}\nnext: {}", super::says(all), kind.next());
    case(writer, kind.name(), &finding.subject.to_string()).write_inner_content(|writer| {
        let what = [("type", kind.name()), ("message", kind.title())];
        let element = writer.create_element(element).with_attributes(what);
        element.write_text_content(BytesText::new(&text))?;
        Ok(())
    })?;
    Ok(())
}

fn skip(writer: &mut Writer<Vec<u8>>, finding: &Finding, entry: &Allowed) -> io::Result<()> {
    let kind = finding.kind;
    let why = format!("{} ({}, until {})", entry.reason, entry.owner, entry.expires);
    case(writer, kind.name(), &finding.subject.to_string()).write_inner_content(|writer| {
        let what = [("type", kind.name()), ("message", why.as_str())];
        writer.create_element("skipped").with_attributes(what).write_empty()?;
        Ok(())
    })?;
    Ok(())
}
