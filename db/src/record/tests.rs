use super::*;
use crate::{Cost, Event, FnOffset, HexBytes, Location, Probe, Reg, Share, samples};
use proptest::prelude::*;
use serde_json::{Value, json};

fn record() -> Record {
    Record::resolved(samples::plan())
}

/// The sample record with one member changed.
fn changed(pointer: &str, value: Value) -> Vec<u8> {
    let mut json = serde_json::to_value(record()).unwrap();
    let (parent, member) = pointer.rsplit_once('/').unwrap();
    let parent = json.pointer_mut(parent).unwrap();
    match parent {
        Value::Object(members) => drop(members.insert(member.to_owned(), value)),
        _ => panic!("{pointer} is not in an object"),
    }
    serde_json::to_vec(&json).unwrap()
}

#[test]
fn canonical_bytes() {
    let bytes = record().to_bytes();
    insta::assert_snapshot!(String::from_utf8_lossy(&bytes), @r#"{"build_id":"d1dc1d6d4a4b24407eebf424adbeefc47f1d5501","status":"resolved","reason":null,"detail":null,"plan":{"schema":1,"build_id":"d1dc1d6d4a4b24407eebf424adbeefc47f1d5501","object":"nf_tables","arch":"x86_64","symbol":"nft_do_chain","symbol_size":1569,"body_sha256":"000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f","probes":[{"event":"rule_drop","offset":1022,"bytes":"488b7500","cost":"optimized","when":[],"rule":{"reg":"r14"},"pkt":{"reg":"rbp"},"base_chain":{"reg":"rsp","deref":0}},{"event":"policy_drop","offset":1468,"bytes":"488b7500","cost":"optimized","when":[],"rule":null,"pkt":{"reg":"rbp"},"base_chain":{"reg":"rsp","deref":0}}],"layout":{"source":"btf","rule_handle":{"offset":0,"shift":13,"bits":42},"offsets":{"nft_chain.name":88,"nft_pktinfo.skb":0,"nft_pktinfo.state":8,"sk_buff.len":112}},"evidence":{"method":"executed","runs":1200,"rule_drops":488,"policy_drops":288,"edges":0.97,"analyzer":"0.1.0"}}}"#);
    assert_eq!(Record::parse_canonical(&bytes), Ok(record()));
    let pretty = serde_json::to_vec_pretty(&record()).unwrap();
    assert_eq!(Record::parse(&pretty), Ok(record()));
    assert_eq!(Record::parse_canonical(&pretty), Err(RecordError::NotCanonical));
}

#[test]
fn canonical_bytes_of_an_unresolved_build() {
    let id = "0484cf00".parse().unwrap();
    let record = Record::unresolved(id, Reason::Diverged, "world 3: \"drop\"\n");
    let bytes = record.to_bytes();
    insta::assert_snapshot!(String::from_utf8_lossy(&bytes), @r#"{"build_id":"0484cf00","status":"unresolved","reason":"diverged","detail":"world 3: \"drop\" ","plan":null}"#);
    assert_eq!(Record::parse_canonical(&bytes), Ok(record));
}

#[test]
fn another_spelling_of_the_same_is_not_canonical() {
    let mut rounded = serde_json::to_value(record()).unwrap();
    rounded["plan"]["evidence"]["edges"] = json!(0.9704);
    let mut null = serde_json::to_value(record()).unwrap();
    null["plan"]["probes"][0]["rule"]["deref"] = Value::Null;
    for json in [rounded, null] {
        let bytes = serde_json::to_vec(&json).unwrap();
        assert_eq!(Record::parse(&bytes), Ok(record()));
        assert_eq!(Record::parse_canonical(&bytes), Err(RecordError::NotCanonical));
    }
}

#[test]
fn unknown_members_are_refused() {
    for pointer in [
        "/more",
        "/plan/more",
        "/plan/layout/more",
        "/plan/layout/rule_handle/more",
        "/plan/evidence/more",
    ] {
        let refused = Record::parse(&changed(pointer, json!(1)));
        assert!(matches!(refused, Err(RecordError::Syntax(_))), "{pointer}: {refused:?}");
    }
    let mut json = serde_json::to_value(record()).unwrap();
    json["plan"]["probes"][0]["rule"]["more"] = json!(1);
    assert!(Record::parse(&serde_json::to_vec(&json).unwrap()).is_err());
}

#[test]
fn of_a_newer_record_as_much_is_told_as_it_takes_to_hand_it_on() {
    let text = String::from_utf8(record().to_bytes()).unwrap();
    let id = record().build_id;
    let future = text.replace(r#""plan":{"schema":1,"#, r#""plan":{"schema":7,"more":[{}],"#);
    assert_eq!(Newer::of(future.as_bytes()), Some(Newer { build_id: id, schema: 7 }));
    let also = future.replace(r#","plan""#, r#","more":1,"plan""#);
    assert!(Newer::of(also.as_bytes()).is_some());
    for none in [
        text,
        future.replace(r#"{"build_id""#, r#"{ "build_id""#),
        future.replace("\"resolved\"", "\"unresolved\""),
        format!("{future}\n"),
        future.replace("[{}]", &format!("\"{}\"", "a".repeat(Record::MAX_BYTES))),
        String::new(),
    ] {
        assert_eq!(Newer::of(none.as_bytes()), None, "{none}");
    }
}

#[test]
fn a_newer_schema_says_so() {
    let newer = |bytes: &[u8]| Record::parse(bytes) == Err(PlanError::NewerSchema(2).into());
    assert!(newer(&changed("/plan/schema", json!(2))));
    let with_more = br#"{"build_id":"00","plan":{"schema":2,"sites":[]},"more":1}"#;
    assert!(newer(with_more));
    assert!(matches!(
        Record::parse(&changed("/plan/schema", json!(0))),
        Err(RecordError::Plan(PlanError::Invalid { field: "schema", .. }))
    ));
}

#[test]
fn contradictions_are_refused() {
    for (pointer, value) in [
        ("/status", json!("unresolved")),
        ("/reason", json!("no_site")),
        ("/detail", json!("why a plan has one")),
        ("/plan", Value::Null),
    ] {
        let refused = Record::parse(&changed(pointer, value));
        assert_eq!(refused, Err(RecordError::Contradiction), "{pointer}");
    }
    let other = Record::parse(&changed("/build_id", json!("00112233")));
    assert!(matches!(other, Err(RecordError::OtherBuild { .. })), "{other:?}");
}

#[test]
fn details_are_one_bounded_line() {
    let id: BuildId = "0484cf00".parse().unwrap();
    let mut record = Record::unresolved(id, Reason::NoSite, "é".repeat(Record::MAX_DETAIL));
    assert_eq!(record.detail.as_ref().unwrap().len(), Record::MAX_DETAIL);
    assert!(Record::parse(&record.to_bytes()).is_ok());
    for detail in ["a\u{1b}[31m".to_owned(), "a".repeat(Record::MAX_DETAIL + 1)] {
        record.detail = Some(detail);
        assert_eq!(Record::parse(&record.to_bytes()), Err(RecordError::Detail));
    }
}

#[test]
fn refuses_plan_of_another_architecture_by_name() {
    let error = Record::parse(&changed("/plan/arch", json!("aarch64"))).unwrap_err().to_string();
    assert!(error.contains("`aarch64`") && error.contains("`x86_64`"), "{error}");
}

#[test]
fn what_no_plan_may_say_is_refused() {
    type Change = fn(&mut Plan);
    let changes: [(&str, Change); 20] = [
        ("symbol", |plan| plan.symbol = "do_exit".into()),
        ("object", |plan| plan.object = "nf_tables\n".into()),
        ("body_sha256", |plan| plan.body_sha256.0.truncate(31)),
        ("probes", |plan| plan.probes.clear()),
        ("probes", |plan| drop(plan.probes.pop())),
        ("probes", |plan| plan.probes.swap(0, 1)),
        ("probes", |plan| plan.probes = vec![plan.probes[0].clone(); 17]),
        ("bytes", |plan| plan.probes[0].bytes.0.clear()),
        ("bytes", |plan| plan.probes[0].bytes.0 = vec![0x90; 16]),
        ("offset", |plan| plan.probes[1].offset = FnOffset(plan.symbol_size)),
        ("offset", |plan| plan.probes[1].offset = FnOffset(plan.symbol_size - 3)),
        ("offset", |plan| plan.probes[1].offset = FnOffset(u32::MAX)),
        ("rule", |plan| plan.probes[0].rule = None),
        ("rule", |plan| plan.probes[1].rule = plan.probes[0].rule),
        ("when", |plan| {
            let value = Location::reg(Reg::Rdx);
            plan.probes[0].when = vec![crate::Condition { value, mask: 0xff, equals: 0x100 }];
        }),
        ("add", |plan| plan.probes[0].pkt.add = Some(0)),
        ("rule_handle", |plan| plan.layout.rule_handle.bits = 0),
        ("rule_handle", |plan| plan.layout.rule_handle.bits = 52),
        ("offsets", |plan| plan.layout.offsets.extend([("a b".into(), 0)])),
        ("analyzer", |plan| plan.evidence.analyzer = "*/".into()),
    ];
    for (wanted, change) in changes {
        let mut plan = samples::plan();
        change(&mut plan);
        match Record::parse(&Record::resolved(plan).to_bytes()) {
            Err(RecordError::Plan(PlanError::Invalid { field, .. })) => assert_eq!(field, wanted),
            other => panic!("{wanted}: {other:?}"),
        }
    }
}

#[test]
fn too_long_is_refused_before_it_is_read() {
    let found = Record::MAX_BYTES + 1;
    assert_eq!(Record::parse(&vec![b' '; found]), Err(RecordError::TooLong { found }));
}

#[test]
fn names_are_the_ones_of_the_json() {
    for reason in Reason::ALL {
        assert_eq!(serde_json::to_value(reason).unwrap(), json!(reason.name()));
        assert_eq!(reason.name().parse(), Ok(*reason));
    }
    for status in [Status::Resolved, Status::Unresolved] {
        assert_eq!(serde_json::to_value(status).unwrap(), json!(status.to_string()));
        assert_eq!(status.to_string().parse(), Ok(status));
    }
    for reg in Reg::ALL {
        assert_eq!(serde_json::to_value(reg).unwrap(), json!(reg.name()));
    }
}

fn location() -> impl Strategy<Value = Location> {
    let add = proptest::option::of((-4096..4096).prop_filter("one spelling", |add| *add != 0));
    (0..16_usize, any::<Option<i32>>(), add).prop_map(|(reg, deref, add)| Location {
        reg: Reg::ALL[reg],
        deref,
        add,
    })
}

fn condition() -> impl Strategy<Value = crate::Condition> {
    (location(), 1..=u64::MAX, any::<u64>()).prop_map(|(mut value, mask, equals)| {
        value.add = None;
        crate::Condition { value, mask, equals: equals & mask }
    })
}

fn probe(event: Event, offset: u32) -> impl Strategy<Value = Probe> {
    let bytes = proptest::collection::vec(any::<u8>(), 1..=15);
    let cost = prop_oneof![Just(Cost::Optimized), Just(Cost::Boosted), Just(Cost::Trap)];
    let when = proptest::collection::vec(condition(), 0..=4);
    let places = (location(), location(), location());
    (bytes, cost, when, places).prop_map(move |(bytes, cost, when, (rule, pkt, base_chain))| {
        let rule = (event == Event::RuleDrop).then_some(rule);
        let (offset, bytes) = (FnOffset(offset), HexBytes(bytes));
        Probe { event, offset, bytes, cost, when, rule, pkt, base_chain }
    })
}

fn plan() -> impl Strategy<Value = Plan> {
    let id = proptest::collection::vec(any::<u8>(), 4..=64);
    let probes = (1..8_usize, 1..8_usize).prop_flat_map(|(rules, policies)| {
        let rules = (0..rules).map(|n| probe(Event::RuleDrop, n as u32 * 5).boxed());
        let policies = (0..policies).map(|n| probe(Event::PolicyDrop, n as u32 * 3).boxed());
        rules.chain(policies).collect::<Vec<_>>()
    });
    let handle = (0..=64_u32, 0..64_u8).prop_flat_map(|(offset, shift)| {
        (1..=64 - shift).prop_map(move |bits| crate::BitField { offset, shift, bits })
    });
    let offsets = proptest::collection::btree_map("[a-z_]{1,9}\\.[a-z_]{1,9}", 0..4096_u32, 0..9);
    let shares = (0..=1000_usize).prop_map(|part| Share::of(part, 1000));
    (id, probes, handle, offsets, shares, any::<u32>()).prop_map(
        |(id, probes, handle, offsets, edges, runs)| {
            let mut plan = samples::plan();
            plan.build_id = BuildId::from_bytes(&id).unwrap();
            plan.probes = probes;
            plan.layout.rule_handle = handle;
            plan.layout.offsets = offsets;
            plan.evidence.edges = edges;
            plan.evidence.runs = runs;
            // None that was withdrawn.
            "9.0.0".clone_into(&mut plan.evidence.analyzer);
            plan
        },
    )
}

proptest! {
    #[test]
    fn every_plan_survives_its_bytes(plan in plan()) {
        let record = Record::resolved(plan);
        prop_assert_eq!(Record::parse_canonical(&record.to_bytes()), Ok(record));
    }

    #[test]
    fn every_plan_renders(plan in plan()) {
        prop_assert!(crate::render::bpftrace(&plan).is_ok());
        let events = crate::render::kprobe_events(&plan).unwrap();
        // The kernel takes lines below 4096 bytes.
        prop_assert!(events.lines().all(|line| line.len() < 4096));
        crate::render::text(&Record::resolved(plan));
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        let _ = Record::parse(&bytes);
    }

    /// Nearly right bytes get further into the reader.
    #[test]
    fn damaged_records_never_panic(at in 0..900_usize, byte in any::<u8>(), cut in any::<bool>()) {
        let mut bytes = record().to_bytes();
        let at = at % bytes.len();
        bytes[at] = byte;
        if cut {
            bytes.truncate(at + 1);
        }
        if let Ok(record) = Record::parse(&bytes) {
            prop_assert_eq!(Record::parse(&record.to_bytes()), Ok(record));
        }
    }
}
