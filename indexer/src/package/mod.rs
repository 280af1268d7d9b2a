//! Packages: from a download to the kernel files in it.
