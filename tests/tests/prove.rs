//! Proofs can fail: wrong plans of one real kernel are contradicted, and guests that do not get to their end
//! are ended, each with a sentence that says what happened.
//!
//! Left out, which is said, with `NFDROP_OFFLINE`, and where there is no QEMU or no nft.

#![expect(clippy::unwrap_used, reason = "a test ends where something is missing")]
#![expect(clippy::print_stdout, reason = "what was run, and what not, is said")]

use nfdrop_ci::prove::{
    Programs,
    initramfs::{self, FilesByPath},
    kernel::Kernel,
    machine::{Accel, Qemu},
    programs, prove, run,
};
use nfdrop_db::Series;
use nfdrop_db::{Event, FnOffset, HexBytes, Part, Plan, Probe, Proof, ProofResult};
use nfdrop_indexer::source::kernel::KernelSet;
use nfdrop_tests::{
    bodies, programs as built,
    vm::mirror::{Mirror, function, is_gone, plan as plan_of},
};
use std::{
    ops::ControlFlow,
    path::Path,
    sync::LazyLock,
    time::{Duration, Instant},
};

const CLOUD: &str = "cloud-amd64";

fn why_not() -> Option<&'static str> {
    if std::env::var_os("NFDROP_OFFLINE").is_some() {
        Some("NFDROP_OFFLINE is set: not run")
    } else if programs::find("qemu-system-x86_64").is_none() {
        Some("there is no qemu-system-x86_64: not run")
    } else if programs::find("nft").is_none() {
        Some("there is no nft: not run")
    } else {
        None
    }
}

static MIRROR: LazyLock<Mirror> = LazyLock::new(|| Mirror::open().unwrap());

fn qemu() -> Qemu {
    Qemu::new(Path::new("qemu-system-x86_64"), Accel::Tcg).unwrap()
}

fn guest_programs() -> &'static Programs {
    static PROGRAMS: LazyLock<Programs> = LazyLock::new(|| {
        let client = built::directory().unwrap().join("nfdrop-client");
        run::programs(&client, &programs::find("nft").unwrap()).unwrap()
    });
    &PROGRAMS
}

/// The newest cloud kernel of 6.12 that the pool has: its plan has one site for each event.
fn kernel() -> &'static Kernel {
    static KERNEL: LazyLock<Kernel> = LazyLock::new(|| {
        let mut set = MIRROR.newest_of(Series(6, 12), CLOUD).unwrap();
        loop {
            match MIRROR.kernel(set) {
                Err(error) if is_gone(&error) => set = MIRROR.before(set).unwrap(),
                kernel => return kernel.unwrap(),
            }
        }
    });
    &KERNEL
}

fn proof_of(kernel: &Kernel, plan: &Plan) -> Proof {
    let begun = Instant::now();
    let proof = prove(&qemu(), kernel, guest_programs(), plan).unwrap();
    println!("{}: {} in {:.1?}: {:?}", kernel.release, proof.result, begun.elapsed(), proof.detail);
    Proof::parse_canonical(&proof.to_bytes()).unwrap()
}

/// The sentence that contradicts a wrong plan.
fn contradiction(plan: &Plan, change: &dyn Fn(&mut Plan)) -> String {
    let mut wrong = plan.clone();
    change(&mut wrong);
    assert_ne!(wrong, *plan, "this is no other plan");
    let proof = proof_of(kernel(), &wrong);
    assert_eq!(proof.result, ProofResult::Contradicted, "{proof:?}");
    proof.detail.unwrap()
}

/// Of this event the only probe.
fn site(plan: &mut Plan, event: Event) -> &mut Probe {
    plan.probes.iter_mut().find(|probe| probe.event == event).unwrap()
}

#[test]
fn the_right_plan_is_proven_with_every_part() {
    if let Some(why) = why_not() {
        println!("{why}");
        return;
    }
    let plan = plan_of(kernel()).unwrap();
    let proof = proof_of(kernel(), &plan);
    assert_eq!(proof.result, ProofResult::Proven);
    assert_eq!(proof.parts, Part::ALL);
    assert_eq!((proof.seen, proof.missed), (proof.expected, 0));
    let offsets: Vec<_> = proof.probes.iter().map(|probe| probe.offset).collect();
    assert_eq!(offsets, plan.probes.iter().map(|probe| probe.offset).collect::<Vec<_>>());
}

/// Places of the function where probes may be set, with the instruction there.
fn sites() -> Vec<(u32, Vec<u8>)> {
    let function = function(kernel()).unwrap();
    let bytes = &function.parts[0].bytes;
    let all = nfdrop_tests::vm::sites::predicted(&function).unwrap();
    let pairs = all.windows(2).filter(|pair| pair[0].allowed);
    let site = |pair: &[nfdrop_tests::vm::sites::Site]| {
        let (from, to) = (pair[0].offset as usize, pair[1].offset as usize);
        (pair[0].offset, bytes[from..to].to_vec())
    };
    // Where code that is not reached lies between, this is no single instruction.
    pairs.map(site).filter(|(_, bytes)| bytes.len() <= 8).collect()
}

