//! The listing of real functions as snapshots, and of functions that nobody should have to read.

use super::{Syntax, clean};
use crate::image::function::{
    Function, JumpLabel, MAX_PART, ObjectKind, Part, PartKind, Place, Relocation, RelocationKind,
    SYMBOL,
};
use crate::resolve::report::{Report, observe};
use nfdrop_db::listing::{
    Class, Line, LineKind, Listing, MAX_LINES, Mark, html,
    text::{self, Style},
};
use nfdrop_db::{Event, Share};
use std::path::Path;

fn extract(name: &str) -> Function {
    let path = format!("../tests/corpus/{name}.json");
    let file = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap();
    crate::image::load(&file, None).unwrap()
}

const PLAIN: Style = Style { colors: false, unicode: true, width: 120 };

fn listing(function: &Function) -> (Report, Listing) {
    let report = observe(function);
    let listing = super::listing(function, &report, Syntax::Intel, 10);
    (report, listing)
}

/// The same with 1 for all numbers of runs, which change with every new ruleset.
fn uncounted(report: &Report) -> Report {
    let mut report = report.clone();
    report.runs = report.runs.map(|runs| runs.min(1));
    for seen in &mut report.instructions {
        seen.runs = seen.runs.map(|runs| runs.min(1));
    }
    report
}

/// A function of these bytes, without any table.
fn function(bytes: Vec<u8>) -> Function {
    let (name, kind) = (SYMBOL.to_owned(), PartKind::Code);
    Function {
        release: None,
        build_id: None,
        object: ObjectKind::Module,
        parts: vec![Part { name, kind, bytes, relocations: Vec::new() }],
        jump_labels: Some(Vec::new()),
        keep_off: Vec::new(),
        bugs: Vec::new(),
        has_exception_entries: false,
        preemption: None,
        fields: crate::image::function::Fields::new(),
    }
}

#[test]
fn listings_of_real_functions() {
    for name in ["arch-6.2.10-arch1-1", "debian-6.12.117+deb13-cloud-amd64"] {
        let function = extract(name);
        let (report, listing) = listing(&function);
        let mut shown = super::listing(&function, &uncounted(&report), Syntax::Intel, 10);
        shown.facts.insert(0, super::build_id(&function));
        let title = super::title(&function);
        insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
            insta::assert_snapshot!(name, text::render(&title, &shown, PLAIN));
        });
        // What is told is what was resolved: the same runs, the same edges, the same probes.
        let findings = report.outcome.as_ref().unwrap();
        let evidence = &findings.evidence;
        let drops = [evidence.rule_drops, evidence.policy_drops];
        assert_eq!(report.runs.iter().sum::<u32>(), evidence.runs, "{name}");
        assert_eq!((report.runs[..2].to_vec(), report.runs[3]), (drops.to_vec(), 0), "{name}");
        assert_eq!(Share::of(report.edges.0, report.edges.1), evidence.edges, "{name}");
        let marked = |line: &&Line| line.mark == Some(Mark::Probe);
        let marked: Vec<u32> = listing.lines.iter().filter(marked).map(|line| line.at).collect();
        let mut offsets: Vec<u32> = findings.probes.iter().map(|probe| probe.offset.0).collect();
        offsets.sort_unstable();
        assert_eq!(marked, offsets, "{name}");
        for probe in findings.probes.iter().filter(|probe| probe.when.is_empty()) {
            let line = listing.lines.iter().find(|line| line.at == probe.offset.0).unwrap();
            let class = match probe.event {
                Event::RuleDrop => Class::RuleDrop,
                Event::PolicyDrop => Class::PolicyDrop,
            };
            assert_eq!(line.class, class, "{name}");
        }
    }
}

