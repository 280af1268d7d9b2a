//! What learning of drops costs, in instructions per packet: `make bench-kernel`. QEMU counts them.

#![expect(clippy::unwrap_used, reason = "a measurement ends where something is missing")]
#![expect(clippy::print_stdout, reason = "what is measured is said")]

use nfdrop_db::{Record, render};
use nfdrop_indexer::source::kernel::Series;
use nfdrop_tests::vm::{
    client, cost,
    frames::{self, Ip, Link},
    initramfs, machine,
    mirror::{Entry, Mirror},
    scenario::{self, Flow},
};

const SUITE: &str = "bookworm";
const FLAVOUR: &str = "cloud-amd64";
const PROGRAMS: [&str; 5] = ["bpftrace", "busybox-static", "libcrypt1", "nftables", "perl-base"];
const MODULES: [&str; 5] = ["nf_tables", "nft_counter", "veth", "crc32c_generic", "crc32c_intel"];
const CPU: &str = "EPYC";
/// Of the issue: from start to attached, in nanoseconds, and the most memory, in KiB.
const MAX_START: u64 = 150_000_000;
const MAX_MEMORY: u64 = 12 << 10;

fn measure(series: Series) {
    if std::env::var_os("NFDROP_OFFLINE").is_some() || !machine::is_there() {
        return println!("NFDROP_OFFLINE is set, or there is no {}: not run", machine::QEMU);
    }
    let mirror = Mirror::open().unwrap();
    let Some(set) = mirror.newest_of(series, FLAVOUR) else {
        return println!("the mirror has no {FLAVOUR} kernel of {series}: not run");
    };
    let kernel = mirror.kernel(set).unwrap();
    let plan = kernel.plan().unwrap();
    let script = render::bpftrace(&plan).unwrap();
    let body = kernel.function().unwrap().parts.remove(0).bytes;
    let blog = cost::blog(&plan, &body, &script);
    let client = client::read().unwrap();
    let mut files = mirror.programs(SUITE, &PROGRAMS).unwrap();
    for (number, (name, module)) in kernel.modules(&MODULES).unwrap().into_iter().enumerate() {
        files.insert(format!("modules/{number:02}-{name}.ko"), Entry::File(module, false));
    }
    let mut put = |path: &str, bytes: &[u8]| {
        let program = matches!(path, "init" | "usr/bin/nfdrop-client");
        files.insert(path.to_owned(), Entry::File(bytes.to_vec(), program));
    };
    put("init", include_bytes!("../guest/init"));
    put("scenario", include_bytes!("../guest/cost"));
    put("rules", include_bytes!("../guest/cost.nft"));
    put("cost.pl", include_bytes!("../guest/cost.pl"));
    put("start.pl", include_bytes!("../guest/start.pl"));
    put("settings", b"");
    put("usr/bin/nfdrop-client", &client);
    put(&format!("cache/{}.json", plan.build_id), &Record::resolved(plan).to_bytes());
    put("nfdrop.bt", script.as_bytes());
    put("blog.bt", blog.unwrap_or_default().as_bytes());
    let to = Link { to: 0x0a, vlan: None };
    let ip = Ip::V4([10, 0, 0, 2].into(), [10, 0, 0, 1].into());
    for (name, frame) in
        [("accepted", frames::pong(to, ip)), ("dropped", frames::udp(to, ip, 1002))]
    {
        let flow = Flow { from: "b0", frames: vec![frame], fates: vec![] };
        put(&format!("frames/{name}"), &scenario::files(&[flow])["b0"]);
    }
    let said = machine::run_at(&kernel.vmlinuz, &initramfs::archive(&files), CPU, 0).unwrap();
    if let Some(directory) = std::env::var_os("NFDROP_KEEP") {
        let path = std::path::Path::new(&directory).join(format!("cost-{}", kernel.release));
        std::fs::write(path, said.to_string()).unwrap();
    }
    let rows = cost::rows(&said).unwrap();
    println!("{}\n{}", said.get("about").unwrap(), cost::table(&rows));
    for row in &rows {
        println!("{row:?}");
    }
    println!("client: {} bytes", client.len());
    for line in said.get("start").unwrap().lines() {
        let (time, memory) = line.split_once(' ').unwrap();
        let (time, memory): (u64, u64) = (time.parse().unwrap(), memory.parse().unwrap());
        println!("client: attached after {} us, {memory} KiB resident", time / 1000);
        assert!(time <= MAX_START && memory <= MAX_MEMORY, "{line}");
    }
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
