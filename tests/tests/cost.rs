//! What learning of drops costs, in instructions per packet: `make bench-kernel`. QEMU counts them.

#![expect(clippy::unwrap_used, reason = "a measurement ends where something is missing")]
#![expect(clippy::print_stdout, reason = "what is measured is said")]

use nfdrop_ci::prove::{
    initramfs::{self, Entry, FilesByPath},
    kernel::Kernel,
};
use nfdrop_db::Series;
use nfdrop_db::{Plan, Record, render};
use nfdrop_tests::vm::{
    client, cost,
    frames::{self, Ip, Link},
    machine::{self, Sections},
    mirror::{Mirror, function, nf_tables, plan as plan_of},
    scenario::{self, Flow},
};
use std::sync::LazyLock;

const SUITE: &str = "bookworm";
const FLAVOUR: &str = "cloud-amd64";
const PROGRAMS: [&str; 5] = ["bpftrace", "busybox-static", "libcrypt1", "nftables", "perl-base"];
const MODULES: [&str; 5] = ["nf_tables", "nft_counter", "veth", "crc32c_generic", "crc32c_intel"];
const CPU: &str = "EPYC";
/// Of the issue: from start to attached, in nanoseconds, and the most memory, in KiB.
const MAX_START: u64 = 150_000_000;
const MAX_MEMORY: u64 = 12 << 10;

fn why_not() -> Option<String> {
    let missing = std::env::var_os("NFDROP_OFFLINE").is_some() || !machine::is_there();
    missing.then(|| format!("NFDROP_OFFLINE is set, or there is no {}: not run", machine::QEMU))
}

/// What every guest has. `scenario` is sourced by its init.
fn guest(mirror: &Mirror, kernel: &Kernel, plan: &Plan, scenario: &[u8]) -> FilesByPath {
    let mut files = mirror.programs(SUITE, &PROGRAMS).unwrap();
    for (number, (name, module)) in kernel.modules(&MODULES).unwrap().into_iter().enumerate() {
        files.insert(format!("modules/{number:02}-{name}.ko"), Entry::File(module, false));
    }
    if let Some((path, module)) = nf_tables(kernel) {
        put(&mut files, &path, module);
    }
    put(&mut files, "init", include_bytes!("../guest/init"));
    put(&mut files, "scenario", scenario);
    put(&mut files, "rules", include_bytes!("../guest/cost.nft"));
    put(&mut files, "settings", b"");
    put(&mut files, "usr/bin/nfdrop-client", client());
    let record = Record::resolved(plan.clone()).to_bytes();
    put(&mut files, &format!("cache/{}.json", plan.build_id), &record);
    files
}

fn client() -> &'static [u8] {
    static CLIENT: LazyLock<Vec<u8>> = LazyLock::new(|| client::read().unwrap());
    &CLIENT
}

fn put(files: &mut FilesByPath, path: &str, bytes: &[u8]) {
    let program = matches!(path, "init" | "usr/bin/nfdrop-client");
    files.insert(path.to_owned(), Entry::File(bytes.to_vec(), program));
}

/// Runs the guest; an instruction is a nanosecond there.
fn run(kernel: &Kernel, files: &FilesByPath, name: &str) -> Sections {
    let said = machine::run_at(&kernel.vmlinuz, &initramfs::archive(files), CPU, 0).unwrap();
    if let Some(directory) = std::env::var_os("NFDROP_KEEP") {
        let path = std::path::Path::new(&directory).join(format!("{name}-{}", kernel.release));
        std::fs::write(path, said.to_string()).unwrap();
    }
    said
}

