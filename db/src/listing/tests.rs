use super::*;
use arrows::JumpKind;

fn line(at: u32, text: &str) -> Line {
    Line {
        kind: LineKind::Instruction,
        part: 0,
        at,
        counts: Some([at, 0, 1, 0]),
        class: Class::Any,
        mark: None,
        code: vec![Span::new(Tone::Mnemonic, text)],
        comments: vec![Span::new(Tone::Meaning, "pkt->skb")],
        notes: vec![vec![Span::new(Tone::Chosen, "kprobe")]],
    }
}

fn listing(lines: u32) -> Listing {
    let jump = Jump { from: 0, to: 1, kind: JumpKind::Condition, untaken: true };
    Listing {
        resolved: true,
        failed: false,
        facts: vec![Fact { name: "code".into(), value: vec![Span::new(Tone::Plain, "7 bytes")] }],
        lines: (0..lines).map(|at| line(at, "je      +0x1")).collect(),
        jumps: vec![jump],
        columns: 4,
        sections: vec![Section { title: "edges".into(), entries: vec![vec![]] }],
    }
}

fn with(change: impl FnOnce(&mut Listing)) -> Vec<u8> {
    let mut listing = listing(2);
    change(&mut listing);
    listing.to_bytes()
}

#[test]
fn what_is_written_is_read() {
    let listing = listing(2);
    assert_eq!(Listing::parse(&listing.to_bytes()), Ok(listing));
}

#[test]
fn what_is_out_of_bounds_is_refused() {
    let columns = with(|listing| listing.columns = u8::MAX);
    assert!(Listing::parse(&columns).unwrap().gutter().columns <= MAX_COLUMNS);
    let many = ALL_LINES as u32 + 1;
    for (what, bytes) in [
        ("lines", listing(many).to_bytes()),
        ("notes", with(|listing| listing.lines[0].notes = vec![vec![]; MANY + 1])),
        ("comments", with(|l| l.lines[0].comments = vec![Span::new(Tone::Dim, ""); MANY + 1])),
        ("jumps", with(|listing| listing.jumps = vec![listing.jumps[0]; MAX_JUMPS + 1])),
        ("entries", with(|l| l.sections[0].entries = vec![vec![]; MAX_ENTRIES + 1])),
        ("escape", with(|listing| listing.lines[0].code[0].text = "\u{1b}[2J".into())),
        ("order", with(|listing| listing.sections[0].title = "\u{202e}".into())),
        ("member", [b"{\"more\":1,".as_slice(), &with(|_| {})[1..]].concat()),
        ("cut", with(|_| {})[..100].to_vec()),
        ("nested", "[".repeat(100_000).into_bytes()),
    ] {
        assert!(matches!(Listing::parse(&bytes), Err(ListingError::Syntax(_))), "{what}");
    }
    let long = vec![b' '; Listing::MAX_BYTES + 1];
    assert!(matches!(Listing::parse(&long), Err(ListingError::TooLong { .. })));
}

#[test]
fn jumps_may_lead_anywhere() {
    let bytes = with(|l| {
        l.jumps = [(0, 9), (9, 0), (usize::MAX, 1)]
            .map(|(from, to)| Jump { from, to, ..l.jumps[0] })
            .into();
    });
    assert_eq!(Listing::parse(&bytes).unwrap().gutter().columns, 0);
}

#[test]
fn text_is_no_markup() {
    let bytes = with(|listing| {
        let evil = || "<script>'\"&".to_owned();
        listing.lines[0].code[0].text = evil();
        listing.lines[0].comments[0].text = evil();
        listing.lines[0].notes[0][0].text = evil();
        listing.facts[0].name = evil();
        listing.sections[0].title = evil();
    });
    let listing = Listing::parse(&bytes).unwrap();
    let page = html::page("<script>", &listing);
    assert!(!page.contains("<script") && page.matches("&lt;script&gt;").count() == 7, "{page}");
    assert!(!html::fragment(&listing).contains("style="));
}

proptest::proptest! {
    #[test]
    fn any_bytes_are_a_listing_or_an_error(bytes: Vec<u8>) {
        let _ = Listing::parse(&bytes);
    }

    /// A listing with some bytes changed is refused, or shown.
    #[test]
    fn what_is_read_can_be_shown(changes in proptest::collection::vec((0..600_usize, b' '..b'~'), 1..6)) {
        let mut bytes = listing(2).to_bytes();
        for (at, byte) in changes {
            let length = bytes.len();
            bytes[at % length] = byte;
        }
        if let Ok(listing) = Listing::parse(&bytes) {
            html::fragment(&listing);
        }
    }
}
