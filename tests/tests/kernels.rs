//! Plans and the client on real kernels: Debian's, booted in QEMU, whose rules count what the probes
//! have to see. Two observers watch in one boot: the kernel's own trace, which needs the plan only, and
//! the client as it is handed out.
//!
//! `make test` takes five kernels, one of them with a plan that has conditions; `make test-kernels` one of every
//! body whose plan has a condition, one of every shape of plan, and the newest of every series and flavour. Set
//! `NFDROP_OFFLINE` to leave them out; without QEMU they are left out as well. Both are said.
//! `NFDROP_CLIENT` names a client that is built already, `NFDROP_KEEP` a directory for what guests say,
//! `NFDROP_RELEASES` parts of releases (`6.17,5.10.0-46-rt`) that `make test-kernels` takes only.

#![expect(clippy::unwrap_used, reason = "a test ends where something is missing")]
#![expect(clippy::print_stdout, reason = "what was run, and what not, is said")]

use nfdrop_ci::prove::{
    initramfs::{self, Entry, FilesByPath},
    kernel::Kernel,
};
use nfdrop_db::Series;
use nfdrop_db::{Cost, Plan, Record, plan::fields, render};
use nfdrop_indexer::source::kernel::KernelSet;
use nfdrop_tests::bodies::{self, Body};
use nfdrop_tests::vm::{
    client,
    drops::{self, Known},
    endings,
    machine::{self, Sections},
    mirror::{Mirror, function, is_gone, nf_tables, plan as plan_of},
    reload,
    scenario::{self, Flow},
    sites::{self, Difference},
    told, verdict,
};
use std::{
    cmp::Reverse,
    collections::BTreeSet,
    panic,
    path::Path,
    sync::{LazyLock, Mutex, PoisonError},
    time::Instant,
};

/// What cloud machines run, and the smallest packages.
const CLOUD: &str = "cloud-amd64";
const SUITE: &str = "bookworm";
const PROGRAMS: [&str; 5] = ["busybox-static", "iptables", "libcrypt1", "nftables", "perl-base"];
const MODULES: [&str; 16] = [
    // Before libcrc32c, which finds no checksum without one of them where none is built in.
    "crc32c_generic",
    "crc32c_intel",
    "crc32_cryptoapi",
    "nf_tables",
    "nf_tables_set",
    "nft_counter",
    "nft_reject_inet",
    "nft_reject_ipv4",
    "nft_reject_ipv6",
    "nft_meta_bridge",
    "nft_objref",
    "nft_ct",
    "nft_compat",
    "veth",
    "bridge",
    "8021q",
];
/// A processor that has return thunks where kernels know of them: what kprobes cost is then what
/// plans say of all processors.
const CPU: &str = "EPYC";

static MIRROR: LazyLock<Mirror> = LazyLock::new(|| Mirror::open().unwrap());
static TABLE: LazyLock<Vec<Body>> = LazyLock::new(|| bodies::table().unwrap());
/// One guest at a time: each wants a processor for itself.
static TURN: Mutex<()> = Mutex::new(());

fn why_not() -> Option<&'static str> {
    if std::env::var_os("NFDROP_OFFLINE").is_some() {
        Some("NFDROP_OFFLINE is set: not run")
    } else if !machine::is_there() {
        Some("there is no qemu-system-x86_64: not run")
    } else {
        None
    }
}

/// The newest kernel of a series.
fn with_newest(series: Series, test: fn(&KernelSet)) {
    match why_not() {
        Some(why) => println!("{why}"),
        None => match MIRROR.newest_of(series, CLOUD).and_then(there) {
            Some(set) => test(set),
            None => println!("the mirror has no {CLOUD} kernel of {series}: not run"),
        },
    }
}

fn client() -> &'static [u8] {
    static CLIENT: LazyLock<Vec<u8>> = LazyLock::new(|| client::read().unwrap());
    &CLIENT
}

fn put(files: &mut FilesByPath, path: &str, bytes: &[u8]) {
    let program = matches!(path, "init" | "usr/bin/nfdrop-client");
    files.insert(path.to_owned(), Entry::File(bytes.to_vec(), program));
}

/// What every guest has. `scenario` is sourced by its init.
fn guest(kernel: &Kernel, scenario: &[u8]) -> FilesByPath {
    static FILES: LazyLock<FilesByPath> =
        LazyLock::new(|| MIRROR.programs(SUITE, &PROGRAMS).unwrap());
    let mut files = FILES.clone();
    put(&mut files, "init", include_bytes!("../guest/init"));
    put(&mut files, "scenario", scenario);
    for (number, (name, module)) in kernel.modules(&MODULES).unwrap().iter().enumerate() {
        put(&mut files, &format!("modules/{number:02}-{name}.ko"), module);
    }
    if let Some((path, module)) = nf_tables(kernel) {
        put(&mut files, &path, module);
    }
    files
}

