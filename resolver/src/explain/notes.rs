//! What is said about lines, before them and behind them.

use super::clean;
use super::disasm::{Disassembly, Raw, branch, name};
use super::meaning::Meanings;
use crate::arch::{Flow, Instruction};
use crate::image::function::{Function, JumpLabel, Patched, Place};
use crate::resolve::report::{
    Beaten, Failure, Holding, Refusal, Report, Role, Seen, Site, Verdict,
};
use nfdrop_db::listing::{
    Class, Fact, Line, LineKind, Mark, Section, Span, Tone,
    arrows::{Gutter, Jump},
};
use nfdrop_db::{Condition, Event, LayoutSource, Probe, Share};
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;

/// Most entries of a section.
const MAX_ENTRIES: usize = 64;
/// Most places that are told of one value.
const MAX_HOLDERS: usize = 4;
/// Most jumps to a line that are told where they are not drawn.
const MAX_SOURCES: usize = 6;

pub(super) struct Notes<'a> {
    function: &'a Function,
    report: &'a Report,
    labels: HashMap<Place, &'a JumpLabel>,
    meanings: Meanings<'a>,
}

impl<'a> Notes<'a> {
    pub(super) fn new(function: &'a Function, report: &'a Report) -> Self {
        let labels = function.jump_labels.iter().flatten();
        Self {
            function,
            report,
            labels: labels.map(|label| (label.code, label)).collect(),
            meanings: Meanings::new(function, report.layout.as_ref()),
        }
    }

