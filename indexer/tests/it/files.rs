//! Files that people have: `resolve` and `extract`.

use super::support::{corpus, done, elf, extract, indexer};
use nfdrop_db::{BuildId, Plan, Record, Status};
use nfdrop_resolver::{
    image,
    image::function::SYMBOL,
    kernel::{Files, load},
};
use std::{fs, path::Path};

/// The functions of the corpus that were taken from Debian's packages.
const SERIES: [&str; 8] = [
    "debian-5.10.0-46-cloud-amd64",
    "debian-6.1.0-56-cloud-amd64",
    "debian-6.12.117+deb13-cloud-amd64",
    "debian-6.16.12+deb13-cloud-amd64",
    "debian-6.17.13+deb13-cloud-amd64",
    "debian-6.18.15+deb13-cloud-amd64",
    "debian-7.2.13+deb14-cloud-amd64",
    "debian-7.3.4+deb13-cloud-amd64",
];

#[test]
fn a_module_made_of_an_extract_gives_the_extract() {
    let id = BuildId::from_bytes(&[0xcd; 20]).unwrap();
    for name in SERIES {
        let function = extract(name);
        // All BTF in vmlinux, and nf_tables' own in the module.
        let whole = [elf::module(&function), elf::vmlinux(&function, &id)];
        for [module, vmlinux] in [whole, elf::split(&function, &id)] {
            let files = Files { vmlinuz: Some(&vmlinux), nf_tables: Some(&module) };
            let (loaded, vmlinux_id) = load(files);
            let (loaded, expected) = (loaded.unwrap(), &function);
            let text = image::extract::to_json;
            assert!(loaded == *expected, "{name}: {}\nis not\n{}", text(&loaded), text(expected));
            assert_eq!(vmlinux_id.as_ref(), Some(&id));
        }
    }
}

/// `resolve` of one file: exit code, the record as JSON, and stderr.
fn resolve(path: &Path, more: &[&str]) -> (i32, serde_json::Value, String) {
    let output = indexer(&["resolve"]).arg(path).args(more).output().unwrap();
    let (code, stdout, stderr) = done(&output);
    assert_eq!(stdout.lines().count(), 1, "one line a file: {stdout}{stderr}");
    (code, serde_json::from_str(&stdout).unwrap(), stderr)
}

const NAME: &str = "debian-6.12.117+deb13-cloud-amd64";

#[test]
fn a_module_and_its_vmlinux_give_the_canonical_record() {
    let directory = tempfile::tempdir().unwrap();
    let function = extract(NAME);
    let id = BuildId::from_bytes(&[0xcd; 20]).unwrap();
    let (ko, vmlinux) = (directory.path().join("nf_tables.ko"), directory.path().join("vmlinux"));
    fs::write(&ko, elf::module(&function)).unwrap();
    fs::write(&vmlinux, elf::vmlinux(&function, &id)).unwrap();
    let run = || {
        let mut command = indexer(&["resolve", "--vmlinux"]);
        command.arg(&vmlinux).arg(&ko).output().unwrap()
    };
    let (code, stdout, stderr) = done(&run());
    assert_eq!((code, stderr.as_str()), (0, ""));
    let record = Record::parse_canonical(stdout.trim_end().as_bytes()).unwrap();
    assert_eq!(Some(&record.build_id), function.build_id.as_ref());
    assert_eq!(done(&run()).1, stdout, "the same file gives the same bytes");
    // The extract of the same files resolves to the same.
    let text = indexer(&["extract", "--vmlinux"]).arg(&vmlinux).arg(&ko).output().unwrap();
    let copy = directory.path().join("extract.json");
    fs::write(&copy, text.stdout).unwrap();
    let (code, value, _) = resolve(&copy, &[]);
    assert_eq!(code, 0);
    assert_eq!(value, serde_json::from_str::<serde_json::Value>(&stdout).unwrap());
}

#[test]
fn a_listing_without_build_id_has_a_plan_of_no_build() {
    let (code, value, stderr) = resolve(&corpus("arch-6.2.10-arch1-1"), &[]);
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(value["build_id"], serde_json::Value::Null);
    assert_eq!(value["plan"]["probes"][0]["offset"], 0x21b);
    assert!(stderr.contains("without build-id"), "{stderr}");
    // Which no client takes.
    assert!(Record::parse(value.to_string().as_bytes()).is_err());
    assert!(serde_json::from_value::<Plan>(value["plan"].clone()).is_err());
}

#[test]
fn the_wrong_file_has_its_reason_and_never_a_plan() {
    let directory = tempfile::tempdir().unwrap();
    let mut function = extract(NAME);
    let module = elf::module(&function);
    let mut arm64 = module.clone();
    // e_machine: EM_AARCH64.
    arm64[18..20].copy_from_slice(&183_u16.to_le_bytes());
    let mut other = module.clone();
    let name = [SYMBOL.as_bytes(), b"\0"].concat();
    let at = other.windows(name.len()).position(|window| window == name).unwrap();
    other[at] = b'x';
    let middle = function.parts[0].bytes.len() / 2;
    function.parts[0].bytes[middle..middle + 16].fill(0xff);
    let altered = elf::module(&function);
    let files: [(&str, &[u8], &[&str]); 6] = [
        ("truncated", &module[..module.len() / 2], &["malformed_image"]),
        ("without the symbol", &other, &["no_symbol"]),
        ("png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", &["malformed_image"]),
        ("empty", b"", &["malformed_image"]),
        ("arm64", &arm64, &["unsupported_arch"]),
        ("altered", &altered, &["malformed_image", "unsupported_instruction", "diverged"]),
    ];
    for (name, bytes, reasons) in files {
        let path = directory.path().join(name);
        fs::write(&path, bytes).unwrap();
        let (code, value, stderr) = resolve(&path, &[]);
        assert_eq!(code, 2, "{name}: {stderr}");
        assert_eq!(value["status"], Status::Unresolved.to_string(), "{name}");
        assert_eq!(value["plan"], serde_json::Value::Null, "{name}");
        let reason = value["reason"].as_str().unwrap();
        assert!(reasons.contains(&reason), "{name}: {reason}");
        assert!(stderr.contains(reason), "{name}: {stderr}");
    }
    let missing = indexer(&["resolve", "/nonexistent"]).output().unwrap();
    let (code, stdout, stderr) = done(&missing);
    assert_eq!((code, stdout.as_str()), (1, ""));
    assert!(stderr.contains("cannot read /nonexistent"), "{stderr}");
}