/// An instruction takes `1 << SHIFT` nanoseconds of a guest's time.
const SHIFT: u8 = 2;
/// A slow machine's, whose minutes are short for the one that emulates it.
const SLOW_SHIFT: u8 = 5;

/// Runs the guest, in its turn.
fn run(kernel: &Kernel, files: &FilesByPath, shift: u8) -> Sections {
    let initramfs = initramfs::archive(files);
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let begun = Instant::now();
    let said = machine::run_at(&kernel.vmlinuz, &initramfs, CPU, shift).unwrap();
    println!("{}: ran {:.1?}", kernel.release, begun.elapsed());
    drop(turn);
    if let Some(directory) = std::env::var_os("NFDROP_KEEP") {
        std::fs::write(Path::new(&directory).join(&kernel.release), said.to_string()).unwrap();
    }
    said
}

/// What was sent in a phase.
fn sent(phase: &str) -> Vec<Flow> {
    match phase {
        "accepted" => scenario::accepted(),
        "burst" => scenario::burst(),
        "two capabilities" => {
            scenario::all().into_iter().filter(|flow| matches!(flow.from, "b0" | "f0")).collect()
        }
        "flood" => {
            [scenario::burst(), scenario::burst(), scenario::burst(), scenario::burst()].concat()
        }
        name if name.starts_with("counters") => [scenario::all(), scenario::stats()].concat(),
        _ => scenario::all(),
    }
}

/// Every drop is seen once, with its rule, and nothing else is; what the client says of it is true.
fn plan_holds(set: &KernelSet) {
    let kernel = MIRROR.kernel(set).unwrap();
    let plan = plan_of(&kernel).unwrap();
    let body = Body::of(&kernel.release, &plan);
    println!("{body}");
    let said = run(&kernel, &with_plan(&kernel, &plan), SHIFT);
    let phases = verdict::phases(&said).unwrap();
    let tables = plan.layout.offsets.contains_key(fields::TABLE_HANDLE);
    let mut differences = Vec::from_iter(bodies::difference(&TABLE, &body));
    let mut before = None;
    for phase in &phases {
        let flows = sent(&phase.name);
        let fates = scenario::fates(&flows);
        let events = phase.events.as_ref().map(|events| ("the trace", events));
        let seen = drops::seen(&phase.drops);
        let seen = Some(("the client", &seen)).filter(|_| phase.name != "flood");
        for observed in events.into_iter().chain(seen) {
            differences.extend(verdict::differences(before, phase, &fates, observed));
        }
        if phase.name == "flood" {
            differences.extend(drops::flooded(phase, &fates));
        } else {
            let known = Known { rulesets: phase.name != "two capabilities", tables };
            differences.extend(drops::differences(phase, &flows, known).unwrap());
        }
        differences.extend(phase.summary.differences(&phase.name));
        before = Some(phase);
    }
    let reloaded = reload::reloaded(&said).unwrap();
    differences.extend(reloaded.differences);
    differences.extend(endings::differences(&said).unwrap());
    differences.extend(told::differences(&said).unwrap());
    let placed = verdict::placed(said.get("list").unwrap()).unwrap();
    differences.extend(verdict::misplaced(&plan, &placed));
    let missed = verdict::missed(said.get("profile").unwrap()).unwrap();
    let events: u64 = phases.iter().flat_map(|phase| &phase.drops).map(|(_, count)| count).sum();
    let frames: u64 = phases.iter().map(|phase| phase.sent).sum();
    println!(
        "{}: {} phases, {frames} frames, {events} events, {missed} missed, {} rulesets with {} drops \
         named and {} without names",
        kernel.release,
        phases.len(),
        reloaded.rulesets,
        reloaded.named,
        reloaded.unnamed,
    );
    assert!(differences.is_empty(), "{}:\n{}", kernel.release, differences.join("\n"));
    assert_eq!(missed, 0, "{}", kernel.release);
    assert_eq!(said.get("end").unwrap(), "", "{}: probes are left behind", kernel.release);
}

/// For `seconds` of the guest's time every packet that comes is dropped, more than the client can tell
/// of: what it tells of and what it has lost is what was dropped.
fn flood(set: &KernelSet, seconds: u64) {
    let kernel = MIRROR.kernel(set).unwrap();
    let plan = plan_of(&kernel).unwrap();
    let mut files = with_client(&kernel, &plan, include_bytes!("../guest/flood"));
    put(&mut files, "rules", include_bytes!("../guest/flood.nft"));
    put(&mut files, "settings", format!("FLOOD={seconds}\n").as_bytes());
    put(&mut files, "frames/b0/burst", &scenario::files(&scenario::burst())["b0"]);
    let said = run(&kernel, &files, SLOW_SHIFT);
    let flood = told::flood(&said).unwrap();
    println!("{}: {flood:?}", kernel.release);
    assert!(flood.differences.is_empty(), "{}", flood.differences.join("\n"));
    assert!(flood.lasted >= seconds, "{} s", flood.lasted);
    assert_eq!(said.get("left TERM").unwrap(), "");
}