    fn probes(&self) -> &'a [Probe] {
        self.report.outcome.as_ref().map_or(&[], |findings| &findings.probes)
    }

    /// Whether any run was made.
    fn ran(&self) -> bool {
        self.report.runs != [0; 4]
    }

    pub(super) fn lines(
        &self,
        disassembly: &Disassembly<'a>,
        gutter: &Gutter,
        jumps: &[Jump],
    ) -> Vec<Line> {
        let mut undrawn: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for jump in jumps.iter().filter(|jump| !gutter.is_target(jump.to)) {
            undrawn.entry(jump.to).or_default().push(jump.from);
        }
        let mut lines = Vec::with_capacity(disassembly.lines.len());
        let mut counts = None;
        let mut told: Option<String> = None;
        let raws = &disassembly.lines;
        for (number, raw) in raws.iter().enumerate() {
            let mut line = self.line(raw);
            let seen = raw.seen.filter(|seen| seen.runs != [0; 4]);
            let before = number.checked_sub(1).and_then(|before| raws.get(before));
            if raw.kind == LineKind::Instruction && self.ran() {
                let now = seen.map(|seen| seen.runs);
                line.counts = now.filter(|_| now != counts);
                counts = now;
            } else {
                counts = None;
            }
            if let Some(sources) = undrawn.get(&number) {
                line.comments.push(from_elsewhere(self.function, raws, raw, sources));
            }
            if let Some(seen) = seen {
                let leads = leads_to_drops(self.function, raws, number);
                self.sites(seen, leads, raw.place, &mut line);
                let after_eval = before.and_then(|before| before.seen).is_some_and(evaluates);
                if after_eval && line.mark != Some(Mark::Probe) {
                    let holds = holds(seen);
                    if told.as_ref() != Some(&holds) && !holds.is_empty() {
                        let note = format!("here: {holds}");
                        line.notes.push(vec![Span::new(Tone::Meaning, note)]);
                        told = Some(holds);
                    }
                }
            }
            self.failures(raw, &mut line);
            lines.push(line);
        }
        lines
    }

    fn line(&self, raw: &Raw<'_>) -> Line {
        let seen = raw.seen;
        let class = seen.map_or(Class::Never, class);
        let mut comments = self.meanings.of(raw);
        if let Some(label) = self.labels.get(&raw.place).filter(|_| raw.instruction.is_some()) {
            let (off, on) = if label.branch { ("jmp", "nop") } else { ("nop", "jmp") };
            let text = format!("static key {}: off {off}, on {on}", clean(&label.key));
            comments.push(Span::new(Tone::Key, text));
        }
        if let Some(seen) = seen.filter(|seen| !seen.targets.is_empty()) {
            let of = |place: &Place| name(self.function, raw.place.part, *place);
            let targets: Vec<String> = seen.targets.iter().map(of).collect();
            comments.push(Span::new(Tone::Meaning, format!("to {}", targets.join(", "))));
        }
        if let Some(text) = self.untaken(raw) {
            comments.push(Span::new(Tone::Untaken, text));
        }
        Line {
            kind: raw.kind,
            part: raw.place.part,
            at: raw.place.offset,
            counts: None,
            class,
            mark: None,
            code: raw.code.clone(),
            comments,
            notes: Vec::new(),
        }
    }

    /// Which way of a branch no run has gone.
    fn untaken(&self, raw: &Raw<'_>) -> Option<&'static str> {
        if raw.instruction.is_none() || !self.ran() {
            return None;
        }
        let seen = raw.seen?;
        if !seen.branch {
            return None;
        }
        match (seen.edges, seen.counted) {
            _ if seen.runs == [0; 4] => Some("never reached"),
            ([_, 0], [_, true]) => Some("never jumps"),
            ([0, _], [true, _]) => Some("always jumps"),
            ([_, 0], _) => Some("jumps where something is broken"),
            ([0, _], _) => Some("goes on where something is broken"),
            _ => None,
        }
    }

    /// Of an instruction that was run: what it is as a place for probes.
    fn sites(&self, seen: &Seen, leads_to_drops: bool, place: Place, line: &mut Line) {
        let mut turned: Vec<(String, Vec<String>)> = Vec::new();
        for site in &seen.sites {
            let reason = match &site.verdict {
                Verdict::Chosen => {
                    line.mark = Some(Mark::Probe);
                    self.probe(place, seen, site, line);
                    continue;
                }
                Verdict::Others(_) if !leads_to_drops => continue,
                // Where one site sees all, those that see some are not worth a word each.
                Verdict::Part { .. } if self.whole(site.event) => continue,
                verdict => reason(verdict).unwrap_or_default(),
            };
            if matches!(site.verdict, Verdict::Beaten(_)) {
                line.mark = line.mark.or(Some(Mark::WouldDo));
            }
            let mut name = site.event.to_string();
            if matches!(site.verdict, Verdict::Beaten(_) | Verdict::Part { .. }) {
                if let Some(when) = site.when {
                    let _ = write!(name, " if {when}");
                }
                if let Some(cost) = site.cost {
                    let _ = write!(name, ", {cost}");
                }
            }
            match turned.iter_mut().find(|(other, _)| *other == reason) {
                Some((_, names)) => names.push(name),
                None => turned.push((reason, vec![name])),
            }
        }
        for (reason, names) in turned {
            let text = format!("{}: {reason}", names.join(", "));
            line.comments.push(Span::new(Tone::Turned, text));
        }
    }

    /// Whether one probe of the plan sees all drops of a kind.
    fn whole(&self, event: Event) -> bool {
        self.probes().iter().filter(|probe| probe.event == event).count() == 1
    }

    /// What a probe of the plan sees and finds.
    fn probe(&self, place: Place, seen: &Seen, site: &Site, line: &mut Line) {
        let here = |probe: &&Probe| probe.event == site.event && probe.offset.0 == place.offset;
        let Some(probe) = self.probes().iter().find(here) else { return };
        let which = site.event as usize;
        let all = self.report.runs[which];
        let drops = drops(site.event);
        let mut first =
            vec![Span::new(Tone::Chosen, format!("kprobe {}, {}", site.event, probe.cost))];
        let hits = seen.runs[which];
        let say = if probe.when.is_empty() {
            let share = if hits == all { "all".to_owned() } else { format!("{hits} of all") };
            format!(": {share} {all} {drops} come by, once each, and nothing else")
        } else {
            let when: Vec<String> = probe.when.iter().map(Condition::to_string).collect();
            format!(" if {}: then {drops} come by, once each, and nothing else", when.join(" and "))
        };
        first.push(Span::new(Tone::Plain, say));
        line.notes.push(first);
        let second = [
            Span::new(Tone::Chosen, "reads"),
            Span::new(Tone::Plain, format!(": {}", reads(probe))),
        ];
        line.notes.push(second.into());
        let holds = holds(seen);
        if !holds.is_empty() {
            line.notes.push(vec![Span::new(Tone::Meaning, format!("here: {holds}"))]);
        }
    }

    /// Runs that went wrong here.
    fn failures(&self, raw: &Raw<'_>, line: &mut Line) {
        let here =
            |failure: &&Failure| raw.kind == LineKind::Instruction && failure.at == Some(raw.place);
        for failure in self.report.failures.iter().filter(here) {
            line.mark = Some(Mark::Wrong);
            for words in self.failure(failure) {
                line.notes.push(words);
            }
        }
    }

    fn failure(&self, failure: &Failure) -> Vec<Vec<Span>> {
        let mut notes = vec![vec![
            Span::new(Tone::Wrong, "a run went wrong here: "),
            Span::new(Tone::Plain, clean_text(&failure.what)),
        ]];
        let mut text = format!(
            "{} of {} calls of eval were as expected",
            failure.calls, failure.expected_calls
        );
        if let Some(place) = failure.agreed {
            let _ = write!(text, ", the last of them at {}", name(self.function, 0, place));
        }
        let keys: Vec<String> = failure.keys.iter().map(|key| clean(key)).collect();
        if !keys.is_empty() {
            let _ = write!(text, "; static keys on: {}", keys.join(", "));
        }
        notes.push(vec![Span::new(Tone::Plain, text)]);
        let trail: Vec<String> =
            failure.trail.iter().map(|&place| name(self.function, 0, place)).collect();
        let text = format!("it came by {}", trail.join(" "));
        notes.push(vec![Span::new(Tone::Dim, text)]);
        notes
    }

    pub(super) fn facts(&self) -> Vec<Fact> {
        let mut facts = Vec::new();
        let mut add = |name: &str, tone: Tone, value: String| {
            facts.push(Fact { name: name.to_owned(), value: vec![Span::new(tone, value)] });
        };
        let function = self.function;
        let bytes = function.parts.first().map_or(0, |part| part.bytes.len());
        let mut size = format!("{bytes} bytes");
        if function.parts.len() > 1 {
            let more = function.parts.len() - 1;
            let _ = write!(size, " and {more} other part{}", if more == 1 { "" } else { "s" });
        }
        add("code", Tone::Plain, size);
        if let Some(layout) = &self.report.layout {
            let source = match layout.source {
                LayoutSource::Btf => "from BTF".to_owned(),
                LayoutSource::Shape => format!("a known shape: {}", layout.name),
            };
            add("layout", Tone::Plain, source);
        }
        let keys: Vec<String> = self.report.keys.iter().map(|key| clean(key)).collect();
        let keys = match (keys.is_empty(), &function.jump_labels) {
            (true, None) => "not known: a bare listing".to_owned(),
            (true, Some(_)) => "none".to_owned(),
            (false, _) => keys.join(", "),
        };
        add("static keys", Tone::Plain, keys);
        let [rule, policy, other, failed] = self.report.runs;
        if self.ran() {
            let mut runs = format!("{rule} rule drops, {policy} policy drops, {other} others");
            if failed > 0 {
                let _ = write!(runs, ", {failed} failed");
            }
            add("runs", Tone::Plain, runs);
        }
        match &self.report.outcome {
            Ok(_) => {
                for probe in self.probes() {
                    let when: Vec<String> = probe.when.iter().map(ToString::to_string).collect();
                    let when = if when.is_empty() {
                        "only drops come by".to_owned()
                    } else {
                        format!("if {}", when.join(" and "))
                    };
                    let text = format!("{} {}, {when}; {}", probe.offset, probe.cost, reads(probe));
                    add(&probe.event.to_string(), Tone::Chosen, text);
                }
            }
            Err(unresolved) => {
                add("unresolved", Tone::Wrong, clean_text(&unresolved.to_string()));
            }
        }
        facts
    }

    pub(super) fn sections(&self, lines: &[Line]) -> Vec<Section> {
        let mut sections = Vec::new();
        if !self.ran() {
            return sections;
        }
        if !self.report.failures.is_empty() {
            let mut entries = Vec::new();
            for failure in &self.report.failures {
                let at = failure.at.map(|place| name(self.function, 0, place));
                let at = at.unwrap_or_else(|| "nowhere".to_owned());
                entries.push(vec![
                    Span::new(Tone::Number, format!("{at:<8}")),
                    Span::new(Tone::Plain, format!(" {}", clean_text(&failure.what))),
                ]);
            }
            let title = format!("{} runs went wrong, the first of them", self.report.runs[3]);
            sections.push(Section { title, entries });
        }
        sections.push(self.edges(lines));
        let turned = self.turned_down();
        if !turned.entries.is_empty() {
            sections.push(turned);
        }
        sections
    }

    /// Ways that no run has gone.
    fn edges(&self, lines: &[Line]) -> Section {
        let code = |place: Place| {
            let line = lines.iter().find(|line| (line.part, line.at) == (place.part, place.offset));
            let words = line.iter().flat_map(|line| &line.code).map(|span| span.text.as_str());
            words.collect::<String>()
        };
        let (taken, all) = self.report.edges;
        let mut entries = Vec::new();
        let branches = self.report.instructions.iter().filter(|seen| seen.branch);
        let mut missing = 0;
        for seen in branches {
            let missing_ways = [0, 1].map(|way| seen.edges[way] == 0 && seen.counted[way]);
            let what = match missing_ways {
                [false, false] => continue,
                _ if seen.edges == [0; 2] => "never reached",
                [true, _] => "never goes on",
                [false, true] => "never jumps",
            };
            missing += 1;
            if missing <= MAX_ENTRIES {
                entries.push(vec![
                    Span::new(Tone::Number, format!("{:<8}", name(self.function, 0, seen.place))),
                    Span::new(Tone::Plain, format!(" {:<18}", code(seen.place))),
                    Span::new(Tone::Untaken, format!(" {what}")),
                ]);
            }
        }
        if missing > MAX_ENTRIES {
            let text = format!("and {} more branches", missing - MAX_ENTRIES);
            entries.push(vec![Span::new(Tone::Dim, text)]);
        }
        let share = Share::of(taken, all).thousandths();
        let title = format!(
            "{taken} of {all} branch edges were taken, {}.{} %{}",
            share / 10,
            share % 10,
            if missing == 0 { "" } else { "; no run took these" }
        );
        Section { title, entries }
    }

    /// How many sites were turned down, by reason.
    fn turned_down(&self) -> Section {
        let mut counts: BTreeMap<(Event, String), (usize, Vec<String>)> = BTreeMap::new();
        for seen in &self.report.instructions {
            for site in &seen.sites {
                if let Some(reason) = reason(&site.verdict) {
                    let entry = counts.entry((site.event, reason)).or_default();
                    entry.0 += 1;
                    if entry.1.len() <= MAX_HOLDERS {
                        entry.1.push(name(self.function, 0, seen.place));
                    }
                }
            }
        }
        let entries = counts
            .into_iter()
            .map(|((event, reason), (count, mut places))| {
                let more = places.len() > MAX_HOLDERS;
                places.truncate(MAX_HOLDERS);
                let dots = if more { ", ..." } else { "" };
                vec![
                    Span::new(Tone::Plain, format!("{:<12} ", event.to_string())),
                    Span::new(Tone::Number, format!("{count:>4}")),
                    Span::new(Tone::Turned, format!("  {reason}")),
                    Span::new(Tone::Dim, format!(": {}{dots}", places.join(", "))),
                ]
            })
            .collect();
        let title = "Instructions that drops come by, and why they hold no probe".to_owned();
        Section { title, entries }
    }
}

