//! Kernel images and modules: from bytes to the [`Function`] the resolver runs.

pub mod function;

pub use function::Function;