/// A guest with the client, its plan in the cache.
fn with_client(kernel: &Kernel, plan: &Plan, scenario: &[u8]) -> FilesByPath {
    let mut files = guest(kernel, scenario);
    put(&mut files, "client", include_bytes!("../guest/client"));
    put(&mut files, "bpf.pl", include_bytes!("../guest/bpf.pl"));
    put(&mut files, "send.pl", include_bytes!("../guest/send.pl"));
    put(&mut files, "usr/bin/nfdrop-client", client());
    let record = Record::resolved(plan.clone()).to_bytes();
    put(&mut files, &format!("cache/{}.json", plan.build_id), &record);
    files
}

fn with_plan(kernel: &Kernel, plan: &Plan) -> FilesByPath {
    let mut files = with_client(kernel, plan, include_bytes!("../guest/scenario"));
    put(&mut files, "drops.pl", include_bytes!("../guest/drops.pl"));
    put(&mut files, "only.pl", include_bytes!("../guest/only.pl"));
    put(&mut files, "reader.pl", include_bytes!("../guest/reader.pl"));
    for (name, plan) in endings::bad_plans(plan).unwrap() {
        put(&mut files, &format!("plans/{name}"), &plan);
    }
    put(&mut files, "events.pl", include_bytes!("../guest/events.pl"));
    put(&mut files, "rules/root.nft", include_bytes!("../guest/root.nft"));
    put(&mut files, "rules/other.nft", include_bytes!("../guest/other.nft"));
    put(&mut files, "rules/reload.nft", include_bytes!("../guest/reload.nft"));
    put(&mut files, "rules/stats.rules", include_bytes!("../guest/stats.rules"));
    put(&mut files, "plan", render::kprobe_events(plan).unwrap().as_bytes());
    let optimized = plan.probes.iter().filter(|probe| probe.cost == Cost::Optimized).count();
    put(&mut files, "settings", format!("OPTIMIZED={optimized}\n").as_bytes());
    for (name, flows) in [
        ("all", scenario::all()),
        ("accepted", scenario::accepted()),
        ("burst", scenario::burst()),
        ("stats", scenario::stats()),
        ("reload", scenario::reload()),
    ] {
        for (interface, frames) in scenario::files(&flows) {
            put(&mut files, &format!("frames/{interface}/{name}"), &frames);
        }
    }
    files
}

/// What the rules say of probes at every instruction is what the kernel does with them.
fn rules_hold(set: &KernelSet) {
    let kernel = MIRROR.kernel(set).unwrap();
    let sites = sites::predicted(&function(&kernel).unwrap()).unwrap();
    let mut files = guest(&kernel, include_bytes!("../guest/sites"));
    put(&mut files, "settings", b"");
    for (number, batch) in sites::batches(&sites).iter().enumerate() {
        let offsets: Vec<_> = batch.iter().map(|site| site.offset.to_string()).collect();
        let lines = offsets.join("\n") + "\n";
        put(&mut files, &format!("batches/{number:02}"), lines.as_bytes());
        let optimized = batch.iter().filter(|site| site.cost == Cost::Optimized).count();
        put(&mut files, &format!("expected/{number:02}"), format!("{optimized}\n").as_bytes());
    }
    let made = sites::made(&run(&kernel, &files, SHIFT)).unwrap();
    let differences = sites::differences(&sites, &made);
    let needlessly = sites.iter().filter(|s| !s.allowed && made.placed.contains_key(&s.offset));
    println!(
        "{}: {} sites, {} refused, {} optimized, {} kept off needlessly, {} differences",
        kernel.release,
        sites.len(),
        made.refused.len(),
        made.placed.values().filter(|optimized| **optimized).count(),
        needlessly.count(),
        differences.len(),
    );
    let differences: Vec<_> = differences.iter().map(Difference::to_string).collect();
    assert!(differences.is_empty(), "{}:\n{}", kernel.release, differences.join("\n"));
}

/// The kernel, or the next older one of its series and flavour where the mirror lists it and no longer
/// has it.
fn there(mut set: &KernelSet) -> Option<&KernelSet> {
    loop {
        match MIRROR.kernel(set) {
            Err(error) if is_gone(&error) => {
                println!("{}: {error:#}: not run", set.release);
                set = MIRROR.before(set)?;
            }
            _ => return Some(set),
        }
    }
}

/// Whether `NFDROP_RELEASES` leaves it in.
fn is_wanted(release: &str) -> bool {
    let only = std::env::var("NFDROP_RELEASES").unwrap_or_default();
    only.split(',').any(|part| release.contains(part))
}

