//! Processor architectures and their registers, as plans name them.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A processor architecture, by the name that `uname -m` prints.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Arch {
    /// x86-64.
    #[serde(rename = "x86_64")]
    X86_64,
}

impl Arch {
    /// The name, as plans have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
        }
    }

    /// The registers that locations may name.
    pub fn registers(self) -> &'static [Reg] {
        match self {
            Self::X86_64 => &Reg::ALL,
        }
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

macro_rules! registers {
    ($($variant:ident $name:literal),*) => {
        /// A 64-bit general register of x86-64, in the order of the instruction encoding.
        #[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Reg {
            $(#[doc = concat!("`", $name, "`")] $variant),*
        }

        impl Reg {
            /// All sixteen.
            pub const ALL: [Self; 16] = [$(Self::$variant),*];

            /// The lower-case name, `rax` to `r15`.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }
        }
    };
}

registers! {
    Rax "rax", Rcx "rcx", Rdx "rdx", Rbx "rbx", Rsp "rsp", Rbp "rbp", Rsi "rsi", Rdi "rdi",
    R8 "r8", R9 "r9", R10 "r10", R11 "r11", R12 "r12", R13 "r13", R14 "r14", R15 "r15"
}

impl fmt::Display for Reg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