fn measure(series: Series) {
    if let Some(why) = why_not() {
        return println!("{why}");
    }
    let mirror = Mirror::open().unwrap();
    let Some(set) = mirror.newest_of(series, FLAVOUR) else {
        return println!("the mirror has no {FLAVOUR} kernel of {series}: not run");
    };
    let kernel = mirror.kernel(set).unwrap();
    let plan = plan_of(&kernel).unwrap();
    let script = render::bpftrace(&plan).unwrap();
    let body = function(&kernel).unwrap().parts.remove(0).bytes;
    let blog = cost::blog(&plan, &body, &script);
    let mut files = guest(&mirror, &kernel, &plan, include_bytes!("../guest/cost"));
    put(&mut files, "cost.pl", include_bytes!("../guest/cost.pl"));
    put(&mut files, "nfdrop.bt", script.as_bytes());
    put(&mut files, "blog.bt", blog.unwrap_or_default().as_bytes());
    for (name, script) in ["rules", "lines"].into_iter().zip(cost::traced(&plan, series).unwrap()) {
        put(&mut files, &format!("kprobe-{name}.bt"), script.as_bytes());
    }
    let to = Link { to: 0x0a, vlan: None };
    let ip = Ip::V4([10, 0, 0, 2].into(), [10, 0, 0, 1].into());
    for (name, frame) in
        [("accepted", frames::pong(to, ip)), ("dropped", frames::udp(to, ip, 1002))]
    {
        let flow = Flow { from: "b0", frames: vec![frame], fates: vec![] };
        put(&mut files, &format!("frames/{name}"), &scenario::files(&[flow])["b0"]);
    }
    let said = run(&kernel, &files, "cost");
    let rows = cost::rows(&said).unwrap();
    println!("{}\n{}", said.get("about").unwrap(), cost::table(&rows));
    for row in &rows {
        println!("{row:?}");
    }
}

/// From start to attached, and the memory that took, on every series.
#[test]
#[ignore = "`make bench-kernel`"]
fn starts() {
    if let Some(why) = why_not() {
        return println!("{why}");
    }
    let mirror = Mirror::open().unwrap();
    println!("client: {} bytes", client().len());
    let mut exceeded = vec![];
    for set in mirror.newest(FLAVOUR).into_iter().rev() {
        let kernel = mirror.kernel(set).unwrap();
        let plan = plan_of(&kernel).unwrap();
        let mut files = guest(&mirror, &kernel, &plan, include_bytes!("../guest/start"));
        put(&mut files, "start.pl", include_bytes!("../guest/start.pl"));
        let said = run(&kernel, &files, "start");
        for line in said.get("start").unwrap().lines() {
            let (time, memory) = line.split_once(' ').unwrap();
            let (time, memory): (u64, u64) = (time.parse().unwrap(), memory.parse().unwrap());
            let line = format!(
                "{}: attached after {} us, {memory} KiB resident",
                kernel.release,
                time / 1000
            );
            println!("{line}");
            if time > MAX_START || memory > MAX_MEMORY {
                exceeded.push(line);
            }
        }
    }
    assert!(exceeded.is_empty(), "more than wanted:\n{}", exceeded.join("\n"));
}

/// The memory that 100,000 rules take.
#[test]
#[ignore = "`make bench-kernel`"]
fn many_rules() {
    if let Some(why) = why_not() {
        return println!("{why}");
    }
    let mirror = Mirror::open().unwrap();
    let Some(set) = mirror.newest_of(Series(6, 12), FLAVOUR) else {
        return println!("the mirror has no {FLAVOUR} kernel of 6.12: not run");
    };
    let kernel = mirror.kernel(set).unwrap();
    let mut files =
        guest(&mirror, &kernel, &plan_of(&kernel).unwrap(), include_bytes!("../guest/many"));
    put(&mut files, "many.pl", include_bytes!("../guest/many.pl"));
    let said = run(&kernel, &files, "many");
    println!("listing: {}", said.get("listing").unwrap());
    println!("client with 100,000 rules, KiB at most and then:\n{}", said.get("memory").unwrap());
}

#[test]
#[ignore = "`make bench-kernel`"]
fn on_debian_5_10() {
    measure(Series(5, 10));
}

#[test]
#[ignore = "`make bench-kernel`"]
fn on_debian_6_1() {
    measure(Series(6, 1));
}

#[test]
#[ignore = "`make bench-kernel`"]
fn on_debian_6_12() {
    measure(Series(6, 12));
}