#[test]
fn all_code_is_shown_once() {
    let function = extract("debian-5.10.0-46-cloud-amd64");
    let (_, listing) = listing(&function);
    let code = |line: &&Line| line.kind == LineKind::Instruction && line.part == 0;
    let lines: Vec<&Line> = listing.lines.iter().filter(code).collect();
    assert!(lines.windows(2).all(|pair| pair[0].at < pair[1].at));
    let empty = |line: &&&Line| line.code.iter().all(|span| span.text.trim().is_empty());
    assert_eq!(lines.iter().filter(empty).count(), 0);
    // AT&T has the same lines with other words.
    let report = observe(&function);
    let att = text::render("", &super::listing(&function, &report, Syntax::Att, 10), PLAIN);
    assert!(att.contains("(%rsp)") && !att.contains("[rdi"), "{att}");
}

#[test]
fn where_runs_went_wrong_is_marked() {
    let mut function = extract("debian-6.12.117+deb13-cloud-amd64");
    // mov rdx, [rdi+8] at +0x22 reads pkt->state: from far away instead.
    assert_eq!(function.parts[0].bytes[0x22..0x26], [0x48, 0x8b, 0x57, 0x08]);
    function.parts[0].bytes[0x25] = 0x80;
    let (report, listing) = listing(&function);
    assert!(!listing.resolved && listing.failed && report.outcome.is_err());
    let wrong: Vec<&Line> =
        listing.lines.iter().filter(|line| line.mark == Some(Mark::Wrong)).collect();
    let [line] = wrong[..] else { panic!("{} lines are marked", wrong.len()) };
    let said: String = line.notes.iter().flatten().map(|span| span.text.as_str()).collect();
    assert!(said.contains("where nothing is"), "{said}");
    assert!((0x22..0x40).contains(&line.at), "{:#x}", line.at);
    assert!(text::render("", &listing, PLAIN).contains("unresolved"));
}

#[test]
fn code_that_cannot_be_run_is_shown_all_the_same() {
    let mut function = extract("debian-6.12.117+deb13-cloud-amd64");
    // An instruction that nothing leads over, and bytes that are none.
    function.parts[0].bytes[0x9..0xd].copy_from_slice(&[0x06, 0x06, 0x06, 0x06]);
    let (report, listing) = listing(&function);
    assert!(report.instructions.is_empty() && report.runs == [0; 4]);
    let text = text::render("", &listing, PLAIN);
    assert!(text.contains(".byte   0x06") && text.contains("__x86_indirect_thunk_rax"), "{text}");
    assert!(text.contains("malformed_image"), "{text}");
}

#[test]
fn names_are_neither_markup_nor_escape_sequences() {
    let mut function = function(vec![0xe8, 0, 0, 0, 0, 0x66, 0x90, 0xc3]);
    let evil = "<script>\u{1b}[2Jalert('x')</script>\u{202e}\r\n".to_owned() + &"&\"".repeat(500);
    function.release = Some(evil.clone());
    function.parts[0].relocations.push(Relocation {
        offset: 1,
        kind: RelocationKind::Pc32,
        symbol: evil.clone(),
        addend: -4,
    });
    let data = Part {
        name: evil.clone() + "data",
        kind: PartKind::Code,
        bytes: vec![0xc3],
        relocations: Vec::new(),
    };
    function.parts.push(data);
    let place = |part, offset| Place { part, offset };
    let label = JumpLabel { code: place(0, 5), target: place(0, 7), key: evil, branch: false };
    function.jump_labels = Some(vec![label]);
    let (_, listing) = listing(&function);
    let title = super::title(&function);
    let text = text::render(&title, &listing, Style { colors: false, ..PLAIN });
    let shown = |c: char| c == '\n' || !c.is_control() && c != '\u{202e}';
    assert!(text.chars().all(shown), "{text}");
    assert!(text.contains("<script>\\u{1b}[2J"), "{text}");
    let page = html::page(&title, &listing);
    assert!(page.contains("&lt;script&gt;\\u{1b}[2J") && !page.contains("<script"), "{page}");
    assert!(page.chars().all(shown));
    assert!(text.len() < 16 << 10, "names are cut: {}", text.len());
}

