//! Compiles the guest's first process with clang, whose version does not matter from 11 on. `CLANG` names
//! another one than the first of `clang`, `clang-30` … `clang-11` that is there.

use std::{
    env,
    error::Error,
    path::{Path, PathBuf},
    process::Command,
};

const SOURCE: &str = "guest/init.c";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=guest");
    println!("cargo:rerun-if-env-changed=CLANG");
    let program = PathBuf::from(env::var_os("OUT_DIR").ok_or("no OUT_DIR")?).join("init");
    let clang = clang()?;
    let mut command = Command::new(&clang);
    command.args(["-target", "x86_64-linux-gnu", "-O2", "-Wall", "-Wextra", "-Werror"]);
    command.args(["-ffreestanding", "-fno-stack-protector", "-fno-pie", "-nostdlib", "-static"]);
    command.args(["-s", "-Wl,--build-id=none", "-Wl,-z,noseparate-code"]);
    // Where Debian has the kernel's headers for one architecture; others have them among the rest.
    let headers = Path::new("/usr/include/x86_64-linux-gnu");
    if headers.is_dir() {
        command.arg("-idirafter").arg(headers);
    }
    command.arg(SOURCE).arg("-o").arg(&program);
    let output = command.output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!(
            "{clang} cannot compile ci/{SOURCE}; it needs the kernel's headers and a linker (Debian: \
             linux-libc-dev, binutils; `ci/install-deps` installs them)\n{said}"
        )
        .into());
    }
    Ok(())
}

fn clang() -> Result<String, String> {
    let named = env::var("CLANG").ok();
    let versions = (11..=30).rev().map(|version| format!("clang-{version}"));
    let candidates = named.into_iter().chain(["clang".to_owned()]).chain(versions);
    let works = |name: &String| {
        Command::new(name).arg("--version").output().is_ok_and(|output| output.status.success())
    };
    candidates.into_iter().find(works).ok_or_else(|| {
        "no clang, which the guest's first process is compiled with: `ci/install-deps` installs it, or set \
         CLANG"
            .to_owned()
    })
}