/// All of them, whatever becomes of one.
fn each<'a>(sets: impl IntoIterator<Item = &'a KernelSet>, test: fn(&KernelSet)) {
    let failed = |set: &&KernelSet| panic::catch_unwind(|| test(set)).is_err();
    let failed: Vec<_> = sets.into_iter().filter(failed).map(|set| &set.release).collect();
    assert!(failed.is_empty(), "see above: {failed:?}");
}

/// Of those that are wanted the ones that are there; without any nothing would be tested.
fn some<'a>(sets: impl IntoIterator<Item = &'a KernelSet>) -> Vec<&'a KernelSet> {
    let sets = sets.into_iter().filter(|set| is_wanted(&set.release));
    let sets: Vec<_> = sets.filter_map(there).collect();
    assert!(!sets.is_empty(), "no kernel is left: {:?}", std::env::var("NFDROP_RELEASES"));
    sets
}

/// Kernels of every body whose plan has a condition, and of every other shape of plan. Those that the
/// table does not have yet are looked at first.
fn of_bodies() -> Vec<&'static KernelSet> {
    let new = MIRROR.new_bodies(&TABLE).unwrap();
    let found: Vec<&Body> = new.iter().map(|(body, _)| body).collect();
    let all: Vec<Body> = TABLE.iter().chain(found).cloned().collect();
    let wanted = bodies::to_boot(&all).into_iter();
    let wanted = wanted.filter(|body| body.releases.iter().any(|release| is_wanted(release)));
    let kernel = |body: &Body| {
        let found = MIRROR.with_body(body, &TABLE).unwrap();
        if found.is_none() {
            println!("the mirror has no kernel with this body: not run: {body}");
        }
        found
    };
    wanted.filter_map(kernel).collect()
}

#[test]
fn plan_holds_on_debian_5_10() {
    with_newest(Series(5, 10), plan_holds);
}

#[test]
fn plan_holds_on_debian_6_1() {
    with_newest(Series(6, 1), plan_holds);
}

#[test]
fn plan_holds_on_debian_6_12() {
    with_newest(Series(6, 12), plan_holds);
}

/// The older kernels of 6.1, whose plans have several probes with conditions. 5.10's have conditions too.
#[test]
fn plan_holds_on_a_cloud_kernel_with_conditions() {
    if let Some(why) = why_not() {
        println!("{why}");
        return;
    }
    let is_cloud = |body: &&Body| body.releases[0].ends_with(CLOUD) && body.is_conditional();
    let mut bodies: Vec<_> = TABLE.iter().filter(is_cloud).collect();
    // Those with the most probes tell most.
    bodies.sort_by_key(|body| Reverse(body.shape.matches("; ").count()));
    match bodies.into_iter().find_map(|body| MIRROR.with_body(body, &TABLE).unwrap()) {
        Some(set) => plan_holds(set),
        None => println!("the mirror has no {CLOUD} kernel whose plan has a condition: not run"),
    }
}

#[test]
#[ignore = "`make test-kernels`: some are large, and take a minute each"]
fn plan_holds_on_every_body_with_conditions_and_every_shape() {
    match why_not() {
        Some(why) => println!("{why}"),
        None => each(some(of_bodies()), plan_holds),
    }
}

#[test]
fn plan_holds_on_the_newest() {
    match why_not() {
        Some(why) => println!("{why}"),
        None => plan_holds(MIRROR.newest(CLOUD).into_iter().find_map(there).unwrap()),
    }
}

#[test]
#[ignore = "`make test-kernels`: a minute of the guest's time"]
fn a_minutes_flood_is_counted_on_debian_6_12() {
    with_newest(Series(6, 12), |set| flood(set, 60));
}

#[test]
#[ignore = "`make test-kernels`: takes as long as all others"]
fn plan_holds_on_every_series_and_flavour() {
    if let Some(why) = why_not() {
        println!("{why}");
        return;
    }
    let flavours = [CLOUD, "rt-amd64", "amd64"];
    let newest = some(flavours.into_iter().flat_map(|flavour| MIRROR.newest(flavour)));
    // Those that are booted by their body are not booted again.
    let others: BTreeSet<_> = of_bodies().into_iter().map(|set| &set.release).collect();
    each(newest.into_iter().filter(|set| !others.contains(&set.release)), plan_holds);
}

#[test]
#[ignore = "`make test-kernels`: takes a minute a kernel"]
fn rules_hold_on_debian_6_12() {
    with_newest(Series(6, 12), rules_hold);
}

#[test]
#[ignore = "`make test-kernels`: takes a minute a kernel"]
fn rules_hold_on_every_series() {
    if let Some(why) = why_not() {
        println!("{why}");
        return;
    }
    each(some(MIRROR.newest(CLOUD)), rules_hold);
}
