//! Sources: which kernels a distribution's repository offers.