fn class(seen: &Seen) -> Class {
    match seen.runs.map(|runs| runs > 0) {
        [false, false, false, false] => Class::Never,
        [true, false, false, false] => Class::RuleDrop,
        [false, true, false, false] => Class::PolicyDrop,
        [true, true, false, false] => Class::Drops,
        _ => Class::Any,
    }
}

/// What a client reads at a probe, and where.
fn reads(probe: &Probe) -> String {
    let rule = probe.rule.map(|rule| format!("rule {rule}, ")).unwrap_or_default();
    format!("{rule}pkt {}, base chain {}", probe.pkt, probe.base_chain)
}

fn evaluates(seen: &Seen) -> bool {
    seen.callees.iter().any(|callee| callee.evaluates)
}

fn drops(event: Event) -> &'static str {
    match event {
        Event::RuleDrop => "rule drops",
        Event::PolicyDrop => "policy drops",
    }
}

/// What is where, `rule r14, pkt rbp, base chain [rsp]`.
fn holds(seen: &Seen) -> String {
    let mut by_role: BTreeMap<Role, Vec<&Holding>> = BTreeMap::new();
    for holding in &seen.holds {
        by_role.entry(holding.role).or_default().push(holding);
    }
    let words = by_role.into_iter().map(|(role, holdings)| {
        let more = if holdings.len() > MAX_HOLDERS { " ..." } else { "" };
        let holders = holdings.iter().take(MAX_HOLDERS);
        let holders: Vec<String> = holders.map(|holding| holding.place.to_string()).collect();
        format!("{} {}{more}", role.name(), holders.join(" "))
    });
    words.collect::<Vec<_>>().join(", ")
}