#[test]
fn wrong_plans_are_contradicted_by_what_was_seen_instead() {
    if let Some(why) = why_not() {
        println!("{why}");
        return;
    }
    let plan = plan_of(kernel()).unwrap();
    let moved = |plan: &mut Plan, (offset, bytes): &(u32, Vec<u8>)| {
        let probe = site(plan, Event::RuleDrop);
        (probe.offset, probe.bytes) = (FnOffset(*offset), HexBytes(bytes.clone()));
        plan.probes.sort_by_key(|probe| (probe.event, probe.offset));
    };
    let sites = sites();
    let rule = plan.probes.iter().find(|probe| probe.event == Event::RuleDrop).unwrap();
    // Where every packet executes, and where no drop of a rule does.
    let early = sites.iter().find(|(offset, _)| *offset > 0x40).unwrap();
    let behind = sites.iter().find(|(offset, _)| *offset > rule.offset.0).unwrap();
    let policy = plan.probes.iter().find(|probe| probe.event == Event::PolicyDrop).unwrap();
    let at_policy = (policy.offset.0, policy.bytes.0.clone());

    let at = |what: &str, change: &dyn Fn(&mut Plan), expected: &[&str]| {
        let sentence = contradiction(&plan, change);
        println!("{what}: {sentence}");
        for part in expected {
            assert!(sentence.contains(part), "{what}: {part:?} is not said: {sentence}");
        }
    };
    let base = r#"of table ip nfdrop_one ("base") dropped 4 packets, the probes reported"#;
    let none = format!("{base} 0");
    at(
        "the rule's site is where every packet comes",
        &|plan| moved(plan, early),
        &[&none, "where nothing was dropped"],
    );
    at(
        "the rule's site is the policy's, and the policy's where every packet comes",
        &|plan| {
            moved(plan, &at_policy);
            plan.probes.retain(|probe| probe.event == Event::RuleDrop);
            let mut probe = policy.clone();
            (probe.offset, probe.bytes) = (FnOffset(early.0), HexBytes(early.1.clone()));
            plan.probes.push(probe);
        },
        &[&none, "whose policy is accept"],
    );
    at(
        "another register for the rule",
        &|plan| {
            let probe = site(plan, Event::RuleDrop);
            probe.rule = Some(probe.pkt);
        },
        &["the probes reported 0", "where nothing was dropped"],
    );
    at(
        "another register for the packet",
        &|plan| {
            let probe = site(plan, Event::RuleDrop);
            probe.pkt = probe.rule.unwrap();
        },
        &["as the address of", &none],
    );
    at(
        "two probes see each drop of a rule",
        &|plan| {
            let mut second = site(plan, Event::RuleDrop).clone();
            (second.offset, second.bytes) = (FnOffset(behind.0), HexBytes(behind.1.clone()));
            plan.probes.insert(1, second);
        },
        &[&format!("{base} 8")],
    );
    at(
        "another shift of the handle",
        &|plan| plan.layout.rule_handle.shift -= 1,
        &["where nothing was dropped", "which was not sent to it"],
    );
    // What no plan may be is refused before it is attached.
    at(
        "the same site twice",
        &|plan| {
            let second = site(plan, Event::RuleDrop).clone();
            plan.probes.insert(1, second);
        },
        &["refused: plan field probes: expected ascending event and offset, none twice"],
    );
    at(
        "no site for policies",
        &|plan| plan.probes.retain(|probe| probe.event == Event::RuleDrop),
        &["refused: plan field probes: expected a probe for policy_drop, found none"],
    );
    at(
        "the policy's site is the rule's",
        &|plan| {
            let (offset, bytes) = (behind.0, behind.1.clone());
            let probe = site(plan, Event::PolicyDrop);
            (probe.offset, probe.bytes) = (FnOffset(offset), HexBytes(bytes));
        },
        &["the policy of table ip nfdrop_one dropped 5 packets, the probes reported"],
    );
}

#[test]
fn a_condition_that_is_missing_is_noticed() {
    if let Some(why) = why_not() {
        println!("{why}");
        return;
    }
    // Its plan has conditions, as all of 5.10.
    let table = bodies::table().unwrap();
    let is_fit = |body: &&bodies::Body| {
        body.releases[0].starts_with("5.10.")
            && body.releases[0].ends_with(CLOUD)
            && body.is_conditional()
    };
    let found =
        table.iter().filter(is_fit).find_map(|body| MIRROR.with_body(body, &table).unwrap());
    let Some(set): Option<&KernelSet> = found else {
        println!("the mirror has no kernel of 5.10 whose plan has a condition: not run");
        return;
    };
    let kernel = MIRROR.kernel(set).unwrap();
    let plan = plan_of(&kernel).unwrap();
    assert_eq!(proof_of(&kernel, &plan).result, ProofResult::Proven);
    let mut wrong = plan.clone();
    let probe = wrong.probes.iter_mut().find(|probe| !probe.when.is_empty()).unwrap();
    probe.when.clear();
    let proof = proof_of(&kernel, &wrong);
    assert_eq!(proof.result, ProofResult::Contradicted);
    let detail = proof.detail.unwrap();
    assert!(detail.contains("where nothing was dropped"), "{detail}");
}

