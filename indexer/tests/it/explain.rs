//! `explain`, from outside.

use super::support::{corpus, done, elf, extract, indexer};
use std::{fs, process::Command};

const NAME: &str = "debian-6.12.117+deb13-cloud-amd64";

/// Without what a terminal or locale would add.
fn explain(more: &[&str]) -> Command {
    let mut command = indexer(&["explain"]);
    command.args(more);
    for variable in ["LC_ALL", "LC_CTYPE", "LANG", "NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE"] {
        command.env_remove(variable);
    }
    command
}

#[test]
fn a_listing_is_plain_where_nobody_looks() {
    let (code, text, stderr) = done(&explain(&[]).arg(corpus(NAME)).output().unwrap());
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert!(text.is_ascii() && !text.contains('\x1b'), "{text}");
    assert!(text.contains("kprobe rule_drop, optimized"), "{text}");
    assert!(text.contains("expr->ops->eval(expr, regs, pkt)"), "{text}");
    assert!(text.contains(" branch edges were taken, 9"), "{text}");
    let utf8 = explain(&[]).env("LANG", "C.UTF-8").arg(corpus(NAME)).output().unwrap();
    assert!(done(&utf8).1.contains('▸'));
    let ascii = explain(&["--ascii"]).env("LANG", "C.UTF-8").arg(corpus(NAME)).output().unwrap();
    assert_eq!(done(&ascii).1, text);
}

#[test]
fn colors_are_where_they_are_wanted() {
    let colored = |more: &[&str], variables: &[(&str, &str)]| {
        let mut command = explain(more);
        command.envs(variables.iter().copied()).arg(corpus("arch-6.2.10-arch1-1"));
        done(&command.output().unwrap()).1.contains("\x1b[")
    };
    assert!(colored(&["--color", "always"], &[("NO_COLOR", "1")]));
    assert!(!colored(&["--color", "never"], &[("CLICOLOR_FORCE", "1")]));
    assert!(!colored(&[], &[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")]));
}

#[test]
fn a_module_and_its_vmlinux_are_explained_as_their_extract() {
    let directory = tempfile::tempdir().unwrap();
    let function = extract(NAME);
    let id = nfdrop_db::BuildId::from_bytes(&[0xcd; 20]).unwrap();
    let (ko, vmlinux) = (directory.path().join("nf_tables.ko"), directory.path().join("vmlinux"));
    fs::write(&ko, elf::module(&function)).unwrap();
    fs::write(&vmlinux, elf::vmlinux(&function, &id)).unwrap();
    let of_files = explain(&["--vmlinux"]).arg(&vmlinux).arg(&ko).output().unwrap();
    let of_extract = explain(&[]).arg(corpus(NAME)).output().unwrap();
    assert_eq!(done(&of_files), done(&of_extract));
    let page = explain(&["--html", "--syntax", "att"]).arg(corpus(NAME)).output().unwrap();
    let (code, page, _) = done(&page);
    assert_eq!(code, 0);
    assert!(page.starts_with("<!doctype html>") && page.contains("%rbp"), "{page}");
}

#[test]
fn what_has_no_plan_is_explained_too() {
    let directory = tempfile::tempdir().unwrap();
    let mut function = extract(NAME);
    let middle = function.parts[0].bytes.len() / 2;
    function.parts[0].bytes[middle..middle + 16].fill(0xff);
    let altered = directory.path().join("nf_tables.ko");
    fs::write(&altered, elf::module(&function)).unwrap();
    let (code, text, _) = done(&explain(&[]).arg(&altered).output().unwrap());
    assert_eq!(code, 2);
    assert!(text.contains("unresolved") && text.contains("nft_do_chain"), "{text}");
    // Nothing to list: the reason, and no page without content.
    let png = directory.path().join("png");
    fs::write(&png, b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR").unwrap();
    let (code, text, stderr) = done(&explain(&["--html"]).arg(&png).output().unwrap());
    assert_eq!((code, text.as_str()), (2, ""));
    assert!(stderr.contains("malformed_image"), "{stderr}");
    let (code, _, stderr) =
        done(&explain(&[]).arg(directory.path().join("none")).output().unwrap());
    assert_eq!(code, 1, "{stderr}");
}