/// Whether a way out of the first line is for drops only, and the line is not.
fn leads_to_drops(function: &Function, lines: &[Raw<'_>], number: usize) -> bool {
    let only = |seen: &Seen| matches!(class(seen), Class::RuleDrop | Class::PolicyDrop);
    let Some(raw) = lines.get(number) else { return false };
    let flow = raw.instruction.as_ref().map(Instruction::flow);
    if raw.seen.is_none_or(|seen| seen.runs[2] == 0)
        || !matches!(flow, Some(Flow::Next | Flow::Branch))
    {
        return false;
    }
    let next = lines.get(number + 1).and_then(|next| next.seen).is_some_and(only);
    let jumped = branch(function, raw).and_then(|place| {
        // The line of a part's name has the place of its first instruction.
        let found = lines.partition_point(|line| line.place < place);
        lines[found..].iter().take(2).find(|line| line.place == place && line.seen.is_some())?.seen
    });
    next || jumped.is_some_and(only)
}

/// Jumps to a line that are not drawn.
fn from_elsewhere(function: &Function, raws: &[Raw<'_>], to: &Raw<'_>, sources: &[usize]) -> Span {
    let mut places: Vec<String> = sources
        .iter()
        .take(MAX_SOURCES)
        .filter_map(|&from| Some(name(function, to.place.part, raws.get(from)?.place)))
        .collect();
    if sources.len() > MAX_SOURCES {
        places.push(format!("and {} more", sources.len() - MAX_SOURCES));
    }
    Span::new(Tone::Dim, format!("from {}", places.join(", ")))
}

fn reason(verdict: &Verdict) -> Option<String> {
    Some(match verdict {
        Verdict::Chosen => return None,
        Verdict::Beaten(beaten) => match beaten {
            Beaten::Condition => "would do with a condition, the chosen one needs none",
            Beaten::Cost => "would do, the chosen one is optimized",
            Beaten::Reread => {
                "would do, it would read the policy again, which may change meanwhile"
            }
            Beaten::Memory => "would do, the chosen one has more in registers",
            Beaten::Visits => "would do, packets that pass come by more often",
            Beaten::Later => "would do, the chosen one is earlier",
        }
        .to_owned(),
        Verdict::Others(_) => "others come by too".to_owned(),
        Verdict::Freed => "packet freed already".to_owned(),
        Verdict::Again => "a drop comes by twice".to_owned(),
        Verdict::Refused(refusal) => match refusal {
            Refusal::Entry => "refused: the function's entry".to_owned(),
            Refusal::OtherPart => "not in the function itself".to_owned(),
            Refusal::Relocated => "relocated bytes".to_owned(),
            Refusal::Marker => "refused: endbr, ud2 or int3".to_owned(),
            Refusal::Nop => "refused: a nop the kernel may patch".to_owned(),
            Refusal::Unnamed => "the kernel refuses".to_owned(),
            Refusal::Patched(patched) => format!("kept off: {}", patch(*patched)),
        },
        Verdict::NotHeld(pointers) if pointers.is_empty() => "no probe by itself".to_owned(),
        Verdict::NotHeld(pointers) => format!("{} held nowhere", pointers.join(", ")),
        // The worlds' own mix is behind these shares: which of the small ones it is says nothing.
        Verdict::Part { seen, of } if seen * 2 < *of => "few of these drops come by".to_owned(),
        Verdict::Part { seen, of } => {
            format!("only {} % of these drops come by", u64::from(*seen) * 100 / u64::from(*of))
        }
    })
}

fn patch(patched: Patched) -> &'static str {
    match patched {
        Patched::JumpLabel => "jump label",
        Patched::StaticCall => "static call",
        Patched::Alternative => "alternative",
        Patched::SmpLock => "lock prefix",
        Patched::Ftrace => "ftrace",
        Patched::Retpoline => "retpoline",
        Patched::ReturnThunk => "return thunk",
        Patched::CallThunk => "call thunk",
        Patched::EndbrSeal => "endbr",
        Patched::Bug => "bug table",
    }
}

/// A message that may quote names: nothing unprintable, and not endless.
fn clean_text(text: &str) -> String {
    let mut clean: String = text
        .chars()
        .take(400)
        .flat_map(|c| {
            let plain = c == ' ' || c.is_ascii_graphic();
            let escaped = (!plain).then(|| c.escape_unicode());
            plain.then_some(c).into_iter().chain(escaped.into_iter().flatten())
        })
        .collect();
    if text.chars().nth(400).is_some() {
        clean.push_str("...");
    }
    clean
}
