//! Files of a package that are chosen by their paths: for whoever boots the kernel that is in it.

use super::{
    Format, PackageError, START, apk, deb,
    members::{Kind, Limits, MembersError, Sink, read_member},
    pacman,
    random::RandomAccess,
    rpm, tarball,
};
use std::{
    collections::BTreeMap,
    io::{self, Read},
};

/// Takes the regular files whose paths are wanted, as they are in the package. Paths are relative, and have no
/// `usr/` in front: merged and unmerged systems are read alike. `most`: bytes of all of them together.
pub fn collect(
    source: &dyn RandomAccess,
    wants: &dyn Fn(&str) -> bool,
    most: u64,
    limits: &Limits,
) -> Result<BTreeMap<String, Vec<u8>>, PackageError> {
    let mut start = Vec::new();
    source.part(0..START).read_to_end(&mut start)?;
    let whole = || -> io::Result<_> { Ok(source.part(0..source.size()?)) };
    let mut sink =
        Collector { wants, limits, members: 0, rest: most, most, files: BTreeMap::new() };
    match Format::of(&start) {
        Some(Format::Deb) => {
            deb::with_data(whole()?, |data| -> Result<(), deb::DebError> {
                Ok(tarball::offer(data, limits, &mut sink)?)
            })?;
        }
        Some(Format::Rpm) => rpm::offer(whole()?, limits, &mut sink)?,
        Some(Format::Pacman) => pacman::offer(whole()?, limits, &mut sink)?,
        Some(Format::Apk) => apk::offer(whole()?, limits, &mut sink)?,
        None => {
            start.truncate(8);
            return Err(PackageError::Unknown(start));
        }
    }
    Ok(sink.files)
}

struct Collector<'a> {
    wants: &'a dyn Fn(&str) -> bool,
    limits: &'a Limits,
    members: u32,
    /// Bytes that are still taken.
    rest: u64,
    most: u64,
    files: BTreeMap<String, Vec<u8>>,
}

impl Collector<'_> {
    fn wanted<'n>(&self, name: &'n [u8]) -> Option<&'n str> {
        let path = std::str::from_utf8(name).ok()?;
        let path = path.strip_prefix('.').unwrap_or(path).trim_start_matches('/');
        let path = path.strip_prefix("usr/").unwrap_or(path);
        (self.wants)(path).then_some(path)
    }
}

impl Sink for Collector<'_> {
    fn count(&mut self) -> Result<(), MembersError> {
        self.members += 1;
        let max = self.limits.entries;
        if self.members > max { Err(MembersError::Entries(max)) } else { Ok(()) }
    }

    fn wants(&self, name: &[u8]) -> bool {
        name.len() <= self.limits.name && self.wanted(name).is_some()
    }

    fn offer(
        &mut self,
        name: &[u8],
        kind: Kind,
        size: u64,
        bytes: &mut dyn Read,
    ) -> Result<(), MembersError> {
        if name.len() > self.limits.name {
            return Err(MembersError::Name(self.limits.name));
        }
        let Some(path) = self.wanted(name).filter(|_| kind == Kind::Regular) else { return Ok(()) };
        self.rest = self.rest.checked_sub(size).ok_or(MembersError::Total(self.most))?;
        let bytes = read_member(name, size, bytes, self.limits)?;
        if self.files.insert(path.to_owned(), bytes).is_some() {
            return Err(MembersError::Duplicate { what: "file", name: path.to_owned() });
        }
        Ok(())
    }

    fn is_done(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tar archive, which is read as a package of pacman.
    fn package(members: &[(&str, &[u8])]) -> Vec<u8> {
        let mut archive = tar::Builder::new(Vec::new());
        for (path, bytes) in members {
            let mut header = tar::Header::new_ustar();
            header.set_size(bytes.len() as u64);
            archive.append_data(&mut header, path, *bytes).unwrap();
        }
        archive.into_inner().unwrap()
    }

    fn modules(package: &[u8], most: u64) -> Result<Vec<String>, String> {
        let wants = |path: &str| path.starts_with("lib/modules/");
        let found = collect(&package, &wants, most, &Limits::default());
        found.map(|files| files.into_keys().collect()).map_err(|error| error.to_string())
    }

    #[test]
    fn takes_what_is_wanted_wherever_usr_is_merged() {
        let members = [
            ("usr/lib/modules/6.1/a.ko", &b"a"[..]),
            ("./lib/modules/6.1/b.ko", b"b"),
            ("boot/vmlinuz-6.1", b"image"),
        ];
        let paths = ["lib/modules/6.1/a.ko", "lib/modules/6.1/b.ko"].map(str::to_owned);
        assert_eq!(modules(&package(&members), 2), Ok(paths.to_vec()));
    }

    #[test]
    fn refuses_more_than_is_allowed_and_two_of_one() {
        let [one, two] = ["usr/lib/modules/6.1/a.ko", "lib/modules/6.1/a.ko"];
        insta::assert_snapshot!(modules(&package(&[(one, b"aa")]), 1).unwrap_err(),
            @"the archive has more than 1 bytes when decompressed");
        insta::assert_snapshot!(modules(&package(&[(one, b"a"), (two, b"a")]), 2).unwrap_err(),
            @"the archive holds a second file, lib/modules/6.1/a.ko: which one the kernel uses is not known");
        assert!(modules(b"\x7fELF", 1).is_err());
    }
}
