//! The resolver: runs `nft_do_chain` on generated rulesets and finds out where drops can be seen.

pub mod layout;