#[test]
fn a_body_has_one_listing_whatever_build_it_is_of() {
    let function = extract("arch-6.2.10-arch1-1");
    let (_, first) = listing(&function);
    let build_id = nfdrop_db::BuildId::from_bytes(&[7; 20]).ok();
    let (_, other) = listing(&Function { build_id, release: Some("6.2.99-x".into()), ..function });
    assert_eq!(first.to_bytes(), other.to_bytes());
    assert_eq!(Listing::parse(&first.to_bytes()), Ok(first));
}

#[test]
fn cleaned_names_are_short_and_printable() {
    assert_eq!(clean("nft_do_chain.isra.0"), "nft_do_chain.isra.0");
    assert_eq!(clean("a\x07\u{e9}"), "a\\u{7}\\u{e9}");
    assert_eq!(clean(&"x".repeat(1000)).len(), 67);
}

#[test]
fn the_largest_functions_stay_readable() {
    // All conditional jumps, near and far; then nothing but one-byte instructions.
    let jumps: Vec<u8> = (0..MAX_PART as usize / 6)
        .flat_map(|n| {
            let to = ((n * 7919) % (MAX_PART as usize / 6)) as i32 - n as i32 - 1;
            [[0x0f, 0x84].as_slice(), &(to * 6).to_le_bytes()].concat()
        })
        .collect();
    for bytes in [jumps, vec![0x50; MAX_PART as usize], vec![0xff; MAX_PART as usize]] {
        let mut function = function(bytes);
        for number in 1..64 {
            let part = Part { name: format!("part {number}"), ..function.parts[0].clone() };
            function.parts.push(part);
        }
        let (_, listing) = listing(&function);
        assert!(!listing.resolved);
        assert!(listing.lines.len() <= MAX_LINES + 80, "{}", listing.lines.len());
        assert!(listing.lines.iter().any(|line| line.kind == LineKind::Gap));
        let text = text::render("", &listing, PLAIN);
        assert!(text.len() < 4 << 20, "{}", text.len());
        assert!(html::page("", &listing).len() < 40 << 20);
        assert_eq!(Listing::parse(&listing.to_bytes()).as_ref(), Ok(&listing));
    }
}

#[test]
fn ascii_is_ascii() {
    let function = extract("debian-6.1.0-56-cloud-amd64");
    let (_, listing) = listing(&function);
    let text = text::render("", &listing, Style { unicode: false, ..PLAIN });
    assert!(text.is_ascii());
    let colored = text::render("", &listing, Style { unicode: false, colors: true, width: 120 });
    let mut rest = colored.as_str();
    let mut stripped = String::new();
    while let Some((before, after)) = rest.split_once("\x1b[") {
        stripped.push_str(before);
        rest = after.split_once('m').unwrap().1;
    }
    let lines = |text: &str| text.lines().map(|l| l.trim_end().to_owned()).collect::<Vec<_>>();
    assert_eq!(lines(&(stripped + rest)), lines(&text), "colors are all there is more");
}

#[test]
fn pages_hold_all_they_need() {
    let function = extract("debian-7.3.4+deb13-cloud-amd64");
    let report = observe(&function);
    let page = html::page(
        &super::title(&function),
        &super::listing(&function, &report, Syntax::Intel, html::COLUMNS),
    );
    for outside in ["http:", "https:", "//", "url(", "@import", "<script", "src="] {
        assert!(!page.contains(outside), "{outside}");
    }
    // Every link leads to a line.
    for link in page.split("href=\"#").skip(1) {
        let id = link.split('"').next().unwrap();
        assert!(page.contains(&format!("id=\"{id}\"")), "{id}");
    }
    assert!(page.matches("<div").count() == page.matches("</div>").count());
    assert!(page.matches("<svg").count() == page.matches("</svg>").count());
    assert!(page.matches("<span").count() == page.matches("</span>").count());
}
