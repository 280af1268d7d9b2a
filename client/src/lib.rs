//! nfdrop.
