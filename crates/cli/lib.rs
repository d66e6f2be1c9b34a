//! The command line of duet.