/// The newest kernel of every series and flavour that the pool has.
#[test]
#[ignore = "`make test-kernels`: some packages are large, and fetched once"]
fn the_newest_of_every_series_and_flavour_is_proven() {
    if let Some(why) = why_not() {
        println!("{why}");
        return;
    }
    let flavours = [CLOUD, "rt-amd64", "amd64"];
    let mut failed = Vec::new();
    for mut set in flavours.into_iter().flat_map(|flavour| MIRROR.newest(flavour)) {
        let kernel = loop {
            match MIRROR.kernel(set) {
                Err(error) if is_gone(&error) => {
                    println!("{}: {error:#}: not run", set.release);
                    let Some(before) = MIRROR.before(set) else { break None };
                    set = before;
                }
                kernel => break Some(kernel.unwrap()),
            }
        };
        let Some(kernel) = kernel else { continue };
        let proof = proof_of(&kernel, &plan_of(&kernel).unwrap());
        if proof.result != ProofResult::Proven || proof.parts != Part::ALL {
            failed.push((kernel.release.clone(), proof));
        }
    }
    assert!(failed.is_empty(), "{failed:?}");
}

/// What a guest that writes nothing of use ends with.
fn failed(qemu: &Qemu, vmlinuz: &[u8], files: &FilesByPath, arguments: &str) -> String {
    let ended = qemu.boot(vmlinuz, &initramfs::archive(files), arguments, |line| {
        println!("guest: {line}");
        ControlFlow::<()>::Continue(())
    });
    ended.unwrap_err().to_string()
}

#[test]
fn a_guest_that_does_not_get_to_its_end_is_ended_and_says_why() {
    if let Some(why) = why_not() {
        println!("{why}");
        return;
    }
    let mut qemu = qemu();
    // No first process: the kernel panics.
    let panicked = failed(&qemu, &kernel().vmlinuz, &FilesByPath::new(), "");
    assert!(panicked.starts_with("the guest ended early"), "{panicked}");
    assert!(panicked.contains("Kernel panic - not syncing"), "{panicked}");
    // No kernel at all.
    let refused = failed(&qemu, b"not a kernel", &FilesByPath::new(), "");
    assert!(refused.starts_with("the guest ended early: qemu"), "{refused}");
    // Code that runs on the spot, behind the header that boot loaders look for
    // (Documentation/arch/x86/boot.rst): no console, and no end.
    let mut silent = vec![0; 4096];
    silent[0x1f1] = 1;
    silent[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    silent[0x200..0x202].copy_from_slice(&[0xeb, 0xfe]);
    silent[0x202..0x206].copy_from_slice(b"HdrS");
    silent[0x206..0x208].copy_from_slice(&[0x02, 0x02]);
    qemu.time_limit = Duration::from_secs(3);
    let hung = failed(&qemu, &silent, &FilesByPath::new(), "");
    assert_eq!(hung, "the guest was not done after 3 s; the kernel's console is empty");
}

#[test]
fn a_kernel_whose_modules_do_not_load_is_not_bootable() {
    if let Some(why) = why_not() {
        println!("{why}");
        return;
    }
    let plan = plan_of(kernel()).unwrap();
    let mut broken = kernel().clone();
    broken.add("nf_tables", b"\x7fELF of another time".to_vec());
    let proof = proof_of(&broken, &plan);
    assert_eq!(proof.result, ProofResult::NotBootable);
    let detail = proof.detail.unwrap();
    assert!(detail.contains("nf_tables"), "{detail}");
    assert!(detail.contains("modules that cannot be loaded: nf_tables (error 8)"), "{detail}");
}

#[test]
fn a_kernel_that_lacks_something_is_proven_with_the_parts_that_it_has() {
    if let Some(why) = why_not() {
        println!("{why}");
        return;
    }
    let plan = plan_of(kernel()).unwrap();
    let mut less = kernel().clone();
    for name in ["veth", "nft_reject_ipv4"] {
        less.add(name, b"\x7fELF of another time".to_vec());
    }
    let proof = proof_of(&less, &plan);
    assert_eq!(proof.result, ProofResult::Proven);
    let missing = |part: &&Part| !proof.parts.contains(part);
    let missing: Vec<Part> = Part::ALL.iter().filter(missing).copied().collect();
    assert_eq!(missing, [Part::Reject, Part::Veth]);
}
