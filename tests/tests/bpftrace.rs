//! The exported bpftrace script on real kernels, in QEMU: it prints a line per drop, with the handle
//! of the rule whose counter has counted it.

#![expect(clippy::unwrap_used, reason = "a test ends where something is missing")]
#![expect(clippy::print_stdout, reason = "what was run, and what not, is said")]

use nfdrop_ci::prove::initramfs::{self, Entry};
use nfdrop_db::Series;
use nfdrop_db::render;
use nfdrop_tests::vm::{
    machine,
    mirror::{Mirror, plan as plan_of},
};
use serde_json::Value;
use std::collections::BTreeMap;

const SUITE: &str = "bookworm";
const FLAVOUR: &str = "cloud-amd64";
const PROGRAMS: [&str; 5] = ["bpftrace", "busybox-static", "libcrypt1", "nftables", "perl-base"];
const MODULES: [&str; 2] = ["nf_tables", "nft_counter"];
const CPU: &str = "EPYC";
/// Port, packets to it, and the comment of the rule they meet; `None`: they are accepted.
const SENT: [(u16, usize, Option<&str>); 8] = [
    (1001, 3, Some("base")),
    (1002, 4, Some("sub")),
    (1003, 5, Some("goto")),
    (1004, 2, Some("policy")),
    (1012, 2, Some("after return")),
    (1022, 1, Some("sub, last")),
    (1050, 6, None),
    (2000, 7, Some("policy")),
];

/// Lines and how often each was printed.
type Lines = BTreeMap<String, usize>;

/// What the script has to print, by what the rules have counted, which has to be what was sent.
fn expected(ruleset: &str) -> Lines {
    let json: Value = serde_json::from_str(ruleset).unwrap();
    let (mut lines, mut seen) = (Lines::new(), BTreeMap::<String, usize>::new());
    for rule in json["nftables"].as_array().unwrap().iter().filter_map(|item| item.get("rule")) {
        let parts = rule["expr"].as_array().unwrap();
        let Some(counter) = parts.iter().find_map(|part| part.get("counter")) else { continue };
        let packets = counter["packets"].as_u64().unwrap() as usize;
        let comment = rule["comment"].as_str().unwrap();
        *seen.entry(comment.to_owned()).or_default() += packets;
        let by = match comment {
            "policy" => "the policy of chain in4".to_owned(),
            _ => format!("rule with handle {}", rule["handle"]),
        };
        *lines.entry(format!("Packet with len 60 dropped by {by}")).or_default() += packets;
    }
    let mut sent = BTreeMap::new();
    for (_, packets, comment) in SENT {
        let Some(comment) = comment else { continue };
        *sent.entry(comment.to_owned()).or_default() += packets;
    }
    assert_eq!(seen, sent, "what the rules have counted is what was sent");
    lines
}

fn script_prints_what_rules_count(series: Series) {
    if std::env::var_os("NFDROP_OFFLINE").is_some() {
        return println!("NFDROP_OFFLINE is set: not run");
    }
    if !machine::is_there() {
        return println!("there is no {}: not run", machine::QEMU);
    }
    let mirror = Mirror::open().unwrap();
    let Some(set) = mirror.newest_of(series, FLAVOUR) else {
        return println!("the mirror has no {FLAVOUR} kernel of {series}: not run");
    };
    let kernel = mirror.kernel(set).unwrap();
    let script = render::bpftrace(&plan_of(&kernel).unwrap()).unwrap();
    let mut files = mirror.programs(SUITE, &PROGRAMS).unwrap();
    for (number, (name, module)) in kernel.modules(&MODULES).unwrap().into_iter().enumerate() {
        files.insert(format!("modules/{number:02}-{name}.ko"), Entry::File(module, false));
    }
    let ports = SENT.map(|(port, packets, _)| format!("{port} ").repeat(packets)).concat();
    let drops: usize = SENT.iter().filter(|sent| sent.2.is_some()).map(|sent| sent.1).sum();
    let mut put = |path: &str, bytes: &[u8]| {
        files.insert(path.to_owned(), Entry::File(bytes.to_vec(), path == "init"));
    };
    put("init", include_bytes!("../guest/init"));
    put("scenario", include_bytes!("../guest/bpftrace"));
    put("rules", include_bytes!("../guest/bpftrace.nft"));
    put("settings", format!("DROPS={drops}\n").as_bytes());
    put("ports", ports.as_bytes());
    put("nfdrop.bt", script.as_bytes());
    let said = machine::run(&kernel.vmlinuz, &initramfs::archive(&files), CPU).unwrap();

    let text = |title| said.get(title).unwrap();
    let context = format!("{}\n{said}", kernel.release);
    assert!(said.get("code 0").is_ok(), "the script failed on {context}");
    assert_eq!(text("left"), "", "probes are left behind on {context}");
    let mut lines = Lines::new();
    // The others were printed before it was known that all probes are set.
    for line in text("said").lines().filter(|line| line.starts_with("Packet with len 60")) {
        *lines.entry(line.to_owned()).or_default() += 1;
    }
    assert_eq!(lines, expected(text("rules")), "{context}");
    let version = text("about").lines().last().unwrap_or_default();
    println!("{}, {version}: {drops} drops, each printed once", kernel.release);
}

#[test]
#[ignore = "`make test-kernels`: bpftrace takes its time in a guest"]
fn the_script_prints_what_rules_count_on_debian_5_10() {
    script_prints_what_rules_count(Series(5, 10));
}

#[test]
#[ignore = "`make test-kernels`: bpftrace takes its time in a guest"]
fn the_script_prints_what_rules_count_on_debian_6_1() {
    script_prints_what_rules_count(Series(6, 1));
}

#[test]
#[ignore = "`make test-kernels`: bpftrace takes its time in a guest"]
fn the_script_prints_what_rules_count_on_debian_6_12() {
    script_prints_what_rules_count(Series(6, 12));
}
